//! Pieces of the log as they are read: from a place up to the end of its block, or until they are large enough. Pure.

use std::sync::Arc;

use crate::broker::{ReadLimits, Stored};
use crate::edge::replay::flights::Kept;
use crate::proto::offset::Sequence;

/// Sequences in a block: what is read at a time where envelopes are small. At 300 bytes each, 150 KB.
pub(crate) const BLOCK: u64 = 512;
/// Bytes of lines in a piece; the envelope that crosses the bound is in it.
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 20;
/// Sequences in a span: a portion never leads beyond its end.
const SPAN: u64 = 8 * BLOCK;
/// What an envelope costs besides its lines: itself, its names, and its buffer.
const ENVELOPE_OVERHEAD_BYTES: usize = 240;

/// See the module.
pub(crate) struct Piece {
    /// In order, none beyond the block.
    stored: Vec<Stored>,
    /// Everything up to here that the log held is in it.
    to: Sequence,
    /// What the log held next, where nothing is left of the block.
    beyond: Option<Sequence>,
    /// The log ended within it.
    is_open: bool,
    bytes: usize,
}

/// The first sequence of the block that holds `sequence`.
pub(crate) fn block_start(sequence: Sequence) -> Sequence {
    sequence.saturating_sub(1) / BLOCK * BLOCK + 1
}

/// The last one.
pub(crate) fn block_end(sequence: Sequence) -> Sequence {
    block_start(sequence).saturating_add(BLOCK - 1)
}

/// The last sequence of the span that holds `sequence`.
pub(crate) fn span_end(sequence: Sequence) -> Sequence {
    (sequence.saturating_sub(1) / SPAN).saturating_add(1).saturating_mul(SPAN)
}

/// What to read for a piece that begins at `from`.
pub(crate) fn limits(from: Sequence) -> ReadLimits {
    let envelopes_max = (block_end(from) - from + 1) as usize;
    ReadLimits { envelopes_max, bytes_max: PIECE_BYTES_MAX }
}

impl Piece {
    /// What the log answered to a read from `from` on, within [`limits`].
    pub(crate) fn new(from: Sequence, mut answer: Vec<Stored>) -> Self {
        let end = block_end(from);
        let wanted = limits(from).envelopes_max;
        let full = answer.len() >= wanted || lines_bytes(&answer) >= PIECE_BYTES_MAX;
        let within = answer.partition_point(|stored| stored.sequence <= end);
        let beyond = answer.get(within).map(|stored| stored.sequence);
        answer.truncate(within);
        let last = answer.last().map_or(from.saturating_sub(1), |stored| stored.sequence);
        let to = if beyond.is_some() { end } else { last };
        let bytes = lines_bytes(&answer) + answer.len() * ENVELOPE_OVERHEAD_BYTES + size_of::<Self>();
        Self { stored: answer, to, beyond, is_open: !full && beyond.is_none() && to < end, bytes }
    }

    /// Whether it says what the log holds at `sequence`.
    pub(crate) fn covers(&self, sequence: Sequence) -> bool {
        sequence <= self.to
    }

    /// Its envelopes behind `sequence`.
    pub(crate) fn after(&self, sequence: Sequence) -> &[Stored] {
        &self.stored[self.stored.partition_point(|stored| stored.sequence <= sequence)..]
    }

    /// The first sequence behind `sequence` that the log held, as far as this piece knows.
    pub(crate) fn first_after(&self, sequence: Sequence) -> Option<Sequence> {
        self.after(sequence).first().map(|stored| stored.sequence).or(self.beyond)
    }
}

impl Kept for Arc<Piece> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_lasting(&self) -> bool {
        !self.is_open
    }
}

fn lines_bytes(stored: &[Stored]) -> usize {
    stored.iter().map(|stored| stored.envelope.lines.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::envelope::Envelope;

    fn stored(sequence: Sequence) -> Stored {
        let channel = Channel::new(CollectorId::new("c").unwrap(), "m");
        let envelope = Envelope { channel, stamp: None, lines: "m v=1i 1".into() };
        Stored { sequence, stored_ns: 0, envelope }
    }

    #[test]
    fn blocks_and_spans_divide_the_sequences() {
        for (sequence, start, end, span) in
            [(1, 1, 512, 4096), (512, 1, 512, 4096), (513, 513, 1024, 4096), (4096, 3585, 4096, 4096)]
        {
            let divided = (block_start(sequence), block_end(sequence), span_end(sequence));
            assert_eq!(divided, (start, end, span), "{sequence}");
        }
        for far in [0, u64::MAX - 1, u64::MAX] {
            assert!(block_start(far) <= far.max(1) && block_end(far) >= far && span_end(far) > far / 2);
        }
    }

    #[test]
    fn a_piece_knows_how_far_it_reaches_and_whether_that_will_change() {
        let cases = [
            // (from, what was stored, reaches to, next beyond, ends within the block)
            (1, (1..=512).collect(), 512, None, false),
            (500, (500..=512).collect(), 512, None, false),
            (1, (1..=100).collect(), 100, None, true),
            (1, vec![], 0, None, true),
            (1, vec![600, 601], 512, Some(600), false),
            (1, [10, 11].into_iter().chain(600..1_110).collect(), 512, Some(600), false),
        ];
        for (from, sequences, to, beyond, is_open) in cases {
            let piece = Piece::new(from, sequences.into_iter().map(stored).collect());
            assert_eq!((piece.to, piece.beyond, piece.is_open), (to, beyond, is_open));
            assert!(piece.stored.iter().all(|stored| stored.sequence <= 512));
        }
        let piece = Piece::new(1, [10, 11, 600].map(stored).into());
        assert_eq!([9, 10, 11].map(|at| piece.first_after(at)), [Some(10), Some(11), Some(600)]);
    }
}
