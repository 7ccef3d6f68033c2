//! The replay ring: the newest part of the log, in this edge's order, bounded in bytes. Pure.
//!
//! Shards are merged in the order they arrive, so each entry has an index (a plain counter of this process) and the whole
//! log's offset after it. Frames that live views want are encoded at most once per format, compressed at most once, and kept
//! with their entry, shared by all of them. A replay takes what is there and adds nothing: old entries would else grow while
//! nothing comes that makes old ones go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::broker::Stored;
use crate::proto::message::{Format, GapReason};
use crate::proto::offset::{Epoch, Offset, Sequence, Shard};

/// Position in the ring's order, counted from 1 since the start of the process. 0 is before everything.
pub(crate) type Index = u64;

/// What an entry costs besides its lines: the entry, its names and its place in the ring.
const ENTRY_OVERHEAD_BYTES: usize = 600;

/// One step of the log.
pub(crate) struct Entry {
    /// Its place in the ring.
    pub(crate) index: Index,
    /// Which shard it moves on.
    pub(crate) shard: Shard,
    /// The whole log's offset after it.
    pub(crate) offset: Arc<Offset>,
    /// What it is.
    pub(crate) item: Item,
    /// The latest time at which the log stored this entry or one before it: unlike the times themselves, it only grows.
    stored_max_ns: i64,
    /// For WebSockets, by format.
    frames: [OnceLock<Option<Bytes>>; Format::COUNT],
    /// The other forms, by format; `None` where the plain one serves as well.
    other_frames: [[OnceLock<Option<Bytes>>; Format::COUNT]; 2],
    charge: Charge,
}

/// What an entry is.
pub(crate) enum Item {
    /// An envelope of the log.
    Envelope(Stored),
    /// A part of the log that this edge will never have.
    Gap {
        /// The offset before it.
        from: Arc<Offset>,
        /// Why.
        reason: GapReason,
    },
}

/// A form of frames besides that for WebSockets as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Other {
    /// Compressed.
    Deflated,
    /// A server-sent event.
    Event,
}

/// Bytes an entry adds to its ring's account, for as long as it is in the ring.
struct Charge {
    bytes: AtomicUsize,
    account: Arc<AtomicUsize>,
}

const EVICTED: usize = usize::MAX;

impl Charge {
    fn add(&self, more: usize) {
        let charged = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
            (bytes != EVICTED).then(|| bytes + more)
        });
        if charged.is_ok() {
            self.account.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn settle(&self) {
        let bytes = self.bytes.swap(EVICTED, Ordering::Relaxed);
        if bytes != EVICTED {
            self.account.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Entry {
    /// The entry's last sequence on its shard.
    pub(crate) fn sequence(&self) -> Sequence {
        self.offset.sequence(self.shard)
    }

    fn lines_bytes(&self) -> usize {
        match &self.item {
            Item::Envelope(stored) => stored.envelope.lines.len(),
            Item::Gap { .. } => 0,
        }
    }

    /// The whole entry as a ready frame of `format`, if live views have wanted it; `Some(None)` when there is nothing in it
    /// to show.
    pub(crate) fn ready_frame(&self, format: Format) -> Option<Option<Bytes>> {
        self.frames[format as usize].get().cloned()
    }

    /// Another form of its frame of `format`, if live views have wanted it; `Some(None)` where the plain frame serves as well.
    pub(crate) fn ready_other_frame(&self, form: Other, format: Format) -> Option<Option<Bytes>> {
        self.other_frames[form as usize][format as usize].get().cloned()
    }

    /// The whole entry as a ready frame of `format`, made by `encode` the first time it is asked for. `None` when there
    /// is nothing in it to show. Adds to the ring: see [`Ring::evict`].
    pub(crate) fn frame(&self, format: Format, encode: impl FnOnce(&Self) -> Option<Bytes>) -> Option<Bytes> {
        let slot = &self.frames[format as usize];
        slot.get_or_init(|| {
            let frame = encode(self);
            self.charge.add(frame.as_ref().map_or(0, Bytes::len));
            frame
        })
        .clone()
    }

    /// Another form of `plain`, which is the entry's own frame of `format`, made by `make` the first time it is asked for. It
    /// is `plain` itself where `make` says that nothing is gained. Adds to the ring: see [`Ring::evict`].
    pub(crate) fn other_frame(
        &self,
        form: Other,
        format: Format,
        plain: Bytes,
        make: impl FnOnce(&Bytes) -> Option<Bytes>,
    ) -> Bytes {
        let slot = &self.other_frames[form as usize][format as usize];
        let other = slot.get_or_init(|| {
            let other = make(&plain);
            self.charge.add(other.as_ref().map_or(0, Bytes::len));
            other
        });
        other.clone().unwrap_or(plain)
    }
}

/// The newest part of the log.
pub(crate) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// The offset before the oldest entry.
    base: Arc<Offset>,
    /// The offset after the newest entry.
    head: Arc<Offset>,
    /// Index of the newest entry.
    head_index: Index,
    /// Entries from this index on belong to the current epoch.
    epoch_index: Index,
    stored_max_ns: i64,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Ring {
    /// An empty ring whose first entry will follow `start`.
    pub(crate) fn new(start: Offset, bytes_max: usize) -> Self {
        let start = Arc::new(start);
        Self {
            entries: VecDeque::new(),
            base: start.clone(),
            head: start,
            head_index: 0,
            epoch_index: 1,
            stored_max_ns: i64::MIN,
            bytes: Arc::default(),
            bytes_max,
        }
    }

    /// Adds an envelope of `shard`, which must follow the shard's newest.
    pub(crate) fn push(&mut self, shard: Shard, stored: Stored) -> Arc<Entry> {
        let offset = self.head.with(shard, stored.sequence);
        self.append(shard, offset, Item::Envelope(stored))
    }

    /// Adds the announcement that `shard` is missing up to and including `last`.
    pub(crate) fn push_gap(&mut self, shard: Shard, last: Sequence, reason: GapReason) -> Arc<Entry> {
        let offset = self.head.with(shard, last);
        self.append(shard, offset, Item::Gap { from: self.head.clone(), reason })
    }

    /// Begins a new epoch, in which `shard` has nothing up to and including `last`.
    pub(crate) fn push_reset(&mut self, epoch: Epoch, shard: Shard, last: Sequence) -> Arc<Entry> {
        let mut offset = self.head.with(shard, last);
        offset.epoch = epoch;
        let entry =
            self.append(shard, offset, Item::Gap { from: self.head.clone(), reason: GapReason::Reset });
        self.epoch_index = self.head_index + 1;
        entry
    }

    fn append(&mut self, shard: Shard, offset: Offset, item: Item) -> Arc<Entry> {
        let offset = Arc::new(offset);
        self.head_index += 1;
        self.head = offset.clone();
        let charge = Charge { bytes: AtomicUsize::new(0), account: self.bytes.clone() };
        let lines = match &item {
            Item::Envelope(stored) => {
                self.stored_max_ns = self.stored_max_ns.max(stored.stored_ns);
                stored.envelope.lines.len()
            }
            Item::Gap { .. } => 0,
        };
        charge.add(ENTRY_OVERHEAD_BYTES + lines);
        let entry = Arc::new(Entry {
            index: self.head_index,
            shard,
            offset,
            item,
            stored_max_ns: self.stored_max_ns,
            frames: Default::default(),
            other_frames: Default::default(),
            charge,
        });
        self.entries.push_back(entry.clone());
        self.evict();
        entry
    }

    /// Lets the oldest entries go until the bound holds; the newest always stays. To be called after frames were added to
    /// entries, before the ring's lock is let go.
    pub(crate) fn evict(&mut self) {
        while self.bytes.load(Ordering::Relaxed) > self.bytes_max && self.entries.len() > 1 {
            if let Some(oldest) = self.entries.pop_front() {
                oldest.charge.settle();
                self.base = oldest.offset.clone();
            }
        }
    }

    /// When the log stored the newest entry, in nanoseconds since 1970; 0 if there was none.
    pub(crate) fn stored_ns(&self) -> i64 {
        self.stored_max_ns.max(0)
    }

    /// Bytes of the entries and their frames.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The offset after the newest entry.
    pub(crate) fn head(&self) -> &Arc<Offset> {
        &self.head
    }

    /// Index of the newest entry; 0 when there was none yet.
    pub(crate) fn head_index(&self) -> Index {
        self.head_index
    }

    /// Index of the oldest entry that is still here, or of the next to come.
    pub(crate) fn first_index(&self) -> Index {
        self.entries.front().map_or(self.head_index + 1, |entry| entry.index)
    }

    /// The index after which everything that follows `offset`, and nothing else, lies: if `offset` is a place this edge
    /// has been at and everything after it is still here.
    pub(crate) fn locate(&self, offset: &Offset) -> Option<Index> {
        if *offset == *self.base {
            return Some(self.first_index() - 1);
        }
        // The entry that began the epoch is a place of this epoch too.
        let current = self.entries.partition_point(|entry| entry.index + 1 < self.epoch_index);
        let found = if offset.epoch == self.head.epoch {
            // Within an epoch each shard's sequence only grows, so the sum of all of them orders the entries.
            let wanted = total(offset);
            self.entries.get(self.partition_from(current, |entry| total(&entry.offset) < wanted))
        } else {
            // Places of an epoch that ended: few ask, so a plain search will do.
            self.entries.range(..current).find(|entry| *entry.offset == *offset)
        };
        found.filter(|entry| *entry.offset == *offset).map(|entry| entry.index)
    }

    /// Up to `entries_max` entries and about `bytes_max` bytes of one shard that follow `after` in the current epoch, if none
    /// of them is gone from here.
    pub(crate) fn shard_entries(
        &self,
        shard: Shard,
        after: Sequence,
        entries_max: usize,
        bytes_max: usize,
    ) -> Option<Vec<Arc<Entry>>> {
        let current = self.entries.partition_point(|entry| entry.index < self.epoch_index);
        let before = current.checked_sub(1).map_or(&self.base, |reset| &self.entries[reset].offset);
        if after < before.sequence(shard) {
            return None;
        }
        let from = self.partition_from(current, |entry| entry.offset.sequence(shard) <= after);
        let mut bytes = 0;
        let entries = self.entries.range(from..).filter(|entry| entry.shard == shard).take(entries_max);
        let fitting = entries.take_while(|entry| {
            let room = bytes < bytes_max;
            bytes += entry.lines_bytes();
            room
        });
        Some(fitting.cloned().collect())
    }

    /// The offset before the first envelope that the log stored at or after `stored_ns`, if the ring reaches back
    /// that far.
    pub(crate) fn since(&self, stored_ns: i64) -> Option<Arc<Offset>> {
        match self.entries.partition_point(|entry| entry.stored_max_ns < stored_ns) {
            0 => None,
            at => Some(self.entries[at - 1].offset.clone()),
        }
    }

    /// Like [`VecDeque::partition_point`], from position `start` on.
    fn partition_from(&self, start: usize, mut before: impl FnMut(&Entry) -> bool) -> usize {
        let (mut low, mut high) = (start, self.entries.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if before(&self.entries[middle]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

fn total(offset: &Offset) -> u64 {
    offset.sequences.iter().fold(0, |sum, sequence| sum.saturating_add(*sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::envelope::Envelope;

    const EPOCH: Epoch = Epoch(1);

    fn stored(sequence: Sequence) -> Stored {
        let channel = Channel::new(CollectorId::new("c").unwrap(), "m");
        let envelope = Envelope { channel, stamp: None, lines: Bytes::from_static(b"m v=1i 1") };
        Stored { sequence, stored_ns: sequence as i64 * 1000, envelope }
    }

    fn offset(epoch: Epoch, sequences: &[Sequence]) -> Offset {
        Offset { epoch, sequences: sequences.iter().copied().collect() }
    }

    fn ring_of(entries: &[(u16, Sequence)], bytes_max: usize) -> Ring {
        let mut ring = Ring::new(Offset::start(EPOCH, 2), bytes_max);
        for (shard, sequence) in entries {
            ring.push(Shard(*shard), stored(*sequence));
        }
        ring
    }

    #[test]
    fn every_place_it_has_been_at_is_found_again() {
        let ring = ring_of(&[(0, 1), (1, 1), (0, 2), (1, 2)], 1 << 20);
        assert_eq!(ring.locate(&offset(EPOCH, &[0, 0])), Some(0));
        assert_eq!(ring.locate(&offset(EPOCH, &[1, 0])), Some(1));
        assert_eq!(ring.locate(&offset(EPOCH, &[2, 1])), Some(3));
        assert_eq!(ring.locate(&offset(EPOCH, &[2, 2])), Some(4));
        // Another edge may have merged the shards like this; this one has not.
        assert_eq!(ring.locate(&offset(EPOCH, &[0, 1])), None);
        assert_eq!(ring.locate(&offset(Epoch(9), &[1, 0])), None);
    }

    #[test]
    fn it_stays_within_its_bytes_and_knows_what_it_let_go() {
        let entries: Vec<_> = (1..=100).map(|sequence| (0, sequence)).collect();
        let ring = ring_of(&entries, 10 * (ENTRY_OVERHEAD_BYTES + 8));
        assert!(ring.bytes() <= 10 * (ENTRY_OVERHEAD_BYTES + 8));
        assert_eq!(ring.first_index(), 91);
        assert_eq!(ring.locate(&offset(EPOCH, &[89, 0])), None);
        assert_eq!(ring.locate(&offset(EPOCH, &[90, 0])), Some(90));
        assert!(ring.shard_entries(Shard(0), 89, 10, usize::MAX).is_none());
        let entries = ring.shard_entries(Shard(0), 97, 10, usize::MAX).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.sequence()).collect::<Vec<_>>(), [98, 99, 100]);
    }

    #[test]
    fn frames_count_while_their_entry_is_here_and_not_after() {
        let mut ring = ring_of(&[(0, 1)], 3 * ENTRY_OVERHEAD_BYTES);
        let entry = ring.shard_entries(Shard(0), 0, 1, usize::MAX).unwrap().remove(0);
        let before = ring.bytes();
        let frame = || Some(Bytes::from_static(&[0; 100]));
        assert_eq!(entry.frame(Format::Json, |_| frame()), frame());
        assert_eq!(ring.bytes(), before + 100);
        entry.frame(Format::Json, |_| panic!("encoded once"));
        let plain = frame().unwrap();
        let deflated =
            entry.other_frame(Other::Deflated, Format::Json, plain.clone(), |plain| Some(plain.slice(..40)));
        assert_eq!((deflated.len(), ring.bytes()), (40, before + 140));
        let again =
            entry.other_frame(Other::Deflated, Format::Json, plain.clone(), |_| panic!("compressed once"));
        assert_eq!(again, deflated);
        let shared = entry.other_frame(Other::Deflated, Format::Influx, plain.clone(), |_| None);
        assert_eq!(
            (shared.as_ptr(), ring.bytes()),
            (plain.as_ptr(), before + 140),
            "nothing gained: the same frame"
        );
        (2..=4).for_each(|sequence| drop(ring.push(Shard(0), stored(sequence))));
        let evicted = ring.bytes();
        entry.frame(Format::Influx, |_| frame());
        assert_eq!(ring.bytes(), evicted);
    }

    #[test]
    fn a_new_epoch_hides_the_old_sequences() {
        let mut ring = ring_of(&[(0, 1), (0, 2), (1, 1)], 1 << 20);
        ring.push_reset(Epoch(2), Shard(0), 0);
        ring.push(Shard(0), stored(1));
        assert_eq!(**ring.head(), offset(Epoch(2), &[1, 1]));
        assert_eq!(ring.locate(&offset(EPOCH, &[2, 0])), Some(2), "the old history goes on into the reset");
        assert_eq!(ring.locate(&offset(Epoch(2), &[0, 1])), Some(4));
        assert_eq!(ring.locate(&offset(Epoch(2), &[1, 1])), Some(5));
        let entries = ring.shard_entries(Shard(0), 0, 10, usize::MAX).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [5]);
        assert!(
            ring.shard_entries(Shard(1), 0, 10, usize::MAX).is_none(),
            "what shard 1 had before the reset is not in this epoch"
        );
    }

    #[test]
    fn time_finds_the_place_before_the_first_envelope_at_or_after_it() {
        let ring = ring_of(&[(0, 1), (0, 2), (0, 3)], 1 << 20);
        assert_eq!(ring.since(500), None, "older than the ring: ask the log");
        assert_eq!(ring.since(2000).unwrap().sequence(Shard(0)), 1);
        assert_eq!(ring.since(2500).unwrap().sequence(Shard(0)), 2);
        assert_eq!(ring.since(9000).unwrap().sequence(Shard(0)), 3);
    }
}
