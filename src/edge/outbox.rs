//! What one session still has to write before anything new: control frames, and the rest of a frame that the socket took
//! in part. Pure.
//!
//! A WebSocket frame, once begun, has to be finished before anything else goes out. So the rest of a begun frame is always
//! first here, and control frames follow at the boundary behind it.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::edge::wire;

/// Control frames a session may have waiting. A client that makes more (by pinging without reading) is not served.
pub(crate) const CONTROL_FRAMES_MAX: usize = 64;

/// Pieces that go into one vectored write: few are ever waiting.
pub(crate) const SLICES_MAX: usize = 8;

/// The unwritten. It holds no memory while it is empty.
#[derive(Default)]
pub(crate) struct Outbox(VecDeque<Piece>);

struct Piece {
    bytes: Bytes,
    /// The end of it is the end of a message: see [`wire::is_message`].
    message: bool,
}

impl Outbox {
    /// Nothing is left to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rest of a data frame of which the socket has taken the beginning.
    pub(crate) fn put_rest(&mut self, rest: Bytes) {
        debug_assert!(self.0.is_empty(), "data goes out only when nothing is waiting");
        self.0.push_back(Piece { bytes: rest, message: true });
    }

    /// Adds a control frame; false when there are too many waiting.
    #[must_use = "a client that does not read its control frames is not served"]
    pub(crate) fn put_control(&mut self, frame: Bytes) -> bool {
        if self.0.len() >= CONTROL_FRAMES_MAX {
            return false;
        }
        self.put_last(frame);
        true
    }

    /// Adds a frame with which the session ends, however many are waiting.
    pub(crate) fn put_last(&mut self, frame: Bytes) {
        let message = frame.first().is_some_and(|first| wire::is_message(*first));
        self.0.push_back(Piece { bytes: frame, message });
    }

    /// Fills `slices` with what goes out next, in order, and returns how many it filled.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(&piece.bytes);
            filled += 1;
        }
        filled
    }

    /// The socket took `written` bytes of what [`Outbox::fill`] gave. Returns how many messages that completed.
    pub(crate) fn advance(&mut self, mut written: usize) -> u64 {
        let mut completed = 0;
        while let Some(first) = self.0.front_mut() {
            if written < first.bytes.len() {
                first.bytes.advance(written);
                return completed;
            }
            written -= first.bytes.len();
            completed += u64::from(first.message);
            self.0.pop_front();
        }
        self.0 = VecDeque::new();
        completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::frame::Opcode;
    use proptest::prelude::*;

    fn next_bytes(outbox: &Outbox, max: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let filled = outbox.fill(&mut slices);
        let all: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        all[..all.len().min(max)].to_vec()
    }

    #[test]
    fn control_frames_wait_for_the_frame_that_was_begun() {
        let mut outbox = Outbox::default();
        outbox.put_rest(Bytes::from_static(&[1, 1]));
        assert!(outbox.put_control(Bytes::from_static(&[0x89, 0])));
        assert_eq!(next_bytes(&outbox, 99), [1, 1, 0x89, 0]);
        assert_eq!(outbox.advance(1), 0);
        assert_eq!(next_bytes(&outbox, 99), [1, 0x89, 0]);
        assert_eq!(outbox.advance(2), 1, "the rest of the message");
        assert_eq!(outbox.advance(1), 0, "a ping is none");
        assert!(outbox.is_empty());
    }

    #[test]
    fn pings_pongs_and_closes_are_no_messages() {
        let mut outbox = Outbox::default();
        for opcode in [Opcode::Ping, Opcode::Text, Opcode::Pong, Opcode::Close] {
            outbox.put_last(Bytes::copy_from_slice(&crate::proto::frame::header(opcode, 0)));
        }
        assert_eq!(outbox.advance(8), 1);
    }

    #[test]
    fn a_client_that_only_pings_is_told_no() {
        let mut outbox = Outbox::default();
        for _ in 0..CONTROL_FRAMES_MAX {
            assert!(outbox.put_control(Bytes::from_static(b"pong")));
        }
        assert!(!outbox.put_control(Bytes::from_static(b"pong")));
    }

    proptest! {
        /// However the socket cuts its writes: every piece goes out whole and in order.
        #[test]
        fn pieces_are_never_torn(
            sizes in prop::collection::vec(1usize..9, 1..40),
            cuts in prop::collection::vec(1usize..20, 1..400),
        ) {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (at, size) in sizes.iter().enumerate() {
                let piece = vec![at as u8 & 7; *size];
                expected.extend_from_slice(&piece);
                prop_assert!(outbox.put_control(Bytes::from(piece)));
            }
            let (mut wire, mut completed) = (Vec::new(), 0);
            for cut in cuts.into_iter().chain(std::iter::repeat(7)) {
                if outbox.is_empty() {
                    break;
                }
                let bytes = next_bytes(&outbox, cut);
                completed += outbox.advance(bytes.len());
                wire.extend(bytes);
            }
            prop_assert_eq!(completed, sizes.len() as u64);
            prop_assert_eq!(wire, expected);
        }
    }
}
