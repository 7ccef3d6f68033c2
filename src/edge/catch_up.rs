//! Leads a session that cannot join its view yet to where it can: through the ring where that reaches, else through the log.
//!
//! It walks shard by shard to a place that the ring has been at, and joins the view exactly there, so that nothing is sent
//! twice and nothing is left out. What it is fed on the way it shares with all who go the same way: see `replay`. It takes a
//! step when its writer asks for one, which is when the socket has taken the one before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::broker::BrokerError;
use crate::edge::Shared;
use crate::edge::batch::Batch;
use crate::edge::feed::{Fed, Feeder, Joined, Over};
use crate::edge::hub::{Head, Hub};
use crate::edge::replay::Obstacle;
use crate::edge::replay::portion::Portion;
use crate::edge::resolve::First;
use crate::edge::snapshot::delivery::Delivery;
use crate::edge::view::{Cursor, View};
use crate::ops::meters::ReplayOutcome;
use crate::proto::message::GapReason;
use crate::proto::offset::{Offset, SHARDS_MAX, Sequence, Shard};

/// Between two attempts to read the log while it does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// A place ahead of this edge is usual for moments: another edge was faster. Then the log is asked.
const AHEAD_PATIENCE: Duration = Duration::from_secs(2);

/// One session's way to its view.
pub(crate) struct CatchUp {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) view: Arc<View>,
    /// What the session has got, or will have when it has written what it was given last.
    pub(crate) at: Arc<Offset>,
    pub(crate) quiet: Quiet,
    /// Where a part of the log is lost to the session, it wants the last values instead.
    pub(crate) snapshots: bool,
    /// Its client has been told a place before, or begins behind one of its own.
    pub(crate) placed: bool,
    /// How often the log had turned out to be another one when the session got this place.
    pub(crate) resets: u64,
    /// How the resume is counted when it ends.
    pub(crate) outcome: Option<ReplayOutcome>,
    pub(crate) feeder: Feeder,
}

/// Shards whose first hole is no loss, because the session asked for whatever there is and has got nothing of them yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet(u64);

const _: () = assert!(SHARDS_MAX <= 64, "one bit per shard");

impl Quiet {
    /// All shards, or none.
    pub(crate) fn all(quiet: bool) -> Self {
        Self(if quiet { u64::MAX } else { 0 })
    }

    /// From now on a hole of this shard is a loss. Says whether it was none until now.
    fn end(&mut self, shard: Shard) -> bool {
        let bit = 1u64 << (shard.0 % 64);
        let was = self.0 & bit != 0;
        self.0 &= !bit;
        was
    }
}

/// What comes next for a session.
enum Step {
    /// This.
    Fed(Fed),
    /// What lies between the session and the place is lost to it.
    Lost(Arc<Offset>, GapReason),
}

impl CatchUp {
    /// Runs until the session has joined its view or is gone.
    pub(crate) fn spawn(self, first: First) {
        let (tracker, wanted) = (self.shared.tasks.clone(), self.feeder.wanted());
        // A session that leaves ends whatever this waits for.
        tracker.spawn(Feeder::while_wanted(wanted, self.run(first)));
    }

    async fn run(mut self, first: First) -> Result<(), Over> {
        match first {
            First::Nothing => {}
            First::Snapshot => self.take_snapshot(None).await?,
            First::Lost(reason) => self.take_snapshot(Some(reason)).await?,
        }
        let mut heads = self.hub.watch_head();
        // Where it was, and how, before what it gave last.
        let mut before = (self.at.clone(), self.quiet);
        loop {
            let at = self.feeder.asked().await?;
            if at != self.at {
                // What the session was given was let go before its socket took all of it.
                self.quiet = if at == before.0 { before.1 } else { self.quiet };
                self.at = at;
            }
            before = (self.at.clone(), self.quiet);
            let fed = match self.step(&mut heads).await? {
                Step::Fed(fed) => fed,
                Step::Lost(_, reason) if self.snapshots => {
                    self.take_snapshot(Some(reason)).await?;
                    continue;
                }
                Step::Lost(to, reason) => Fed::Portion(self.announce(to, reason)),
            };
            let goes_on = matches!(fed, Fed::Portion(_));
            self.feeder.give(fed).await?;
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Gives the session the last values, and goes on behind them. With a reason, what it has missed before them is lost.
    async fn take_snapshot(&mut self, lost: Option<GapReason>) -> Result<(), Over> {
        lost.into_iter().for_each(|reason| self.count(reason));
        let placed = std::mem::replace(&mut self.placed, true) || lost.is_some();
        // Up to here the state knows of what the log has done.
        self.resets = self.hub.head().resets;
        let Self { shared, hub, view, at, feeder, .. } = self;
        self.at = Delivery { shared, hub, view, at, placed }.send(feeder, lost).await?;
        self.quiet = Quiet::all(false);
        Ok(())
    }

    /// What comes next.
    async fn step(&mut self, heads: &mut watch::Receiver<Head>) -> Result<Step, Over> {
        loop {
            let head = heads.borrow_and_update().clone();
            if let Some(start) = self.reset(&head) {
                return Ok(Step::Lost(start, GapReason::Reset));
            }
            // Right there, even if the head has moved on meanwhile: or it might chase it for ever.
            let target = self.shared.replays.target(&head, &self.at, self.view.covered_after());
            if *self.at == *target.offset
                && let Some(cursor) = self.view.join(target.index)
            {
                return Ok(Step::Fed(Fed::Joined(self.join(cursor, &target))));
            }
            let Some(shard) = self.shard_behind(&target.offset) else {
                if let Some(head) = self.wait_for_head(heads).await? {
                    return Ok(Step::Lost(head, GapReason::Reset));
                }
                continue;
            };
            let last = target.offset.sequence(shard);
            let (replays, view) = (&self.shared.replays, self.view.key());
            match replays.portion(&self.hub, view, &self.at, shard, last).await {
                Ok(portion) => {
                    let lost = portion.batch.as_ref().and_then(Batch::lost_at_once);
                    if let Some(reason) = lost.filter(|_| self.snapshots) {
                        return Ok(Step::Lost(portion.to.clone(), reason));
                    }
                    self.quiet.end(shard);
                    self.at = portion.to.clone();
                    portion.gaps.iter().for_each(|reason| self.count(*reason));
                    return Ok(Step::Fed(Fed::Portion(portion)));
                }
                Err(Obstacle::Hole(first)) => {
                    if let Some(step) = self.hole(shard, first, last).await {
                        return Ok(step);
                    }
                }
                // The hub will say so.
                Err(Obstacle::Replaced) => tokio::task::yield_now().await,
                Err(Obstacle::Broker(BrokerError::Unavailable(_))) => tokio::time::sleep(RETRY).await,
                Err(Obstacle::Broker(refused)) => return Ok(Step::Fed(Fed::Failed(refused.to_string()))),
            }
        }
    }

    /// Where the session has to go on, if the log is another one than that of its place.
    fn reset(&mut self, head: &Head) -> Option<Arc<Offset>> {
        let resets = std::mem::replace(&mut self.resets, head.resets);
        let (at, now) = (&self.at, &head.offset);
        if resets != head.resets
            && now.epoch == at.epoch
            && let Some(back) = head.back_from(at)
        {
            // The log went backwards, behind this session: what it holds up to there again, or will, is not the same.
            return Some(back);
        }
        if now.epoch != at.epoch || now.sequences.len() != at.sequences.len() {
            // Of a log that is new to the session, what it holds no more is no loss.
            self.quiet = Quiet::all(true);
            return Some(Arc::new(Offset::start(now.epoch, now.sequences.len() as u16)));
        }
        None
    }

    fn join(&self, cursor: Cursor, target: &Head) -> Joined {
        if let Some(outcome) = self.outcome {
            self.shared.node.meters.replay_requests.of(outcome).increment(1);
        }
        Joined { cursor, index: target.index, at: target.offset.clone(), steps: 0 }
    }

    fn shard_behind(&self, target: &Offset) -> Option<Shard> {
        self.shards().find(|shard| self.at.sequence(*shard) < target.sequence(*shard))
    }

    /// Waits until this edge is where the session is. A log that has gone backwards will never be: that is a reset.
    async fn wait_for_head(
        &mut self,
        heads: &mut watch::Receiver<Head>,
    ) -> Result<Option<Arc<Offset>>, Over> {
        if let Ok(changed) = tokio::time::timeout(AHEAD_PATIENCE, heads.changed()).await {
            return changed.map(|()| None).map_err(|_| Over);
        }
        for shard in self.shards() {
            let seen = self.at.sequence(shard);
            let Ok(bounds) = self.shared.replays.bounds(shard, seen).await else { return Ok(None) };
            if bounds.last < seen {
                return Ok(Some(heads.borrow().offset.clone()));
            }
        }
        Ok(None)
    }

    /// The way past what lies between the session's place and `first`, if the log's bounds say too that it is gone.
    async fn hole(&mut self, shard: Shard, first: Option<Sequence>, last: Sequence) -> Option<Step> {
        let after = self.at.sequence(shard);
        let bounds = self.shared.replays.bounds(shard, last).await;
        // A log that ends before `last` is another one now, and the hub will say so.
        let bounds = bounds.ok().filter(|bounds| bounds.last >= last);
        let next = bounds.map(|bounds| first.unwrap_or(bounds.first).min(last.saturating_add(1)));
        // A replica that lags answers with nothing; the next read will be answered by another, or later.
        let Some(next) = next.filter(|next| *next > after + 1) else {
            tokio::time::sleep(RETRY).await;
            return None;
        };
        let to = Arc::new(self.at.with(shard, next - 1));
        if !self.quiet.end(shard) {
            return Some(Step::Lost(to, GapReason::Retention));
        }
        let unheld = self.at.positions_to(&to);
        self.at = to.clone();
        Some(Step::Fed(Fed::Portion(Portion::unheld(unheld, to))))
    }

    /// Tells the session what it will not get, and moves it behind that.
    fn announce(&mut self, to: Arc<Offset>, reason: GapReason) -> Arc<Portion> {
        let from = std::mem::replace(&mut self.at, to.clone());
        self.count(reason);
        Portion::gap(self.view.key(), from, to, reason)
    }

    /// Notes a gap, which is counted where it is written.
    fn count(&mut self, reason: GapReason) {
        if let Some(outcome) = &mut self.outcome {
            *outcome = match reason {
                GapReason::Reset => ReplayOutcome::Reset,
                _ if *outcome == ReplayOutcome::Recovered => ReplayOutcome::Gap,
                _ => *outcome,
            };
        }
    }

    fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.at.sequences.len() as u16).map(Shard)
    }
}
