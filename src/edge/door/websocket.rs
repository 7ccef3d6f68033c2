//! `/ws` and `/ws/clients`: from a request over a handshake to a session on the bare socket.

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Admitted, Refusal, handshake, parameters, subscription};
use crate::edge::Edge;
use crate::edge::socket::Socket;
use crate::edge::view::ViewKey;
use crate::edge::wire::Wire;
use crate::edge::writer::Joining;
use crate::ops::meters::{ConnectFailure, Transport};
use crate::ops::reply::ApiError;
use crate::proto::deflate::Agreement;

/// What a request must be to become a session.
struct Accepted {
    key: handshake::Key,
    view: ViewKey,
    compression: Option<Agreement>,
    admitted: Admitted,
    upgrade: OnUpgrade,
}

/// Answers a handshake, and lets the client in behind it.
pub(super) async fn connect(
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
        Err(refusal) => handshake::refuse(edge.refuse(refusal)),
    }
}

async fn accept(
    edge: &Arc<Edge>,
    path: &str,
    method: &Method,
    mut request: Request,
) -> Result<Accepted, Refusal> {
    let key = handshake::check(method, request.headers(), path).map_err(|error| {
        let not_websocket = error.status == StatusCode::UPGRADE_REQUIRED;
        (if not_websocket { ConnectFailure::NotWebSocket } else { ConnectFailure::BadRequest }, error)
    })?;
    let compression = handshake::compression(request.headers(), edge.shared.compressor.is_enabled())
        .map_err(|error| (ConnectFailure::BadRequest, error))?;
    let subscription = subscription(&parameters(request.uri())?, &[])?;
    let admitted = edge.admit(&subscription).await?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| {
        let message = "this connection cannot become a WebSocket: use HTTP/1.1";
        (ConnectFailure::NotWebSocket, ApiError::bad_request("bad_handshake", message))
    })?;
    let view = ViewKey::of(&subscription, Wire::of_websocket(compression.is_some()));
    Ok(Accepted { key, view, compression, admitted, upgrade })
}

/// Hands a client over to a writer, once the answer to its handshake is on its way.
async fn join(edge: &Edge, Accepted { view, admitted, upgrade, .. }: Accepted) {
    let Some((socket, early)) = take_socket(upgrade).await else {
        edge.shared.node.meters.connections_failed.of(ConnectFailure::Handshake).increment(1);
        return;
    };
    bound_kernel_memory(&socket, edge.shared.settings.send_buffer_bytes);
    let Admitted { place, admission } = admitted;
    let (socket, admission) = (Socket::Tcp(socket), Some(admission));
    edge.hand_over(Joining { socket, transport: Transport::WebSocket, early, view, place, admission }).await;
}

/// Keeps a slow client from having megabytes in the kernel, which would grow its send buffer as far as `tcp_wmem` allows.
fn bound_kernel_memory(socket: &TcpStream, bytes: usize) {
    // A kernel that refuses serves the client all the same, with its own bounds.
    let _ = socket2::SockRef::from(socket).set_send_buffer_size(bytes);
}

/// The bare socket under an upgraded connection, and what was read from it already.
async fn take_socket(upgrade: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    let upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}
