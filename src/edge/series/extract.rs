//! What the store answers: copies of the last values that match, by collector.

use crate::edge::series::{Key, SeriesStore, StoredPlace, Value};
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::filter::{FilterSet, Match};
use crate::proto::line;
use crate::proto::offset::{Offset, Shard};

/// Last values of series at one place of the log.
#[derive(Clone, Debug)]
pub(crate) struct Extract {
    /// The place.
    pub(crate) at: StoredPlace,
    /// One per collector that has any, in the order of their ids.
    pub(crate) groups: Vec<Group>,
    /// How many series.
    pub(crate) series: usize,
}

/// Those of one collector.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Whose they are.
    pub(crate) collector: CollectorId,
    /// Line protocol, one line per series, each with its time in nanoseconds and a newline behind it.
    pub(crate) lines: Vec<u8>,
}

/// What has changed since a place.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    /// Series that were written since, as they are now.
    pub(crate) extract: Extract,
    /// No series is missing that was written since. If some may be, this is all that is known.
    pub(crate) complete: bool,
}

/// A series that matches, where its channel comes in the order of the answer.
struct Found<'a> {
    rank: u32,
    key: &'a Key,
    value: &'a Value,
}

impl SeriesStore {
    /// Everything that `filters` let through.
    pub(crate) fn matching(&self, filters: &FilterSet) -> Extract {
        let ranks = self.ranks(filters);
        let found = self.series.iter().filter_map(|(key, value)| self.found(&ranks, filters, key, value));
        self.extract(found.collect(), &ranks)
    }

    /// What `filters` let through and was written after `after`. Walks from the newest update back, so that few changes cost
    /// little, however many series there are.
    pub(crate) fn changed_after(&self, filters: &FilterSet, after: &Offset) -> Changes {
        let at = &self.at.offset;
        if after.epoch != at.epoch || after.sequences.len() != at.sequences.len() {
            return Changes { extract: self.matching(filters), complete: false };
        }
        let ranks = self.ranks(filters);
        let shards = || (0..at.sequences.len() as u16).map(Shard);
        // Shards that may still have something newer further back: in the order of updates a shard's sequences only grow.
        let mut open = shards()
            .filter(|shard| after.sequence(*shard) < at.sequence(*shard))
            .fold(0, |open, shard| open | bit(shard));
        let mut found = Vec::new();
        for (key, value) in self.series.iter().rev() {
            if open == 0 {
                break;
            }
            if value.sequence <= after.sequence(value.shard) {
                open &= !bit(value.shard);
            } else {
                found.extend(self.found(&ranks, filters, key, value));
            }
        }
        found.reverse();
        let complete = shards().zip(&self.incomplete_to).all(|(shard, to)| *to <= after.sequence(shard));
        Changes { extract: self.extract(found, &ranks), complete }
    }

    /// For each channel's number where it comes in an answer, and how much of it; `None` if nothing.
    fn ranks(&self, filters: &FilterSet) -> Ranks<'_> {
        let mut matching: Vec<(u32, &Channel, Match)> = Vec::new();
        let mut by_number = Vec::new();
        for (number, channel) in self.channels.all().enumerate() {
            by_number.push(None);
            if let Some(channel) = channel {
                let wanted = filters.matches_channel(channel);
                if wanted != Match::No {
                    matching.push((number as u32, channel, wanted));
                }
            }
        }
        matching.sort_unstable_by(|one, other| one.1.cmp(other.1));
        for (rank, (number, _, wanted)) in matching.iter().enumerate() {
            by_number[*number as usize] = Some((rank as u32, *wanted));
        }
        Ranks { by_number, channels: matching.into_iter().map(|(_, channel, _)| channel).collect() }
    }

    fn found<'a>(
        &'a self,
        ranks: &Ranks<'a>,
        filters: &FilterSet,
        key: &'a Key,
        value: &'a Value,
    ) -> Option<Found<'a>> {
        let (rank, wanted) = (*ranks.by_number.get(key.channel as usize)?)?;
        let passes = wanted == Match::Whole
            || filters.matches_line(ranks.channels[rank as usize], |wanted| {
                line::series_tags(&key.series).find_map(|(name, value)| (name == wanted).then_some(value))
            });
        passes.then_some(Found { rank, key, value })
    }

    fn extract(&self, mut found: Vec<Found<'_>>, ranks: &Ranks<'_>) -> Extract {
        // Stable: within a channel, what was updated last comes last.
        found.sort_by_key(|found| found.rank);
        let mut groups: Vec<Group> = Vec::new();
        let mut digits = itoa::Buffer::new();
        for Found { rank, key, value } in &found {
            let collector = &ranks.channels[*rank as usize].collector;
            let group = match groups.last_mut() {
                Some(group) if group.collector == *collector => group,
                _ => {
                    groups.push(Group { collector: collector.clone(), lines: Vec::new() });
                    let Some(group) = groups.last_mut() else { continue };
                    group
                }
            };
            for text in [&key.series, " ", &value.fields, " ", digits.format(value.timestamp_ns), "\n"] {
                group.lines.extend_from_slice(text.as_bytes());
            }
        }
        Extract { at: self.at.clone(), groups, series: found.len() }
    }
}

/// See [`SeriesStore::ranks`].
struct Ranks<'a> {
    by_number: Vec<Option<(u32, Match)>>,
    /// By rank.
    channels: Vec<&'a Channel>,
}

fn bit(shard: Shard) -> u64 {
    1 << (shard.0 % 64)
}
