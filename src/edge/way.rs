//! A session's way to its view, whether it leads through the log (`catch_up`) or through the last values
//! (`conflate::resume`): where the session is, what is lost to it, and what the log may do to its place meanwhile.

use std::sync::Arc;
use std::time::Duration;

use crate::edge::Shared;
use crate::edge::feed::{Fed, Feeder, Joined, Over};
use crate::edge::hub::{Head, Hub};
use crate::edge::replay::portion::Portion;
use crate::edge::snapshot::delivery::Delivery;
use crate::edge::view::View;
use crate::ops::meters::ReplayOutcome;
use crate::proto::message::GapReason;
use crate::proto::offset::{Offset, SHARDS_MAX, Shard};

/// A place ahead of this edge is usual for moments: another edge was faster. Then the log is asked.
pub(crate) const AHEAD_PATIENCE: Duration = Duration::from_secs(2);

/// One session's way to its view.
pub(crate) struct Way {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) view: Arc<View>,
    /// What the session has got, or will have when it has written what it was given last.
    pub(crate) at: Arc<Offset>,
    pub(crate) quiet: Quiet,
    /// Where something is lost to the session, it wants the last values instead.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quiet(u64);

const _: () = assert!(SHARDS_MAX <= 64, "one bit per shard");

impl Quiet {
    /// All shards.
    pub(crate) const ALL: Self = Self(u64::MAX);
    /// None of them.
    pub(crate) const NONE: Self = Self(0);

    /// From now on a hole of this shard is a loss. Says whether it was none until now.
    pub(crate) fn end(&mut self, shard: Shard) -> bool {
        let bit = 1u64 << (shard.0 % 64);
        let was = self.0 & bit != 0;
        self.0 &= !bit;
        was
    }
}

impl Way {
    /// Has the session led until it has joined its view or is gone: a session that leaves ends whatever `lead` waits for.
    pub(crate) fn spawn<L>(self, lead: impl FnOnce(Self) -> L)
    where
        L: Future<Output = Result<(), Over>> + Send + 'static,
    {
        let (tracker, wanted) = (self.shared.tasks.clone(), self.feeder.wanted());
        tracker.spawn(Feeder::while_wanted(wanted, lead(self)));
    }

    /// Where the session has to go on, if the log is another one than that of its place. What lies up to there is lost.
    pub(crate) fn reset(&mut self, head: &Head) -> Option<Arc<Offset>> {
        let resets = std::mem::replace(&mut self.resets, head.resets);
        let (at, now) = (&self.at, &head.offset);
        if now.epoch != at.epoch || now.sequences.len() != at.sequences.len() {
            // Of a log that is new to the session, what it holds no more is no loss.
            self.quiet = Quiet::ALL;
            return Some(Arc::new(now.beginning()));
        }
        // It went backwards, behind this session: what it holds up to there again, or will, is not the same.
        if resets == head.resets { None } else { head.back_from(at) }
    }

    /// Whether the log ends before the session's place, which this edge has not come to. Nobody knows while it does not answer.
    pub(crate) async fn is_ahead_of_log(&self, head: &Head) -> bool {
        self.shared.replays.ends_before(&self.at, &head.offset).await.unwrap_or(false)
    }

    /// What lies between the session and `to` is lost to it: says so and goes on behind it, or behind the last values.
    pub(crate) async fn lose(&mut self, to: Arc<Offset>, reason: GapReason) -> Result<(), Over> {
        if self.snapshots {
            return self.send_snapshot(Some(reason)).await;
        }
        self.count(reason);
        let from = std::mem::replace(&mut self.at, to.clone());
        self.feeder.give(Fed::Portion(Portion::gap(self.view.key(), from, to, reason))).await
    }

    /// Sends the last values, and goes on behind them. With a reason, what the session has missed before them is lost.
    pub(crate) async fn send_snapshot(&mut self, lost: Option<GapReason>) -> Result<(), Over> {
        lost.into_iter().for_each(|reason| self.count(reason));
        let placed = std::mem::replace(&mut self.placed, true) || lost.is_some();
        // Up to here the state knows of what the log has done.
        self.resets = self.hub.head().resets;
        let Self { shared, hub, view, at, feeder, .. } = self;
        self.at = Delivery { shared, hub, view, at, placed }.send(feeder, lost).await?;
        self.quiet = Quiet::NONE;
        Ok(())
    }

    /// Notes a gap that the session is told of; it is counted where it is written.
    pub(crate) fn count(&mut self, reason: GapReason) {
        if let Some(outcome) = &mut self.outcome {
            *outcome = match reason {
                GapReason::Reset => ReplayOutcome::Reset,
                _ if *outcome == ReplayOutcome::Recovered => ReplayOutcome::Gap,
                _ => *outcome,
            };
        }
    }

    /// The end of the way.
    pub(crate) async fn join(mut self, joined: Joined) -> Result<(), Over> {
        if let Some(outcome) = self.outcome {
            self.shared.node.meters.replay_requests.of(outcome).increment(1);
        }
        self.feeder.give(Fed::Joined(joined)).await
    }
}
