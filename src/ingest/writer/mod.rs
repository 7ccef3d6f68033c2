//! One writer per collector: the only way from ingest into the log.
//!
//! A writer is a task with a queue. It stamps batches in the order in which they came, has one of them in flight, and
//! repeats it under the same message ids until the log has it. Queues are bounded by bytes and not by length: every job
//! holds its [`Grant`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::broker::Broker;
use crate::ingest::batch::Draft;
use crate::ingest::budget::Grant;
use crate::ingest::registry::WARN_INTERVAL;
use crate::ingest::storing::Storing;
use crate::ingest::writer::publish::Writer;
use crate::ingest::writer::queue::{Enqueued, Queues};
use crate::ops::clock::unix_ns;
use crate::ops::meters::DropReason;
use crate::ops::node::Node;
use crate::proto::channel::CollectorId;
use crate::sync::Locked;

pub use crate::ingest::writer::identity::Identity;
pub use crate::ingest::writer::queue::Ticket;

mod identity;
mod publish;
mod queue;
mod recognise;
#[cfg(test)]
mod tests;

/// A writer without work for so long ends; the next batch makes another, with a larger revision. Longer than any
/// flush interval in use, so that a collector normally keeps one writer.
pub const WRITER_IDLE: Duration = Duration::from_secs(300);

/// With more writers than this, idle ones end at once: made-up collector names cost memory only while their batches
/// wait, and those are bounded by the budget. At about 2 KiB each, 20 MiB.
pub const WRITERS_IDLE_MAX: usize = 10_000;

/// All writers of this node.
pub struct Writers {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// A batch of one collector, and who waits for it.
pub struct Job {
    /// What to store, in order.
    pub drafts: Vec<Draft>,
    /// When the batch was received, in nanoseconds since 1970.
    pub received_ns: i64,
    /// What it is recognised by when it is sent again.
    pub identity: Identity,
    /// The bytes' place in the budget, kept until the log has them.
    pub grant: Grant,
    /// Told how it ended; dropped unused when the node stops before that.
    pub done: Option<oneshot::Sender<Outcome>>,
    /// Dropped when the log has the batch.
    pub open: Option<TaskTrackerToken>,
}

impl Job {
    /// Bytes of lines in all drafts.
    fn bytes(&self) -> usize {
        self.drafts.iter().map(|draft| draft.lines.len()).sum()
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The log has all of it.
    Stored,
    /// The log refuses some of it for ever; the rest is stored.
    Refused(String),
}

/// The node has stopped writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has stopped writing")]
pub struct Stopped;

/// What a node that was out of time left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Accepted batches that the log never acknowledged.
    pub batches: usize,
    /// Their lines, in bytes.
    pub bytes: usize,
}

/// What writers have in common.
struct Shared {
    node: Arc<Node>,
    broker: Arc<dyn Broker>,
    storing: Arc<Storing>,
    queues: Queues,
    losses: Locked<Losses>,
    /// Time is up: writers end now.
    abandoned: CancellationToken,
}

/// What did not reach the log.
#[derive(Default)]
struct Losses {
    left: Left,
    /// When the log last said that metrics were turned away.
    turned_away: Option<Instant>,
}

impl Writers {
    /// Writers to this log.
    pub(super) fn new(node: Arc<Node>, broker: Arc<dyn Broker>, storing: Arc<Storing>) -> Self {
        let shared = Shared {
            node,
            broker,
            storing,
            queues: Queues::default(),
            losses: Locked::empty("losses of writers"),
            abandoned: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared), tasks: TaskTracker::new() }
    }

    /// Puts a job at the end of its collector's queue. A job that comes too late and that nobody waits for is counted as
    /// lost.
    pub fn submit(&self, collector: &CollectorId, job: Job) -> Result<Ticket, Stopped> {
        match self.shared.queues.enqueue(collector, job, unix_us(), &self.tasks) {
            Enqueued::Waits(ticket) => Ok(ticket),
            Enqueued::First { ticket, queue, revision, counted } => {
                let writer = Writer::new(self.shared.clone(), collector.clone(), queue, revision);
                self.tasks.spawn(async move {
                    writer.run().await;
                    drop(counted);
                });
                Ok(ticket)
            }
            Enqueued::TooLate(job) => {
                self.shared.abandon(collector, job.done.as_ref(), job.drafts.len(), job.bytes());
                Err(Stopped)
            }
        }
    }

    /// Counts what came for `collector` over a connection that did not get its id, and cannot be told so in time.
    pub fn turn_away(&self, collector: &CollectorId, reason: DropReason, drafts: &[Draft], why: &str) {
        let bytes = drafts.iter().map(|draft| draft.lines.len()).sum();
        self.shared.discard(collector, reason, drafts.len(), bytes, why);
    }

    /// Takes no more jobs and returns when every accepted batch is in the log, or `within` has passed.
    pub async fn finish(&self, within: Duration) {
        self.shared.queues.finish();
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            self.shared.abandoned.cancel();
            self.tasks.wait().await;
        }
    }

    /// What was lost because the node had to stop.
    pub fn left(&self) -> Left {
        self.shared.losses.with(|losses| losses.left)
    }

    /// How many collectors have a writer now.
    pub fn len(&self) -> usize {
        self.shared.queues.len()
    }

    /// Whether no collector has a writer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    /// The one door through which envelopes leave without being stored.
    fn discard(
        &self,
        collector: &CollectorId,
        reason: DropReason,
        envelopes: usize,
        bytes: usize,
        why: &str,
    ) {
        self.node.meters.envelopes_dropped.of(reason).increment(envelopes as u64);
        let now = Instant::now();
        if reason == DropReason::Refused {
            self.storing.refused(now, why);
        }
        if self.losses.with(|losses| losses.is_due(reason, now)) {
            tracing::error!(event = "envelopes_dropped", %collector, envelopes, bytes, why, "metrics were lost");
        }
    }

    /// A batch for which there is no time left. A caller who waits is told that it was not stored; where nobody does, the
    /// batch counts as lost.
    fn abandon(
        &self,
        collector: &CollectorId,
        done: Option<&oneshot::Sender<Outcome>>,
        envelopes: usize,
        bytes: usize,
    ) {
        if done.is_some() {
            return;
        }
        let why = "the node stopped before the log answered";
        self.discard(collector, DropReason::Shutdown, envelopes, bytes, why);
        self.losses.with(|losses| {
            losses.left.batches += 1;
            losses.left.bytes += bytes;
        });
    }
}

impl Losses {
    /// Whether a loss is due a line in the log. Agents that fight for an id come back again and again.
    fn is_due(&mut self, reason: DropReason, now: Instant) -> bool {
        match reason {
            DropReason::Refused | DropReason::Shutdown => true,
            DropReason::Conflict | DropReason::Capacity => {
                let due =
                    self.turned_away.is_none_or(|last| now.saturating_duration_since(last) >= WARN_INTERVAL);
                if due {
                    self.turned_away = Some(now);
                }
                due
            }
        }
    }
}

fn unix_us() -> u64 {
    u64::try_from(unix_ns() / 1_000).unwrap_or(0)
}
