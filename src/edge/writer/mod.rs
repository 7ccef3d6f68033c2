//! Writers own their sessions' sockets: they sweep the send side, and read the receive side when there is something.
//!
//! A writer sleeps until its doorbell rings, then writes whatever is pending for each cursor in one write. Sessions with
//! the same view and cursor share the work of building it. A socket that takes nothing is left alone until it says that it
//! can be written again; nothing is retried in a loop. There is no task per session: none is woken per message and
//! client, and an idle session costs its struct and its socket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::edge::Shared;
use crate::edge::books::{Books, Fates, Total};
use crate::edge::catch_up::CatchUp;
use crate::edge::conflate::resume::Resume;
use crate::edge::doorbell::{Doorbell, SessionKey, SessionWaker};
use crate::edge::encode::{self, Said};
use crate::edge::feed::Feed;
use crate::edge::hub::{Attachment, Hub, Start};
use crate::edge::outbox::Outbox;
use crate::edge::resolve::{First, Place};
use crate::edge::session::{Mode, Session};
use crate::edge::socket::Socket;
use crate::edge::view::{Seat, ViewKey};
use crate::edge::way::{Quiet, Way};
use crate::edge::wire::Wire;
use crate::edge::writer::clock::Clock;
use crate::edge::writer::sweep::Turn;
use crate::edge::writer::table::Table;
use crate::ops::meters::{ConnectionEnd, ReplayOutcome, Transport};
use crate::ops::node::Admission;
use crate::proto::message::{CloseCode, ErrorCode, GoodbyeReason, Id, ServerMessage};
use crate::proto::offset::Offset;

mod clock;
mod receive;
mod sweep;
mod table;

/// A client has so long to take its last and, on a WebSocket, to answer it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Why a client is sent away that makes answers and does not read them.
const TOO_MANY_CONTROL_FRAMES: &str = "control frames pile up";
/// Between two waves of a drain.
const WAVE_INTERVAL: Duration = Duration::from_millis(100);
/// Drained clients come back spread over this time, in milliseconds.
const RECONNECT_SPREAD_MS: std::ops::Range<u64> = 200..5_000;

/// What the rest of an edge asks of a writer.
pub(crate) enum Command {
    /// A new client.
    Join(Box<Joining>),
    /// A message to everybody.
    Broadcast(Arc<Said>),
    /// Sends everybody away, spread over this time.
    Drain(Duration),
}

/// A client that has been let in.
pub(crate) struct Joining {
    pub(crate) socket: Socket,
    pub(crate) transport: Transport,
    /// What the client sent right behind its handshake.
    pub(crate) early: Bytes,
    pub(crate) seat: Seat,
    pub(crate) place: Place,
    /// Unless somebody else holds the client's place.
    pub(crate) admission: Option<Admission>,
}

/// Owns a share of the sessions.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    doorbell: Arc<Doorbell>,
    table: Table,
    turn: Turn,
    clock: Clock,
    /// Sessions of each wave of a drain.
    wave: Option<usize>,
    /// Sessions that catch up and have something to write, in the order of their turns.
    queue: VecDeque<SessionKey>,
    /// When they are given something next.
    feed_at: Instant,
    /// Kept to be used again; empty between two uses.
    ready: Vec<SessionKey>,
    buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, hub: Arc<Hub>, doorbell: Arc<Doorbell>) -> Self {
        Self {
            shared,
            hub,
            table: Table::new(doorbell.clone()),
            doorbell,
            turn: Turn::new(),
            clock: Clock::default(),
            wave: None,
            queue: VecDeque::new(),
            feed_at: Instant::now(),
            ready: Vec::new(),
            buffer: vec![0; receive::READ_BYTES],
        }
    }

    /// Works until `shutdown`; sessions that are left then are hung up.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, shutdown: CancellationToken) {
        let doorbell = self.doorbell.clone();
        let throttle = self.shared.settings.throttle;
        let mut flushed = Instant::now();
        let mut held_back = false;
        let mut tick = tokio::time::interval(clock::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wave = tokio::time::interval(WAVE_INTERVAL);
        wave.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (mut ticked, mut wave_is_due) = (false, false);
            // Every branch is cancel-safe: a bell rung, a command sent and a tick due are kept for the next turn.
            let command = tokio::select! {
                () = doorbell.wait() => None,
                () = tokio::time::sleep_until(flushed + throttle), if held_back => None,
                () = tokio::time::sleep_until(self.feed_at), if !self.queue.is_empty() => None,
                Some(command) = commands.recv() => Some(command),
                _ = tick.tick() => { ticked = true; None }
                _ = wave.tick(), if self.wave.is_some() => { wave_is_due = true; None }
                () = shutdown.cancelled() => break,
            };
            self.turn.now = Instant::now();
            command.into_iter().for_each(|command| self.obey(command));
            while let Ok(command) = commands.try_recv() {
                self.obey(command);
            }
            self.resume_ready();
            if ticked {
                self.tick();
            }
            if let Some(clients) = self.wave.filter(|_| wave_is_due) {
                self.send_wave_away(clients);
            }
            held_back = !throttle.is_zero() && self.turn.now < flushed + throttle;
            if !held_back && self.sweep() && !throttle.is_zero() {
                // From the end of the flush on: one that takes longer than the throttle would void it otherwise.
                flushed = Instant::now();
            }
            self.feed_some();
            self.turn.end(&self.shared);
            // A writer whose bell never stops must not keep the other tasks of its thread from their work.
            tokio::task::yield_now().await;
        }
        self.table.keys().into_iter().for_each(|key| self.end(key));
        self.turn.end(&self.shared);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Join(joining) => self.join(*joining),
            Command::Broadcast(said) => {
                for key in self.table.keys() {
                    let wire = self.table.get(key).map(|session| session.wire());
                    wire.into_iter().for_each(|wire| self.control(key, said.on(wire)));
                }
            }
            Command::Drain(over) => {
                let waves = (over.as_millis() / WAVE_INTERVAL.as_millis()).max(1) as usize;
                self.wave = Some(self.table.keys().len().div_ceil(waves).max(1));
            }
        }
    }

    fn join(&mut self, joining: Joining) {
        let Joining { socket, transport, early, seat, place, admission } = joining;
        let key = self.table.next_key();
        let ViewKey { wire, interval_ms, .. } = *seat.view().key();
        let matching = self.hub.matching(&seat.view().key().filters);
        let Attachment { view: seat, at, start } = self.hub.attach(seat, place.at.clone());
        let now = self.turn.now;
        let name = fastrand::u64(..);
        self.table.insert(Session {
            key,
            socket,
            transport,
            seat,
            mode: Mode::Starting,
            member: None,
            outbox: Default::default(),
            books: Books::open(name, at.clone()),
            at,
            index: 0,
            quiet: false,
            blocked_since: None,
            behind: false,
            waker: SessionWaker::waker(self.doorbell.clone(), key),
            offset_sent: now,
            ping_sent: now,
            heard: now,
            inbound: None,
            deaf: false,
            snapshots: false,
            placeless: false,
            untold: true,
            queued: false,
            _admission: admission,
        });
        let name = format!("{name:016x}");
        let stale = self.shared.stale();
        self.begin(key, start, place, |shared, offset, outbox| {
            let offset = offset.map(Offset::token);
            let welcome = ServerMessage::Welcome {
                node: &shared.node.id,
                session: &name,
                offset: offset.as_deref(),
                heartbeat_ms: shared.settings.heartbeat.as_millis() as u64,
                matching,
                interval_ms,
            };
            let mut fits = true;
            if wire == Wire::Events {
                fits &= outbox.put_control(encode::retry(fastrand::u64(RECONNECT_SPREAD_MS)));
            }
            fits &= outbox.put_control(encode::server(wire, &welcome));
            if let Some(silence) = stale {
                let stale = ServerMessage::Stale { since_ms: silence };
                fits &= outbox.put_control(encode::server(wire, &stale));
            }
            fits
        });
        self.hear(key, &early);
        // Asks for the first time to be told when the client says something.
        self.receive(key);
    }

    /// Gives a session another view or place, unless there are too many views: then nothing changes.
    fn attach(&mut self, key: SessionKey, view: &ViewKey, place: Option<Place>, id: Option<Id>, ack: Bytes) {
        let Some(session) = self.table.get(key) else { return };
        if session.is_closing() {
            return;
        }
        let seat = match self.hub.seat(view, session.seat.client(), Some(&session.seat)) {
            Ok(seat) => seat,
            Err(excess) => {
                self.shared.node.meters.views_refused.of(excess.reason()).increment(1);
                return self.refuse(key, id, ErrorCode::TooManyViews, &excess.to_string());
            }
        };
        self.table.leave_group(key);
        let head = self.hub.head();
        let Some(session) = self.table.get(key) else { return };
        session.note_idle(&head);
        let (at, quiet) = (&session.at, session.quiet);
        let place = place.unwrap_or_else(|| Place { quiet, ..Place::at((**at).clone()) });
        let Attachment { view: seat, at, start } = self.hub.attach(seat, place.at.clone());
        session.books.go_on_at(&session.at, at.clone());
        (session.seat, session.at) = (seat, at);
        self.begin(key, start, place, |_, _, outbox| outbox.put_control(ack));
    }

    /// Lets a session go on from the place it has been given, after a first message that may name the place.
    fn begin(
        &mut self,
        key: SessionKey,
        start: Start,
        Place { gap, quiet, replay, snapshots, first, .. }: Place,
        say: impl FnOnce(&Shared, Option<&Offset>, &mut Outbox) -> bool,
    ) {
        let shared = self.shared.clone();
        let Some(session) = self.table.get(key) else { return };
        // A client that loses its connection before it reads the gap must meet the gap again: what it learns first is
        // the place before it.
        let known = gap.as_ref().map_or(&*session.at, |(from, _)| from);
        (session.snapshots, session.placeless) = (snapshots, first == First::Snapshot);
        let mut fits = say(&shared, Some(known).filter(|_| !session.placeless), &mut session.outbox);
        if let Some((from, reason)) = &gap {
            session.books.begin_with_gap(from, &session.at);
            fits &= session.outbox.put_control(encode::gap(session.wire(), from, &session.at, *reason));
            shared.node.meters.gaps.of((*reason).into()).increment(1);
        }
        session.offset_sent = self.turn.now;
        session.quiet = quiet && matches!(start, Start::CatchUp);
        match start {
            Start::Live(cursor, index) if first == First::Nothing => {
                session.mode = Mode::Live(cursor);
                session.index = index;
                self.table.enter_group(key);
                if let Some(outcome) = replay {
                    shared.node.meters.replay_requests.of(outcome).increment(1);
                }
            }
            Start::Live(..) | Start::CatchUp => {
                // A poll that has still to be led to its view knows the place that it came with: told again, it would take
                // that for the end of the way. With an interval, the way may be to wait.
                session.untold = session.seat.view().key().interval_ms.is_some();
                let resets = self.hub.head().resets;
                self.feed(key, first, replay, resets);
            }
        }
        if fits { self.pump(key) } else { self.drop_slow(key, TOO_MANY_CONTROL_FRAMES) }
    }

    /// Has a session fed from its place until it can join its view. It knows of so many `resets` of the log.
    fn feed(&mut self, key: SessionKey, first: First, outcome: Option<ReplayOutcome>, resets: u64) {
        let (hub, shared) = (self.hub.clone(), self.shared.clone());
        let Some(session) = self.table.get(key) else { return };
        let (feed, feeder) = Feed::new(self.doorbell.clone(), key);
        let placed = !matches!(session.mode, Mode::Starting);
        session.mode = Mode::CatchingUp(Box::new(feed));
        session.index = 0;
        let (view, at, snapshots) = (session.seat.view().clone(), session.at.clone(), session.snapshots);
        let quiet = if session.quiet { Quiet::ALL } else { Quiet::NONE };
        let newest_only = view.key().interval_ms.is_some();
        let way = Way { shared, hub, view, at, quiet, snapshots, placed, resets, outcome, feeder };
        if newest_only {
            way.spawn(|way| Resume::new(way).run(first));
        } else {
            way.spawn(|way| CatchUp::new(way).run(first));
        }
    }

    fn control(&mut self, key: SessionKey, frame: Bytes) {
        let Some(session) = self.table.get(key) else { return };
        if session.is_closing() {
            return;
        }
        if session.outbox.put_control(frame) {
            self.pump(key);
        } else {
            self.drop_slow(key, TOO_MANY_CONTROL_FRAMES);
        }
    }

    /// Sends a last goodbye and a close frame, and lets the client a moment to answer.
    fn close(&mut self, key: SessionKey, code: CloseCode, reason: &str, goodbye: Option<GoodbyeReason>) {
        self.table.leave_group(key);
        let head = self.hub.head();
        let Some(session) = self.table.get(key) else { return };
        if session.is_closing() {
            return;
        }
        session.note_idle(&head);
        self.shared.node.meters.connections_closed.of(code.into()).increment(1);
        // Who does not answer frames has nothing to be waited for once everything is written.
        let answered = !session.socket.converses();
        session.mode = Mode::Closing { until: self.turn.now + CLOSE_TIMEOUT, answered };
        let wire = session.wire();
        if let Some(reason) = goodbye {
            let reconnect_after_ms = fastrand::u64(RECONNECT_SPREAD_MS);
            if wire == Wire::Events {
                session.outbox.put_last(encode::retry(reconnect_after_ms));
            }
            let offset = (!session.placeless).then(|| session.at.token());
            let goodbye = ServerMessage::Goodbye { reason, offset: offset.as_deref(), reconnect_after_ms };
            session.outbox.put_last(encode::server(wire, &goodbye));
        }
        session.outbox.put_last(encode::close(wire, code, reason));
        self.pump(key);
    }

    /// Sends a client away that cannot keep up. Its goodbye comes behind everything it has not read, so it may well be
    /// closed before it has read that far.
    fn drop_slow(&mut self, key: SessionKey, why: &str) {
        self.shared.node.meters.slow_clients_disconnected.increment(1);
        tracing::debug!(event = "client_too_slow", why, "slow client disconnected");
        self.close(key, CloseCode::SlowClient, why, Some(GoodbyeReason::Slow));
    }

    /// Ends a session, if it is still here, with its account settled.
    fn end(&mut self, key: SessionKey) {
        self.settle(key);
        let Some(session) = self.table.remove(key) else { return };
        if !session.is_closing() {
            self.shared.node.meters.connections_closed.of(ConnectionEnd::Abnormal).increment(1);
        }
        let Total { session: name, began, settled } = session.books.total();
        let Fates { delivered, filtered, conflated, gap } = settled.fates;
        tracing::debug!(
            event = "session_ended",
            session = %format_args!("{name:016x}"),
            began = %began,
            at = %session.at,
            published = settled.published,
            delivered,
            filtered,
            conflated,
            gap,
            "a client is gone"
        );
    }

    /// Counts what became of everything a session has passed since this was last done.
    fn settle(&mut self, key: SessionKey) {
        let Some(session) = self.table.get(key) else { return };
        let settled = session.books.settle(&session.at);
        if !settled.is_balanced() {
            let session = session.books.total().session;
            tracing::error!(
                event = "session_unbalanced",
                session = %format_args!("{session:016x}"),
                ?settled,
                "what a client was sent, was not, and was told it would not get is not what it has passed"
            );
        }
        self.turn.settled += settled;
    }

    fn resume_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        self.doorbell.take_ready(&mut ready);
        for key in ready.drain(..) {
            self.receive(key);
            self.pump(key);
        }
        self.ready = ready;
    }
}
