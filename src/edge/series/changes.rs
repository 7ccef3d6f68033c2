//! What the store answers to those who know what was before: what has been written since.

use std::collections::HashMap;

use crate::edge::series::channels::ChannelNumber;
use crate::edge::series::extract::{self, Extract};
use crate::edge::series::{Key, SeriesStore, Value, bit};
use crate::proto::channel::Channel;
use crate::proto::filter::FilterSet;
use crate::proto::offset::{Offset, Sequence, Shard};

/// Series of one channel that were written after a place, as they are now.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    /// Whose they are.
    pub(crate) channel: Channel,
    /// Line protocol, one line per series, each with its time in nanoseconds and a newline behind it.
    pub(crate) lines: Vec<u8>,
    /// What wrote each of them last.
    pub(crate) places: Vec<(Shard, Sequence)>,
}

/// What has changed between two places, or the first part of it.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    /// Series that were written last between them, as they are.
    pub(crate) extract: Extract,
    /// How many envelopes have written them.
    pub(crate) envelopes: u64,
    /// Everything that was written last up to here is in the answer.
    pub(crate) to: Offset,
    /// Of what was written up to here some may be missing.
    pub(crate) incomplete_to: Option<Offset>,
}

impl SeriesStore {
    /// What `filters` let through and was written last behind `after`, up to and including `until`: what was updated least
    /// lately first, in about `bytes_max` bytes. What has been written again since `until` is left to whoever asks for what
    /// follows that. Places of another log than the store's are before all it has.
    pub(crate) fn changed_after(
        &self,
        filters: &FilterSet,
        after: &Offset,
        until: &Offset,
        bytes_max: usize,
    ) -> Changes {
        let incomplete_to = self.incomplete_after(after);
        let mut to = match self.is_of_this_log(after) {
            true => after.clone(),
            false => until.beginning(),
        };
        let ranks = self.ranks(filters);
        let newest_first = self.written_after(after);
        let wanted = newest_first.filter(|(_, value)| value.sequence <= until.sequence(value.shard));
        let mut found: Vec<_> =
            wanted.filter_map(|(key, value)| self.found(&ranks, filters, key, value)).collect();
        found.reverse();
        let mut bytes = 0;
        let mut last = None;
        let fitting = found.iter().take_while(|found| {
            let place = Some((found.value.shard, found.value.sequence));
            // An envelope's series belong together: its place is behind all of them.
            let fits = bytes < bytes_max || last == place;
            bytes += found.value.fields.len() + found.key.series.len();
            last = place;
            fits
        });
        let count = fitting.count();
        if count == found.len() {
            to = until.clone();
        } else {
            found.truncate(count);
            for found in &found {
                to = to.with(found.value.shard, found.value.sequence);
            }
        }
        // Those of one envelope are neighbours.
        let places = found.chunk_by(|one, next| {
            (one.value.shard, one.value.sequence) == (next.value.shard, next.value.sequence)
        });
        let envelopes = places.count() as u64;
        Changes { envelopes, extract: self.extract(found, &ranks), to, incomplete_to }
    }

    /// Everything of the channels that are `wanted` and was written behind `after`, by channel in the order of collectors.
    pub(crate) fn changed_channels(
        &self,
        after: &Offset,
        mut wanted: impl FnMut(&Channel) -> bool,
    ) -> Vec<Changed> {
        let mut changed: Vec<Changed> = Vec::new();
        let mut places: HashMap<ChannelNumber, Option<usize>> = HashMap::new();
        let mut digits = itoa::Buffer::new();
        // What was updated last comes last, as in the log.
        let newest_first: Vec<_> = self.written_after(after).collect();
        for (key, value) in newest_first.into_iter().rev() {
            let place = places.entry(key.channel).or_insert_with(|| {
                let channel = self.channels.get(key.channel).filter(|channel| wanted(channel))?.clone();
                changed.push(Changed { channel, lines: Vec::new(), places: Vec::new() });
                Some(changed.len() - 1)
            });
            if let Some(of) = place.and_then(|place| changed.get_mut(place)) {
                extract::write_line(&mut of.lines, key, value, &mut digits);
                of.places.push((value.shard, value.sequence));
            }
        }
        changed.sort_unstable_by(|one, other| one.channel.cmp(&other.channel));
        changed
    }

    /// Up to where something may be missing of what was written behind `after`, if it may.
    pub(crate) fn incomplete_after(&self, after: &Offset) -> Option<Offset> {
        if !self.is_of_this_log(after) {
            return Some((*self.at.offset).clone());
        }
        let shards = after.shards();
        let missing = shards.zip(&self.incomplete_to).filter(|(shard, to)| **to > after.sequence(*shard));
        missing.fold(None, |all, (shard, to)| Some(all.unwrap_or_else(|| after.clone()).with(shard, *to)))
    }

    /// Walks from the newest update back, so that few changes cost little, however many series there are.
    fn written_after<'a>(&'a self, after: &'a Offset) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        let is_of_this_log = self.is_of_this_log(after);
        // Shards that may still have something newer further back: in the order of updates a shard's sequences only grow.
        let shards = self.at.offset.shards();
        let mut open = shards
            .filter(|shard| !is_of_this_log || after.sequence(*shard) < self.at.offset.sequence(*shard))
            .fold(0, |open, shard| open | bit(shard));
        let newest_first = self.series.iter().rev().map_while(move |(key, value)| {
            let is_newer = !is_of_this_log || value.sequence > after.sequence(value.shard);
            if !is_newer {
                open &= !bit(value.shard);
            }
            (open != 0).then_some(is_newer.then_some((key, value)))
        });
        newest_first.flatten()
    }

    fn is_of_this_log(&self, place: &Offset) -> bool {
        place.epoch == self.at.offset.epoch && place.sequences.len() == self.at.offset.sequences.len()
    }
}
