//! The last value of every series, as the log has it at one place of the ring. Pure.
//!
//! Entries are applied in the ring's order, so the store is always the state at a place (S), and what follows S is what the
//! ring has after it. Of a series the last written value of every field is kept, with the time of the last line: lines
//! that bring other fields of it are merged. Series are linked in the order of their last update; bounded in number,
//! bytes and age, the one that was updated least lately goes first. Texts are copied: a slice would keep its whole envelope.

use std::sync::Arc;

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;
use smallvec::SmallVec;

use crate::broker::Stored;
use crate::config::SnapshotSettings;
use crate::edge::encode;
use crate::edge::ring::{Entry, Index, Item};
use crate::edge::series::channels::{ChannelNumber, Channels};
use crate::ops::meters::{Label, SeriesDrop};
use crate::proto::line::{self, Line};
use crate::proto::message::GapReason;
use crate::proto::offset::{Offset, Sequence, Shard};

mod changes;
mod channels;
mod counts;
mod extract;
mod older;
mod parts;
#[cfg(test)]
mod tests;

pub(crate) use changes::Changed;
pub(crate) use counts::{Count, SeriesCounts};
pub(crate) use extract::{Extract, Group};
pub(crate) use older::Taken;
pub(crate) use parts::{PART_BYTES_MAX, Part, Parts};

/// What a series costs besides its texts: its node, its slot in the table, and what three allocations waste.
const SERIES_OVERHEAD_BYTES: usize = 200;

/// A place of the ring.
#[derive(Clone, Debug)]
pub(crate) struct StoredPlace {
    /// The ring's index.
    pub(crate) index: Index,
    /// The log's offset there.
    pub(crate) offset: Arc<Offset>,
}

/// The last values.
pub(crate) struct SeriesStore {
    limits: SnapshotSettings,
    channels: Channels,
    counts: Arc<SeriesCounts>,
    /// The one that was updated least lately first.
    series: LinkedHashMap<Key, Value>,
    bytes: usize,
    at: StoredPlace,
    /// Per shard: of series that were written up to here and not since, some may be missing. Before the place where the
    /// store began only the last envelope of each channel is known; and series are dropped for the bounds.
    incomplete_to: SmallVec<[Sequence; 2]>,
    /// Shards whose older values are still being read, by their [`bit`].
    reading_older: u64,
    /// Until then, by the log's clock, a series is missing that a bound has cost its value.
    bounded_until_ns: i64,
    dropped: [u64; SeriesDrop::ALL.len()],
}

/// What makes a series.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    channel: ChannelNumber,
    /// Measurement and tags, canonical.
    series: Box<str>,
}

/// A [`Key`] to look for: hashes as one.
#[derive(Hash)]
struct Wanted<'a> {
    channel: ChannelNumber,
    series: &'a str,
}

/// What is known of a series.
struct Value {
    fields: String,
    timestamp_ns: i64,
    shard: Shard,
    /// Of the envelope that wrote it last.
    sequence: Sequence,
    stored_ns: i64,
}

impl SeriesStore {
    /// An empty store at `start`, the place before the ring's first entry.
    pub(crate) fn new(start: Offset, limits: SnapshotSettings) -> Self {
        Self {
            limits,
            channels: Channels::default(),
            counts: Arc::new(SeriesCounts::new()),
            series: LinkedHashMap::new(),
            bytes: 0,
            incomplete_to: start.sequences.clone(),
            at: StoredPlace { index: 0, offset: Arc::new(start) },
            reading_older: 0,
            bounded_until_ns: i64::MIN,
            dropped: [0; SeriesDrop::ALL.len()],
        }
    }

    /// Moves on behind the ring's next entry.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        match &entry.item {
            Item::Envelope(stored) => {
                self.write(entry.shard, stored);
                self.expire(stored.stored_ns);
            }
            Item::Gap { reason: GapReason::Reset, .. } => self.reset(entry),
            Item::Gap { .. } => {
                let end = entry.sequence();
                self.note_incomplete(entry.shard, end);
            }
        }
        self.at = StoredPlace { index: entry.index, offset: entry.offset.clone() };
    }

    /// The place whose state this is.
    pub(crate) fn at(&self) -> &StoredPlace {
        &self.at
    }

    /// Series here.
    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    /// How many they are, by channel, for those who do not hold the store.
    pub(crate) fn counts(&self) -> Arc<SeriesCounts> {
        self.counts.clone()
    }

    /// What they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.channels.bytes()
    }

    /// How many series were dropped since the last call, by [`Label::index`] of the reason.
    pub(crate) fn take_dropped(&mut self) -> [u64; SeriesDrop::ALL.len()] {
        std::mem::take(&mut self.dropped)
    }

    /// Lets go of series that were not written within the age that is allowed, counted back from `now_ns` by the log's clock.
    pub(crate) fn expire(&mut self, now_ns: i64) {
        let oldest_ns = now_ns.saturating_sub(self.age_ns());
        if self.bounded_until_ns < now_ns {
            self.bounded_until_ns = i64::MIN;
        }
        while self.series.front().is_some_and(|(_, value)| value.stored_ns < oldest_ns) {
            self.drop_oldest(SeriesDrop::Age);
        }
    }

    fn write(&mut self, shard: Shard, stored: &Stored) {
        let lines = line::lines(&stored.envelope.lines).filter_map(Result::ok);
        let mut channel = None;
        for line in lines {
            let channel = *channel.get_or_insert_with(|| self.channels.enter(&stored.envelope.channel));
            self.write_line(channel, shard, stored, &line);
        }
        // Its series hold the channel's number from now on, if there are any.
        channel.into_iter().for_each(|channel| self.channels.leave(channel));
        self.trim();
    }

    fn write_line(&mut self, channel: ChannelNumber, shard: Shard, stored: &Stored, line: &Line<'_>) {
        let series = line.canonical_series();
        let hash = self.hash(channel, &series);
        let is_same = |key: &Key| key.channel == channel && *key.series == *series;
        match self.series.raw_entry_mut().from_hash(hash, is_same) {
            RawEntryMut::Occupied(mut entry) => {
                entry.to_back();
                let value = entry.into_mut();
                let held = value.fields.capacity();
                line::merge_fields(&mut value.fields, line.fields_text());
                self.bytes = self.bytes + value.fields.capacity() - held;
                value.timestamp_ns = timestamp_ns(stored, line);
                (value.shard, value.sequence, value.stored_ns) = (shard, stored.sequence, stored.stored_ns);
            }
            RawEntryMut::Vacant(entry) => {
                let (key, value) = (Key { channel, series: Box::from(&*series) }, value(shard, stored, line));
                self.bytes += cost(&key, &value);
                self.channels.stay(channel);
                self.counts.add(&stored.envelope.channel);
                entry.insert_hashed_nocheck(hash, key, value);
            }
        }
    }

    fn hash(&self, channel: ChannelNumber, series: &str) -> u64 {
        std::hash::BuildHasher::hash_one(self.series.hasher(), Wanted { channel, series })
    }

    /// Lets go of the series that were updated least lately, until the bounds hold. True when some had to go.
    fn trim(&mut self) -> bool {
        let before = self.series.len();
        while self.series.len() > self.limits.series_max {
            self.drop_oldest(SeriesDrop::Count);
        }
        while self.bytes() > self.limits.bytes_max && !self.series.is_empty() {
            self.drop_oldest(SeriesDrop::Bytes);
        }
        self.series.len() < before
    }

    fn drop_oldest(&mut self, reason: SeriesDrop) {
        if let Some((key, value)) = self.series.pop_front() {
            self.note_incomplete(value.shard, value.sequence);
            if reason != SeriesDrop::Age {
                self.bounded_until_ns =
                    self.bounded_until_ns.max(value.stored_ns.saturating_add(self.age_ns()));
            }
            self.forget(&key, &value, reason);
        }
    }

    fn age_ns(&self) -> i64 {
        i64::try_from(self.limits.age_max.as_nanos()).unwrap_or(i64::MAX)
    }

    fn forget(&mut self, key: &Key, value: &Value, reason: SeriesDrop) {
        self.bytes -= cost(key, value);
        self.channels.get(key.channel).into_iter().for_each(|channel| self.counts.remove(channel));
        self.channels.leave(key.channel);
        self.dropped[reason.index()] += 1;
    }

    fn note_incomplete(&mut self, shard: Shard, sequence: Sequence) {
        if let Some(slot) = self.incomplete_to.get_mut(usize::from(shard.0)) {
            *slot = sequence.max(*slot);
        }
    }

    /// The entry's shard has been created anew, or has lost its newest part: what was written there is true no more.
    fn reset(&mut self, entry: &Entry) {
        let shard = entry.shard;
        let is_another = entry.offset.epoch != self.at.offset.epoch;
        let last = if is_another { 0 } else { entry.sequence() };
        let mut kept =
            LinkedHashMap::with_capacity_and_hasher(self.series.len(), self.series.hasher().clone());
        for (key, value) in std::mem::take(&mut self.series) {
            if value.shard == shard && value.sequence > last {
                self.forget(&key, &value, SeriesDrop::Reset);
            } else {
                kept.insert(key, value);
            }
        }
        self.series = kept;
        // What is still being read is of the log that was.
        self.reading_older &= !bit(shard);
        self.counts.set_partial(self.reading_older != 0);
        if let Some(slot) = self.incomplete_to.get_mut(usize::from(shard.0)) {
            // A new log is followed from its beginning. One that went backwards had older values that are not known here.
            *slot = entry.sequence();
        }
    }
}

/// What is known of a series that was written once.
fn value(shard: Shard, stored: &Stored, line: &Line<'_>) -> Value {
    Value {
        fields: line.fields_text().to_owned(),
        timestamp_ns: timestamp_ns(stored, line),
        shard,
        sequence: stored.sequence,
        stored_ns: stored.stored_ns,
    }
}

fn timestamp_ns(stored: &Stored, line: &Line<'_>) -> i64 {
    line.timestamp().unwrap_or_else(|| encode::received_ns(&stored.envelope, stored.stored_ns))
}

/// A shard's place in a set of shards.
fn bit(shard: Shard) -> u64 {
    1 << (shard.0 % 64)
}

fn cost(key: &Key, value: &Value) -> usize {
    SERIES_OVERHEAD_BYTES + key.series.len() + value.fields.capacity()
}
