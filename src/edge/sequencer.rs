//! Puts one shard's envelopes in order and says what is missing. Pure: envelopes in, envelopes out.
//!
//! The live flow is a hint, the log is the truth. Whatever the live flow skipped, repeated or delivered early is held or
//! dropped here until the log has filled the hole, so everything behind this file sees every sequence exactly once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::broker::Stored;
use crate::proto::offset::Sequence;

/// The order of one shard.
#[derive(Debug)]
pub(crate) struct Sequencer {
    /// The sequence that comes next.
    next: Sequence,
    /// The newest sequence known to be stored, from the log's bounds or the live flow.
    known_last: Sequence,
    /// Envelopes that came before their turn.
    held: BTreeMap<Sequence, Stored>,
    held_bytes: usize,
    held_bytes_max: usize,
}

/// What comes next, in order.
#[derive(Debug)]
#[must_use = "a gap must reach the clients"]
pub(crate) enum Ordered {
    /// An envelope.
    Envelope(Stored),
    /// These sequences are in the log no more.
    Gone(RangeInclusive<Sequence>),
}

impl Sequencer {
    /// Begins at `next`, knowing that the log has stored up to `known_last`.
    pub(crate) fn new(next: Sequence, known_last: Sequence, held_bytes_max: usize) -> Self {
        Self { next, known_last, held: BTreeMap::new(), held_bytes: 0, held_bytes_max }
    }

    /// The sequence that comes next.
    pub(crate) fn next(&self) -> Sequence {
        self.next
    }

    /// The log has stored up to `last`: what the live flow lost at its very end shows only here.
    pub(crate) fn learn_last(&mut self, last: Sequence) {
        self.known_last = self.known_last.max(last);
    }

    /// Takes an envelope from the live flow. Returns false when it is older than what comes next: a repetition, or a log
    /// that went backwards.
    pub(crate) fn live(&mut self, stored: Stored, out: &mut Vec<Ordered>) -> bool {
        let sequence = stored.sequence;
        if sequence < self.next {
            return false;
        }
        self.known_last = self.known_last.max(sequence);
        if sequence == self.next {
            self.next += 1;
            out.push(Ordered::Envelope(stored));
            self.release(out);
        } else if self.held_bytes + cost(&stored) <= self.held_bytes_max {
            self.held_bytes += cost(&stored);
            if let Some(twin) = self.held.insert(sequence, stored) {
                self.held_bytes -= cost(&twin);
            }
        }
        // Over the bound the envelope is let go: `known_last` remembers that it has to be read from the log.
        true
    }

    /// What has to be read from the log before anything more can be delivered.
    pub(crate) fn missing(&self) -> Option<RangeInclusive<Sequence>> {
        let end = match self.held.first_key_value() {
            Some((held, _)) => held - 1,
            None => self.known_last,
        };
        (self.next <= end).then_some(self.next..=end)
    }

    /// Takes what the log answered to a read from [`Sequencer::next`] on. `first_stored` is the oldest sequence the log
    /// still holds: whatever lies before it, and whatever the answer jumps over, is gone.
    pub(crate) fn repaired(&mut self, answer: Vec<Stored>, first_stored: Sequence, out: &mut Vec<Ordered>) {
        for stored in answer {
            if stored.sequence < self.next {
                continue;
            }
            self.skip_to(stored.sequence, out);
            self.known_last = self.known_last.max(stored.sequence);
            if stored.sequence == self.next {
                self.next += 1;
                out.push(Ordered::Envelope(stored));
            }
        }
        self.skip_to(first_stored, out);
        self.release(out);
    }

    /// Everything before `sequence` that has not come is gone; what is held from that range is delivered first.
    fn skip_to(&mut self, sequence: Sequence, out: &mut Vec<Ordered>) {
        self.release(out);
        while self.next < sequence {
            let end = self.held.first_key_value().map_or(sequence, |(held, _)| sequence.min(*held));
            out.push(Ordered::Gone(self.next..=end - 1));
            self.next = end;
            self.release(out);
        }
    }

    fn release(&mut self, out: &mut Vec<Ordered>) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            let stored = entry.remove();
            self.held_bytes -= cost(&stored);
            if stored.sequence == self.next {
                self.next += 1;
                out.push(Ordered::Envelope(stored));
            }
        }
        self.known_last = self.known_last.max(self.next - 1);
    }
}

fn cost(stored: &Stored) -> usize {
    // The map's node and the channel's names, roughly.
    stored.envelope.lines.len() + 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::envelope::Envelope;
    use proptest::prelude::*;

    fn stored(sequence: Sequence) -> Stored {
        let channel = Channel::new(CollectorId::new("c").unwrap(), "m");
        let lines = format!("m v={sequence}i {sequence}").into();
        Stored { sequence, stored_ns: 0, envelope: Envelope { channel, stamp: None, lines } }
    }

    fn sequences(out: &[Ordered]) -> Vec<Sequence> {
        let envelopes = out.iter().map(|ordered| match ordered {
            Ordered::Envelope(stored) => stored.sequence,
            Ordered::Gone(range) => panic!("{range:?} is not gone"),
        });
        envelopes.collect()
    }

    #[test]
    fn what_comes_in_order_goes_out_at_once() {
        let mut sequencer = Sequencer::new(1, 0, 1 << 20);
        let mut out = Vec::new();
        for sequence in 1..=3 {
            assert!(sequencer.live(stored(sequence), &mut out));
        }
        assert_eq!(sequences(&out), [1, 2, 3]);
        assert_eq!(sequencer.missing(), None);
    }

    #[test]
    fn a_hole_holds_back_what_follows_until_it_is_filled() {
        let mut sequencer = Sequencer::new(1, 0, 1 << 20);
        let mut out = Vec::new();
        for sequence in [1, 4, 5] {
            sequencer.live(stored(sequence), &mut out);
        }
        assert_eq!(sequences(&out), [1]);
        assert_eq!(sequencer.missing(), Some(2..=3));
        sequencer.repaired(vec![stored(2), stored(3)], 1, &mut out);
        assert_eq!(sequences(&out), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_loss_at_the_very_end_shows_in_the_bounds() {
        let mut sequencer = Sequencer::new(1, 0, 1 << 20);
        sequencer.live(stored(1), &mut Vec::new());
        assert_eq!(sequencer.missing(), None);
        sequencer.learn_last(3);
        assert_eq!(sequencer.missing(), Some(2..=3));
    }

    #[test]
    fn what_the_log_no_longer_holds_is_announced_once() {
        let mut sequencer = Sequencer::new(1, 9, 1 << 20);
        let mut out = Vec::new();
        sequencer.repaired(vec![stored(6), stored(7)], 6, &mut out);
        assert!(matches!(&out[0], Ordered::Gone(range) if *range == (1..=5)));
        assert_eq!(sequences(&out[1..]), [6, 7]);
        assert_eq!(sequencer.missing(), Some(8..=9));
        out.clear();
        sequencer.repaired(Vec::new(), 10, &mut out);
        assert!(matches!(&out[..], [Ordered::Gone(range)] if *range == (8..=9)));
        assert_eq!(sequencer.missing(), None);
    }

    #[test]
    fn too_much_held_back_is_read_again_instead_of_kept() {
        let mut sequencer = Sequencer::new(1, 0, 600);
        let mut out = Vec::new();
        for sequence in 2..=10 {
            sequencer.live(stored(sequence), &mut out);
        }
        sequencer.repaired((1..=10).map(stored).collect(), 1, &mut out);
        assert_eq!(sequences(&out), (1..=10).collect::<Vec<_>>());
    }

    proptest! {
        /// Whatever the live flow drops, repeats and reorders: every sequence comes out once, in order.
        #[test]
        fn every_sequence_once_in_order(
            live in prop::collection::vec(1u64..60, 0..120),
            read_max in 1usize..7,
        ) {
            let last = 60;
            let mut sequencer = Sequencer::new(1, 0, 4000);
            let mut out = Vec::new();
            for sequence in live {
                sequencer.live(stored(sequence), &mut out);
            }
            sequencer.learn_last(last);
            while let Some(range) = sequencer.missing() {
                let answer = (*range.start()..=last).take(read_max).map(stored).collect();
                sequencer.repaired(answer, 1, &mut out);
            }
            prop_assert_eq!(sequences(&out), (1..=last).collect::<Vec<_>>());
        }
    }
}
