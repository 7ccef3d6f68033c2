//! What one client has got of what the run's own collectors sent, over all its connections. Pure.
//!
//! Collectors count their messages from 1. A client that is in time gets each count once and in order; what it does not get
//! must have been announced. So per client: published = delivered + filtered out + announced, or something is wrong.

use std::collections::VecDeque;
use std::ops::Range;

use super::allowance::Allowance;
use super::doubts::Doubts;
use crate::proto::offset::Offset;

/// Ranges that one client remembers as not delivered. What is forgotten stays counted; if it comes late after all, it counts
/// as a duplicate instead of as out of order.
const HOLES_MAX: usize = 1_024;

/// How a message of an own collector stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// New, and after everything before it.
    InOrder,
    /// It had been skipped: what is in order arrived already.
    Late,
    /// It had been delivered.
    Duplicate,
    /// The client's filters let nothing of this collector through.
    Unasked,
}

/// Counts that were skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    collector: usize,
    first: u32,
    last: u32,
    announced: bool,
}

impl Hole {
    fn messages(&self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

/// Messages that never came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// A gap said so.
    pub(super) announced: u64,
    /// Nobody has got them, and their collector's connection ended: nobody knows whether the log ever had them.
    pub(super) uncertain: u64,
    /// Their client was away at the end: it would have got them, or a gap, on its return.
    pub(super) away: u64,
    /// Nothing said so.
    pub(super) silent: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// The highest count of each collector so far. Empty until something came.
    last: Vec<u32>,
    holes: VecDeque<Hole>,
    forgotten: Missing,
    allowance: Allowance,
    /// Where the client was with the last message of a foreign collector, which carries no count.
    foreign: Option<Offset>,
}

impl Account {
    /// Takes the message with this count of one of `collectors`.
    pub(super) fn take(&mut self, collector: usize, count: u32, asked: &[bool]) -> Verdict {
        if self.last.is_empty() {
            self.last = vec![0; asked.len()];
        }
        let Some(last) = self.last.get_mut(collector).filter(|_| asked[collector]) else {
            return Verdict::Unasked;
        };
        if count <= *last {
            return if self.fill(collector, count) { Verdict::Late } else { Verdict::Duplicate };
        }
        let skipped = *last + 1..count;
        *last = count;
        self.skip(collector, skipped);
        Verdict::InOrder
    }

    /// Takes a foreign message by its place in the log, which is all that is known about it.
    pub(super) fn take_foreign(&mut self, offset: Offset) -> Verdict {
        let verdict = match &self.foreign {
            Some(last) if *last == offset => Verdict::Duplicate,
            Some(last) if last.epoch == offset.epoch && !last.is_at_or_before(&offset) => Verdict::Late,
            _ => Verdict::InOrder,
        };
        if verdict == Verdict::InOrder {
            self.foreign = Some(offset);
        }
        verdict
    }

    /// Takes the announcement that what lies between these places will not come; returns how many envelopes that are, if
    /// they can be counted. A new log leaves that open.
    pub(super) fn take_gap(&mut self, from: &Offset, to: &Offset, asked: &[bool]) -> Option<u64> {
        if !from.is_at_or_before(to) {
            self.allowance.open(u64::MAX, asked);
            return None;
        }
        let pairs = from.sequences.iter().zip(&to.sequences);
        let span = pairs.map(|(from, to)| to - from).fold(0, u64::saturating_add);
        self.allowance.open(span, asked);
        Some(span)
    }

    /// Whether nothing is owed any more of what was published: the last count of each collector.
    pub(super) fn is_complete(&self, published: &[u32], asked: &[bool]) -> bool {
        self.allowance.covers(self.owed(published, asked))
    }

    /// Closes the account: everything that was published and did not come is missing.
    pub(super) fn close(mut self, published: &[u32], asked: &[bool], doubts: &Doubts) -> Missing {
        let owed: Vec<(usize, u64)> = self.owed(published, asked).filter(|(_, owed)| *owed > 0).collect();
        for (collector, _) in owed {
            let last = self.last.get(collector).copied().unwrap_or(0);
            self.skip(collector, last + 1..published[collector] + 1);
        }
        self.sum(doubts)
    }

    /// Closes the account of a client that is away: what was skipped before it left is missing, but what came after that
    /// nobody could have sent or announced to it.
    pub(super) fn close_away(self, published: &[u32], asked: &[bool], doubts: &Doubts) -> Missing {
        let away = self.owed(published, asked).map(|(_, owed)| owed).sum();
        Missing { away, ..self.sum(doubts) }
    }

    /// How many messages of each collector have not come, behind the last one that has.
    fn owed(&self, published: &[u32], asked: &[bool]) -> impl Iterator<Item = (usize, u64)> {
        let counts = published.iter().zip(asked).enumerate().filter(|(_, (_, asked))| **asked);
        counts.map(|(collector, (count, _))| {
            let last = self.last.get(collector).copied().unwrap_or(0);
            (collector, u64::from(count.saturating_sub(last)))
        })
    }

    fn sum(&self, doubts: &Doubts) -> Missing {
        let mut missing = self.forgotten;
        for hole in &self.holes {
            missing.add(hole, doubts);
        }
        missing
    }

    /// Notes counts that were skipped, if any, before the next one: announced as far as gaps allow.
    fn skip(&mut self, collector: usize, skipped: Range<u32>) {
        let Range { start: first, end } = skipped;
        let announced = self.allowance.pass(collector, u64::from(end - first));
        // At most what was skipped, so it fits.
        let middle = first + announced as u32;
        if first < middle {
            self.remember(Hole { collector, first, last: middle - 1, announced: true });
        }
        if middle < end {
            self.remember(Hole { collector, first: middle, last: end - 1, announced: false });
        }
    }

    fn remember(&mut self, hole: Hole) {
        if self.holes.len() == HOLES_MAX
            && let Some(oldest) = self.holes.pop_front()
        {
            self.forgotten.add(&oldest, &Doubts::default());
        }
        self.holes.push_back(hole);
    }

    /// Takes a count out of the hole it is in, if it is in one.
    fn fill(&mut self, collector: usize, count: u32) -> bool {
        let holds = |hole: &Hole| hole.collector == collector && (hole.first..=hole.last).contains(&count);
        let Some(at) = self.holes.iter().position(holds) else { return false };
        let Some(hole) = self.holes.remove(at) else { return false };
        if hole.first < count {
            self.holes.push_back(Hole { last: count - 1, ..hole });
        }
        if count < hole.last {
            self.holes.push_back(Hole { first: count + 1, ..hole });
        }
        true
    }
}

impl Missing {
    /// Adds up accounts.
    pub(super) fn merge(&mut self, other: Self) {
        self.announced += other.announced;
        self.uncertain += other.uncertain;
        self.away += other.away;
        self.silent += other.silent;
    }

    fn add(&mut self, hole: &Hole, doubts: &Doubts) {
        if hole.announced {
            self.announced += hole.messages();
            return;
        }
        let excused = doubts.within(hole.collector, hole.first, hole.last);
        self.uncertain += excused;
        self.silent += hole.messages() - excused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::offset::Epoch;
    use proptest::prelude::*;

    const ALL: [bool; 2] = [true, true];

    fn offset(epoch: u64, sequences: &[u64]) -> Offset {
        Offset { epoch: Epoch(epoch), sequences: sequences.iter().copied().collect() }
    }

    fn after(counts: &[u32]) -> (Account, Vec<Verdict>) {
        let mut account = Account::default();
        let verdicts = counts.iter().map(|count| account.take(0, *count, &ALL)).collect();
        (account, verdicts)
    }

    fn missing(announced: u64, uncertain: u64, silent: u64) -> Missing {
        Missing { announced, uncertain, away: 0, silent }
    }

    #[test]
    fn each_count_once_and_in_order_leaves_nothing_open() {
        let (account, verdicts) = after(&[1, 2, 3]);
        assert_eq!(verdicts, [Verdict::InOrder; 3]);
        assert!(account.is_complete(&[3, 0], &ALL));
        assert_eq!(account.close(&[3, 0], &ALL, &Doubts::default()), Missing::default());
    }

    #[test]
    fn what_was_skipped_in_silence_is_a_loss_at_both_ends() {
        let (account, _) = after(&[2, 5]);
        assert!(!account.is_complete(&[6, 2], &ALL));
        assert_eq!(account.close(&[6, 2], &ALL, &Doubts::default()), missing(0, 0, 1 + 2 + 1 + 2));
    }

    #[test]
    fn what_a_client_misses_while_it_is_away_is_no_loss() {
        let (account, _) = after(&[1, 4]);
        assert_eq!(
            account.close_away(&[9, 2], &ALL, &Doubts::default()),
            Missing { away: 7, ..missing(0, 0, 2) }
        );
    }

    #[test]
    fn what_was_skipped_and_comes_later_is_out_of_order_and_no_loss() {
        let (mut account, verdicts) = after(&[1, 5, 3]);
        assert_eq!(verdicts.last(), Some(&Verdict::Late));
        assert_eq!(account.take(0, 3, &ALL), Verdict::Duplicate);
        assert_eq!(account.close(&[5, 0], &ALL, &Doubts::default()), missing(0, 0, 2));
    }

    #[test]
    fn a_gap_excuses_as_much_as_it_spans_and_no_more() {
        let mut account = Account::default();
        assert_eq!(account.take(0, 1, &ALL), Verdict::InOrder);
        assert_eq!(account.take_gap(&offset(1, &[10, 3]), &offset(1, &[12, 4]), &ALL), Some(3));
        assert_eq!(account.take(0, 6, &ALL), Verdict::InOrder);
        assert_eq!(account.close(&[6, 0], &ALL, &Doubts::default()), missing(3, 0, 1));
    }

    #[test]
    fn a_gap_at_the_end_completes_an_account() {
        let (mut account, _) = after(&[1]);
        account.take_gap(&offset(1, &[1]), &offset(1, &[4]), &ALL);
        assert!(account.is_complete(&[3, 1], &ALL) && !account.is_complete(&[3, 2], &ALL));
        assert_eq!(account.close(&[3, 1], &ALL, &Doubts::default()), missing(3, 0, 0));
    }

    /// With filters most of a gap is of others; that must not pay for what is lost later.
    #[test]
    fn what_a_gap_spans_besides_excuses_nothing_behind_it() {
        let (mut account, _) = after(&[1]);
        account.take(1, 1, &ALL);
        account.take_gap(&offset(1, &[10]), &offset(1, &[1_010]), &ALL);
        account.take(0, 3, &ALL);
        assert_eq!(account.take(0, 5, &ALL), Verdict::InOrder);
        assert!(account.is_complete(&[5, 900], &ALL), "the other collector may be silent because of the gap");
        assert!(!account.is_complete(&[6, 1], &ALL));
        account.take(1, 2, &ALL);
        assert!(!account.is_complete(&[5, 3], &ALL));
        assert_eq!(account.close(&[6, 3], &ALL, &Doubts::default()), missing(1, 0, 3));
    }

    #[test]
    fn a_new_log_excuses_everything() {
        let (mut account, _) = after(&[1]);
        assert_eq!(account.take_gap(&offset(1, &[9]), &offset(2, &[3]), &ALL), None);
        assert_eq!(account.close(&[1_000, 0], &ALL, &Doubts::default()), missing(999, 0, 0));
    }

    #[test]
    fn what_filters_leave_out_is_neither_owed_nor_welcome() {
        let asked = [true, false];
        let mut account = Account::default();
        assert_eq!(account.take(1, 1, &asked), Verdict::Unasked);
        assert_eq!(account.take(7, 1, &asked), Verdict::Unasked);
        assert!(account.is_complete(&[0, 50], &asked));
        assert_eq!(account.close(&[0, 50], &asked, &Doubts::default()), Missing::default());
    }

    #[test]
    fn what_a_collector_may_not_have_delivered_is_told_apart() {
        let (account, _) = after(&[1, 2, 9]);
        let mut doubts = Doubts::default();
        doubts.add(0, 2, 4);
        doubts.add(0, 10, 11);
        doubts.add(1, 1, 9);
        doubts.dispel(0, 3);
        assert_eq!(account.close(&[11, 0], &ALL, &doubts), missing(0, 3, 5));
    }

    #[test]
    fn foreign_messages_are_held_to_their_places() {
        let mut account = Account::default();
        let mut take = |sequences: &[u64]| account.take_foreign(offset(1, sequences));
        assert_eq!(take(&[5, 5]), Verdict::InOrder);
        assert_eq!(take(&[5, 6]), Verdict::InOrder);
        assert_eq!(take(&[5, 6]), Verdict::Duplicate);
        assert_eq!(take(&[4, 7]), Verdict::Late);
        assert_eq!(account.take_foreign(offset(2, &[1, 1])), Verdict::InOrder);
    }

    proptest! {
        /// Whatever is dropped, repeated or late, every published message has exactly one fate.
        #[test]
        fn published_is_delivered_plus_missing(counts in prop::collection::vec(1u32..60, 0..200), gap in 0u64..40) {
            let mut account = Account::default();
            let mut delivered = std::collections::HashSet::new();
            for (at, count) in counts.iter().enumerate() {
                if at == counts.len() / 2 {
                    account.take_gap(&offset(1, &[0]), &offset(1, &[gap]), &ALL);
                }
                let verdict = account.take(0, *count, &ALL);
                prop_assert_eq!(verdict == Verdict::Duplicate, !delivered.insert(*count));
            }
            let missing = account.close(&[60, 0], &ALL, &Doubts::default());
            prop_assert_eq!(missing.announced + missing.silent + delivered.len() as u64, 60);
            prop_assert!(missing.announced <= gap);
        }
    }
}
