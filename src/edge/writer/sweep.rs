//! The sweep: from cursors to sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::table::GroupIndex;
use super::{TOO_MANY_CONTROL_FRAMES, Writer};
use crate::config::SlowClientPolicy;
use crate::edge::Shared;
use crate::edge::batch::Batch;
use crate::edge::books::{Announced, Fates, Passage, Settled};
use crate::edge::doorbell::SessionKey;
use crate::edge::encode;
use crate::edge::feed::{Found, Joined};
use crate::edge::resolve::First;
use crate::edge::ring::Index;
use crate::edge::session::{Mode, Session, Wrote};
use crate::edge::view::{Cursor, Pending, View};
use crate::ops::clock::unix_ns;
use crate::ops::meters::{self, Fate, Label as _};
use crate::proto::message::{CloseCode, GapReason};
use crate::proto::offset::Offset;

/// Frames and bytes collected for a cursor at a time: about what a socket's send buffer takes.
const BATCH_FRAMES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// Writes to one socket before the others get their turn.
const WRITES_PER_TURN: usize = 4;
/// Cursors whose frames are kept during a turn. Nearly all sessions of a view are at one cursor; those that were blocked are
/// at a few others.
const COLLECTED_MAX: usize = 8;

/// Views of a sweep whose latency is recorded: few against a thousand clients, enough for a histogram.
const LATENCY_SAMPLES_MAX: usize = 8;
/// Bytes for sessions that catch up, before those that are live are looked after again: a crowd that comes back costs them
/// some tenths of a millisecond each time.
const FEED_BYTES_PER_TURN: usize = 128 * 1024;
/// Between two turns of sessions that catch up: theirs is at most half of the time, so that a crowd that comes back leaves the
/// rest to live ones and to whoever else is on the machine. A writer gives them some 40 MB a second, whether one or a thousand.
const FEED_REST: Duration = Duration::from_millis(3);
/// What a portion counts at least, for those with little or nothing in them.
const FEED_BYTES_MIN: usize = 1024;

/// What a writer knows while it works through its sessions once.
pub(super) struct Turn {
    /// When the turn began: the time of everything in it, so that no clock is read per session.
    pub(super) now: Instant,
    sent: Sent,
    /// What sessions have settled.
    pub(super) settled: Settled,
    /// Frames collected for cursors of views.
    collected: Vec<Collected>,
    /// Bytes that sessions which catch up may still write; none outside of their part of the turn.
    feed_left: usize,
}

struct Collected {
    view: Arc<View>,
    cursor: Cursor,
    batch: Batch,
}

/// Counted here, handed to the metrics once per turn.
#[derive(Default)]
struct Sent {
    messages: u64,
    bytes: u64,
    replayed: u64,
    announced: Announced,
}

/// What a session needs after a step.
enum Next {
    /// Nothing: it has written everything there is.
    Rest,
    /// Another step.
    Step,
    /// To be woken when its socket takes bytes again.
    Park,
    /// To be removed.
    Remove,
    /// Everything is written, the client's answer to the close frame is missing.
    FinishWriting,
    /// To be told what it will not get, and to go on behind it.
    Overtaken { cursor: Cursor, offset: Arc<Offset>, index: Index },
    /// To be given the last values instead of a gap.
    Lost(GapReason),
    /// To join its view.
    Join(Joined),
    /// To be closed: it could not be fed.
    Fail(String),
    /// To be sent away: it keeps what others wait for.
    TooSlow(&'static str),
    /// Its turn among those that catch up.
    Queue,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::now(),
            sent: Sent::default(),
            settled: Settled::default(),
            collected: Vec::with_capacity(COLLECTED_MAX),
            feed_left: 0,
        }
    }

    /// Makes known what was sent, and forgets what was collected.
    pub(super) fn end(&mut self, shared: &Shared) {
        self.collected.clear();
        let Sent { messages, bytes, replayed, announced } = std::mem::take(&mut self.sent);
        if bytes > 0 {
            shared.node.meters.messages_sent.increment(messages);
            shared.node.meters.bytes_sent.increment(bytes);
            shared.node.meters.replayed_bytes.increment(replayed);
            for (reason, count) in meters::GapReason::ALL.iter().zip(announced) {
                shared.node.meters.gaps.of(*reason).increment(u64::from(count));
            }
        }
        let settled = std::mem::take(&mut self.settled);
        if !settled.is_empty() {
            shared.node.meters.session_envelopes_published.increment(settled.published);
            let Fates { delivered, filtered, conflated, gap } = settled.fates;
            let all = [
                (Fate::Delivered, delivered),
                (Fate::Filtered, filtered),
                (Fate::Conflated, conflated),
                (Fate::Gap, gap),
            ];
            for (fate, positions) in all {
                shared.node.meters.session_envelopes.of(fate).increment(positions);
            }
        }
    }

    /// Where the frames of `view` at `cursor` are: collected once for all sessions that are there.
    fn collect(&mut self, view: &Arc<View>, cursor: Cursor) -> Result<usize, Next> {
        let same = |collected: &Collected| collected.cursor == cursor && Arc::ptr_eq(&collected.view, view);
        if let Some(at) = self.collected.iter().rposition(same) {
            return Ok(at);
        }
        let batch = match view.pending(cursor, BATCH_FRAMES_MAX, BATCH_BYTES_MAX) {
            Pending::Frames(batch) => batch,
            Pending::Nothing => return Err(Next::Rest),
            Pending::Overtaken { cursor, offset, index } => {
                return Err(Next::Overtaken { cursor, offset, index });
            }
        };
        if self.collected.len() == COLLECTED_MAX {
            self.collected.remove(0);
        }
        self.collected.push(Collected { view: view.clone(), cursor, batch });
        Ok(self.collected.len() - 1)
    }

    /// Writes what comes next for a session, once.
    fn step(&mut self, session: &mut Session) -> Next {
        if !session.outbox.is_empty() {
            let wrote = session.write_outbox();
            return self.wrote(session, wrote);
        }
        match &mut session.mode {
            Mode::Live(cursor) => {
                let (cursor, view) = (*cursor, session.seat.view());
                if cursor == view.end() {
                    session.behind = false;
                    return Next::Rest;
                }
                match self.collect(view, cursor) {
                    Ok(at) => {
                        let wrote = session.write_live(&self.collected[at].batch, self.now);
                        match self.wrote(session, wrote) {
                            // Nearly always: no second step has to find that out.
                            Next::Step if session.has_everything() => {
                                session.behind = false;
                                Next::Rest
                            }
                            next => next,
                        }
                    }
                    Err(next) => next,
                }
            }
            Mode::CatchingUp(_) => self.feed(session),
            Mode::Starting => Next::Rest,
            Mode::Closing { answered: true, .. } => Next::Remove,
            Mode::Closing { answered: false, .. } => Next::FinishWriting,
        }
    }

    /// Writes what comes next for a session that catches up.
    fn feed(&mut self, session: &mut Session) -> Next {
        match session.look_for_feed() {
            Some(Found::Joined(joined)) => Next::Join(joined),
            Some(Found::Failed(why)) => Next::Fail(why),
            Some(Found::TooSlow(why)) => Next::TooSlow(why),
            Some(Found::Nothing) | None => Next::Rest,
            Some(Found::Portion { .. }) if self.feed_left == 0 => Next::Queue,
            Some(Found::Portion { .. }) => {
                let before = self.sent.bytes;
                let next = match session.write_feed(self.now) {
                    Some(wrote) => self.wrote(session, wrote),
                    None => Next::Step,
                };
                let bytes = self.sent.bytes - before;
                self.sent.replayed += bytes;
                self.feed_left = self.feed_left.saturating_sub((bytes as usize).max(FEED_BYTES_MIN));
                next
            }
        }
    }

    fn wrote(&mut self, session: &mut Session, wrote: Wrote) -> Next {
        match wrote {
            Wrote::Some { bytes, messages, announced } => {
                if session.blocked_since.take().is_some() {
                    // It reads, however slowly; its answers to pings may be far behind what it has to read first.
                    session.heard = self.now;
                }
                self.sent.bytes += bytes as u64;
                self.sent.messages += messages;
                self.sent.announced.iter_mut().zip(announced).for_each(|(sum, more)| *sum += more);
                Next::Step
            }
            Wrote::Lost(reason) => Next::Lost(reason),
            Wrote::Blocked => Next::Park,
            Wrote::Failed => Next::Remove,
        }
    }
}

impl Writer {
    /// Gives each view's sessions what is new in it. False when there was nothing.
    pub(super) fn sweep(&mut self) -> bool {
        let due = self.table.due_groups();
        for group in &due {
            let (group, mut at) = (*group, 0);
            // A session that leaves while it is served makes room for the last one, which is served at its place.
            while let Some(key) = self.table.member(group, at) {
                if self.table.get(key).is_some_and(|session| session.blocked_since.is_none()) {
                    self.pump(key);
                }
                if self.table.member(group, at) == Some(key) {
                    at += 1;
                }
            }
        }
        self.measure(&due);
        !due.is_empty()
    }

    /// Samples how old the newest frames are, now that they have been written to whoever takes them.
    fn measure(&self, due: &[GroupIndex]) {
        // Not always the same ones, where many views have grown.
        let first = if due.len() > LATENCY_SAMPLES_MAX { fastrand::usize(..due.len()) } else { 0 };
        let sampled = due.iter().cycle().skip(first).take(LATENCY_SAMPLES_MAX.min(due.len()));
        let mut received = sampled.filter_map(|group| self.table.view(*group)?.received_ns()).peekable();
        if received.peek().is_none() {
            return;
        }
        let now_ns = unix_ns();
        for received_ns in received {
            // Clocks of other machines may be ahead.
            let latency = u64::try_from(now_ns.saturating_sub(received_ns)).unwrap_or(0);
            self.shared.node.meters.delivery_latency.record(Duration::from_nanos(latency));
        }
    }

    /// Writes what is pending for one session, for as long as its socket takes it.
    pub(super) fn pump(&mut self, key: SessionKey) {
        for _ in 0..WRITES_PER_TURN {
            let Some(session) = self.table.get(key) else { return };
            match self.turn.step(session) {
                Next::Rest if !session.wants_place() => return,
                Next::Rest => self.tell_place(key),
                Next::Step => {}
                Next::Park => {
                    session.blocked_since.get_or_insert(self.turn.now);
                    session.behind = true;
                    session.lay_feed_aside();
                    if !session.watch_writable() {
                        return;
                    }
                }
                Next::Remove => return self.end(key),
                Next::FinishWriting => return session.socket.finish_writing(),
                Next::Overtaken { cursor, offset, index } => self.overtaken(key, cursor, offset, index),
                Next::Lost(reason) => {
                    self.table.leave_group(key);
                    let resets = self.hub.head().resets;
                    self.feed(key, First::Lost(reason), None, resets);
                }
                Next::Join(Joined { cursor, index, at, steps }) => {
                    session.pass_to(steps, &Passage::default());
                    session.mode = Mode::Live(cursor);
                    session.index = index;
                    session.at = at;
                    // It has everything there was; that its socket has blocked on the way says nothing.
                    session.behind = false;
                    session.quiet = false;
                    session.placeless = false;
                    session.untold = true;
                    self.table.enter_group(key);
                }
                Next::Fail(why) => return self.close(key, CloseCode::Internal, &why, None),
                Next::TooSlow(why) => return self.drop_slow(key, why),
                Next::Queue => {
                    if !std::mem::replace(&mut session.queued, true) {
                        self.queue.push_back(key);
                    }
                    return;
                }
            }
        }
        // Others first; this one goes on at the next turn.
        self.doorbell.ready(key);
    }

    /// Gives sessions that catch up what they were fed, in the order in which they became ready, as much as live ones may
    /// be kept waiting for; the others have their turn after them.
    pub(super) fn feed_some(&mut self) {
        let began = Instant::now();
        if self.queue.is_empty() || began < self.feed_at {
            return;
        }
        self.turn.feed_left = FEED_BYTES_PER_TURN;
        while self.turn.feed_left > 0
            && let Some(key) = self.queue.pop_front()
        {
            if let Some(session) = self.table.get(key) {
                session.queued = false;
                self.pump(key);
            }
        }
        self.turn.feed_left = 0;
        let ended = Instant::now();
        self.feed_at = ended + FEED_REST.max(ended - began);
    }

    /// The frames at a session's cursor are gone.
    fn overtaken(&mut self, key: SessionKey, cursor: Cursor, offset: Arc<Offset>, index: Index) {
        let head = self.hub.head();
        let Some(session) = self.table.get(key) else { return };
        // The announcement that the log has gone back may be among what it was overtaken by.
        let resets = head.resets_known_at(session.index);
        // Newest values are no loss to be overtaken by: what has changed meanwhile is what it gets.
        if session.seat.view().key().interval_ms.is_some() {
            self.table.leave_group(key);
            return self.feed(key, First::Nothing, None, resets);
        }
        // A burst that is larger than the ring (the log is back after a while) is nobody's slowness. And what the ring still
        // has is quickly fetched from there: with very many views, each holds less than the ring.
        if !session.behind || self.hub.holds(&session.at) {
            self.table.leave_group(key);
            return self.feed(key, First::Nothing, None, resets);
        }
        if self.shared.settings.slow_client_policy == SlowClientPolicy::Disconnect {
            return self.drop_slow(key, "overtaken by the stream");
        }
        // What it goes on behind is not what it was slow for, if the log has become another one meanwhile.
        let same_log = session.at.epoch == offset.epoch && resets == head.resets;
        let reason = if same_log { GapReason::Slow } else { GapReason::Reset };
        if session.snapshots {
            self.table.leave_group(key);
            return self.feed(key, First::Lost(reason), None, resets);
        }
        let gap = encode::gap(session.wire(), &session.at, &offset, reason);
        session.mode = Mode::Live(cursor);
        session.books.pass_gap(&session.at, &offset);
        session.at = offset;
        session.index = index;
        let fits = session.outbox.put_control(gap);
        self.shared.node.meters.gaps.of(reason.into()).increment(1);
        if !fits {
            self.drop_slow(key, TOO_MANY_CONTROL_FRAMES);
        }
    }
}
