//! Leads a session that cannot join its view yet to where it can: through the ring where that reaches, else through the log.
//!
//! It walks shard by shard to a place that the ring has been at, and joins the view exactly there, so that nothing is sent
//! twice and nothing is left out. What it is fed on the way it shares with all who go the same way: see `replay`. It takes a
//! step when its writer asks for one, which is when the socket has taken the one before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::broker::BrokerError;
use crate::edge::feed::{Fed, Joined, Over};
use crate::edge::hub::Head;
use crate::edge::replay::Obstacle;
use crate::edge::replay::portion::Portion;
use crate::edge::resolve::First;
use crate::edge::way::{AHEAD_PATIENCE, Way};
use crate::proto::message::GapReason;
use crate::proto::offset::{Offset, Sequence, Shard};

/// Between two attempts to read the log while it does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// A session's way through the log.
pub(crate) struct CatchUp {
    way: Way,
}

/// What comes next for a session.
enum Step {
    /// This.
    Portion(Arc<Portion>),
    /// What lies between the session and the place is lost to it.
    Lost(Arc<Offset>, GapReason),
    /// Nothing is missing any more.
    Joined(Joined),
    /// Nothing: the log refuses to be read.
    Failed(String),
}

impl CatchUp {
    /// The session begins where `way` does.
    pub(crate) fn new(way: Way) -> Self {
        Self { way }
    }

    /// Runs until the session has joined its view.
    pub(crate) async fn run(mut self, first: First) -> Result<(), Over> {
        match first {
            First::Nothing => {}
            First::Snapshot => self.way.send_snapshot(None).await?,
            First::Lost(reason) => self.way.send_snapshot(Some(reason)).await?,
        }
        let mut heads = self.way.hub.watch_head();
        // Where it was, and how, before what it gave last.
        let mut before = (self.way.at.clone(), self.way.quiet);
        loop {
            let at = self.way.feeder.asked().await?;
            if at != self.way.at {
                // What the session was given was let go before its socket took all of it.
                self.way.quiet = if at == before.0 { before.1 } else { self.way.quiet };
                self.way.at = at;
            }
            before = (self.way.at.clone(), self.way.quiet);
            match self.step(&mut heads).await? {
                Step::Portion(portion) => self.way.feeder.give(Fed::Portion(portion)).await?,
                Step::Lost(to, reason) => self.way.lose(to, reason).await?,
                Step::Joined(joined) => return self.way.join(joined).await,
                Step::Failed(why) => return self.way.feeder.give(Fed::Failed(why)).await,
            }
        }
    }

    /// What comes next.
    async fn step(&mut self, heads: &mut watch::Receiver<Head>) -> Result<Step, Over> {
        loop {
            let head = heads.borrow_and_update().clone();
            if let Some(start) = self.way.reset(&head) {
                return Ok(Step::Lost(start, GapReason::Reset));
            }
            let Way { shared, hub, view, at, .. } = &self.way;
            // Right there, even if the head has moved on meanwhile: or it might chase it for ever.
            let target = shared.replays.target(&head, at, view.covered_after());
            if **at == *target.offset
                && let Some(cursor) = view.join(target.index)
            {
                let Head { index, offset: at, .. } = target;
                return Ok(Step::Joined(Joined { cursor, index, at, steps: 0 }));
            }
            let is_behind = |shard: &Shard| at.sequence(*shard) < target.offset.sequence(*shard);
            let Some(shard) = at.shards().find(is_behind) else {
                if let Some(head) = self.wait_for_head(heads).await? {
                    return Ok(Step::Lost(head, GapReason::Reset));
                }
                continue;
            };
            let last = target.offset.sequence(shard);
            match shared.replays.portion(hub, view.key(), at, shard, last).await {
                Ok(portion) => {
                    let lost = portion.batch.as_ref().and_then(|batch| batch.lost_at_once());
                    if let Some(reason) = lost.filter(|_| self.way.snapshots) {
                        return Ok(Step::Lost(portion.to.clone(), reason));
                    }
                    self.way.quiet.end(shard);
                    self.way.at = portion.to.clone();
                    portion.gaps.iter().for_each(|reason| self.way.count(*reason));
                    return Ok(Step::Portion(portion));
                }
                Err(Obstacle::Hole(first)) => {
                    if let Some(step) = self.hole(shard, first, last).await {
                        return Ok(step);
                    }
                }
                // The hub will say so.
                Err(Obstacle::Replaced) => tokio::task::yield_now().await,
                Err(Obstacle::Broker(BrokerError::Unavailable { .. })) => tokio::time::sleep(RETRY).await,
                Err(Obstacle::Broker(refused)) => return Ok(Step::Failed(refused.to_string())),
            }
        }
    }

    /// Waits until this edge is where the session is. A log that has gone backwards will never be: that is a reset, to the
    /// newest place there is.
    async fn wait_for_head(&self, heads: &mut watch::Receiver<Head>) -> Result<Option<Arc<Offset>>, Over> {
        if let Ok(changed) = tokio::time::timeout(AHEAD_PATIENCE, heads.changed()).await {
            return changed.map(|()| None).map_err(|_| Over);
        }
        let head = heads.borrow().clone();
        Ok(self.way.is_ahead_of_log(&head).await.then_some(head.offset))
    }

    /// The way past what lies between the session's place and `first`, if the log's bounds say too that it is gone.
    async fn hole(&mut self, shard: Shard, first: Option<Sequence>, last: Sequence) -> Option<Step> {
        let Way { shared, at, quiet, .. } = &mut self.way;
        let after = at.sequence(shard);
        let bounds = shared.replays.bounds(shard, last).await;
        // A log that ends before `last` is another one now, and the hub will say so.
        let bounds = bounds.ok().filter(|bounds| bounds.last >= last);
        let next = bounds.map(|bounds| first.unwrap_or(bounds.first).min(last.saturating_add(1)));
        // A replica that lags answers with nothing; the next read will be answered by another, or later.
        let Some(next) = next.filter(|next| *next > after + 1) else {
            tokio::time::sleep(RETRY).await;
            return None;
        };
        let to = Arc::new(at.with(shard, next - 1));
        if !quiet.end(shard) {
            return Some(Step::Lost(to, GapReason::Retention));
        }
        let unheld = at.positions_to(&to);
        *at = to.clone();
        Some(Step::Portion(Portion::unheld(unheld, to)))
    }
}
