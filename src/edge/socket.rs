//! `/ws` and `/ws/clients`: from a request to a session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{OriginalUri, Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::edge::resolve::{Place, resolve};
use crate::edge::view::ViewKey;
use crate::edge::writer::{Command, Joining};
use crate::edge::{Edge, handshake};
use crate::ops::meters::ConnectFailure;
use crate::ops::node::Admission;
use crate::ops::reply::ApiError;
use crate::proto::deflate::Agreement;
use crate::proto::message::Subscription;

/// Bytes that may wait in the kernel unsent before a socket takes no more: what is not sent yet can still be replaced by
/// something newer here, but not there.
const UNSENT_BYTES_MAX: u32 = 32 * 1024;

impl Edge {
    /// The routes of clients.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route("/ws", any(connect)).route("/ws/clients", any(connect)).with_state(self.clone())
    }
}

/// What a request must be to become a session.
struct Accepted {
    key: handshake::Key,
    view: ViewKey,
    compression: Option<Agreement>,
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
            tasks.spawn(async move {
                let shutdown = edge.shutdown.clone();
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = join(&edge, request) => {}
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

/// Hands a client over to a writer, once the answer to its handshake is on its way.
async fn join(edge: &Edge, Accepted { view, place, admission, upgrade, .. }: Accepted) {
    let meters = &edge.shared.node.meters;
    let Some((socket, early)) = take_socket(upgrade).await else {
        meters.connections_failed.of(ConnectFailure::Handshake).increment(1);
        return;
    };
    bound_kernel_memory(&socket, edge.shared.settings.send_buffer_bytes);
    meters.connections_total.increment(1);
    let writer = &edge.writers[fastrand::usize(..edge.writers.len())];
    // A writer that is gone takes no clients: the node has stopped.
    let _ = writer.send(Command::Join(Box::new(Joining { socket, early, view, place, admission }))).await;
}

/// Keeps a slow client from having megabytes in the kernel, which would grow its send buffer as far as `tcp_wmem` allows.
fn bound_kernel_memory(socket: &TcpStream, bytes: usize) {
    let socket = socket2::SockRef::from(socket);
    // A kernel that refuses serves the client all the same, with its own bounds.
    let _ = socket.set_send_buffer_size(bytes);
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
}

/// The bare socket under an upgraded connection, and what was read from it already.
async fn take_socket(upgrade: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    let upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
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
    let view = ViewKey::of(&subscription, compression.is_some());
    Ok(Accepted { key, view, compression, place, admission, upgrade })
}
