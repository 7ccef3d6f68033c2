//! The writer's task: stamp, publish, repeat until stored.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{BrokerError, Outgoing, Published};
use crate::ingest::batch::Draft;
use crate::ingest::writer::identity::BatchId;
use crate::ingest::writer::queue::Queue;
use crate::ingest::writer::recognise::Unidentified;
use crate::ingest::writer::{Job, Outcome, Shared, WRITER_IDLE};
use crate::ops::meters::DropReason;
use crate::proto::channel::CollectorId;
use crate::proto::envelope::{Envelope, Stamp};
use crate::proto::offset::{Sequence, Shard};

/// First pause after a failed publish.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a log that is back is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The writer of one collector.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) collector: CollectorId,
    pub(super) shard: Shard,
    queue: Arc<Queue>,
    pub(super) revision: u64,
    /// Of the envelope stamped last.
    pub(super) sequence: u64,
    /// Where the log has what this writer stored last; 0 before that.
    pub(super) last_stored: Sequence,
}

/// A stamped envelope, and how many metrics it holds.
struct Stamped {
    outgoing: Vec<Outgoing>,
    metrics: Vec<u64>,
}

/// Why a store did not happen.
enum StoreError {
    /// The log would refuse it again.
    Refused(String),
    /// The node is out of time.
    Abandoned,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, collector: CollectorId, queue: Arc<Queue>, revision: u64) -> Self {
        let shard = collector.shard(shared.broker.shards());
        Self { shared, collector, shard, queue, revision, sequence: 0, last_stored: 0 }
    }

    pub(super) async fn run(mut self) {
        while let Some(job) = self.next().await {
            if self.carry(job).await.is_break() {
                self.abandon_queue();
                break;
            }
        }
    }

    /// The next job, or `None` when the writer has ended.
    async fn next(&self) -> Option<Job> {
        loop {
            if let Some(job) = self.queue.pop() {
                return Some(job);
            }
            let queues = &self.shared.queues;
            let ending = queues.finishing().is_cancelled() || queues.is_crowded();
            if ending && queues.retire(&self.collector, &self.queue) {
                return None;
            }
            tokio::select! {
                () = self.queue.arrived() => {}
                () = queues.finishing().cancelled() => {}
                () = tokio::time::sleep(WRITER_IDLE) => {
                    if queues.retire(&self.collector, &self.queue) {
                        return None;
                    }
                }
            }
        }
    }

    /// Carries one job to its end. Its grant is kept until then.
    async fn carry(&mut self, mut job: Job) -> ControlFlow<()> {
        let id = match self.identify(&mut job).await {
            Ok(id) => id,
            Err(Unidentified::Withdrawn) => return ControlFlow::Continue(()),
            Err(Unidentified::Abandoned) => {
                self.shared.abandon(&self.collector, job.done.as_ref(), job.drafts.len(), job.bytes());
                return ControlFlow::Break(());
            }
        };
        let Job { drafts, received_ns, grant, done, open, .. } = job;
        let stamped = self.stamp(drafts, received_ns, &id);
        let stored = match self.store(&stamped.outgoing, &stamped.metrics, false).await {
            Ok(()) => ControlFlow::Continue(Outcome::Stored),
            Err(StoreError::Abandoned) => ControlFlow::Break(0),
            Err(StoreError::Refused(_)) => self.store_one_by_one(&stamped).await,
        };
        let outcome = match stored {
            ControlFlow::Continue(outcome) => outcome,
            ControlFlow::Break(from) => {
                let rest = &stamped.outgoing[from..];
                self.shared.abandon(&self.collector, done.as_ref(), rest.len(), bytes(rest));
                return ControlFlow::Break(());
            }
        };
        drop((grant, open));
        if let Some(done) = done {
            // Nobody listens any more when the caller has gone away.
            let _ = done.send(outcome);
        }
        ControlFlow::Continue(())
    }

    /// After a refusal: the envelope that the log refuses must not cost its neighbours. Those that were stored already
    /// are recognised by their ids. Breaks with the index of the first envelope that was not tried.
    async fn store_one_by_one(&mut self, stamped: &Stamped) -> ControlFlow<usize, Outcome> {
        let mut outcome = Outcome::Stored;
        for (at, outgoing) in stamped.outgoing.iter().enumerate() {
            match self.store(std::slice::from_ref(outgoing), &stamped.metrics[at..=at], true).await {
                Ok(()) => {}
                Err(StoreError::Abandoned) => return ControlFlow::Break(at),
                Err(StoreError::Refused(reason)) => {
                    let bytes = outgoing.envelope.lines.len();
                    self.shared.discard(&self.collector, DropReason::Refused, 1, bytes, &reason);
                    outcome = Outcome::Refused(reason);
                }
            }
        }
        ControlFlow::Continue(outcome)
    }

    /// Publishes until the log has it. The order of a collector rests on this: nothing else of it is in flight.
    /// `sent_before` says that some of it may be stored already, by this writer.
    async fn store(
        &mut self,
        outgoing: &[Outgoing],
        metrics: &[u64],
        sent_before: bool,
    ) -> Result<(), StoreError> {
        let mut attempt = 0u32;
        loop {
            attempt += 1;
            let began = Instant::now();
            let answer = tokio::select! {
                answer = self.shared.broker.publish(self.shard, outgoing) => answer,
                () = self.shared.abandoned.cancelled() => return Err(StoreError::Abandoned),
            };
            match answer {
                Ok(published) => {
                    self.shared.node.meters.publish_duration.record(began.elapsed().as_secs_f64());
                    self.last_stored =
                        published.iter().map(|one| one.sequence).max().unwrap_or(self.last_stored);
                    self.count(&published, metrics, sent_before || attempt > 1);
                    return Ok(());
                }
                Err(BrokerError::Refused(reason)) => return Err(StoreError::Refused(reason)),
                // An incompatible log is an operator's to mend; until then waiting loses nothing.
                Err(error @ (BrokerError::Unavailable(_) | BrokerError::Incompatible(_))) => {
                    self.retried(attempt, outgoing.len(), &error);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff(attempt)) => {}
                () = self.shared.abandoned.cancelled() => return Err(StoreError::Abandoned),
            }
        }
    }

    /// Counts a failure that is tried again, and tells of the first.
    pub(super) fn retried(&self, attempt: u32, envelopes: usize, error: &BrokerError) {
        self.shared.node.meters.publish_retries.increment(1);
        if attempt == 1 {
            tracing::warn!(
                event = "publish_failed",
                collector = %self.collector,
                envelopes,
                %error,
                "the batch waits and is published again"
            );
        }
    }

    fn stamp(&mut self, drafts: Vec<Draft>, received_ns: i64, id: &BatchId) -> Stamped {
        let metrics = drafts.iter().map(|draft| draft.metrics).collect();
        let mut outgoing = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            self.sequence += 1;
            let stamp = Stamp { revision: self.revision, sequence: self.sequence, received_ns };
            let envelope = Envelope { channel: draft.channel, stamp: Some(stamp), lines: draft.lines };
            outgoing.push(Outgoing { envelope, message_id: id.envelope(index) });
        }
        Stamped { outgoing, metrics }
    }

    fn count(&self, published: &[Published], metrics: &[u64], sent_before: bool) {
        let meters = &self.shared.node.meters;
        let mut stored = 0;
        let mut duplicates = 0;
        for (answer, metrics) in published.iter().zip(metrics) {
            // A duplicate may be this writer's own first attempt, whose answer was lost.
            let sent_again = answer.duplicate && !sent_before;
            duplicates += u64::from(answer.duplicate);
            stored += if sent_again { 0 } else { *metrics };
        }
        meters.envelopes_published.increment(published.len() as u64);
        meters.envelopes_duplicate.increment(duplicates);
        meters.lines_accepted.increment(stored);
    }

    fn abandon_queue(&self) {
        while let Some(job) = self.queue.pop() {
            self.shared.abandon(&self.collector, job.done.as_ref(), job.drafts.len(), job.bytes());
        }
        self.shared.queues.retire(&self.collector, &self.queue);
    }
}

fn bytes(outgoing: &[Outgoing]) -> usize {
    outgoing.iter().map(|one| one.envelope.lines.len()).sum()
}

/// Doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], less up to half at random: a thousand writers that wait for one
/// log must not come back in one instant.
pub(super) fn backoff(attempt: u32) -> Duration {
    let full = BACKOFF_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(6)).min(BACKOFF_MAX);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}
