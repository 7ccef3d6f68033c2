//! One shard: a bounded run of envelopes, the ids seen lately, and who follows it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

use crate::broker::tail::{Sent, TailSender};
use crate::broker::{Bounds, BrokerError, LogChannel, Newest, Outgoing, Published, ReadLimits, Stored};
use crate::config::LogSettings;
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::envelope::{Envelope, subject_suffix};
use crate::proto::offset::{Epoch, Sequence, Shard};

/// Most message ids remembered per shard: two minutes of 2,000 batches a second, at some 60 bytes each: 15 MB. Above it
/// the window gets shorter.
const MESSAGE_IDS_MAX: usize = 1 << 18;
/// What an envelope costs beside its texts: its own size, the channel's two counts, the payload's shared header.
const ENVELOPE_OVERHEAD_BYTES: u64 = 160;

/// See the module.
pub(super) struct ShardLog {
    bytes_max: u64,
    age_max: Duration,
    window: Duration,
    epoch: Epoch,
    entries: VecDeque<Entry>,
    bytes: u64,
    last: Sequence,
    ids: MessageIds,
    /// Of every collector that has envelopes here.
    newest: HashMap<CollectorId, Newest>,
    tails: Vec<TailSender>,
}

struct Entry {
    stored: Stored,
    at: Instant,
}

impl ShardLog {
    pub(super) fn new(settings: &LogSettings) -> Self {
        Self {
            bytes_max: settings.max_bytes,
            age_max: settings.max_age,
            window: settings.duplicate_window,
            epoch: new_epoch(),
            entries: VecDeque::new(),
            bytes: 0,
            last: 0,
            ids: MessageIds::default(),
            newest: HashMap::new(),
            tails: Vec::new(),
        }
    }

    pub(super) fn recreate(&mut self) {
        // Two incarnations within one tick of the clock must differ all the same.
        let next = Epoch(self.epoch.0.wrapping_add(1).max(new_epoch().0));
        self.entries.clear();
        self.bytes = 0;
        self.last = 0;
        self.ids = MessageIds::default();
        self.newest.clear();
        self.epoch = next;
    }

    /// Stores all of a batch or, when one of its envelopes can never fit, nothing.
    pub(super) fn publish(
        &mut self,
        batch: &[Outgoing],
        now: Instant,
    ) -> Result<Vec<Published>, BrokerError> {
        if let Some(outgoing) = batch.iter().find(|outgoing| cost(&outgoing.envelope) > self.bytes_max) {
            let (size, limit) = (outgoing.envelope.lines.len(), self.bytes_max);
            return Err(BrokerError::Refused(format!(
                "an envelope of {size} bytes does not fit into a log of {limit}: raise log.max_bytes"
            )));
        }
        self.ids.forget_before(now, self.window);
        let published = batch.iter().map(|outgoing| self.publish_one(outgoing, now)).collect();
        self.retain(now);
        Ok(published)
    }

    fn publish_one(&mut self, outgoing: &Outgoing, now: Instant) -> Published {
        let sequence = self.last + 1;
        if let Some(earlier) = self.ids.check(&outgoing.message_id, sequence, now) {
            return Published { sequence: earlier, duplicate: true };
        }
        self.last = sequence;
        let earliest_ns = self.entries.back().map_or(0, |entry| entry.stored.stored_ns);
        let stored =
            Stored { sequence, stored_ns: wall_ns().max(earliest_ns), envelope: outgoing.envelope.clone() };
        self.tails.retain_mut(|tail| tail.send(stored.clone()) != Sent::ReaderGone);
        let newest = Newest { sequence, message_id: outgoing.message_id.clone() };
        self.newest.insert(stored.envelope.channel.collector.clone(), newest);
        self.bytes += cost(&stored.envelope);
        self.entries.push_back(Entry { stored, at: now });
        Published { sequence, duplicate: false }
    }

    /// As many as the limits allow, and at least one if there is one.
    pub(super) fn read(&mut self, from: Sequence, limits: ReadLimits, now: Instant) -> Vec<Stored> {
        self.retain(now);
        let first = self.first();
        // Sequences in memory have no holes, so a sequence's place is a subtraction.
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        within(self.entries.iter().skip(skip), limits)
    }

    /// The same from `until` back.
    pub(super) fn read_back(&mut self, until: Sequence, limits: ReadLimits, now: Instant) -> Vec<Stored> {
        self.retain(now);
        let skip = usize::try_from(self.last.saturating_sub(until)).unwrap_or(usize::MAX);
        within(self.entries.iter().rev().skip(skip), limits)
    }

    /// Looks at all that is stored, like [`ShardLog::last`].
    pub(super) fn channels(
        &mut self,
        shard: Shard,
        channels_max: usize,
        now: Instant,
    ) -> Option<Vec<LogChannel>> {
        self.retain(now);
        let mut channels: HashSet<&Channel> = HashSet::new();
        for entry in &self.entries {
            channels.insert(&entry.stored.envelope.channel);
            if channels.len() > channels_max {
                return None;
            }
        }
        Some(channels.into_iter().map(|channel| spelled(shard, channel)).collect())
    }

    /// Looks at all that is stored, from `up_to` back: nobody asks but an edge that starts, when there is little.
    pub(super) fn last(
        &mut self,
        shard: Shard,
        channels: &[LogChannel],
        up_to: Sequence,
        now: Instant,
    ) -> Vec<Stored> {
        self.retain(now);
        let mut wanted: HashSet<&LogChannel> = channels.iter().collect();
        let before = self.entries.iter().rev().skip_while(|entry| entry.stored.sequence > up_to);
        let newest = before.filter(|entry| wanted.remove(&spelled(shard, &entry.stored.envelope.channel)));
        let mut found: Vec<Stored> = newest.map(|entry| entry.stored.clone()).collect();
        found.reverse();
        found
    }

    pub(super) fn newest(&mut self, collector: &CollectorId, now: Instant) -> Option<Newest> {
        self.retain(now);
        self.newest.get(collector).cloned()
    }

    pub(super) fn bounds(&mut self, now: Instant) -> Bounds {
        self.retain(now);
        Bounds { epoch: self.epoch, first: self.first(), last: self.last }
    }

    pub(super) fn tail(&mut self) -> mpsc::Receiver<Stored> {
        let (sender, receiver) = TailSender::channel();
        self.tails.retain(|tail| !tail.is_closed());
        self.tails.push(sender);
        receiver
    }

    fn first(&self) -> Sequence {
        self.last + 1 - self.entries.len() as Sequence
    }

    fn retain(&mut self, now: Instant) {
        while let Some(oldest) = self.entries.front() {
            let expired = now.saturating_duration_since(oldest.at) >= self.age_max;
            if !expired && self.bytes <= self.bytes_max {
                break;
            }
            self.bytes -= cost(&oldest.stored.envelope);
            let collector = &oldest.stored.envelope.channel.collector;
            if self.newest.get(collector).is_some_and(|newest| newest.sequence == oldest.stored.sequence) {
                self.newest.remove(collector);
            }
            self.entries.pop_front();
        }
    }
}

/// Ids of the last while, as 128-bit hashes: an id may be long, and a chance collision is out of the question.
#[derive(Default)]
struct MessageIds {
    sequences: HashMap<u128, Sequence>,
    order: VecDeque<(Instant, u128)>,
}

impl MessageIds {
    /// Where this id was stored before; otherwise remembers that it is stored at `sequence`. An empty id is none.
    fn check(&mut self, id: &str, sequence: Sequence, now: Instant) -> Option<Sequence> {
        if id.is_empty() {
            return None;
        }
        let hash = xxh3_128(id.as_bytes());
        if let Some(earlier) = self.sequences.get(&hash) {
            return Some(*earlier);
        }
        if self.order.len() >= MESSAGE_IDS_MAX {
            self.forget_oldest();
        }
        self.sequences.insert(hash, sequence);
        self.order.push_back((now, hash));
        None
    }

    fn forget_before(&mut self, now: Instant, window: Duration) {
        while self.order.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= window) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, hash)) = self.order.pop_front() {
            self.sequences.remove(&hash);
        }
    }
}

/// As many of these as the limits allow, and at least one if there is one.
fn within<'a>(entries: impl Iterator<Item = &'a Entry>, limits: ReadLimits) -> Vec<Stored> {
    let mut bytes = 0;
    let mut found = Vec::new();
    for entry in entries.take(limits.envelopes_max.max(1)) {
        found.push(entry.stored.clone());
        bytes += entry.stored.envelope.lines.len();
        if bytes >= limits.bytes_max {
            break;
        }
    }
    found
}

fn spelled(shard: Shard, channel: &Channel) -> LogChannel {
    LogChannel(subject_suffix(shard, channel).into())
}

fn cost(envelope: &Envelope) -> u64 {
    let channel = envelope.channel.collector.as_str().len() + envelope.channel.measurement.len();
    (envelope.lines.len() + channel) as u64 + ENVELOPE_OVERHEAD_BYTES
}

/// The time of creation, so that a later process's log compares as another one.
fn new_epoch() -> Epoch {
    Epoch(wall_ns() as u64)
}

fn wall_ns() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX)
}
