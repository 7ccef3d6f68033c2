//! `/ws` and `/ws/clients`: from a request to a session, and the receive side of its socket.

use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{OriginalUri, Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::edge::doorbell::SessionKey;
use crate::edge::hub::Hub;
use crate::edge::resolve::{Place, resolve};
use crate::edge::session::Heard;
use crate::edge::view::ViewKey;
use crate::edge::writer::{Command, Joining};
use crate::edge::{Edge, Shared, encode, handshake};
use crate::ops::meters::ConnectFailure;
use crate::ops::node::Admission;
use crate::ops::reply::ApiError;
use crate::proto::deflate::Agreement;
use crate::proto::frame::{Decoder, Event, Opcode, Peer};
use crate::proto::message::{
    ClientMessage, CloseCode, ErrorCode, From, Id, MessageError, ServerMessage, Subscription,
};

/// Messages a client may send per second, and at once. People and dashboards send a handful per minute.
const MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
const MESSAGES_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Bytes read from a socket at a time; on the stack, so that an idle session holds no buffer.
const READ_BYTES: usize = 4096;
/// Bytes of messages taken out of one read before they are answered. Without compression it is never reached; with it, one
/// read could hold a hundred messages of the largest size.
const EVENT_BYTES_MAX: usize = 64 * 1024;

impl Edge {
    /// The routes of clients.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route("/ws", any(connect)).route("/ws/clients", any(connect)).with_state(self.clone())
    }
}

/// What a request must be to become a session.
struct Accepted {
    key: handshake::Key,
    compression: Option<Agreement>,
    subscription: Subscription,
    place: Place,
    admission: Admission,
    upgrade: OnUpgrade,
}

async fn connect(
    State(edge): State<Arc<Edge>>,
    OriginalUri(uri): OriginalUri,
    method: Method,
    request: Request,
) -> Response {
    match accept(&edge, uri.path(), &method, request).await {
        Ok(request) => {
            let response = request.key.accept(request.compression);
            let tasks = edge.shared.tasks.clone();
            let deflated = request.compression.is_some();
            let reading = Reading { edge: edge.clone(), subscription: request.subscription, deflated };
            let (upgrade, place, admission) = (request.upgrade, request.place, request.admission);
            tasks.spawn(async move {
                let shutdown = reading.edge.shutdown.clone();
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = reading.run(upgrade, place, admission) => {}
                }
            });
            response
        }
        Err((reason, error)) => {
            edge.shared.node.meters.connections_failed.of(reason).increment(1);
            handshake::refuse(error)
        }
    }
}

async fn accept(
    edge: &Arc<Edge>,
    path: &str,
    method: &Method,
    mut request: Request,
) -> Result<Accepted, (ConnectFailure, ApiError)> {
    let key = handshake::check(method, request.headers(), path).map_err(|error| {
        let not_websocket = error.status == StatusCode::UPGRADE_REQUIRED;
        (if not_websocket { ConnectFailure::NotWebSocket } else { ConnectFailure::BadRequest }, error)
    })?;
    let bad_request =
        |code: &'static str, message| (ConnectFailure::BadRequest, ApiError::bad_request(code, message));
    let compression = handshake::compression(request.headers(), edge.shared.compressor.is_enabled())
        .map_err(|error| (ConnectFailure::BadRequest, error))?;
    let parameters = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
        .map_err(|error| bad_request("bad_parameter", error.body_text()))?;
    let subscription = Subscription::from_query(&parameters.0)
        .map_err(|error| bad_request(error.code.as_str(), error.message))?;
    let node = &edge.shared.node;
    if edge.draining.load(Ordering::Relaxed) {
        let message = "this node is draining: connect again, another node will answer";
        return Err((ConnectFailure::Draining, ApiError::unavailable("draining", message, 1)));
    }
    let away = |why: String| {
        let message =
            format!("the log cannot be reached, so there is nothing to show yet: try again ({why})");
        (ConnectFailure::NotReady, ApiError::unavailable("log_unavailable", message, 2))
    };
    let hub = edge.hub.get().ok_or_else(|| away("never since this node started".to_owned()))?;
    if edge.gates.iter().any(|gate| !gate.is_open()) {
        // What is still being read from the log is old: a client that wants what comes next must not get it.
        let message = "this node is still reading what the log holds: try again, or another node";
        return Err((ConnectFailure::NotReady, ApiError::unavailable("not_ready", message, 1)));
    }
    let admission = node.admit().ok_or_else(|| {
        let message =
            format!("this node has its maximum of {} clients: try again, or another node", node.clients_max);
        (ConnectFailure::Capacity, ApiError::unavailable("capacity", message, 5))
    })?;
    // Only for clients that have their place: finding an old one costs reads of the log.
    let place =
        resolve(&edge.shared, hub, subscription.from.clone()).await.map_err(|e| away(e.to_string()))?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| {
        let message = "this connection cannot become a WebSocket: use HTTP/1.1";
        (ConnectFailure::NotWebSocket, ApiError::bad_request("bad_handshake", message))
    })?;
    Ok(Accepted { key, compression, subscription, place, admission, upgrade })
}

/// The receive side of one session.
struct Reading {
    edge: Arc<Edge>,
    subscription: Subscription,
    deflated: bool,
}

/// A session whose socket is being read.
struct Receiver {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    writer: mpsc::Sender<Command>,
    session: SessionKey,
    subscription: Subscription,
    /// Compression was agreed on, for as long as the connection lasts.
    deflated: bool,
    limiter: DefaultDirectRateLimiter,
}

impl Reading {
    async fn run(self, upgrade: OnUpgrade, place: Place, admission: Admission) {
        let Self { edge, subscription, deflated } = self;
        let shared = edge.shared.clone();
        let Some((socket, early)) = take_socket(upgrade).await else {
            shared.node.meters.connections_failed.of(ConnectFailure::Handshake).increment(1);
            return;
        };
        // A hub exists: there was one when the request was accepted.
        let Some(hub) = edge.hub.get().cloned() else { return };
        shared.node.meters.connections_total.increment(1);
        let writer = edge.writers[fastrand::usize(..edge.writers.len())].clone();
        let heard = Heard::now();
        let (joined, joining) = oneshot::channel();
        let join = Joining {
            socket: socket.clone(),
            view: view_key(&subscription, deflated),
            place,
            name: format!("{:016x}", fastrand::u64(..)),
            heard: heard.clone(),
            admission,
            joined,
        };
        if writer.send(Command::Join(Box::new(join))).await.is_err() {
            return;
        }
        let Ok(session) = joining.await else { return };
        let limiter = RateLimiter::direct(Quota::per_second(MESSAGES_PER_SECOND).allow_burst(MESSAGES_BURST));
        let message_bytes_max = shared.settings.client_message_bytes_max;
        let mut receiver = Receiver { shared, hub, writer, session, subscription, deflated, limiter };
        let mut decoder = Decoder::new(Peer::Client, message_bytes_max);
        if deflated {
            decoder = decoder.inflating();
        }
        if receiver.take(&mut decoder, &early).await {
            receiver.read(&socket, &mut decoder, &heard).await;
        }
        let _ = receiver.writer.send(Command::Leave(session)).await;
    }
}

/// The bare socket under an upgraded connection, and what was read from it already.
async fn take_socket(upgrade: OnUpgrade) -> Option<(Arc<TcpStream>, bytes::Bytes)> {
    let upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((Arc::new(parts.io.into_inner()), parts.read_buf))
}

fn view_key(subscription: &Subscription, deflated: bool) -> ViewKey {
    ViewKey { filters: subscription.filters.clone(), format: subscription.format, deflated }
}

impl Receiver {
    /// Reads until the client is gone or has to go.
    async fn read(&mut self, socket: &TcpStream, decoder: &mut Decoder, heard: &Heard) {
        loop {
            if socket.readable().await.is_err() {
                return;
            }
            let mut events = Vec::new();
            let mut bytes = 0;
            let result = read_events(socket, decoder, &mut events, &mut bytes);
            if bytes > 0 {
                heard.update();
                self.shared.node.meters.bytes_received.increment(bytes as u64);
            }
            for event in events {
                if !self.answer(event).await {
                    // After a close frame nothing counts any more but the end of the connection.
                    return wait_for_end(socket).await;
                }
            }
            match result {
                Ok(More::Later(rest)) => {
                    if !self.take(decoder, &rest).await {
                        return wait_for_end(socket).await;
                    }
                }
                Ok(More::End) | Err(ReadError::Socket) => return,
                Err(ReadError::Protocol(error)) => {
                    self.close(error.close_code(), error.to_string()).await;
                    return wait_for_end(socket).await;
                }
            }
        }
    }

    /// Takes bytes that were read already, one event at a time. False when the session ends with them.
    async fn take(&mut self, decoder: &mut Decoder, mut bytes: &[u8]) -> bool {
        loop {
            match decoder.decode(&mut bytes) {
                Ok(Some(event)) => {
                    if !self.answer(event).await {
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(error) => {
                    self.close(error.close_code(), error.to_string()).await;
                    return false;
                }
            }
        }
    }

    /// False when nothing more is to be read.
    async fn answer(&mut self, event: Event) -> bool {
        match event {
            Event::Pong(_) => true,
            Event::Ping(payload) => {
                if self.limiter.check().is_ok() {
                    self.send(encode::control(Opcode::Pong, &payload)).await;
                } else {
                    self.shared.node.meters.rate_limited_messages.increment(1);
                }
                true
            }
            Event::Close { code, .. } => {
                let code = code.and_then(CloseCode::from_number).unwrap_or(CloseCode::Normal);
                let _ = self.writer.send(Command::Answered(self.session, code)).await;
                false
            }
            Event::Binary(_) => {
                self.refuse(
                    None,
                    ErrorCode::BadMessage,
                    "messages are JSON in text frames, this was a binary one",
                )
                .await;
                true
            }
            Event::Text(text) => {
                self.shared.node.meters.messages_received.increment(1);
                self.message(&text).await;
                true
            }
        }
    }

    async fn message(&mut self, text: &str) {
        let message = ClientMessage::parse(text.as_bytes());
        if self.limiter.check().is_err() {
            self.shared.node.meters.rate_limited_messages.increment(1);
            let id = match &message {
                Ok(
                    ClientMessage::Subscribe { id, .. }
                    | ClientMessage::Replay { id, .. }
                    | ClientMessage::Ping { id },
                ) => id.clone(),
                Err(error) => error.id.clone(),
            };
            let limit = format!("more than {MESSAGES_PER_SECOND} messages per second: this one was not read");
            return self.refuse(id, ErrorCode::RateLimited, &limit).await;
        }
        match message {
            Ok(ClientMessage::Ping { id }) => {
                self.send(encode::server(&ServerMessage::Pong { id: id.as_ref() })).await;
            }
            Ok(ClientMessage::Subscribe { id, change }) => {
                let subscription = change.apply(&self.subscription);
                self.attach(id, subscription).await;
            }
            Ok(ClientMessage::Replay { id, from }) => {
                let subscription = Subscription { from: Some(from), ..self.subscription.clone() };
                self.attach(id, subscription).await;
            }
            Err(MessageError { id, code, message }) => self.refuse(id, code, &message).await,
        }
    }

    /// Moves the session to what `subscription` asks for, and acknowledges it.
    async fn attach(&mut self, id: Option<Id>, subscription: Subscription) {
        let place = match &subscription.from {
            None => None,
            Some(from) => match self.resolve(from.clone()).await {
                Ok(place) => Some(place),
                Err(why) => return self.refuse(id, ErrorCode::Unavailable, &why).await,
            },
        };
        let view = view_key(&subscription, self.deflated);
        let ack = encode::server(&ServerMessage::Ack { id: id.as_ref() });
        self.subscription = subscription;
        let _ = self.writer.send(Command::Attach { session: self.session, view, place, ack }).await;
    }

    async fn resolve(&self, from: From) -> Result<Place, String> {
        resolve(&self.shared, &self.hub, Some(from))
            .await
            .map_err(|error| format!("{error}; nothing has changed, try again"))
    }

    async fn refuse(&self, id: Option<Id>, code: ErrorCode, message: &str) {
        self.send(encode::server(&ServerMessage::Error { id: id.as_ref(), code, message })).await;
    }

    /// A writer that is gone has hung up already.
    async fn send(&self, frame: bytes::Bytes) {
        let _ = self.writer.send(Command::Control(self.session, frame)).await;
    }

    async fn close(&self, code: CloseCode, reason: String) {
        let _ = self.writer.send(Command::Close(self.session, code, reason)).await;
    }
}

/// Whether a socket may bring more.
enum More {
    /// Perhaps; and these bytes were read and not decoded yet.
    Later(Vec<u8>),
    End,
}

enum ReadError {
    Socket,
    Protocol(crate::proto::frame::FrameError),
}

/// Reads what is there, without waiting.
fn read_events(
    socket: &TcpStream,
    decoder: &mut Decoder,
    events: &mut Vec<Event>,
    bytes: &mut usize,
) -> Result<More, ReadError> {
    let mut buffer = [0; READ_BYTES];
    match socket.try_read(&mut buffer) {
        Ok(0) => Ok(More::End),
        Ok(count) => {
            *bytes += count;
            let mut rest = &buffer[..count];
            let mut held = 0;
            while held < EVENT_BYTES_MAX
                && let Some(event) = decoder.decode(&mut rest).map_err(ReadError::Protocol)?
            {
                held += event.bytes();
                events.push(event);
            }
            Ok(More::Later(rest.to_vec()))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(More::Later(Vec::new())),
        Err(_) => Err(ReadError::Socket),
    }
}

/// Reads and forgets until the peer, or the writer after its time-out, ends the connection.
async fn wait_for_end(socket: &TcpStream) {
    let mut buffer = [0; 256];
    while socket.readable().await.is_ok() {
        match socket.try_read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
