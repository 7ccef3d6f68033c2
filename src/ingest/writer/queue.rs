//! Jobs that wait their turn: one queue per collector, and who empties it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::ingest::writer::{Job, WRITERS_IDLE_MAX};
use crate::proto::channel::CollectorId;
use crate::sync::{Level, Locked};

/// The queues of all collectors that have a writer.
pub(super) struct Queues {
    state: Locked<State>,
    /// No new jobs; writers end when their queues are empty.
    finishing: CancellationToken,
}

#[derive(Default)]
struct State {
    by_collector: HashMap<CollectorId, Arc<Queue>>,
    last_revision: u64,
}

/// What came of a job.
pub(super) enum Enqueued {
    /// It waits for a writer that is at work.
    Waits(Ticket),
    /// It is the first of a new queue, which needs a writer.
    /// Already counted among the tasks: the end of them all must not miss it.
    First { ticket: Ticket, queue: Arc<Queue>, revision: u64, counted: TaskTrackerToken },
    /// The node is stopping.
    TooLate(Job),
}

/// Waiting jobs. Unbounded in length: every job holds its part of the node's byte budget.
pub(super) struct Queue {
    waiting: Locked<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Queued>,
    next_number: u64,
}

struct Queued {
    number: u64,
    accepted: Instant,
    job: Job,
}

/// A place in a queue.
pub struct Ticket {
    queue: Arc<Queue>,
    number: u64,
}

impl Ticket {
    /// Takes the job back if its turn has not come; says whether it did. A job that was begun is carried to its end:
    /// part of it may be stored, and a writer that skipped its sequences would announce a loss that is none.
    pub fn withdraw(&self) -> bool {
        let withdrawn = self.queue.waiting.with(|Waiting { jobs, .. }| {
            // Numbers ascend along the queue.
            let found = jobs.binary_search_by_key(&self.number, |queued| queued.number);
            found.ok().and_then(|at| jobs.remove(at))
        });
        withdrawn.is_some()
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Locked::empty("a collector's queue"), arrived: Notify::new() }
    }
}

impl Queue {
    pub(super) fn push(self: &Arc<Self>, job: Job) -> Ticket {
        let number = self.waiting.with(|waiting| {
            let number = waiting.next_number;
            waiting.next_number += 1;
            waiting.jobs.push_back(Queued { number, accepted: Instant::now(), job });
            number
        });
        self.arrived.notify_one();
        Ticket { queue: self.clone(), number }
    }

    /// The first job, and when it was accepted.
    pub(super) fn pop(&self) -> Option<(Job, Instant)> {
        self.waiting.with(|waiting| waiting.jobs.pop_front()).map(|queued| (queued.job, queued.accepted))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.with(|waiting| waiting.jobs.is_empty())
    }

    /// Returns when a job has come since the last call; may return early.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            state: Locked::new(Level::Writers, "writers", State::default()),
            finishing: CancellationToken::new(),
        }
    }
}

impl Queues {
    /// Puts a job at the end of its collector's queue. The end of an idle writer ([`Self::retire`]) happens under the same
    /// lock, so no job meets a writer that has gone.
    pub(super) fn enqueue(
        &self,
        collector: &CollectorId,
        job: Job,
        unix_us: u64,
        tasks: &TaskTracker,
    ) -> Enqueued {
        self.state.with(|state| {
            if self.finishing.is_cancelled() {
                return Enqueued::TooLate(job);
            }
            if let Some(queue) = state.by_collector.get(collector) {
                return Enqueued::Waits(queue.push(job));
            }
            let queue = Arc::new(Queue::default());
            let ticket = queue.push(job);
            state.by_collector.insert(collector.clone(), queue.clone());
            let revision = state.next_revision(unix_us);
            Enqueued::First { ticket, queue, revision, counted: tasks.token() }
        })
    }

    /// Whether there are so many writers that idle ones end at once.
    pub(super) fn is_crowded(&self) -> bool {
        self.state.with(|state| state.by_collector.len() > WRITERS_IDLE_MAX)
    }

    /// Ends the writer of `queue` unless a job has come in.
    pub(super) fn retire(&self, collector: &CollectorId, queue: &Queue) -> bool {
        self.state.with(|state| {
            let idle = queue.is_empty();
            if idle {
                state.by_collector.remove(collector);
            }
            idle
        })
    }

    /// No new jobs. What was enqueued before has its writer, and nothing is enqueued after.
    pub(super) fn finish(&self) {
        self.state.with(|_| self.finishing.cancel());
    }

    /// Cancelled by [`Self::finish`].
    pub(super) fn finishing(&self) -> &CancellationToken {
        &self.finishing
    }

    /// How many collectors have a writer now.
    pub(super) fn len(&self) -> usize {
        self.state.with(|state| state.by_collector.len())
    }
}

impl State {
    /// A writer's revision is the microsecond it was made in: larger than any before it on this node, and, with
    /// clocks that roughly agree, larger than that of a node which had the collector before.
    fn next_revision(&mut self, unix_us: u64) -> u64 {
        self.last_revision = unix_us.max(self.last_revision + 1);
        self.last_revision
    }
}
