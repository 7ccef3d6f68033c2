//! One connected client, as its writer keeps it: a socket, a cursor, what is unwritten, and when things happened.
//!
//! An idle session is this struct and its socket: buffers exist while bytes are in them.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use tokio::time::Instant;

use crate::edge::batch::{Batch, Progress};
use crate::edge::books::{Announced, Books, Passage};
use crate::edge::doorbell::SessionKey;
use crate::edge::feed::{Feed, Found};
use crate::edge::hub::Head;
use crate::edge::inbound::Inbound;
use crate::edge::outbox::{Outbox, SLICES_MAX};
use crate::edge::replay::portion::Portion;
use crate::edge::ring::Index;
use crate::edge::socket::Socket;
use crate::edge::view::{Cursor, Seat};
use crate::edge::wire::Wire;
use crate::ops::meters::Transport;
use crate::ops::node::Admission;
use crate::proto::message::GapReason;
use crate::proto::offset::Offset;

/// One connected client.
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) socket: Socket,
    pub(crate) transport: Transport,
    pub(crate) seat: Seat,
    pub(crate) mode: Mode,
    /// Its view's group and its position there, while it is live.
    pub(crate) member: Option<(usize, usize)>,
    pub(crate) outbox: Outbox,
    /// Everything up to here was written to the socket or will be before anything else, was filtered out, or announced
    /// as a gap.
    pub(crate) at: Arc<Offset>,
    /// The ring's index of that place for live sessions; for others, the steps of the portion that they are fed.
    pub(crate) index: Index,
    /// What became of everything before that place.
    pub(crate) books: Books,
    /// It asked for whatever there is and has got nothing of it yet: what the log no longer holds is no loss.
    pub(crate) quiet: bool,
    /// Since when the socket takes nothing.
    pub(crate) blocked_since: Option<Instant>,
    /// The socket has blocked since the session last had everything there was: if it is overtaken now, it is too slow.
    pub(crate) behind: bool,
    /// Puts the session on its writer's list of those that can go on: its socket takes bytes again, or has some.
    pub(crate) waker: Waker,
    /// When the client last learnt an offset.
    pub(crate) offset_sent: Instant,
    pub(crate) ping_sent: Instant,
    /// When the client last said something, or took something after it had not for a while.
    pub(crate) heard: Instant,
    /// What the client has begun to say.
    pub(crate) inbound: Option<Box<Inbound>>,
    /// Nothing the client says counts any more: it has said goodbye, or nonsense.
    pub(crate) deaf: bool,
    /// Where a part of the log is lost to it, it wants the last values instead.
    pub(crate) snapshots: bool,
    /// It began with a snapshot that it has not got yet: its client has no place to resume from.
    pub(crate) placeless: bool,
    /// It is at another place than it was last told. A poll wants to know as soon as it has everything.
    pub(crate) untold: bool,
    /// It waits for its turn among those that catch up.
    pub(crate) queued: bool,
    /// Its place on the node, free again when the session is dropped, if nobody else has it.
    pub(crate) _admission: Option<Admission>,
}

// One per client: with its socket, which costs about as much, well below a kilobyte.
const _: () = assert!(size_of::<Session>() <= 376);

/// Where a session's frames come from.
pub(crate) enum Mode {
    /// It has not been given its place yet.
    Starting,
    /// From its view.
    Live(Cursor),
    /// From the ring or the log, until it can join its view.
    CatchingUp(Box<Feed>),
    /// From nowhere: what is in the outbox is its last.
    Closing {
        /// It ends by itself at this time.
        until: Instant,
        /// The client has sent its close frame: once ours is written, nothing is left to wait for.
        answered: bool,
    },
}

/// What came of an attempt to write.
#[must_use = "a socket that blocks has to be watched"]
pub(crate) enum Wrote {
    /// So many bytes, completing so many messages, with which so many gaps were announced.
    Some { bytes: usize, messages: u64, announced: Announced },
    /// A gap comes next, instead of which the session wants the last values.
    Lost(GapReason),
    /// The socket takes nothing.
    Blocked,
    /// The socket is dead.
    Failed,
}

impl Wrote {
    fn of(result: io::Result<usize>, take: impl FnOnce(usize) -> (u64, Announced)) -> Self {
        match result {
            Ok(bytes) => {
                let (messages, announced) = take(bytes);
                Self::Some { bytes, messages, announced }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Self::Blocked,
            Err(_) => Self::Failed,
        }
    }
}

impl Session {
    /// Whether its view has frames for it.
    pub(crate) fn has_pending(&self) -> bool {
        matches!(self.mode, Mode::Live(cursor) if self.seat.view().end() != cursor)
    }

    /// Whether it has written everything, at the end of its view.
    pub(crate) fn has_everything(&self) -> bool {
        self.outbox.is_empty() && matches!(self.mode, Mode::Live(cursor) if self.seat.view().end() == cursor)
    }

    /// Whether it is a poll that has everything there is and was not told so.
    pub(crate) fn wants_place(&self) -> bool {
        self.transport == Transport::Poll && self.untold && self.has_everything()
    }

    /// Whether it only waits for its end.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.mode, Mode::Closing { .. })
    }

    /// Whether its view has let frames go that it has not written. With an interval, none of them is missed: what has
    /// changed meanwhile takes their place.
    pub(crate) fn misses_frames(&self) -> bool {
        let view = self.seat.view();
        matches!(self.mode, Mode::Live(cursor) if view.key().interval_ms.is_none() && view.has_overtaken(cursor))
    }

    /// Writes what is in the outbox.
    pub(crate) fn write_outbox(&mut self) -> Wrote {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let filled = self.outbox.fill(&mut slices);
        let result = self.socket.write(&self.waker, &slices[..filled]);
        Wrote::of(result, |bytes| (self.outbox.advance(bytes), Announced::default()))
    }

    /// Writes frames of its view, from its cursor on.
    pub(crate) fn write_live(&mut self, batch: &Batch, now: Instant) -> Wrote {
        if let Some(reason) = batch.lost_at_once().filter(|_| self.snapshots) {
            return Wrote::Lost(reason);
        }
        let wire = if self.snapshots { batch.wire_before_gap() } else { batch.wire() };
        let result = self.socket.write(&self.waker, &[IoSlice::new(wire)]);
        Wrote::of(result, |bytes| {
            let progress = batch.progress(bytes);
            let begun = progress.begun as u64;
            if let Mode::Live(cursor) = &mut self.mode {
                *cursor += begun;
            }
            let announced = self.take_progress(batch, 0, progress, now);
            (begun - u64::from(!self.outbox.is_empty()), announced)
        })
    }

    /// What there is for a session that catches up, and is not in its outbox; `None` for others.
    pub(crate) fn look_for_feed(&mut self) -> Option<Found> {
        let Mode::CatchingUp(feed) = &mut self.mode else { return None };
        let found = feed.look(&self.at);
        if let Found::Portion { new: true } = found {
            self.index = 0;
        }
        Some(found)
    }

    /// Writes frames that it was fed; `None` when there was nothing to write.
    pub(crate) fn write_feed(&mut self, now: Instant) -> Option<Wrote> {
        let Mode::CatchingUp(feed) = &mut self.mode else { return None };
        let (portion, written) = feed.take()?;
        let Some(batch) = &portion.batch else {
            self.pass_portion(&portion);
            return None;
        };
        let wire = if self.snapshots { batch.wire_before_gap() } else { batch.wire() };
        if written >= wire.len() {
            // Whoever leads it finds it right before the gap when it asks for more.
            return None;
        }
        let result = self.socket.write(&self.waker, &[IoSlice::new(&wire[written..])]);
        let bytes = *result.as_ref().unwrap_or(&0);
        if bytes == 0 {
            feed.put_back(portion, written);
            return Some(Wrote::of(result, |_| Default::default()));
        }
        let begun_before = if written == 0 { 0 } else { batch.progress(written).begun };
        let progress = batch.progress(written + bytes);
        let begun = (progress.begun - begun_before) as u64;
        let written = written + bytes + progress.rest.as_ref().map_or(0, Bytes::len);
        let announced = self.take_progress(batch, begun_before, progress, now);
        if written == batch.wire().len() {
            self.pass_portion(&portion);
        } else if let Mode::CatchingUp(feed) = &mut self.mode {
            feed.put_back(portion, written);
        }
        Some(Wrote::of(result, |_| (begun - u64::from(!self.outbox.is_empty()), announced)))
    }

    /// Moves to where a portion leads, of which all frames were begun.
    fn pass_portion(&mut self, portion: &Portion) {
        self.pass_to(portion.steps, &Passage::default().behind_unheld(portion.unheld));
        self.index = 0;
        // Nothing matches a snapshot that leads on in silence: its place is told with what comes next.
        self.placeless &= portion.batch.is_some();
        if !portion.batch.as_ref().is_some_and(|batch| batch.stands()) {
            self.untold |= *self.at != *portion.to;
            self.at = portion.to.clone();
        }
    }

    /// Holds nothing that it cannot write.
    pub(crate) fn lay_feed_aside(&mut self) {
        if let Mode::CatchingUp(feed) = &mut self.mode {
            feed.lay_aside();
        }
    }

    /// Moves behind the frames of `batch` that were begun; `skip` of them were before. Returns what gaps are among them.
    fn take_progress(&mut self, batch: &Batch, skip: usize, progress: Progress, now: Instant) -> Announced {
        let passage = batch.passage(skip, progress.begun);
        let offset = if batch.stands() { self.at.clone() } else { progress.offset };
        self.pass_to(progress.index, &passage);
        if let Some(from) = batch.reset_from().filter(|_| skip == 0) {
            self.books.pass_reset(from, &offset);
        }
        if self.placeless && offset != self.at {
            // With its last part: the others leave the session where it was.
            self.placeless = false;
            // Of a snapshot at the very place where the session began nothing is seen here: then this is what follows it.
            if passage == Passage::default() {
                self.books.go_on_at(&self.at, offset.clone());
            }
        }
        self.at = offset;
        self.quiet = false;
        self.offset_sent = now;
        self.untold = true;
        if let Some(rest) = progress.rest {
            self.outbox.put_rest(rest);
        }
        passage.announced
    }

    /// Goes on to another step, of the ring or of what it is fed.
    pub(crate) fn pass_to(&mut self, index: Index, passage: &Passage) {
        self.books.pass(index.saturating_sub(self.index), passage);
        self.index = index;
    }

    /// Asks to be put on the writer's list when the socket takes bytes again. True when it does already.
    pub(crate) fn watch_writable(&self) -> bool {
        self.socket.watch_writable(&self.waker)
    }

    /// Asks to be put on the writer's list when the client says something. True when it has already.
    pub(crate) fn watch_readable(&self) -> bool {
        self.socket.watch_readable(&self.waker)
    }

    /// A live session that has written everything up to the end of its view has seen everything up to `head`, which must
    /// have been read before this call. It may have seen more: views get an entry's frame before the head is made known,
    /// and a session that was put back to the head would get those frames twice. With an interval it has seen everything
    /// up to its view's last flush.
    pub(crate) fn note_idle(&mut self, head: &Head) {
        let Mode::Live(cursor) = self.mode else { return };
        let view = self.seat.view();
        let (end, index, offset) = match view.key().interval_ms {
            None => (view.end(), head.index, head.offset.clone()),
            Some(_) => view.place(),
        };
        if end == cursor && index > self.index {
            self.pass_to(index, &Passage::default());
            self.at = offset;
            self.untold = true;
        }
    }

    /// How its messages are framed.
    pub(crate) fn wire(&self) -> Wire {
        self.seat.view().key().wire
    }
}
