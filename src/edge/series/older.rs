//! Values from before the place where the store began, added newest first while newer ones come in at the other end; and what
//! the store says of itself until that is done.

use hashlink::linked_hash_map::RawEntryMut;
use smallvec::SmallVec;

use super::channels::ChannelNumber;
use super::{Key, SeriesStore, bit, cost, value};
use crate::broker::Stored;
use crate::proto::line::{self, Line};
use crate::proto::message::Incomplete;
use crate::proto::offset::Shard;

/// What became of an older envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "reading on is in vain unless it was taken"]
pub(crate) enum Taken {
    /// The next older one is welcome.
    Yes,
    /// The bounds hold no more: nothing that is older would be kept.
    Full,
    /// The shard is another log by now, or nobody reads older values of it.
    Unwanted,
}

impl SeriesStore {
    /// From now on older values of these shards are read, until [`SeriesStore::end_older`].
    pub(crate) fn begin_older(&mut self, shards: impl Iterator<Item = Shard>) {
        self.reading_older = shards.fold(0, |all, shard| all | bit(shard));
        self.counts.set_partial(self.reading_older != 0);
    }

    /// Nobody reads older values any more.
    pub(crate) fn end_older(&mut self) {
        self.reading_older = 0;
        self.counts.set_partial(false);
    }

    /// Why last values may be missing that the log has, if they may.
    pub(crate) fn incomplete(&self) -> Option<Incomplete> {
        match self.reading_older {
            0 => (self.bounded_until_ns > i64::MIN).then_some(Incomplete::Bounds),
            _ => Some(Incomplete::Starting),
        }
    }

    /// Adds what the log has of the time before everything that is known of its shard: to be called with one envelope after the
    /// other from the newest back. Of a series that is known, only fields are added that have not been written since.
    pub(crate) fn take_older(&mut self, shard: Shard, stored: &Stored) -> Taken {
        if self.reading_older & bit(shard) == 0 {
            return Taken::Unwanted;
        }
        let mut channel = None;
        // From the last line back as well: whatever is known of a series when one of its lines comes is newer than the line.
        let lines: SmallVec<[Line<'_>; 16]> =
            line::lines(&stored.envelope.lines).filter_map(Result::ok).collect();
        for line in lines.iter().rev() {
            let channel = *channel.get_or_insert_with(|| self.channels.enter(&stored.envelope.channel));
            self.take_older_line(channel, shard, stored, line);
        }
        channel.into_iter().for_each(|channel| self.channels.leave(channel));
        // What is over the bounds is what has just been added.
        match self.trim() {
            true => Taken::Full,
            false => Taken::Yes,
        }
    }

    fn take_older_line(&mut self, channel: ChannelNumber, shard: Shard, stored: &Stored, line: &Line<'_>) {
        let series = line.canonical_series();
        let hash = self.hash(channel, &series);
        let is_same = |key: &Key| key.channel == channel && *key.series == *series;
        match self.series.raw_entry_mut().from_hash(hash, is_same) {
            RawEntryMut::Occupied(mut entry) => {
                let fields = &mut entry.get_mut().fields;
                let held = fields.capacity();
                line::add_missing_fields(fields, line.fields_text());
                self.bytes = self.bytes + fields.capacity() - held;
            }
            RawEntryMut::Vacant(entry) => {
                let (key, value) = (Key { channel, series: Box::from(&*series) }, value(shard, stored, line));
                self.bytes += cost(&key, &value);
                self.channels.stay(channel);
                self.counts.add(&stored.envelope.channel);
                entry.insert_entry_hashed_nocheck(hash, key, value).to_front();
            }
        }
    }
}
