//! What may never have reached the log: the counts that a collector had sent when its connection ended, and that no client had
//! got. A WebSocket has no acknowledgement, so nobody knows, until some client gets one: then the log had it, and it is owed to
//! everybody. Pure.

use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubts {
    /// The last count of a range by its collector and first count. They do not overlap.
    ranges: BTreeMap<(usize, u32), u32>,
}

impl Doubts {
    /// Doubts these counts of a collector, if there are any; they lie behind those doubted before.
    pub(super) fn add(&mut self, collector: usize, first: u32, last: u32) {
        if first <= last {
            self.ranges.insert((collector, first), last);
        }
    }

    /// Some client has got this count.
    pub(super) fn dispel(&mut self, collector: usize, count: u32) {
        let Some((&(_, first), &last)) = self.ranges.range((collector, 0)..=(collector, count)).next_back()
        else {
            return;
        };
        if count > last {
            return;
        }
        self.ranges.remove(&(collector, first));
        if first < count {
            self.add(collector, first, count - 1);
        }
        if count < last {
            self.add(collector, count + 1, last);
        }
    }

    /// The highest count of this collector that is in doubt; 0 without any.
    pub(super) fn last(&self, collector: usize) -> u32 {
        let found = self.ranges.range((collector, 0)..=(collector, u32::MAX)).next_back();
        found.map_or(0, |(_, last)| *last)
    }

    /// How many of these counts are in doubt, both ends included.
    pub(super) fn within(&self, collector: usize, first: u32, last: u32) -> u64 {
        let before = self.ranges.range((collector, 0)..(collector, first)).next_back();
        let inside = self.ranges.range((collector, first)..=(collector, last));
        let doubted = before.into_iter().chain(inside).map(|((_, begin), end)| {
            (u64::from(last.min(*end)) + 1).saturating_sub(u64::from(first.max(*begin)))
        });
        doubted.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_one_client_got_is_in_doubt_for_nobody() {
        let mut doubts = Doubts::default();
        doubts.add(1, 5, 9);
        doubts.add(1, 20, 19);
        doubts.dispel(1, 7);
        doubts.dispel(0, 8);
        assert_eq!((doubts.within(1, 1, 30), doubts.within(1, 6, 8), doubts.last(1)), (4, 2, 9));
        for count in [5, 6, 8, 9] {
            doubts.dispel(1, count);
        }
        assert_eq!((doubts.within(1, 1, 30), doubts.last(1)), (0, 0));
    }

    proptest! {
        #[test]
        fn ranges_are_what_a_set_of_counts_is(
            starts in prop::collection::btree_set(1u32..100, 0..8),
            got in prop::collection::vec((0usize..2, 1u32..110), 0..100),
            (first, length) in (1u32..100, 0u32..60),
        ) {
            let (mut doubts, mut set) = (Doubts::default(), BTreeSet::new());
            let starts: Vec<u32> = starts.into_iter().collect();
            for (at, start) in starts.iter().enumerate() {
                let end = starts.get(at + 1).map_or(*start, |next| next - 1);
                doubts.add(0, *start, end);
                set.extend((*start..=end).map(|count| (0, count)));
                doubts.add(1, *start, *start);
                set.insert((1, *start));
            }
            for (collector, count) in got {
                doubts.dispel(collector, count);
                set.remove(&(collector, count));
            }
            for collector in 0..2 {
                let counts = set.range((collector, first)..=(collector, first + length)).count() as u64;
                prop_assert_eq!(doubts.within(collector, first, first + length), counts);
                let last = set.range((collector, 0)..=(collector, u32::MAX)).next_back().map_or(0, |(_, count)| *count);
                prop_assert_eq!(doubts.last(collector), last);
            }
        }
    }
}
