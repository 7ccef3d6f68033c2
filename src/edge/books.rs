//! Delivery accounting: what became of every position of the log that a session has passed. Pure.
//!
//! A position has exactly one fate: it was delivered, filtered out, conflated with others, or announced as a gap. How many
//! positions a session has passed is taken another way, from the offsets it has been at. The two agree, or something was
//! lost in silence; see [`Settled::is_balanced`].
//!
//! Two logs cannot be compared: what lies between a place in one and a place in the next is nobody's to count, so a reset
//! has as many positions as lie between its ends within one log, which usually is none.

use std::ops::AddAssign;
use std::sync::Arc;

use crate::edge::ring::Index;
use crate::ops::meters::{self, Label as _};
use crate::proto::message::GapReason;
use crate::proto::offset::Offset;

/// Gaps that a client is told of, by [`meters::Label::index`] of their reasons.
pub(crate) type Announced = [u32; meters::GapReason::ALL.len()];

/// Positions by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    /// Sent, whole or the part of it that was asked for.
    pub(crate) delivered: u64,
    /// Not asked for.
    pub(crate) filtered: u64,
    /// Stood for by newer values.
    pub(crate) conflated: u64,
    /// Part of an announced gap.
    pub(crate) gap: u64,
}

impl Fates {
    fn sum(self) -> u64 {
        self.delivered + self.filtered + self.conflated + self.gap
    }
}

impl AddAssign for Fates {
    fn add_assign(&mut self, more: Self) {
        self.delivered += more.delivered;
        self.filtered += more.filtered;
        self.conflated += more.conflated;
        self.gap += more.gap;
    }
}

/// What frames take a session past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passage {
    /// Steps of the ring that the frames are themselves. Those between frames are what was left out.
    pub(crate) steps: u64,
    /// What becomes of those steps' positions.
    pub(crate) fates: Fates,
    /// Positions that the log no longer held when the session asked for whatever there is: they never were for it.
    pub(crate) unheld: u64,
    /// The place before, if the log becomes another one here.
    pub(crate) reset_from: Option<Arc<Offset>>,
    /// Gaps that are told on the way.
    pub(crate) announced: Announced,
    /// A gap, and no state behind it: last values that a client keeps may be wrong from here on.
    pub(crate) lost: Option<GapReason>,
}

impl Passage {
    /// Of so many frames with an envelope each.
    pub(crate) fn envelopes(frames: usize) -> Self {
        let (steps, fates) = (frames as u64, Fates { delivered: frames as u64, ..Fates::default() });
        Self { steps, fates, ..Self::default() }
    }

    /// Of the announcement that what lies between two places does not come.
    pub(crate) fn gap(from: &Arc<Offset>, to: &Offset, reason: GapReason) -> Self {
        let fates = Fates { gap: from.positions_to(to), ..Fates::default() };
        let reset_from = (reason == GapReason::Reset).then(|| from.clone());
        let mut announced = Announced::default();
        announced[meters::GapReason::from(reason).index()] = 1;
        Self { steps: 1, fates, unheld: 0, reset_from, announced, lost: Some(reason) }
    }

    /// The same where the last values follow.
    pub(crate) fn with_state(self) -> Self {
        Self { lost: None, ..self }
    }

    /// The same behind places that the log no longer held.
    pub(crate) fn behind_unheld(self, unheld: u64) -> Self {
        Self { unheld, ..self }
    }

    /// Takes what the next frame adds.
    pub(crate) fn add(&mut self, next: &Self) {
        self.steps += next.steps;
        self.fates += next.fates;
        self.unheld += next.unheld;
        self.announced.iter_mut().zip(next.announced).for_each(|(sum, more)| *sum += more);
    }
}

/// The account of one session.
pub(crate) struct Books {
    /// Since the last settlement.
    fates: Fates,
    /// Published since the last settlement, besides what lies between `counted` and the session's place. Below zero where that
    /// holds what never was for the session.
    published: i64,
    counted: Arc<Offset>,
    total: Box<Total>,
}

/// The account of a session over its whole life.
#[derive(Clone, Debug)]
pub(crate) struct Total {
    /// As the client knows it.
    pub(crate) session: u64,
    /// Where it began.
    pub(crate) began: Arc<Offset>,
    /// Everything until the last settlement.
    pub(crate) settled: Settled,
}

/// An account of whole sessions, or of a part of their lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Positions passed, by the offsets.
    pub(crate) published: u64,
    /// The same by what became of them.
    pub(crate) fates: Fates,
}

impl Settled {
    /// Whether every position has its fate. If not, this program has lost something in silence, or miscounts.
    pub(crate) fn is_balanced(&self) -> bool {
        self.published == self.fates.sum()
    }

    /// Nothing was passed.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Settled {
    fn add_assign(&mut self, more: Self) {
        self.published += more.published;
        self.fates += more.fates;
    }
}

impl Books {
    /// Of a session that begins at `at`.
    pub(crate) fn open(session: u64, at: Arc<Offset>) -> Self {
        let total = Box::new(Total { session, began: at.clone(), settled: Settled::default() });
        Self { fates: Fates::default(), published: 0, counted: at, total }
    }

    /// The session has gone `steps` steps of the ring, of which `passage` accounts for some; its filter left the others
    /// out.
    pub(crate) fn pass(&mut self, steps: Index, passage: &Passage) {
        self.fates += passage.fates;
        self.fates.filtered += steps.saturating_sub(passage.steps);
        self.published = self.published.wrapping_sub_unsigned(passage.unheld);
    }

    /// What lies between two places is announced as a gap, and the second may belong to another log.
    pub(crate) fn pass_gap(&mut self, from: &Offset, to: &Arc<Offset>) {
        self.go_on_at(from, to.clone());
        self.begin_with_gap(from, to);
    }

    /// The session has just been put to `at`, and is told that it does not get what lies between `from` and there.
    pub(crate) fn begin_with_gap(&mut self, from: &Offset, at: &Offset) {
        let positions = from.positions_to(at);
        self.fates.gap += positions;
        self.published = self.published.wrapping_add_unsigned(positions);
    }

    /// The log becomes another one between two places, as [`Passage::gap`] accounts for.
    pub(crate) fn pass_reset(&mut self, from: &Offset, to: &Arc<Offset>) {
        self.go_on_at(from, to.clone());
        self.published = self.published.wrapping_add_unsigned(from.positions_to(to));
    }

    /// The session leaves `from` and goes on at `to`, which is no loss: it wanted to, or there is nothing between.
    pub(crate) fn go_on_at(&mut self, from: &Offset, to: Arc<Offset>) {
        self.published = self.published.wrapping_add_unsigned(self.counted.positions_to(from));
        self.counted = to;
    }

    /// What was passed since the last settlement, by a session that is at `at`.
    pub(crate) fn settle(&mut self, at: &Arc<Offset>) -> Settled {
        if !Arc::ptr_eq(&self.counted, at) {
            self.go_on_at(at, at.clone());
        }
        let published = u64::try_from(std::mem::take(&mut self.published)).unwrap_or(0);
        let settled = Settled { published, fates: std::mem::take(&mut self.fates) };
        self.total.settled += settled;
        settled
    }

    /// Everything until the last settlement.
    pub(crate) fn total(&self) -> &Total {
        &self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::offset::Epoch;

    fn offset(epoch: u64, sequences: &[u64]) -> Arc<Offset> {
        Arc::new(Offset { epoch: Epoch(epoch), sequences: sequences.iter().copied().collect() })
    }

    #[test]
    fn every_position_has_one_fate() {
        let mut books = Books::open(1, offset(1, &[10, 5]));
        // Three frames and two steps that were filtered out.
        books.pass(5, &Passage::envelopes(3));
        let settled = books.settle(&offset(1, &[12, 8]));
        let fates = Fates { delivered: 3, filtered: 2, ..Fates::default() };
        assert_eq!(settled, Settled { published: 5, fates });
        assert!(settled.is_balanced());
        assert!(books.settle(&offset(1, &[12, 8])).is_empty());

        let gap = Passage::gap(&offset(1, &[12, 8]), &offset(1, &[20, 8]), GapReason::Retention);
        books.pass(1, &gap);
        let settled = books.settle(&offset(1, &[20, 8]));
        assert_eq!((settled.published, settled.fates.gap), (8, 8));
        assert_eq!(books.total().settled.published, 13);
    }

    #[test]
    fn what_was_skipped_in_silence_unbalances_the_books() {
        let mut books = Books::open(1, offset(1, &[0]));
        books.pass(3, &Passage::envelopes(3));
        assert!(!books.settle(&offset(1, &[4])).is_balanced());
    }

    #[test]
    fn between_two_logs_nothing_is_counted_and_before_and_behind_everything() {
        let mut books = Books::open(1, offset(1, &[10]));
        books.pass(2, &Passage::envelopes(2));
        books.pass_gap(&offset(1, &[12]), &offset(2, &[0]));
        books.pass(3, &Passage::envelopes(1));
        let settled = books.settle(&offset(2, &[3]));
        assert_eq!((settled.published, settled.is_balanced()), (5, true));
        // The same log, but backwards on one shard and forwards on another.
        books.pass_gap(&offset(2, &[3]), &offset(2, &[1]));
        assert!(books.settle(&offset(2, &[1])).is_empty());
    }

    #[test]
    fn what_the_log_no_longer_held_was_never_for_who_asked_for_what_there_is() {
        let mut books = Books::open(1, offset(1, &[0]));
        books.pass(1, &Passage::envelopes(1).behind_unheld(99));
        let settled = books.settle(&offset(1, &[100]));
        assert_eq!((settled.published, settled.fates.delivered), (1, 1));
    }
}
