//! The sweep: from cursors to sockets.

use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::task::Context;

use tokio::time::Instant;

use super::Writer;
use crate::config::SlowClientPolicy;
use crate::edge::catch_up::Fed;
use crate::edge::doorbell::{SessionKey, SessionWaker};
use crate::edge::encode;
use crate::edge::ring::Index;
use crate::edge::session::Mode;
use crate::edge::view::{Batch, Cursor, Pending};
use crate::proto::message::{CloseCode, GapReason};
use crate::proto::offset::Offset;

/// Parts of one vectored write; the kernel takes up to 1024 (IOV_MAX).
const SLICES_MAX: usize = 64;
/// Frames collected for a cursor at a time: with one control frame between them they fit one write.
const BATCH_FRAMES_MAX: usize = SLICES_MAX - 1;
/// Bytes collected for a cursor at a time: a socket's send buffer takes about as much.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Writes to one socket before the others get their turn.
const WRITES_PER_TURN: usize = 4;

/// Frames collected for the last cursor of a view, for the next session at the same cursor.
type Collected = Option<(Cursor, Arc<Batch>)>;

impl Writer {
    /// Gives each view's sessions what is new in it.
    pub(super) fn sweep(&mut self) {
        for view in self.table.due_groups() {
            let mut collected = None;
            let mut at = 0;
            // A session that leaves while it is served makes room for the last one, which is served at its place.
            while let Some(key) = self.table.member(view, at) {
                if self.table.get(key).is_some_and(|session| session.blocked_since.is_none()) {
                    self.pump(key, &mut collected);
                }
                if self.table.member(view, at) == Some(key) {
                    at += 1;
                }
            }
        }
    }

    pub(super) fn pump_alone(&mut self, key: SessionKey) {
        self.pump(key, &mut None);
    }

    /// Writes what is pending for one session, for as long as its socket takes it.
    fn pump(&mut self, key: SessionKey, collected: &mut Collected) {
        for _ in 0..WRITES_PER_TURN {
            self.refill(key, collected);
            let Some(session) = self.table.get(key) else { return };
            if session.outbox.is_empty() {
                match session.mode {
                    Mode::Closing { answered: true, .. } => self.remove(key),
                    Mode::Closing { answered: false, .. } => session.finish_writing(),
                    _ => {}
                }
                return;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = session.outbox.fill(&mut slices);
            match session.socket.try_write_vectored(&slices[..filled]) {
                Ok(written) => {
                    if session.blocked_since.take().is_some() {
                        // It reads, however slowly; its answers to pings may be far behind what it has to read first.
                        session.heard.update();
                    }
                    let completed = session.outbox.advance(written);
                    if let Some((index, offset)) = completed.place {
                        session.index = index;
                        session.at = offset;
                        session.offset_sent = Instant::now();
                    }
                    self.sent.messages += (completed.frames + completed.control) as u64;
                    self.sent.bytes += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.park(key) {
                        return;
                    }
                }
                Err(_) => return self.remove(key),
            }
        }
        // Others first; this one goes on at the next turn.
        self.doorbell.ready(key);
    }

    /// Asks to be told when the socket takes bytes again. True when it does already.
    fn park(&mut self, key: SessionKey) -> bool {
        let doorbell = self.doorbell.clone();
        let Some(session) = self.table.get(key) else { return false };
        session.blocked_since.get_or_insert_with(Instant::now);
        session.behind = true;
        let waker = session.waker.get_or_insert_with(|| SessionWaker::waker(doorbell, key));
        let socket = &session.socket;
        // Outside of tokio's budget per turn: beyond it, a socket would be called ready instead of being watched.
        let watched = tokio::task::unconstrained(poll_fn(|context| socket.poll_write_ready(context)));
        std::pin::pin!(watched).poll(&mut Context::from_waker(waker)).is_ready()
    }

    /// Puts the next frames into an outbox that has none.
    fn refill(&mut self, key: SessionKey, collected: &mut Collected) {
        let policy = self.shared.settings.slow_client_policy;
        let Some(session) = self.table.get(key) else { return };
        if !session.outbox.wants_batch() {
            return;
        }
        match &mut session.mode {
            Mode::Starting | Mode::Closing { .. } => {}
            Mode::CatchingUp(fed) => match fed.try_recv() {
                Ok(Fed::Frames(batch)) => session.outbox.put_batch(batch),
                Ok(Fed::Joined { cursor, index, at }) => {
                    session.mode = Mode::Live(cursor);
                    session.index = index;
                    session.at = at;
                    self.table.enter_group(key);
                    self.refill(key, collected);
                }
                Ok(Fed::Failed(why)) => self.close(key, CloseCode::Internal, &why, None),
                Err(_) => {}
            },
            Mode::Live(cursor) => {
                if let Some((at, batch)) = collected
                    && at == cursor
                {
                    *cursor += batch.frames.len() as u64;
                    return session.outbox.put_batch(batch.clone());
                }
                match session.seat.view().pending(*cursor, BATCH_FRAMES_MAX, BATCH_BYTES_MAX) {
                    Pending::Nothing => session.behind = false,
                    Pending::Frames(batch) => {
                        *collected = Some((*cursor, batch.clone()));
                        *cursor += batch.frames.len() as u64;
                        session.outbox.put_batch(batch);
                    }
                    // A burst that is larger than the ring (the log is back after a while) is nobody's slowness.
                    Pending::Overtaken { .. } if !session.behind => {
                        self.table.leave_group(key);
                        self.feed(key, false, None);
                    }
                    Pending::Overtaken { cursor, offset, index } => match policy {
                        SlowClientPolicy::Disconnect => self.drop_slow(key, "overtaken by the stream"),
                        SlowClientPolicy::Skip => self.skip(key, cursor, offset, index),
                    },
                }
            }
        }
    }

    /// Announces what a slow client will not get, and goes on behind it.
    fn skip(&mut self, key: SessionKey, cursor: Cursor, offset: Arc<Offset>, index: Index) {
        let Some(session) = self.table.get(key) else { return };
        let gap = encode::gap(&session.at, &offset, GapReason::Slow);
        session.mode = Mode::Live(cursor);
        session.at = offset;
        session.index = index;
        let fits = session.outbox.put_control(gap);
        self.shared.node.meters.gaps.of(GapReason::Slow.into()).increment(1);
        if !fits {
            self.drop_slow(key, "control frames pile up");
        }
    }
}
