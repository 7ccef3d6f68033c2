//! Many sessions' filters at once: which of them want an envelope, without asking each.
//!
//! A filter is filed under what it says of the channel, so a channel finds its filters by four probes: by collector and
//! measurement, by either, and those that name neither. There, a filter with predicates is filed once more, under the one
//! predicate that fewest lines are likely to meet (its *access*): `key=value` under key and value, `key=prefix*` under key
//! and prefix, and only filters made of negations are candidates for every line. So a line asks once per tag; whatever
//! number of filters name other values of that tag is never looked at. Candidates are then checked in full.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Filter, FilterSet, Part, Predicate};
use crate::proto::channel::Channel;
use crate::proto::line::Line;

/// Filter sets, each with a value of the caller's, found by what they let through.
pub struct FilterIndex<V> {
    slots: Vec<Option<Slot<V>>>,
    free: Vec<u32>,
    any_collector: Measurements,
    collectors: HashMap<Box<str>, Measurements>,
    hits: Hits,
}

/// A filter set's place in its index, to be given back when it goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u32);

/// How much of an envelope a filter set lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share<'a> {
    /// All of it.
    Whole,
    /// Some of its lines, but not all, as ranges of their numbers in order.
    Lines(&'a [Range<u32>]),
}

struct Slot<V> {
    filters: Arc<[Filter]>,
    /// Where each of them is filed.
    places: Box<[Place]>,
    value: V,
}

#[derive(Clone, Copy)]
struct Place {
    access: Access,
    /// In the list that the access leads to.
    position: usize,
}

/// What a filter is filed under, within its channels. Numbers are those of its predicates.
#[derive(Clone, Copy)]
enum Access {
    /// It has no predicates.
    Channel,
    /// A tag with exactly one value.
    Value(usize),
    /// A tag whose value begins like this, if only with nothing.
    Prefix(usize),
    /// All of its predicates are negations.
    EveryLine,
}

/// One filter of one slot.
#[derive(Clone, Copy)]
struct Reference {
    slot: u32,
    filter: u32,
}

/// Filters of one collector, or of any.
#[derive(Default)]
struct Measurements {
    any: Shelf,
    named: HashMap<Box<str>, Shelf>,
}

/// Filters that say the same of the channel.
#[derive(Default)]
struct Shelf {
    whole: Vec<Reference>,
    every_line: Vec<Reference>,
    tags: HashMap<Box<str>, Values>,
}

/// Filters with an access by the same tag.
#[derive(Default)]
struct Values {
    exact: HashMap<Box<str>, Vec<Reference>>,
    prefixes: HashMap<Box<str>, Vec<Reference>>,
    /// How many prefixes there are of each length in bytes: a value asks once per length.
    prefix_lengths: BTreeMap<usize, usize>,
}

/// What the last search found. Kept, so that searching allocates next to nothing.
#[derive(Default)]
struct Hits {
    search: u64,
    /// Per slot: the search that found it last, and its place in `found`.
    seen: Vec<(u64, u32)>,
    found: Vec<Hit>,
    lines: u32,
    /// Candidates that were checked in full.
    #[cfg(test)]
    checked: usize,
}

struct Hit {
    slot: u32,
    whole: bool,
    taken: u32,
    /// Mostly one: lines of an envelope that are wanted are neighbours, or few.
    runs: SmallVec<[Range<u32>; 2]>,
}

impl<V> Default for FilterIndex<V> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            any_collector: Measurements::default(),
            collectors: HashMap::new(),
            hits: Hits::default(),
        }
    }
}

impl<V> FilterIndex<V> {
    /// Adds a filter set. Equal sets may be added more than once: each is found for itself.
    pub fn insert(&mut self, filters: &FilterSet, value: V) -> Ticket {
        let filters: Arc<[Filter]> = match filters.is_everything() {
            true => Arc::from([Filter::everything()]),
            false => filters.filters.clone(),
        };
        let number = self.free.pop().unwrap_or(self.slots.len() as u32);
        let place = |(at, filter): (usize, &Filter)| {
            let shelf = self.measurements_mut(filter).shelf_mut(filter);
            let access = shelf.choose(filter);
            let list = shelf.list_mut(filter, access);
            list.push(Reference { slot: number, filter: at as u32 });
            Place { access, position: list.len() - 1 }
        };
        let places = filters.iter().enumerate().map(place).collect();
        let slot = Some(Slot { filters, places, value });
        match self.slots.get_mut(number as usize) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        Ticket(number)
    }

    /// Takes a filter set out, in constant time per filter. The ticket must be this index's own.
    pub fn remove(&mut self, ticket: Ticket) -> Option<V> {
        let number = ticket.0 as usize;
        let filters = self.slots.get(number)?.as_ref()?.filters.clone();
        for (at, filter) in filters.iter().enumerate() {
            // Read anew for each filter: two of one set may be in one list, and one of them moves the other.
            let Place { access, position } = self.slots[number].as_ref()?.places[at];
            let list = self.measurements_mut(filter).shelf_mut(filter).list_mut(filter, access);
            list.swap_remove(position);
            let (moved, empty) = (list.get(position).copied(), list.is_empty());
            if let Some(moved) = moved
                && let Some(Some(slot)) = self.slots.get_mut(moved.slot as usize)
            {
                slot.places[moved.filter as usize].position = position;
            }
            if empty {
                self.prune(filter, access);
            }
        }
        let value = self.slots[number].take()?.value;
        self.free.push(ticket.0);
        Some(value)
    }

    /// The values of all filter sets that let something of an envelope through, each once, and how much. `lines` is asked
    /// for the envelope's lines only if some filter of its channel has predicates.
    pub fn find<'l>(
        &mut self,
        channel: &Channel,
        lines: impl FnOnce() -> &'l [Line<'l>],
    ) -> impl Iterator<Item = (&V, Share<'_>)> {
        let Self { slots, any_collector, collectors, hits, .. } = self;
        hits.begin(slots.len());
        let shelves = [Some(&*any_collector), collectors.get(channel.collector.as_str())];
        let shelves: SmallVec<[&Shelf; 4]> =
            shelves.into_iter().flatten().flat_map(|of| of.shelves(&channel.measurement)).collect();
        for reference in shelves.iter().flat_map(|shelf| &shelf.whole) {
            hits.take_whole(reference.slot);
        }
        if shelves.iter().any(|shelf| shelf.reads_lines()) {
            let lines = lines();
            hits.lines = lines.len() as u32;
            for (number, line) in lines.iter().enumerate() {
                let mut check = |candidates: &[Reference]| {
                    for candidate in candidates {
                        hits.check(slots, *candidate, number as u32, line);
                    }
                };
                shelves.iter().for_each(|shelf| check(&shelf.every_line));
                for (key, value) in line.tags() {
                    let values = shelves.iter().filter_map(|shelf| shelf.tags.get(&*key));
                    values.for_each(|values| values.candidates(&value, &mut check));
                }
            }
        }
        let (slots, hits) = (&*slots, &*hits);
        hits.found.iter().filter_map(|hit| {
            let slot = slots.get(hit.slot as usize)?.as_ref()?;
            let whole = hit.whole || hit.taken == hits.lines;
            Some((&slot.value, if whole { Share::Whole } else { Share::Lines(&hit.runs) }))
        })
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().flatten().map(|slot| &slot.value)
    }

    /// Whether some filter set lets something of the channel through, or may do so by its tags.
    pub fn asks_for(&self, channel: &Channel) -> bool {
        let shelves = [Some(&self.any_collector), self.collectors.get(channel.collector.as_str())];
        let mut shelves = shelves.into_iter().flatten().flat_map(|of| of.shelves(&channel.measurement));
        shelves.any(|shelf| !shelf.is_empty())
    }

    fn measurements_mut(&mut self, filter: &Filter) -> &mut Measurements {
        match &filter.collector {
            Part::Any => &mut self.any_collector,
            Part::Is(collector) => self.collectors.entry(collector.clone()).or_default(),
        }
    }

    /// Drops what has become empty on the way to a filter's list.
    fn prune(&mut self, filter: &Filter, access: Access) {
        let measurements = self.measurements_mut(filter);
        let shelf = measurements.shelf_mut(filter);
        shelf.prune(filter, access);
        if let (true, Part::Is(measurement)) = (shelf.is_empty(), &filter.measurement) {
            measurements.named.remove(measurement);
        }
        if let (true, Part::Is(collector)) = (measurements.is_empty(), &filter.collector) {
            self.collectors.remove(collector);
        }
    }
}

impl Measurements {
    fn shelves(&self, measurement: &str) -> impl Iterator<Item = &Shelf> {
        std::iter::once(&self.any).chain(self.named.get(measurement))
    }

    fn shelf_mut(&mut self, filter: &Filter) -> &mut Shelf {
        match &filter.measurement {
            Part::Any => &mut self.any,
            Part::Is(measurement) => self.named.entry(measurement.clone()).or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.named.is_empty()
    }
}

impl Shelf {
    fn reads_lines(&self) -> bool {
        !self.every_line.is_empty() || !self.tags.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && !self.reads_lines()
    }

    /// An exact value is met by fewer lines than a glob; of several, the one that fewest filters name already, so that
    /// filters spread over the values that tell them apart (`host`) and not over those they share (`region`).
    fn choose(&self, filter: &Filter) -> Access {
        if !filter.has_predicates() {
            return Access::Channel;
        }
        let required = || filter.predicates.iter().enumerate().filter(|(_, predicate)| !predicate.negated);
        let named = |(_, (key, value)): &(usize, (&str, &str))| {
            self.tags.get(*key).and_then(|values| values.exact.get(*value)).map_or(0, Vec::len)
        };
        let exact = required().filter_map(|(at, predicate)| Some((at, predicate.exact()?))).min_by_key(named);
        if let Some((at, _)) = exact {
            return Access::Value(at);
        }
        let longest = required().max_by_key(|(_, predicate)| predicate.value.prefix().len());
        longest.map_or(Access::EveryLine, |(at, _)| Access::Prefix(at))
    }

    fn list_mut(&mut self, filter: &Filter, access: Access) -> &mut Vec<Reference> {
        match access {
            Access::Channel => &mut self.whole,
            Access::EveryLine => &mut self.every_line,
            Access::Value(at) => {
                let Predicate { key, value, .. } = &filter.predicates[at];
                let values = self.tags.entry(key.clone()).or_default();
                values.exact.entry(value.prefix().into()).or_default()
            }
            Access::Prefix(at) => {
                let Predicate { key, value, .. } = &filter.predicates[at];
                let Values { prefixes, prefix_lengths, .. } = self.tags.entry(key.clone()).or_default();
                prefixes.entry(value.prefix().into()).or_insert_with(|| {
                    *prefix_lengths.entry(value.prefix().len()).or_default() += 1;
                    Vec::new()
                })
            }
        }
    }

    /// Drops an access's list, which is empty.
    fn prune(&mut self, filter: &Filter, access: Access) {
        let (Access::Value(at) | Access::Prefix(at)) = access else { return };
        let Predicate { key, value, .. } = &filter.predicates[at];
        let Some(values) = self.tags.get_mut(key) else { return };
        if let Access::Value(_) = access {
            values.exact.remove(value.prefix());
        } else if values.prefixes.remove(value.prefix()).is_some() {
            let length = value.prefix().len();
            let left = values.prefix_lengths.remove(&length).unwrap_or_default().saturating_sub(1);
            if left > 0 {
                values.prefix_lengths.insert(length, left);
            }
        }
        if values.exact.is_empty() && values.prefixes.is_empty() {
            self.tags.remove(key);
        }
    }
}

impl Values {
    fn candidates(&self, value: &str, check: &mut impl FnMut(&[Reference])) {
        if let Some(list) = self.exact.get(value) {
            check(list);
        }
        for length in self.prefix_lengths.keys() {
            // A length in the middle of a character is that of other values' prefixes.
            if let Some(list) = value.get(..*length).and_then(|prefix| self.prefixes.get(prefix)) {
                check(list);
            }
        }
    }
}

impl Hits {
    fn begin(&mut self, slots: usize) {
        self.search += 1;
        self.seen.resize(slots.max(self.seen.len()), (0, 0));
        self.found.clear();
        // No envelope has so many lines, so no count of lines taken is taken for all of them.
        self.lines = u32::MAX;
    }

    fn take_whole(&mut self, slot: u32) {
        let hit = self.hit(slot);
        hit.whole = true;
    }

    fn check<V>(&mut self, slots: &[Option<Slot<V>>], candidate: Reference, number: u32, line: &Line<'_>) {
        let (search, at) = self.seen[candidate.slot as usize];
        if search == self.search {
            let hit = &self.found[at as usize];
            if hit.whole || hit.runs.last().is_some_and(|run| run.end == number + 1) {
                return;
            }
        }
        #[cfg(test)]
        {
            self.checked += 1;
        }
        let Some(slot) = &slots[candidate.slot as usize] else { return };
        if slot.filters[candidate.filter as usize].matches_tags(|key| line.tag(key)) {
            self.hit(candidate.slot).take(number);
        }
    }

    fn hit(&mut self, slot: u32) -> &mut Hit {
        let seen = &mut self.seen[slot as usize];
        if seen.0 != self.search {
            *seen = (self.search, self.found.len() as u32);
            self.found.push(Hit { slot, whole: false, taken: 0, runs: SmallVec::new() });
        }
        &mut self.found[seen.1 as usize]
    }
}

impl Hit {
    /// Takes a line that comes after all that were taken.
    fn take(&mut self, number: u32) {
        self.taken += 1;
        match self.runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => self.runs.push(number..number + 1),
        }
    }
}

impl Predicate {
    /// Key and value, where the value is written in full.
    fn exact(&self) -> Option<(&str, &str)> {
        self.value.is_literal().then(|| (&*self.key, self.value.prefix()))
    }
}

#[cfg(test)]
mod tests;
