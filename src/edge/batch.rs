//! Frames, and runs of them that go out in one write. Pure.

use std::sync::Arc;

use bytes::Bytes;

use crate::edge::books::Passage;
use crate::edge::ring::Index;
use crate::proto::message::GapReason;
use crate::proto::offset::Offset;

/// One frame of a view.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The entry it was made from.
    pub(crate) index: Index,
    /// The log's offset after it.
    pub(crate) offset: Arc<Offset>,
    /// Header and payload, ready to be written.
    pub(crate) bytes: Bytes,
    /// Made for this view alone; other frames are the ring's, and counted there.
    pub(crate) own: bool,
    /// What it takes a session past, if that is not just the envelope it shows.
    pub(crate) passage: Option<Arc<Passage>>,
}

impl Frame {
    /// Whether the log becomes another one with it.
    pub(crate) fn is_reset(&self) -> bool {
        self.passage.as_ref().is_some_and(|passage| passage.reset_from.is_some())
    }
}

/// A run of frames for sessions to read at the same cursor, as one piece of memory to be written.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// In order; never empty.
    parts: Box<[Part]>,
    /// Each is an envelope and nothing else.
    plain: bool,
    /// All of them, one after the other.
    wire: Bytes,
    /// Its messages leave whoever gets them where it is; the places in it say nothing.
    stands: bool,
    /// Where the first gap begins that leaves clients without the last values.
    lost: Option<(usize, GapReason)>,
    /// The place behind the last one. Its own allocation: each session that has written the batch takes a share of it, and
    /// sharing the frames' own places would have all writers count on the same cache line.
    end: (Index, Arc<Offset>),
}

/// A frame within a batch.
#[derive(Clone, Debug)]
struct Part {
    /// Where it ends, in bytes.
    end: usize,
    index: Index,
    offset: Arc<Offset>,
    passage: Option<Arc<Passage>>,
}

impl Batch {
    /// A batch of these frames, or `None` of none.
    pub(crate) fn new(frames: Vec<Frame>) -> Option<Self> {
        let last = frames.last()?;
        let end = (last.index, Arc::new((*last.offset).clone()));
        let wire = match &frames[..] {
            [only] => only.bytes.clone(),
            // Copied once for all sessions at this cursor: one contiguous write costs the kernel less than many parts.
            all => {
                let mut wire = Vec::with_capacity(all.iter().map(|frame| frame.bytes.len()).sum());
                all.iter().for_each(|frame| wire.extend_from_slice(&frame.bytes));
                Bytes::from(wire)
            }
        };
        let mut bytes = 0;
        let part = |Frame { index, offset, bytes: frame, passage, .. }: Frame| {
            bytes += frame.len();
            Part { end: bytes, index, offset, passage }
        };
        let parts: Box<[Part]> = frames.into_iter().map(part).collect();
        let plain = parts.iter().all(|part| part.passage.is_none());
        let starts = std::iter::once(0).chain(parts.iter().map(|part| part.end));
        let lost = |(start, part): (usize, &Part)| Some((start, part.passage.as_ref()?.lost?));
        let lost = if plain { None } else { starts.zip(&parts).find_map(lost) };
        Some(Self { parts, plain, wire, stands: false, lost, end })
    }

    /// A batch of messages that leave whoever gets them where it is, so that all can share it; the log has been at `somewhere`.
    pub(crate) fn standing(messages: Vec<Bytes>, somewhere: &Arc<Offset>) -> Option<Self> {
        let passage = Some(Arc::new(Passage::default()));
        let frame =
            |bytes| Frame { index: 0, offset: somewhere.clone(), bytes, own: true, passage: passage.clone() };
        let batch = Self::new(messages.into_iter().map(frame).collect())?;
        Some(Self { stands: true, ..batch })
    }

    /// Whether its messages leave a session where it is.
    pub(crate) fn stands(&self) -> bool {
        self.stands
    }

    /// What to write for a session that wants the last values instead of a gap: nothing of the gap, or of what follows it.
    pub(crate) fn wire_before_gap(&self) -> &[u8] {
        &self.wire[..self.lost.map_or(self.wire.len(), |(start, _)| start)]
    }

    /// Why there is nothing to write for such a session.
    pub(crate) fn lost_at_once(&self) -> Option<GapReason> {
        self.lost.filter(|(start, _)| *start == 0).map(|(_, reason)| reason)
    }

    /// What to write for the frames.
    pub(crate) fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// The step that the last frame is, and the place behind it.
    pub(crate) fn end(&self) -> &(Index, Arc<Offset>) {
        &self.end
    }

    /// How far a socket got that took `written` bytes, at least one.
    pub(crate) fn progress(&self, written: usize) -> Progress {
        let at = self.parts.partition_point(|part| part.end < written);
        match self.parts.get(at) {
            Some(part) if written < self.wire.len() => {
                // A copy, and no share of the batch: a socket that takes nothing more may hold it for long.
                let rest =
                    (written < part.end).then(|| Bytes::copy_from_slice(&self.wire[written..part.end]));
                Progress { begun: at + 1, index: part.index, offset: part.offset.clone(), rest }
            }
            _ => {
                let (index, offset) = self.end.clone();
                Progress { begun: self.parts.len(), index, offset, rest: None }
            }
        }
    }

    /// What the frames from `skip` up to `begun` take a session past.
    pub(crate) fn passage(&self, skip: usize, begun: usize) -> Passage {
        if self.plain {
            return Passage::envelopes(begun - skip);
        }
        let mut sum = Passage::default();
        for part in &self.parts[skip..begun] {
            match &part.passage {
                Some(passage) => sum.add(passage),
                None => sum.add(&Passage::envelopes(1)),
            }
        }
        sum
    }

    /// The place before, if this is the announcement that the log becomes another one: it is a batch of its own.
    pub(crate) fn reset_from(&self) -> Option<&Arc<Offset>> {
        self.parts.first()?.passage.as_ref()?.reset_from.as_ref()
    }

    /// The frames, each for itself.
    #[cfg(test)]
    pub(crate) fn frames(&self) -> Vec<(Index, Bytes)> {
        let starts = std::iter::once(0).chain(self.parts.iter().map(|part| part.end));
        starts.zip(&self.parts).map(|(start, part)| (part.index, self.wire.slice(start..part.end))).collect()
    }
}

/// How much of a batch a socket has taken.
pub(crate) struct Progress {
    /// Frames, counting the last one even if the socket took it in part.
    pub(crate) begun: usize,
    /// The ring's index of the place behind them.
    pub(crate) index: Index,
    /// That place.
    pub(crate) offset: Arc<Offset>,
    /// What the socket has not taken of the last one.
    pub(crate) rest: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::offset::{Epoch, Shard};

    fn offset(sequence: u64) -> Arc<Offset> {
        Arc::new(Offset::start(Epoch(1), 1).with(Shard(0), sequence))
    }

    #[test]
    fn a_batch_knows_which_frames_a_socket_has_begun() {
        let frame = |index: Index| {
            let bytes = Bytes::from(vec![index as u8; index as usize]);
            Frame { index, offset: offset(index), bytes, own: true, passage: None }
        };
        let batch = Batch::new(vec![frame(2), frame(3), frame(4)]).unwrap();
        assert_eq!(&batch.wire()[..], [2, 2, 3, 3, 3, 4, 4, 4, 4]);
        for (written, begun, rest) in [(1, 1, 1), (2, 1, 0), (3, 2, 2), (5, 2, 0), (8, 3, 1), (9, 3, 0)] {
            let progress = batch.progress(written);
            assert_eq!(
                (progress.begun, progress.rest.map_or(0, |rest| rest.len())),
                (begun, rest),
                "{written}"
            );
            assert_eq!((progress.index, progress.offset), (begun as Index + 1, offset(begun as u64 + 1)));
        }
        assert!(Batch::new(Vec::new()).is_none());
    }
}
