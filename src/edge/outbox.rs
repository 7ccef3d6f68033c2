//! What one session still has to write: the rest of a batch, and control frames that go between its frames. Pure.
//!
//! A WebSocket frame, once begun, has to be finished before anything else goes out; so the outbox remembers how far into
//! which frame the socket got, and puts control frames at the next boundary.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;

use crate::edge::ring::Index;
use crate::edge::view::{Batch, Frame};
use crate::proto::offset::Offset;

/// Control frames a session may have waiting. A client that makes more (by pinging without reading) is not served.
pub(crate) const CONTROL_FRAMES_MAX: usize = 64;

/// The unwritten.
#[derive(Default)]
pub(crate) struct Outbox {
    control: VecDeque<Bytes>,
    batch: Option<Arc<Batch>>,
    /// Position in the batch: frame, and byte within it.
    frame: usize,
    byte: usize,
    /// Bytes of the first control frame that are written already.
    control_byte: usize,
}

/// What an advance completed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Completed {
    /// Frames of the batch.
    pub(crate) frames: usize,
    /// Control frames.
    pub(crate) control: usize,
    /// The place in the log behind the last completed frame of the batch.
    pub(crate) place: Option<(Index, Arc<Offset>)>,
}

impl Outbox {
    /// Nothing is left to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_none() && self.control.is_empty()
    }

    /// A new batch can be put in.
    pub(crate) fn wants_batch(&self) -> bool {
        self.batch.is_none()
    }

    /// The next frames to write, once the ones before are.
    pub(crate) fn put_batch(&mut self, batch: Arc<Batch>) {
        debug_assert!(self.batch.is_none(), "one batch at a time");
        self.batch = Some(batch);
        self.frame = 0;
        self.byte = 0;
    }

    /// Adds a control frame; false when there are too many waiting.
    #[must_use = "a client that does not read its control frames is not served"]
    pub(crate) fn put_control(&mut self, frame: Bytes) -> bool {
        if self.control.len() >= CONTROL_FRAMES_MAX {
            return false;
        }
        self.control.push_back(frame);
        true
    }

    /// Takes back what was not begun, and returns the last frame that the client will have got of the batch, if any of
    /// it was begun at all.
    pub(crate) fn retract(&mut self) -> Option<Frame> {
        let batch = self.batch.take()?;
        let frame = std::mem::take(&mut self.frame);
        match std::mem::take(&mut self.byte) {
            0 => frame.checked_sub(1).and_then(|last| batch.frames.get(last)).cloned(),
            begun => {
                // Its rest goes first, as bytes that stand for no place any more: the session may be elsewhere when they
                // are written. No control frame has been begun, or this one would not be.
                let last = batch.frames.get(frame)?;
                self.control.push_front(last.bytes.slice(begun..));
                Some(last.clone())
            }
        }
    }

    /// Fills `slices` with what goes out next, in order, and returns how many it filled.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let frames = self.batch.as_ref().map_or(&[][..], |batch| &batch.frames[self.frame..]);
        let (begun, rest) = match frames.split_first() {
            Some((first, rest)) if self.byte > 0 => (Some(&first.bytes[self.byte..]), rest),
            _ => (None, frames),
        };
        let control = self.control.iter().enumerate().map(|(at, frame)| match at {
            0 => &frame[self.control_byte..],
            _ => &frame[..],
        });
        // A begun batch frame and a begun control frame never exist together: each is finished before the other starts.
        let parts = begun.into_iter().chain(control).chain(rest.iter().map(|frame| &frame.bytes[..]));
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    /// The socket took `written` bytes of what [`Outbox::fill`] gave.
    pub(crate) fn advance(&mut self, mut written: usize) -> Completed {
        let first = self.frame;
        let mut control = 0;
        if self.byte > 0 {
            written -= self.advance_batch(written, 1);
        }
        while self.byte == 0 {
            let Some(frame) = self.control.front() else {
                self.advance_batch(written, usize::MAX);
                break;
            };
            let rest = frame.len() - self.control_byte;
            if written < rest {
                self.control_byte += written;
                break;
            }
            written -= rest;
            self.control_byte = 0;
            self.control.pop_front();
            control += 1;
        }
        self.complete(first, control)
    }

    fn complete(&mut self, first: usize, control: usize) -> Completed {
        let frames = self.frame - first;
        let Some(batch) = self.batch.as_ref().filter(|_| frames > 0) else {
            return Completed { frames, control, place: None };
        };
        let last = &batch.frames[self.frame - 1];
        let place = Some((last.index, last.offset.clone()));
        if self.frame == batch.frames.len() {
            self.batch = None;
            self.frame = 0;
        }
        Completed { frames, control, place }
    }

    /// Moves on in the batch by at most `frames_max` frames; returns the bytes it used.
    fn advance_batch(&mut self, written: usize, frames_max: usize) -> usize {
        let Some(batch) = &self.batch else { return 0 };
        let mut used = 0;
        for _ in 0..frames_max {
            let Some(frame) = batch.frames.get(self.frame) else { break };
            let rest = frame.bytes.len() - self.byte;
            if written - used < rest {
                self.byte += written - used;
                return written;
            }
            used += rest;
            self.byte = 0;
            self.frame += 1;
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::offset::Epoch;
    use proptest::prelude::*;

    fn batch(sizes: &[usize], tag: u8) -> Arc<Batch> {
        let offset = Arc::new(Offset::start(Epoch(1), 1));
        let frame = |(at, size): (usize, &usize)| Frame {
            index: at as u64,
            offset: offset.clone(),
            bytes: Bytes::from(vec![tag + at as u8; *size]),
            own: false,
        };
        Arc::new(Batch { frames: sizes.iter().enumerate().map(frame).collect() })
    }

    fn next_bytes(outbox: &Outbox, max: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = outbox.fill(&mut slices);
        let all: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        all[..all.len().min(max)].to_vec()
    }

    #[test]
    fn control_frames_wait_for_the_frame_that_was_begun() {
        let mut outbox = Outbox::default();
        outbox.put_batch(batch(&[4, 4], 1));
        assert_eq!(outbox.advance(2), Completed::default());
        assert!(outbox.put_control(Bytes::from_static(&[9, 9])));
        assert_eq!(next_bytes(&outbox, 99), [1, 1, 9, 9, 2, 2, 2, 2]);
        let completed = outbox.advance(5);
        assert_eq!((completed.frames, completed.control, completed.place.unwrap().0), (1, 1, 0));
        let completed = outbox.advance(3);
        assert_eq!((completed.frames, completed.control, completed.place.unwrap().0), (1, 0, 1));
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_was_not_begun_can_be_taken_back() {
        let mut outbox = Outbox::default();
        outbox.put_batch(batch(&[4, 4, 4], 1));
        let _ = outbox.advance(5);
        assert_eq!(outbox.retract().unwrap().index, 1, "the second frame was begun and will be finished");
        assert_eq!(next_bytes(&outbox, 99), [2, 2, 2]);
        assert!(outbox.put_control(Bytes::from_static(&[9])));
        assert!(outbox.retract().is_none(), "what is begun has no place a second time");
        assert_eq!(next_bytes(&outbox, 99), [2, 2, 2, 9]);
        assert_eq!(outbox.advance(4).place, None, "a session that has moved on is not put back");
        assert!(outbox.is_empty());
        outbox.put_batch(batch(&[4], 1));
        assert!(outbox.retract().is_none());
        assert!(outbox.is_empty());
    }

    proptest! {
        /// However the socket cuts its writes and whenever control frames come: every frame arrives whole and in order.
        #[test]
        fn frames_are_never_torn(
            sizes in prop::collection::vec(1usize..9, 1..12),
            steps in prop::collection::vec((1usize..20, prop::bool::weighted(0.3)), 1..200),
        ) {
            let mut outbox = Outbox::default();
            outbox.put_batch(batch(&sizes, 1));
            let mut wire = Vec::new();
            let mut controls = 0;
            let mut completed = 0;
            for (cut, control) in steps {
                if control && outbox.put_control(Bytes::from_static(&[200, 201, 202])) {
                    controls += 1;
                }
                let bytes = next_bytes(&outbox, cut);
                completed += outbox.advance(bytes.len()).frames;
                wire.extend(bytes);
            }
            while !outbox.is_empty() {
                let bytes = next_bytes(&outbox, 7);
                completed += outbox.advance(bytes.len()).frames;
                wire.extend(bytes);
            }
            prop_assert_eq!(completed, sizes.len());
            let mut rest = &wire[..];
            let mut frames = 0;
            while let Some(tag) = rest.first() {
                let length = if *tag == 200 {
                    controls -= 1;
                    prop_assert_eq!(&rest[..3], &[200, 201, 202]);
                    3
                } else {
                    prop_assert_eq!(usize::from(*tag), frames + 1);
                    frames += 1;
                    prop_assert!(rest[..sizes[frames - 1]].iter().all(|byte| byte == tag));
                    sizes[frames - 1]
                };
                rest = &rest[length..];
            }
            prop_assert_eq!((frames, controls), (sizes.len(), 0));
        }
    }
}
