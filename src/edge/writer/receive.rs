//! The receive side: from sockets to what clients want.
//!
//! A writer reads its sessions' sockets when they have something, into one buffer for all of them. A request whose place
//! has to be looked up in the log is worked on elsewhere; its session is not read until then, so requests are answered in
//! the order in which they came.

use std::io::ErrorKind;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Writer;
use crate::edge::doorbell::SessionKey;
use crate::edge::encode;
use crate::edge::inbound::{Inbound, MESSAGES_PER_SECOND, Request};
use crate::edge::resolve::{Place, resolve};
use crate::edge::session::{Mode, Session};
use crate::edge::view::ViewKey;
use crate::edge::wire::Wire;
use crate::proto::frame::{Decoder, Event, Opcode, Peer};
use crate::proto::message::{
    ClientMessage, CloseCode, ErrorCode, From, Id, MessageError, ServerMessage, Subscription,
};

/// Bytes read from a socket at a time.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// Reads from one socket before the others get their turn.
const READS_PER_TURN: usize = 4;

impl Writer {
    /// Reads what a client has said, if it has.
    pub(super) fn receive(&mut self, key: SessionKey) {
        self.look_for_place(key);
        for _ in 0..READS_PER_TURN {
            let Some(session) = self.table.get(key) else { return };
            if session.has_to_wait() {
                return;
            }
            if let Some(rest) = session.take_rest() {
                self.hear(key, &rest);
                continue;
            }
            match session.socket.read(&session.waker, &mut self.buffer) {
                Ok(0) => return self.end(key),
                Ok(count) => {
                    session.heard = self.turn.now;
                    self.shared.node.meters.bytes_received.increment(count as u64);
                    let buffer = std::mem::take(&mut self.buffer);
                    self.hear(key, &buffer[..count]);
                    self.buffer = buffer;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !session.watch_readable() {
                        return;
                    }
                }
                Err(_) => return self.end(key),
            }
        }
        // Others first; this one goes on at the next turn.
        self.doorbell.ready(key);
    }

    /// Takes bytes of a client. Each message is answered before the next one is decoded: compressed, a few bytes may be
    /// many messages of the largest size.
    pub(super) fn hear(&mut self, key: SessionKey, mut bytes: &[u8]) {
        let message_bytes_max = self.shared.settings.client_message_bytes_max;
        let Some(session) = self.table.get(key) else { return };
        let mut decoder = session.take_decoder(message_bytes_max);
        loop {
            match self.table.get(key) {
                Some(session) if session.has_to_wait() => return session.inbound().put_off(decoder, bytes),
                // What follows a goodbye is only read so that the connection can end in order.
                Some(session) if session.deaf => return,
                Some(_) => {}
                None => return,
            }
            match decoder.decode(&mut bytes) {
                Ok(Some(event)) => {
                    // A ping may come between the fragments of a message; what else comes is its end.
                    if !decoder.is_mid_message()
                        && let Some(inbound) =
                            self.table.get(key).and_then(|session| session.inbound.as_mut())
                    {
                        inbound.begun = None;
                    }
                    self.answer(key, event);
                }
                Ok(None) => break,
                Err(error) => {
                    self.close(key, error.close_code(), &error.to_string(), None);
                    return self.deafen(key);
                }
            }
        }
        let now = self.turn.now;
        if let Some(session) = self.table.get(key)
            && decoder.is_mid_message()
        {
            let inbound = session.inbound();
            inbound.note_begun(now);
            inbound.put_off(decoder, &[]);
        }
    }

    fn deafen(&mut self, key: SessionKey) {
        if let Some(session) = self.table.get(key) {
            session.deaf = true;
            session.inbound = None;
        }
    }

    fn answer(&mut self, key: SessionKey, event: Event) {
        match event {
            Event::Pong(_) => {}
            Event::Ping(payload) => {
                // Answered even above the rate (RFC 6455 section 5.5.2): what follows it has to wait then.
                self.allows(key);
                self.control(key, encode::control(Opcode::Pong, &payload));
            }
            Event::Close { code, .. } => {
                self.deafen(key);
                self.close(key, code.and_then(CloseCode::from_number).unwrap_or(CloseCode::Normal), "", None);
                if let Some(Session { mode: Mode::Closing { answered, .. }, .. }) = self.table.get(key) {
                    *answered = true;
                    self.pump(key);
                }
            }
            Event::Binary(_) => {
                self.shared.node.meters.messages_received.increment(1);
                self.allows(key);
                let message = "messages are JSON in text frames, this was a binary one";
                self.refuse(key, None, ErrorCode::BadMessage, message);
            }
            Event::Text(text) => {
                self.shared.node.meters.messages_received.increment(1);
                self.message(key, &text);
            }
        }
    }

    /// Whether a client may say one more thing now; counts what it may not, and has it wait then.
    fn allows(&mut self, key: SessionKey) -> bool {
        let allows = self.table.get(key).is_some_and(|session| session.inbound().allows());
        if !allows {
            // One that says too much is read once in a second, so that it waits and not we.
            self.shared.node.meters.rate_limited_messages.increment(1);
        }
        allows
    }

    fn message(&mut self, key: SessionKey, text: &str) {
        let message = ClientMessage::parse(text.as_bytes());
        if !self.allows(key) {
            let id = match message {
                Ok(
                    ClientMessage::Subscribe { id, .. }
                    | ClientMessage::Replay { id, .. }
                    | ClientMessage::Ping { id },
                )
                | Err(MessageError { id, .. }) => id,
            };
            let limit = format!("more than {MESSAGES_PER_SECOND} messages per second: this one was not read");
            return self.refuse(key, id, ErrorCode::RateLimited, &limit);
        }
        match message {
            Ok(ClientMessage::Ping { id }) => {
                self.control(key, encode::server(Wire::WebSocket, &ServerMessage::Pong { id: id.as_ref() }));
            }
            Ok(ClientMessage::Subscribe { id, change }) => {
                let Some(session) = self.table.get(key) else { return };
                let subscription = change.apply(&session.subscription());
                let view = ViewKey::of(&subscription, session.wire());
                let ack = ack(id.as_ref(), self.hub.matching(&view.filters), view.interval_ms);
                match subscription.from {
                    Some(from) => self.find_place(key, id, view, ack, from, subscription.snapshot),
                    None => {
                        let place = subscription.snapshot.then(Place::snapshot);
                        self.attach(key, &view, place, id, ack);
                    }
                }
            }
            Ok(ClientMessage::Replay { id, from, snapshot }) => {
                let Some(session) = self.table.get(key) else { return };
                let view = session.seat.view().key().clone();
                let snapshots = snapshot.unwrap_or(session.snapshots);
                let ack = ack(id.as_ref(), None, view.interval_ms);
                self.find_place(key, id, view, ack, from, snapshots);
            }
            Err(MessageError { id, code, message }) => self.refuse(key, id, code, &message),
        }
    }

    /// Has the place looked up that a client asks for. Only the log may know it.
    fn find_place(
        &mut self,
        key: SessionKey,
        id: Option<Id>,
        view: ViewKey,
        ack: Bytes,
        from: From,
        snapshots: bool,
    ) {
        let (shared, hub, doorbell) = (self.shared.clone(), self.hub.clone(), self.doorbell.clone());
        let (mut answer, place) = oneshot::channel();
        self.shared.tasks.spawn(async move {
            let place = tokio::select! {
                // The session is gone.
                () = answer.closed() => return,
                place = resolve(&shared, &hub, Some(from), snapshots) => place,
            };
            let place = place.map_err(|error| format!("{error}; nothing has changed, try again"));
            if answer.send(place).is_ok() {
                doorbell.ready(key);
            }
        });
        if let Some(session) = self.table.get(key) {
            session.inbound().request = Some(Request { id, view, ack, place });
        }
    }

    /// Moves a session to the place that was looked up for it, and goes on with what it said since.
    fn look_for_place(&mut self, key: SessionKey) {
        let Some(session) = self.table.get(key) else { return };
        let Some(inbound) = &mut session.inbound else { return };
        let Some(mut request) = inbound.request.take() else { return };
        match request.place.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => {
                inbound.request = Some(request);
            }
            Ok(Ok(place)) => self.attach(key, &request.view, Some(place), request.id, request.ack),
            Ok(Err(why)) => self.refuse(key, request.id, ErrorCode::Unavailable, &why),
            // Only when the node stops, or when looking it up has failed in a way that nobody thought of.
            Err(oneshot::error::TryRecvError::Closed) => {
                let message = "the place could not be looked up; nothing has changed, try again";
                self.refuse(key, request.id, ErrorCode::Unavailable, message);
            }
        }
    }

    pub(super) fn refuse(&mut self, key: SessionKey, id: Option<Id>, code: ErrorCode, message: &str) {
        let error = ServerMessage::Error { id: id.as_ref(), code, message };
        self.control(key, encode::server(Wire::WebSocket, &error));
    }
}

impl Session {
    fn inbound(&mut self) -> &mut Inbound {
        self.inbound.get_or_insert_with(|| Box::new(Inbound::new()))
    }

    /// The decoder of what the client has begun to say, or a new one.
    fn take_decoder(&mut self, message_bytes_max: usize) -> Decoder {
        let begun = self.inbound.as_mut().and_then(|inbound| inbound.decoder.take());
        begun.unwrap_or_else(|| {
            let decoder = Decoder::new(Peer::Client, message_bytes_max);
            if self.wire() == Wire::Deflated { decoder.inflating() } else { decoder }
        })
    }

    /// Whether nothing more is to be read for now: a request is being worked on, or the client has said too much.
    pub(super) fn has_to_wait(&self) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| inbound.request.is_some() || inbound.paused)
    }

    /// What was read and could not be answered then.
    fn take_rest(&mut self) -> Option<Vec<u8>> {
        let rest = &mut self.inbound.as_mut()?.rest;
        (!rest.is_empty()).then(|| std::mem::take(rest))
    }

    /// What the client has asked for so far.
    fn subscription(&self) -> Subscription {
        let ViewKey { filters, format, interval_ms, .. } = self.seat.view().key().clone();
        let snapshot = self.snapshots;
        Subscription { filters, format, interval_ms, snapshot, ..Subscription::default() }
    }
}

fn ack(id: Option<&Id>, matching: Option<u64>, interval_ms: Option<u32>) -> Bytes {
    encode::server(Wire::WebSocket, &ServerMessage::Ack { id, matching, interval_ms })
}
