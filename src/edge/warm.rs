//! The start of an edge: where its ring begins, and the last values of what the log holds from before that.
//!
//! The ring is warmed by its followers. Before them, the last envelope of each channel is read, so that a series that is
//! written once an hour is known as well. Of a channel whose envelopes hold different series (a gateway's), those are known
//! that are in its last envelope, or in the ring.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{Bounds, BrokerError, LAST_CHANNELS_MAX, Stored};
use crate::edge::Shared;
use crate::edge::series::SeriesStore;
use crate::proto::offset::{Epoch, Offset, Sequence, Shard};

/// Envelopes read at the start at most, per shard; the ring's bytes bound them as well. At 512 bytes each: 64 MB.
const WARM_ENVELOPES_MAX: u64 = 131_072;
/// Between two attempts to reach the log.
const RETRY: Duration = Duration::from_millis(250);
/// Between two words on how far a long start has come, or on why it does not go on.
const PROGRESS: Duration = Duration::from_secs(5);

/// Asks until the log tells what a shard holds.
pub(super) async fn reach(shared: &Shared, shard: Shard) -> Bounds {
    insist(shared, shard, || shared.broker.bounds(shard)).await
}

/// Where a shard's part of the ring begins: behind this sequence.
pub(super) fn ring_start(bounds: &Bounds) -> Sequence {
    let first = bounds.first.max((bounds.last + 1).saturating_sub(WARM_ENVELOPES_MAX));
    first.saturating_sub(1)
}

/// The last values at the place where the ring begins.
pub(super) async fn last_values(shared: &Shared, bounds: &[Bounds]) -> SeriesStore {
    let epochs: Vec<Epoch> = bounds.iter().map(|bounds| bounds.epoch).collect();
    let start = Offset { epoch: Epoch::combine(&epochs), sequences: bounds.iter().map(ring_start).collect() };
    let mut store = SeriesStore::new(start, shared.settings.snapshot);
    let mut newest = Newest { bytes_max: shared.settings.snapshot.bytes_max, ..Newest::default() };
    for (number, bounds) in bounds.iter().enumerate() {
        let up_to = ring_start(bounds);
        if bounds.first <= up_to {
            read_shard(shared, Shard(number as u16), up_to, &mut newest).await;
        }
    }
    for ((_, shard, _), stored) in newest.envelopes {
        store.preload(shard, &stored);
    }
    store
}

/// Reads the last envelope of each channel at or before `up_to`.
async fn read_shard(shared: &Shared, shard: Shard, up_to: Sequence, newest: &mut Newest) {
    let begun = Instant::now();
    let channels = insist(shared, shard, || shared.broker.channels(shard)).await;
    let mut said = begun;
    for (page, some) in channels.chunks(LAST_CHANNELS_MAX).enumerate() {
        for stored in insist(shared, shard, || shared.broker.last(shard, some, up_to)).await {
            newest.add(shard, stored);
        }
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            let (done, of) = (page * LAST_CHANNELS_MAX + some.len(), channels.len());
            tracing::info!(event = "last_values_progress", shard = shard.0, done, of, "channels read");
        }
    }
    tracing::info!(
        event = "last_values_read",
        shard = shard.0,
        channels = channels.len(),
        duration_ms = begun.elapsed().as_millis() as u64,
        "last envelopes from before the ring are read"
    );
}

/// Asks the log until it answers.
async fn insist<T, Answer: Future<Output = Result<T, BrokerError>>>(
    shared: &Shared,
    shard: Shard,
    ask: impl Fn() -> Answer,
) -> T {
    let mut said: Option<Instant> = None;
    loop {
        match ask().await {
            Ok(answer) => {
                shared.note_heard(shard);
                return answer;
            }
            // A log that is not there yet is usual at a start; one that refuses will not change its mind by itself.
            Err(error) if !error.is_retryable() && said.is_none_or(|said| said.elapsed() >= PROGRESS) => {
                said = Some(Instant::now());
                tracing::warn!(event = "log_refuses", shard = shard.0, %error, "the start waits for the log; trying again");
            }
            Err(error) => {
                tracing::debug!(event = "log_awaited", shard = shard.0, %error, "the log is not there yet");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Envelopes in the order in which the log stored them, over all shards: the order of updates that the last values have.
/// Of too many the oldest go, which would be the first to leave the last values as well.
#[derive(Default)]
struct Newest {
    envelopes: BTreeMap<(i64, Shard, Sequence), Stored>,
    bytes: usize,
    bytes_max: usize,
}

impl Newest {
    fn add(&mut self, shard: Shard, stored: Stored) {
        self.bytes += stored.envelope.lines.len();
        // A page that was asked for again after an error brings the same again.
        if let Some(twin) = self.envelopes.insert((stored.stored_ns, shard, stored.sequence), stored) {
            self.bytes -= twin.envelope.lines.len();
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.envelopes.pop_first() else { return };
            self.bytes -= oldest.envelope.lines.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::envelope::Envelope;

    #[test]
    fn envelopes_come_in_the_order_of_the_log_and_the_oldest_of_too_many_go() {
        let stored = |stored_ns, sequence| {
            let channel = Channel::new(CollectorId::new("c").unwrap(), "m");
            let envelope = Envelope { channel, stamp: None, lines: Bytes::from_static(b"0123456789") };
            Stored { sequence, stored_ns, envelope }
        };
        let mut newest = Newest { bytes_max: 30, ..Newest::default() };
        for (shard, stored_ns, sequence) in [(0, 50, 5), (0, 50, 5), (1, 40, 9), (0, 10, 2), (1, 20, 7)] {
            newest.add(Shard(shard), stored(stored_ns, sequence));
        }
        let order: Vec<_> = newest.envelopes.into_keys().collect();
        assert_eq!(order, [(20, Shard(1), 7), (40, Shard(1), 9), (50, Shard(0), 5)]);
    }
}
