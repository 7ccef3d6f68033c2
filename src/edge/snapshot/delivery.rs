//! One session's snapshot, on its way through the session's feed.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Snapshot;
use crate::edge::Shared;
use crate::edge::batch::{Batch, Frame};
use crate::edge::books::Passage;
use crate::edge::catch_up::Fed;
use crate::edge::doorbell::{Doorbell, SessionKey};
use crate::edge::encode;
use crate::edge::hub::Hub;
use crate::edge::ring::Index;
use crate::edge::view::View;
use crate::proto::message::GapReason;
use crate::proto::offset::Offset;

/// Parts that are handed over together, in bytes: the session holds at most twice as much.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Who gets it, and where that session is.
pub(crate) struct Delivery<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) hub: &'a Arc<Hub>,
    pub(crate) view: &'a View,
    pub(crate) feed: &'a mpsc::Sender<Fed>,
    pub(crate) doorbell: &'a Doorbell,
    pub(crate) session: SessionKey,
    /// What it has got so far.
    pub(crate) at: &'a Offset,
    /// The step that its next frame is.
    pub(crate) step: Index,
}

/// The session is gone, or was told that it cannot go on.
pub(crate) struct Undelivered;

impl Delivery<'_> {
    /// Sends the last values, and returns their place: the session is there then. With a reason, what it has missed before
    /// them is lost, and it is told so.
    pub(crate) async fn send(&self, lost: Option<GapReason>) -> Result<Offset, Undelivered> {
        let key = self.view.key();
        let snapshot =
            self.shared.snapshots.get(self.shared, self.hub, key).await.map_err(|_| Undelivered)?;
        let patience = self.shared.settings.slow_client_timeout + snapshot.patience();
        if let Ok(sent) = tokio::time::timeout(patience, self.send_all(&snapshot, lost)).await {
            return sent.map(|()| snapshot.offset.clone());
        }
        // Before the client is waited for once more.
        drop(snapshot);
        self.hand_over(Fed::TooSlow("the snapshot was not read in time: use narrower filters")).await?;
        Err(Undelivered)
    }

    async fn send_all(&self, snapshot: &Snapshot, lost: Option<GapReason>) -> Result<(), Undelivered> {
        let (here, there) = (Arc::new(self.at.clone()), Arc::new(snapshot.offset.clone()));
        let wire = self.view.key().wire;
        // Whoever misses something passes it with the last frame, and is where it was until then: one that leaves before that
        // comes back for all of it.
        let missed = lost.map(|reason| Passage::gap(&here, &there, reason));
        let there_frame = |bytes| Frame {
            index: self.step,
            offset: there.clone(),
            bytes,
            own: true,
            passage: Some(Arc::new(missed.clone().unwrap_or_default())),
        };
        let Some((last, parts)) = snapshot.frames.split_last() else {
            // Nothing matches, and nothing is said of it.
            return match lost {
                Some(reason) => {
                    self.hand_over_frames(vec![there_frame(encode::gap(wire, &here, &there, reason))]).await
                }
                None => self.hand_over(Fed::Moved(there)).await,
            };
        };
        let gap = lost.map(|reason| encode::gap_before_snapshot(wire, &here, &there, reason));
        let mut frames: Vec<Frame> = Vec::new();
        let mut bytes = 0;
        for part in gap.iter().chain(parts) {
            if bytes + part.len() > BATCH_BYTES_MAX {
                bytes = 0;
                self.hand_over_frames(std::mem::take(&mut frames)).await?;
            }
            bytes += part.len();
            let passage = Some(Arc::new(Passage::default()));
            let (index, offset) = (self.step.saturating_sub(1), here.clone());
            frames.push(Frame { index, offset, bytes: part.clone(), own: true, passage });
        }
        self.hand_over_frames(frames).await?;
        // In a batch of its own, as everything is with which the log may become another one.
        self.hand_over_frames(vec![there_frame(last.clone())]).await?;
        self.shared.node.meters.snapshots.increment(1);
        Ok(())
    }

    async fn hand_over_frames(&self, frames: Vec<Frame>) -> Result<(), Undelivered> {
        match Batch::new(frames) {
            Some(batch) => self.hand_over(Fed::Frames(Box::new(batch))).await,
            None => Ok(()),
        }
    }

    async fn hand_over(&self, fed: Fed) -> Result<(), Undelivered> {
        self.feed.send(fed).await.map_err(|_| Undelivered)?;
        self.doorbell.ready(self.session);
        Ok(())
    }
}
