//! Writers own the send side of their sessions' sockets and sweep them.
//!
//! A writer sleeps until its doorbell rings, then writes whatever is pending for each cursor in one vectored write. Sessions
//! with the same view and cursor share the work of collecting frames. A socket that takes nothing is left alone until it
//! says that it can be written again; nothing is retried in a loop, and no task is woken per message and client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::edge::Shared;
use crate::edge::catch_up::{CatchUp, Quiet};
use crate::edge::doorbell::{Doorbell, SessionKey};
use crate::edge::encode;
use crate::edge::hub::{Attachment, Head, Hub, Start};
use crate::edge::resolve::Place;
use crate::edge::session::{Heard, Mode, Session};
use crate::edge::view::ViewKey;
use crate::edge::writer::table::Table;
use crate::ops::meters::ReplayOutcome;
use crate::ops::node::Admission;
use crate::proto::frame::{self, Opcode};
use crate::proto::message::{CloseCode, GoodbyeReason, ServerMessage};
use crate::proto::offset::Offset;

mod sweep;
mod table;

/// A client has so long to take its close frame and answer it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two waves of a drain.
const WAVE_INTERVAL: Duration = Duration::from_millis(100);
/// Drained clients come back spread over this time, in milliseconds.
const RECONNECT_SPREAD_MS: std::ops::Range<u64> = 200..5_000;

/// What the rest of an edge asks of a writer.
pub(crate) enum Command {
    /// A new client.
    Join(Box<Joining>),
    /// Frames between the data: answers, pongs.
    Control(SessionKey, Bytes),
    /// The client wants something else, or from another place.
    Attach {
        session: SessionKey,
        view: ViewKey,
        /// Where it goes on; from where it is, if nothing is said.
        place: Option<Place>,
        /// Sent before anything of the new wish.
        ack: Bytes,
    },
    /// Ends a session with a close frame.
    Close(SessionKey, CloseCode, String),
    /// The client has sent a close frame, to be answered if it was not itself the answer to one.
    Answered(SessionKey, CloseCode),
    /// The client is gone.
    Leave(SessionKey),
    /// A message to everybody.
    Broadcast(Bytes),
    /// Sends everybody away, spread over this time.
    Drain(Duration),
}

/// A client that has shaken hands.
pub(crate) struct Joining {
    pub(crate) socket: Arc<TcpStream>,
    pub(crate) view: ViewKey,
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) heard: Heard,
    pub(crate) admission: Admission,
    pub(crate) joined: oneshot::Sender<SessionKey>,
}

/// Owns a share of the sessions.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    doorbell: Arc<Doorbell>,
    table: Table,
    ready: Vec<SessionKey>,
    drain: Option<Drain>,
    sent: Sent,
}

struct Drain {
    per_wave: usize,
}

/// Counted here, handed to the metrics once per turn.
#[derive(Default)]
struct Sent {
    messages: u64,
    bytes: u64,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, hub: Arc<Hub>, doorbell: Arc<Doorbell>) -> Self {
        Self {
            shared,
            hub,
            table: Table::new(doorbell.clone()),
            doorbell,
            ready: Vec::new(),
            drain: None,
            sent: Sent::default(),
        }
    }

    /// Works until `shutdown`; sessions that are left then are hung up.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, shutdown: CancellationToken) {
        let doorbell = self.doorbell.clone();
        let throttle = self.shared.settings.throttle;
        let mut flushed = Instant::now();
        let mut held_back = false;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wave = tokio::time::interval(WAVE_INTERVAL);
        wave.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Every branch is cancel-safe: a bell rung, a command sent and a tick due are kept for the next turn.
            tokio::select! {
                () = doorbell.wait() => {}
                () = tokio::time::sleep_until(flushed + throttle), if held_back => {}
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                _ = second.tick() => self.each_second(),
                _ = wave.tick(), if self.drain.is_some() => self.send_wave_away(),
                () = shutdown.cancelled() => break,
            }
            while let Ok(command) = commands.try_recv() {
                self.obey(command);
            }
            self.resume_ready();
            held_back = !throttle.is_zero() && flushed.elapsed() < throttle;
            if !held_back {
                flushed = Instant::now();
                self.sweep();
            }
            self.sent.hand_over(&self.shared);
        }
        self.table.sessions().for_each(Session::hang_up);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Join(joining) => self.join(*joining),
            Command::Control(key, frame) => self.control(key, frame),
            Command::Attach { session, view, place, ack } => self.attach(session, &view, place, ack),
            Command::Close(key, code, reason) => self.close(key, code, &reason, None),
            Command::Answered(key, code) => {
                self.close(key, code, "", None);
                if let Some(session) = self.table.get(key)
                    && let Mode::Closing { answered, .. } = &mut session.mode
                {
                    *answered = true;
                    self.pump_alone(key);
                }
            }
            Command::Leave(key) => self.remove(key),
            Command::Broadcast(frame) => {
                for key in self.table.keys() {
                    self.control(key, frame.clone());
                }
            }
            Command::Drain(over) => {
                let waves = (over.as_millis() / WAVE_INTERVAL.as_millis()).max(1) as usize;
                self.drain = Some(Drain { per_wave: self.table.keys().len().div_ceil(waves).max(1) });
            }
        }
    }

    fn join(&mut self, joining: Joining) {
        let key = self.table.next_key();
        if joining.joined.send(key).is_err() {
            // The task that reads the socket is gone already.
            return;
        }
        let Attachment { view: seat, at, .. } = self.hub.attach(&joining.view, None);
        let now = Instant::now();
        self.table.insert(Session {
            key,
            socket: joining.socket,
            seat,
            mode: Mode::Starting,
            member: None,
            outbox: Default::default(),
            at,
            index: 0,
            blocked_since: None,
            behind: false,
            waker: None,
            offset_sent: now,
            ping_sent: now,
            heard: joining.heard,
            _admission: joining.admission,
        });
        self.begin(key, &joining.view, joining.place, |shared, offset| {
            encode::server(&ServerMessage::Welcome {
                node: &shared.node.id,
                session: &joining.name,
                offset: &offset.token(),
                heartbeat_ms: shared.settings.heartbeat.as_millis() as u64,
            })
        });
    }

    fn attach(&mut self, key: SessionKey, view: &ViewKey, place: Option<Place>, ack: Bytes) {
        let Some(session) = self.table.get(key) else { return };
        if session.is_closing() {
            return;
        }
        self.table.leave_group(key);
        self.retract(key);
        let Some(session) = self.table.get(key) else { return };
        let place = place.unwrap_or_else(|| Place::at((*session.at).clone()));
        self.begin(key, view, place, |_, _| ack);
    }

    /// Puts a session at a place of a view, after a first message that may name the place.
    fn begin(
        &mut self,
        key: SessionKey,
        view: &ViewKey,
        place: Place,
        first: impl FnOnce(&Shared, &Offset) -> Bytes,
    ) {
        let (hub, shared) = (self.hub.clone(), self.shared.clone());
        let Some(session) = self.table.get(key) else { return };
        let (quiet, gap) = (place.quiet, place.gap.clone());
        let Attachment { view: seat, at, start } = hub.attach(view, place.at);
        // A client that loses its connection before it reads the gap must meet the gap again: what it learns first is
        // the place before it.
        let known = gap.as_ref().map_or(&*at, |(from, _)| from);
        let mut fits = session.outbox.put_control(first(&shared, known));
        if matches!(session.mode, Mode::Starting)
            && let Some(silence) = shared.stale()
        {
            fits &= session.outbox.put_control(encode::server(&ServerMessage::Stale { since_ms: silence }));
        }
        if let Some((from, reason)) = &gap {
            fits &= session.outbox.put_control(encode::gap(from, &at, *reason));
            shared.node.meters.gaps.of((*reason).into()).increment(1);
        }
        session.at = at.clone();
        session.offset_sent = Instant::now();
        session.seat = seat;
        match start {
            Start::Live(cursor, index) => {
                session.mode = Mode::Live(cursor);
                session.index = index;
                self.table.enter_group(key);
                if let Some(outcome) = place.replay {
                    shared.node.meters.replay_requests.of(outcome).increment(1);
                }
            }
            Start::CatchUp => self.feed(key, quiet, place.replay),
        }
        if fits { self.pump_alone(key) } else { self.remove(key) }
    }

    /// Has a session fed from its place until it can join its view.
    fn feed(&mut self, key: SessionKey, quiet: bool, outcome: Option<ReplayOutcome>) {
        let (hub, shared, doorbell) = (self.hub.clone(), self.shared.clone(), self.doorbell.clone());
        let Some(session) = self.table.get(key) else { return };
        let (feed, fed) = mpsc::channel(1);
        session.mode = Mode::CatchingUp(fed);
        let (view, at) = (session.seat.view().clone(), (*session.at).clone());
        let quiet = Quiet::all(quiet);
        CatchUp { shared, hub, view, at, quiet, outcome, feed, doorbell, session: key }.spawn();
    }

    fn control(&mut self, key: SessionKey, frame: Bytes) {
        let Some(session) = self.table.get(key) else { return };
        if session.is_closing() {
            return;
        }
        if session.outbox.put_control(frame) {
            self.pump_alone(key);
        } else {
            self.drop_slow(key, "control frames pile up");
        }
    }

    /// Takes back what a session has not begun to write, so that its place is exactly what its client will have.
    fn retract(&mut self, key: SessionKey) {
        let head = self.hub.head();
        let Some(session) = self.table.get(key) else { return };
        session.note_idle(&head);
        if let Some(last) = session.outbox.retract() {
            session.at = last.offset;
        }
    }

    /// Sends a last goodbye and a close frame, and lets the client a moment to answer.
    fn close(&mut self, key: SessionKey, code: CloseCode, reason: &str, goodbye: Option<GoodbyeReason>) {
        self.retract(key);
        self.table.leave_group(key);
        let Some(session) = self.table.get(key) else { return };
        if session.is_closing() {
            return;
        }
        session.mode = Mode::Closing { until: Instant::now() + CLOSE_TIMEOUT, answered: false };
        let mut fits = true;
        if let Some(reason) = goodbye {
            fits &= session.outbox.put_control(encode::server(&ServerMessage::Goodbye {
                reason,
                offset: &session.at.token(),
                reconnect_after_ms: fastrand::u64(RECONNECT_SPREAD_MS),
            }));
        }
        let reason = if reason.is_empty() { code.meaning() } else { reason };
        let payload = frame::close_payload(code.number(), reason);
        fits &= session.outbox.put_control(encode::control(Opcode::Close, &payload));
        if fits { self.pump_alone(key) } else { self.remove(key) }
    }

    fn drop_slow(&mut self, key: SessionKey, why: &str) {
        self.shared.node.meters.slow_clients_disconnected.increment(1);
        tracing::debug!(event = "client_too_slow", why, "slow client disconnected");
        self.close(key, CloseCode::SlowClient, why, Some(GoodbyeReason::Slow));
        // Its socket may never take the close frame.
        self.remove(key);
    }

    fn remove(&mut self, key: SessionKey) {
        if let Some(session) = self.table.remove(key) {
            session.hang_up();
        }
    }

    fn resume_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        self.doorbell.take_ready(&mut ready);
        for key in ready.drain(..) {
            self.pump_alone(key);
        }
        self.ready = ready;
    }

    /// Heartbeats, pings, the reaper, and the gauge of the slowest session.
    fn each_second(&mut self) {
        let heartbeat = self.shared.settings.heartbeat;
        // Two pings without an answer and some time for the last one's way.
        let silence_max = heartbeat * 2 + Duration::from_secs(5);
        let blocked_max = self.shared.settings.slow_client_timeout;
        let head = self.hub.head();
        let now = Instant::now();
        for key in self.table.keys() {
            let Some(session) = self.table.get(key) else { continue };
            if let Mode::Closing { until, .. } = session.mode {
                if now >= until {
                    self.remove(key);
                }
            } else if session.blocked_since.is_some_and(|since| now - since >= blocked_max) {
                self.drop_slow(key, "nothing was read for too long");
            } else if session.heard.silence() >= silence_max {
                self.close(key, CloseCode::Idle, "", None);
            } else {
                self.keep_alive(key, &head, now, heartbeat);
            }
        }
        self.shared.note_lag(self.doorbell.number, self.table.lag(head.index));
    }

    fn keep_alive(&mut self, key: SessionKey, head: &Head, now: Instant, heartbeat: Duration) {
        let Some(session) = self.table.get(key) else { return };
        session.note_idle(head);
        let mut due = Vec::new();
        // A frame that was begun carries a later offset than the session's place: a heartbeat behind it would take the
        // client back. It needs none either, as frames carry offsets themselves.
        if now - session.offset_sent >= heartbeat && session.outbox.wants_batch() {
            session.offset_sent = now;
            due.push(encode::server(&ServerMessage::Heartbeat { offset: &session.at.token() }));
        }
        if now - session.ping_sent >= heartbeat {
            session.ping_sent = now;
            due.push(encode::control(Opcode::Ping, &[]));
        }
        for frame in due {
            self.control(key, frame);
        }
    }

    /// The next clients of a drain: each gets everything that was begun, its offset, and when to come back.
    fn send_wave_away(&mut self) {
        let Some(Drain { per_wave }) = self.drain else { return };
        let staying = self.table.sessions().filter(|session| !session.is_closing());
        let wave: Vec<SessionKey> = staying.map(|session| session.key).take(per_wave).collect();
        for key in wave {
            self.close(key, CloseCode::Draining, "", Some(GoodbyeReason::Draining));
        }
    }
}

impl Sent {
    fn hand_over(&mut self, shared: &Shared) {
        let Self { messages, bytes } = std::mem::take(self);
        if bytes > 0 {
            shared.node.meters.messages_sent.increment(messages);
            shared.node.meters.bytes_sent.increment(bytes);
        }
    }
}
