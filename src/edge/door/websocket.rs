//! `/ws` and `/ws/clients`: from a request over a handshake to a session on the bare socket.

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::http::{Method, Uri, header};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::{Address, Admitted, Refusal, parameters, refused};
use crate::edge::Edge;
use crate::edge::encode;
use crate::edge::socket::Socket;
use crate::edge::wire::Wire;
use crate::edge::writer::Joining;
use crate::ops::http::{handshake, take_socket};
use crate::ops::meters::{ConnectFailure, Transport};
use crate::ops::reply::ApiError;
use crate::proto::deflate::Agreement;
use crate::proto::message::{CloseCode, MessageError, Rules, ServerMessage, Subscription};

/// Browsers that are being told why they are refused, at a time. More get the plain answer, which their pages cannot read.
pub(crate) const REFUSALS_MAX: usize = 256;

/// A request that can become a WebSocket.
struct Handshake {
    key: handshake::Key,
    compression: Option<Agreement>,
    upgrade: OnUpgrade,
    /// A browser sent it: its page sees nothing of an answer that is none to a handshake.
    is_of_browser: bool,
}

/// Answers a handshake, and lets the client in behind it.
pub(super) async fn connect(
    State(edge): State<Arc<Edge>>,
    OriginalUri(uri): OriginalUri,
    method: Method,
    request: Request,
) -> Response {
    let address = Address::of(request.extensions());
    let Handshake { key, compression, upgrade, is_of_browser } =
        match shake_hands(&edge, uri.path(), &method, request) {
            Ok(handshake) => handshake,
            Err(refusal) => return handshake::refuse(edge.refuse(refusal)),
        };
    let subscription = match read(&uri) {
        Ok(subscription) => subscription,
        Err(error) => {
            let refusal = edge.refuse(refused(error.clone()));
            let turn = edge.refusals.clone().try_acquire_owned();
            let (true, Ok(turn)) = (is_of_browser, turn) else { return handshake::refuse(refusal) };
            edge.spawn_until_stopped(tell(upgrade, error, turn));
            return key.accept(None);
        }
    };
    let wire = Wire::of_websocket(compression.is_some());
    match edge.admit(&subscription, wire, address).await {
        Ok(admitted) => {
            let joining = edge.clone();
            edge.spawn_until_stopped(async move { join(&joining, upgrade, admitted).await });
            key.accept(compression)
        }
        Err(refusal) => handshake::refuse(edge.refuse(refusal)),
    }
}

fn shake_hands(edge: &Edge, path: &str, method: &Method, mut request: Request) -> Result<Handshake, Refusal> {
    let how = format!(
        "{path} is a WebSocket: connect with a WebSocket client, such as `websocat ws://HOST:PORT{path}` or a browser's \
         `new WebSocket(\"ws://HOST:PORT{path}\")`"
    );
    let key = handshake::check(method, request.version(), request.headers(), &how)
        .map_err(|error| (handshake::reason(&error), error))?;
    let compression = handshake::compression(request.headers(), edge.shared.compressor.is_enabled())
        .map_err(|error| (ConnectFailure::BadRequest, error))?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| {
        let message = "this connection cannot become a WebSocket: use HTTP/1.1";
        (ConnectFailure::NotWebSocket, ApiError::bad_request("bad_handshake", message))
    })?;
    let is_of_browser = request.headers().contains_key(header::ORIGIN);
    Ok(Handshake { key, compression, upgrade, is_of_browser })
}

fn read(uri: &Uri) -> Result<Subscription, MessageError> {
    Subscription::from_query(&parameters(uri)?, Rules::default())
}

/// Tells a browser why it is refused, where its page can read it, and closes the connection for good.
async fn tell(upgrade: OnUpgrade, error: MessageError, _turn: OwnedSemaphorePermit) {
    let MessageError { id, code, message } = error;
    let reason = format!("{}: {message}", code.as_str());
    let error = ServerMessage::Error { id: id.as_ref(), code, message: &message };
    let last = encode::close(Wire::WebSocket, CloseCode::Policy, &reason);
    handshake::close(upgrade, &[encode::server(Wire::WebSocket, &error), last].concat()).await;
}

/// Hands a client over to a writer, once the answer to its handshake is on its way.
async fn join(edge: &Edge, upgrade: OnUpgrade, admitted: Admitted) {
    let Some((socket, early, held)) = take_socket(upgrade).await else {
        edge.shared.node.meters.connections_failed.of(ConnectFailure::Handshake).increment(1);
        return;
    };
    bound_kernel_memory(&socket, edge.shared.settings.send_buffer_bytes);
    let Admitted { seat, place, admission } = admitted;
    let (socket, admission) = (Socket::Tcp(socket), Some(admission.holding(held)));
    edge.hand_over(Joining { socket, transport: Transport::WebSocket, early, seat, place, admission }).await;
}

/// Keeps a slow client from having megabytes in the kernel, which would grow its send buffer as far as `tcp_wmem` allows.
fn bound_kernel_memory(socket: &TcpStream, bytes: usize) {
    // A kernel that refuses serves the client all the same, with its own bounds.
    let _ = socket2::SockRef::from(socket).set_send_buffer_size(bytes);
}
