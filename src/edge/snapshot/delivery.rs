//! One session's snapshot, on its way through the session's feed.

use std::sync::Arc;

use super::Snapshot;
use crate::edge::Shared;
use crate::edge::batch::{Batch, Frame};
use crate::edge::books::Passage;
use crate::edge::encode;
use crate::edge::feed::{Fed, Feeder, Over};
use crate::edge::hub::Hub;
use crate::edge::replay::portion::Portion;
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
    /// What it has got so far.
    pub(crate) at: &'a Arc<Offset>,
    /// Its client knows that place, and must not be led behind it.
    pub(crate) placed: bool,
}

impl Delivery<'_> {
    /// Sends the last values, and returns their place: the session is there then. With a reason, what it has missed before
    /// them is lost, and it is told so.
    pub(crate) async fn send(
        &self,
        feeder: &mut Feeder,
        lost: Option<GapReason>,
    ) -> Result<Arc<Offset>, Over> {
        let key = self.view.key();
        let floor = self.placed.then_some(&**self.at);
        let snapshot =
            self.shared.snapshots.get(self.shared, self.hub, key, floor).await.map_err(|_| Over)?;
        let patience = self.shared.settings.slow_client_timeout + snapshot.patience();
        if let Ok(sent) = tokio::time::timeout(patience, self.send_all(feeder, &snapshot, lost)).await {
            return sent;
        }
        // Before the client is waited for once more.
        drop(snapshot);
        feeder.give(Fed::TooSlow("the snapshot was not read in time: use narrower filters")).await?;
        Err(Over)
    }

    async fn send_all(
        &self,
        feeder: &mut Feeder,
        snapshot: &Snapshot,
        lost: Option<GapReason>,
    ) -> Result<Arc<Offset>, Over> {
        let (here, there) = (self.at.clone(), Arc::new(snapshot.offset.clone()));
        let wire = self.view.key().wire;
        // The log may have become another one since something of it was lost.
        let lost = lost.map(|reason| if here.epoch == there.epoch { reason } else { GapReason::Reset });
        // Whoever misses something passes it with the last frame, and is where it was until then: one that leaves before that
        // comes back for all of it.
        let missed = lost.map(|reason| Passage::gap(&here, &there, reason).with_state());
        let there_frame = |bytes| Frame {
            // The gap is a step.
            index: u64::from(lost.is_some()),
            offset: there.clone(),
            bytes,
            own: true,
            passage: Some(Arc::new(missed.clone().unwrap_or_default())),
        };
        let Some((last, parts)) = snapshot.frames.split_last() else {
            // Nothing matches, and nothing is said of it.
            match lost {
                Some(reason) => {
                    let gap = encode::gap(wire, &here, &there, reason);
                    give_frames(feeder, vec![there_frame(gap)]).await?;
                }
                // What lies between was never for it: it wanted what is there now.
                None => {
                    let portion = Portion::unheld(here.positions_to(&there), there.clone());
                    feeder.give(Fed::Portion(portion)).await?;
                }
            }
            return Ok(there);
        };
        let gap = lost.map(|reason| encode::gap_before_snapshot(wire, &here, &there, reason));
        let mut frames: Vec<Frame> = Vec::new();
        let mut bytes = 0;
        for part in gap.iter().chain(parts) {
            if bytes + part.len() > BATCH_BYTES_MAX {
                bytes = 0;
                give_frames(feeder, std::mem::take(&mut frames)).await?;
            }
            bytes += part.len();
            let passage = Some(Arc::new(Passage::default()));
            frames.push(Frame { index: 0, offset: here.clone(), bytes: part.clone(), own: true, passage });
        }
        give_frames(feeder, frames).await?;
        // In a batch of its own, as everything is with which the log may become another one.
        give_frames(feeder, vec![there_frame(last.clone())]).await?;
        self.shared.node.meters.snapshots.increment(1);
        Ok(there)
    }
}

async fn give_frames(feeder: &mut Feeder, frames: Vec<Frame>) -> Result<(), Over> {
    match Batch::new(frames) {
        Some(batch) => feeder.give(Fed::Portion(Portion::of(batch))).await,
        None => Ok(()),
    }
}
