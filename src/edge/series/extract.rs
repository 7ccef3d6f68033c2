//! What the store answers: copies of the last values that match, by collector.

use crate::edge::series::{Key, SeriesStore, StoredPlace, Value};
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::filter::{FilterSet, Match};
use crate::proto::line;
use crate::proto::message::Incomplete;

/// Last values of series at one place of the log.
#[derive(Clone, Debug)]
pub(crate) struct Extract {
    /// The place.
    pub(crate) at: StoredPlace,
    /// One per collector that has any, in the order of their ids.
    pub(crate) groups: Vec<Group>,
    /// Why some may be missing that the log has, if they may.
    pub(crate) incomplete: Option<Incomplete>,
}

/// Those of one collector.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Whose they are.
    pub(crate) collector: CollectorId,
    /// Line protocol, one line per series, each with its time in nanoseconds and a newline behind it.
    pub(crate) lines: Vec<u8>,
}

/// A series that matches, where its channel comes in the order of the answer.
pub(super) struct Found<'a> {
    rank: u32,
    pub(super) key: &'a Key,
    pub(super) value: &'a Value,
}

impl SeriesStore {
    /// Everything that `filters` let through.
    pub(crate) fn matching(&self, filters: &FilterSet) -> Extract {
        let ranks = self.ranks(filters);
        let found = self.series.iter().filter_map(|(key, value)| self.found(&ranks, filters, key, value));
        self.extract(found.collect(), &ranks)
    }

    /// How many series `filters` let through. Looks at all of them.
    pub(crate) fn count(&self, filters: &FilterSet) -> u64 {
        let ranks = self.ranks(filters);
        let found = |(key, value): &(&Key, &Value)| self.found(&ranks, filters, key, value).is_some();
        self.series.iter().filter(found).count() as u64
    }

    /// For each channel's number where it comes in an answer, and how much of it; `None` if nothing.
    pub(super) fn ranks(&self, filters: &FilterSet) -> Ranks<'_> {
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

    pub(super) fn found<'a>(
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

    pub(super) fn extract(&self, mut found: Vec<Found<'_>>, ranks: &Ranks<'_>) -> Extract {
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
            write_line(&mut group.lines, key, value, &mut digits);
        }
        Extract { at: self.at.clone(), groups, incomplete: self.incomplete() }
    }
}

/// A series as one line of line protocol, and a newline.
pub(super) fn write_line(out: &mut Vec<u8>, key: &Key, value: &Value, digits: &mut itoa::Buffer) {
    for text in [&key.series, " ", &value.fields, " ", digits.format(value.timestamp_ns), "\n"] {
        out.extend_from_slice(text.as_bytes());
    }
}

/// See [`SeriesStore::ranks`].
pub(super) struct Ranks<'a> {
    by_number: Vec<Option<(u32, Match)>>,
    /// By rank.
    channels: Vec<&'a Channel>,
}
