//! The writer's task: stamp, publish, repeat until stored.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{BrokerError, Outgoing, Published};
use crate::ingest::batch::{Draft, split_lines};
use crate::ingest::storing::Underway;
use crate::ingest::writer::identity::BatchId;
use crate::ingest::writer::queue::Queue;
use crate::ingest::writer::recognise::Unidentified;
use crate::ingest::writer::{Job, Outcome, Shared, WRITER_IDLE};
use crate::ops::meters::{DropReason, PublishFailure};
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
        while let Some((job, accepted)) = self.next().await {
            if self.carry(job, accepted).await.is_break() {
                self.abandon_queue();
                break;
            }
        }
    }

    /// The next job and when it was accepted, or `None` when the writer has ended.
    async fn next(&self) -> Option<(Job, Instant)> {
        loop {
            let next = self.queue.pop();
            if next.is_some() {
                return next;
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
    async fn carry(&mut self, mut job: Job, accepted: Instant) -> ControlFlow<()> {
        let underway = self.shared.storing.begin(self.shard, accepted);
        // Before it gets its id: that says which envelopes it has.
        job.drafts = self.fitting(std::mem::take(&mut job.drafts));
        let id = match self.identify(&underway, &mut job).await {
            Ok(id) => id,
            Err(Unidentified::Withdrawn) => {
                underway.withdrawn(Instant::now());
                return ControlFlow::Continue(());
            }
            Err(Unidentified::Abandoned) => {
                self.shared.abandon(&self.collector, job.done.as_ref(), job.drafts.len(), job.bytes());
                return ControlFlow::Break(());
            }
        };
        let Job { drafts, received_ns, grant, done, open, .. } = job;
        let stamped = self.stamp(drafts, received_ns, &id);
        let stored = match self.store(&underway, &stamped.outgoing, &stamped.metrics, false).await {
            Ok(()) => ControlFlow::Continue(Outcome::Stored),
            Err(StoreError::Abandoned) => ControlFlow::Break(0),
            Err(StoreError::Refused(_)) => self.store_one_by_one(&underway, &stamped).await,
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

    /// The log may take less by now than when these were decoded: another server, with another `max_payload`.
    fn fitting(&self, drafts: Vec<Draft>) -> Vec<Draft> {
        let Some(limit) = self.shared.broker.envelope_limit() else { return drafts };
        if drafts.iter().all(|draft| draft.lines.len() <= limit.bytes_max) {
            return drafts;
        }
        drafts.into_iter().flat_map(|draft| draft.split(limit.bytes_max)).collect()
    }

    /// After a refusal: the envelope that the log refuses must not cost its neighbours. Those that were stored already
    /// are recognised by their ids. Breaks with the index of the first envelope that was not tried.
    async fn store_one_by_one(
        &mut self,
        underway: &Underway,
        stamped: &Stamped,
    ) -> ControlFlow<usize, Outcome> {
        let mut outcome = Outcome::Stored;
        for (at, outgoing) in stamped.outgoing.iter().enumerate() {
            let metrics = &stamped.metrics[at..=at];
            match self.store(underway, std::slice::from_ref(outgoing), metrics, true).await {
                Ok(()) => {}
                Err(StoreError::Abandoned) => return ControlFlow::Break(at),
                Err(StoreError::Refused(reason)) => {
                    match self.store_in_parts(underway, outgoing, reason).await {
                        ControlFlow::Continue(Outcome::Stored) => {}
                        ControlFlow::Continue(refused) => outcome = refused,
                        ControlFlow::Break(()) => return ControlFlow::Break(at),
                    }
                }
            }
        }
        ControlFlow::Continue(outcome)
    }

    /// The log refused an envelope: because it takes less than when this was stamped, if cutting it at its lines makes a difference.
    /// Else it is lost, and so is a line that is too long by itself. Parts share their envelope's stamp; ids of their own keep
    /// them apart.
    async fn store_in_parts(
        &mut self,
        underway: &Underway,
        outgoing: &Outgoing,
        mut reason: String,
    ) -> ControlFlow<(), Outcome> {
        let lines = &outgoing.envelope.lines;
        let limit = self.shared.broker.envelope_limit();
        let parts = limit.map_or_else(Vec::new, |limit| split_lines(lines, limit.bytes_max));
        if parts.len() < 2 {
            self.shared.discard(&self.collector, DropReason::Refused, 1, lines.len(), &reason);
            return ControlFlow::Continue(Outcome::Refused(reason));
        }
        let mut refused = false;
        for (number, (lines, metrics)) in parts.into_iter().enumerate() {
            let bytes = lines.len();
            let envelope = Envelope { lines, ..outgoing.envelope.clone() };
            let part = Outgoing { envelope, message_id: format!("{}.{number}", outgoing.message_id) };
            match self.store(underway, std::slice::from_ref(&part), &[metrics], false).await {
                Ok(()) => {}
                Err(StoreError::Abandoned) => return ControlFlow::Break(()),
                Err(StoreError::Refused(why)) => {
                    self.shared.discard(&self.collector, DropReason::Refused, 1, bytes, &why);
                    (refused, reason) = (true, why);
                }
            }
        }
        ControlFlow::Continue(if refused { Outcome::Refused(reason) } else { Outcome::Stored })
    }

    /// Publishes until the log has it. The order of a collector rests on this: nothing else of it is in flight.
    /// `sent_before` says that some of it may be stored already, by this writer.
    async fn store(
        &mut self,
        underway: &Underway,
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
                    underway.stored(Instant::now());
                    self.count(&published, metrics, sent_before || attempt > 1);
                    return Ok(());
                }
                Err(BrokerError::Refused(reason)) => {
                    self.shared.node.meters.publish_failures.of(PublishFailure::Refused).increment(1);
                    return Err(StoreError::Refused(reason));
                }
                // An incompatible log is an operator's to mend; until then waiting loses nothing.
                Err(error @ (BrokerError::Unavailable { .. } | BrokerError::Incompatible(_))) => {
                    self.retried(underway, attempt, outgoing.len(), &error);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff(attempt)) => {}
                () = self.shared.abandoned.cancelled() => return Err(StoreError::Abandoned),
            }
        }
    }

    /// Counts a failure that is tried again, and tells of the first.
    pub(super) fn retried(&self, underway: &Underway, attempt: u32, envelopes: usize, error: &BrokerError) {
        underway.failed(&error.to_string());
        self.shared.node.meters.publish_failures.of(PublishFailure::from(error)).increment(1);
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
        while let Some((job, _)) = self.queue.pop() {
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
