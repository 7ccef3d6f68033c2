//! What the gaps that a client was told of may still excuse. Pure.
//!
//! A gap says how many envelopes it spans, not whose. It lies at one place of a client's stream: once a collector's next message
//! has come, what is missing of that collector before it may be the gap's, and what is missing after it cannot be. So each
//! collector may use the gaps since its last message, all of them together no more than the gaps span, and what nobody has used by
//! the time everybody has come again is gone: it was of others' collectors, or of what filters leave out.

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Messages that may still be excused, of all collectors together. 0 when no gap is open.
    messages: u64,
    /// The same of each collector; empty when no gap is open, which is nearly always.
    each: Vec<u64>,
    /// Collectors that may still come with something to excuse.
    behind: usize,
}

impl Allowance {
    /// Opens a gap over so many envelopes for the collectors that the client asked for.
    pub(super) fn open(&mut self, envelopes: u64, asked: &[bool]) {
        if envelopes == 0 {
            return;
        }
        self.each.resize(asked.len(), 0);
        self.messages = self.messages.saturating_add(envelopes);
        self.behind = 0;
        for (each, _) in self.each.iter_mut().zip(asked).filter(|(_, asked)| **asked) {
            *each = each.saturating_add(envelopes);
            self.behind += 1;
        }
        self.close_if_passed();
    }

    /// Takes the next message of a collector, before which so many are missing; returns how many of them are excused.
    pub(super) fn pass(&mut self, collector: usize, missing: u64) -> u64 {
        let Some(each) = self.each.get_mut(collector).filter(|each| **each > 0) else { return 0 };
        let excused = missing.min(*each).min(self.messages);
        self.messages -= excused;
        *each = 0;
        self.behind -= 1;
        self.close_if_passed();
        excused
    }

    /// Whether all of these would be excused: of each collector, how many are missing at the end.
    pub(super) fn covers(&self, missing: impl Iterator<Item = (usize, u64)>) -> bool {
        let mut left = self.messages;
        for (collector, missing) in missing.filter(|(_, missing)| *missing > 0) {
            if missing > left || missing > self.each.get(collector).copied().unwrap_or(0) {
                return false;
            }
            left -= missing;
        }
        true
    }

    fn close_if_passed(&mut self) {
        if self.behind == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [bool; 2] = [true, true];

    fn open(envelopes: u64, asked: &[bool]) -> Allowance {
        let mut allowance = Allowance::default();
        allowance.open(envelopes, asked);
        allowance
    }

    #[test]
    fn a_gap_excuses_each_collector_once_and_all_of_them_no_more_than_it_spans() {
        let mut allowance = open(5, &ALL);
        assert_eq!(allowance.pass(0, 3), 3);
        assert_eq!(allowance.pass(0, 1), 0, "this one is behind the gap");
        assert_eq!(allowance.pass(1, 3), 2);
    }

    #[test]
    fn a_gap_is_over_when_everybody_has_come_again() {
        let mut allowance = open(1_000, &ALL);
        assert_eq!((allowance.pass(0, 0), allowance.pass(1, 4)), (0, 4));
        assert!(allowance.each.is_empty() && allowance.messages == 0);
        allowance.open(2, &ALL);
        assert_eq!((allowance.pass(0, 9), allowance.pass(1, 9)), (2, 0));
    }

    #[test]
    fn who_was_not_asked_for_does_not_keep_a_gap_open() {
        let mut allowance = open(10, &[true, false]);
        assert_eq!(allowance.pass(0, 1), 1);
        assert!(allowance.each.is_empty());
        assert!(open(10, &[false]).each.is_empty());
    }

    #[test]
    fn the_end_is_covered_only_for_who_has_not_come_since() {
        let mut allowance = open(5, &ALL);
        assert!(
            allowance.covers([(0, 2), (1, 3)].into_iter()) && !allowance.covers([(0, 3), (1, 3)].into_iter())
        );
        allowance.pass(0, 0);
        assert!(allowance.covers([(0, 0), (1, 5)].into_iter()) && !allowance.covers([(0, 1)].into_iter()));
    }

    #[test]
    fn gaps_in_a_row_add_up_for_who_has_not_come_between() {
        let mut allowance = open(5, &ALL);
        allowance.pass(0, 0);
        allowance.open(3, &ALL);
        assert_eq!(allowance.pass(0, 9), 3);
        assert_eq!(allowance.pass(1, 9), 5);
    }
}
