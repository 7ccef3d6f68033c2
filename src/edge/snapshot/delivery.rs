//! One session's snapshot, on its way through the session's feed.

use std::sync::Arc;

use super::Snapshot;
use crate::edge::Shared;
use crate::edge::batch::{Batch, Frame};
use crate::edge::books::Passage;
use crate::edge::encode;
use crate::edge::feed::{Fed, Feeder, Over};
use crate::edge::hub::Hub;
use crate::edge::replay::portion::{GivenBack, Portion};
use crate::edge::view::View;
use crate::proto::message::GapReason;
use crate::proto::offset::Offset;

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
        let (shared, snapshots) = (self.shared, &self.shared.snapshots);
        let snapshot = snapshots.get(shared, self.hub, key, floor, lost.is_some()).await.map_err(|_| Over)?;
        let patience = self.shared.settings.slow_client_timeout + snapshot.patience();
        let sent = tokio::time::timeout(patience, self.send_all(feeder, &snapshot, lost)).await;
        // Out of time, it is as if it was given up.
        if let Some(there) = sent.unwrap_or(Ok(None))? {
            return Ok(there);
        }
        // Before the client is waited for once more.
        drop(snapshot);
        feeder.give(Fed::TooSlow("the snapshot was not read in time: use narrower filters")).await?;
        Err(Over)
    }

    /// None if the snapshot was given up before its end: no session that has it has taken enough of it.
    async fn send_all(
        &self,
        feeder: &mut Feeder,
        snapshot: &Arc<Snapshot>,
        lost: Option<GapReason>,
    ) -> Result<Option<Arc<Offset>>, Over> {
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
        let give_last = |bytes| {
            Batch::new(vec![there_frame(bytes)])
                .map(|batch| Fed::Portion(Portion::of(batch, GivenBack::Never, None)))
        };
        let Some(last) = &snapshot.last else {
            // Nothing matches, and nothing is said of it.
            match lost {
                Some(reason) => {
                    let gap = encode::gap(wire, &here, &there, reason);
                    give(feeder, give_last(gap)).await?;
                }
                // What lies between was never for it: it wanted what is there now.
                None => {
                    let portion = Portion::unheld(here.positions_to(&there), there.clone());
                    feeder.give(Fed::Portion(portion)).await?;
                }
            }
            return Ok(Some(there));
        };
        let gap = lost.map(|reason| encode::gap_before_snapshot(wire, &here, &there, reason));
        if let Some(gap) = gap.and_then(|gap| Batch::standing(vec![gap], &there)) {
            feeder.give(Fed::Portion(Portion::standing(gap, GivenBack::Never))).await?;
        }
        for at in 0.. {
            // A session asks when it has written its part, or when that was given up with the others. Looking only then tells
            // the two apart, and a session that waits holds nothing of the snapshot.
            feeder.asked().await?;
            let Ok(part) = snapshot.parts.part(at) else { return Ok(None) };
            let Some(part) = part else { break };
            let bytes = part.wire_bytes();
            feeder.give(Fed::Portion(part)).await?;
            snapshot.parts.note(bytes);
        }
        // In a batch of its own, as everything is with which the log may become another one.
        give(feeder, give_last(last.clone())).await?;
        self.shared.node.meters.snapshots.increment(1);
        Ok(Some(there))
    }
}

async fn give(feeder: &mut Feeder, fed: Option<Fed>) -> Result<(), Over> {
    match fed {
        Some(fed) => feeder.give(fed).await,
        None => Ok(()),
    }
}
