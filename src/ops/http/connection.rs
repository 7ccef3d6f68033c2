//! One connection, from its first byte to its last: HTTP/1.1 on it, and an end that the peer gets to read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper::service;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Policy;
use super::body;
use super::exchange::{Deadlines, Exchange, Expired, Left};
use super::gate::Gate;
use super::peers::{Excess, Place};
use super::stream::Stream;
use crate::ops::meters::RequestRefusal;
use crate::ops::reply::ApiError;

/// A peer that is turned away says in this time what it wanted: probes do.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);
/// A last answer that cannot be written in this time has nobody to read it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) policy: Arc<Policy>,
    pub(super) socket: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) place: Place,
    pub(super) excess: Option<Excess>,
    /// Cancelled when it has to make room for others.
    pub(super) leave: CancellationToken,
}

impl Connection {
    /// Serves it to its end, or until `shutdown` and the end of what is being answered.
    pub(super) async fn serve(self, router: Router, shutdown: CancellationToken, tasks: TaskTracker) {
        let Self { policy, socket, remote, place, excess, leave } = self;
        let deadlines = Deadlines {
            head: policy.header_timeout,
            idle: policy.idle_timeout,
            refused: REFUSED_TIMEOUT.min(policy.header_timeout),
        };
        let (exchange, displaced) =
            Exchange::new(policy.peers.clone(), remote.ip(), deadlines, place, excess.is_some(), leave);
        if displaced {
            policy.count(RequestRefusal::Pending);
        }
        let gate = Gate { policy: policy.clone(), exchange: exchange.clone(), router, remote, excess, tasks };
        let gate = Arc::new(gate);
        let service = service::service_fn(move |request| {
            let gate = gate.clone();
            async move { gate.answer(request).await }
        });
        let stream = TokioIo::new(Stream::new(socket, exchange.clone()));
        let ended = speak(&policy, stream, service, &exchange, &shutdown).await;
        if let Some(left) = exchange.take_left() {
            end(&policy, &exchange, left, ended.err(), remote, &shutdown).await;
        }
    }
}

/// HTTP/1.1, until the peer, a deadline or this process ends it.
async fn speak<S, B>(
    policy: &Policy,
    stream: TokioIo<Stream>,
    service: S,
    exchange: &Exchange,
    shutdown: &CancellationToken,
) -> hyper::Result<()>
where
    S: service::HttpService<hyper::body::Incoming, ResBody = B> + Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = http1::Builder::new()
        // The stream has timers that know when a head begins.
        .header_read_timeout(None)
        .max_buf_size(policy.header_bytes_max)
        .max_header_size(policy.header_bytes_max)
        .serve_connection(stream, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.cancelled() => exchange.leave().cancel(),
        () = exchange.leave().cancelled() => {}
    }
    // Polling the connection again goes on where it was.
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Says what is left to say, and closes so that the peer can read it.
async fn end(
    policy: &Policy,
    exchange: &Exchange,
    left: Left,
    error: Option<hyper::Error>,
    remote: SocketAddr,
    shutdown: &CancellationToken,
) {
    if let Some(error) = &error {
        tracing::trace!(event = "connection_failed", %error, "connection ended with an error");
    }
    let mut socket = left.socket;
    let refusal = refusal(policy, &left.refused, left.expired, left.fault, error.as_ref());
    let says = refusal.is_some();
    if let Some((reason, error)) = refusal {
        policy.refused(reason, remote, &error.message);
        let _ = timeout(FAREWELL_TIMEOUT, socket.write_all(&written(&error))).await;
    }
    if !says && !exchange.lingers() {
        return;
    }
    let _ = socket.shutdown().await;
    tokio::select! {
        () = body::linger(&socket) => {}
        () = exchange.leave().cancelled() => {}
        () = shutdown.cancelled() => {}
    }
}

/// What a peer is told whose head is none, or did not come.
fn refusal(
    policy: &Policy,
    refused: &Option<u16>,
    expired: Option<Expired>,
    fault: Option<super::head::Fault>,
    error: Option<&hyper::Error>,
) -> Option<(RequestRefusal, ApiError)> {
    if expired == Some(Expired::Head) {
        let ms = policy.header_timeout.as_millis();
        let message =
            format!("the head of a request did not come within {ms} ms (`server.header_timeout_ms`)");
        let error = ApiError::new(StatusCode::REQUEST_TIMEOUT, "header_timeout", message);
        return Some((RequestRefusal::HeaderTimeout, error));
    }
    let status = match refused {
        Some(status) => *status,
        None if error.is_some_and(hyper::Error::is_parse) => 400,
        None => return None,
    };
    let max = policy.header_bytes_max;
    Some(match status {
        414 => {
            let message = "the target is longer than 65534 bytes: send less in it".to_owned();
            (
                RequestRefusal::HeadTooLarge,
                ApiError::new(StatusCode::URI_TOO_LONG, "target_too_long", message),
            )
        }
        431 => {
            let message = format!(
                "the head of the request has more than {max} bytes (`server.header_bytes_max`) or than 100 headers: send less"
            );
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            (RequestRefusal::HeadTooLarge, ApiError::new(status, "head_too_large", message))
        }
        _ => {
            let reason = match fault {
                Some(fault) if fault.is_in_target() => RequestRefusal::BadTarget,
                _ => RequestRefusal::BadHead,
            };
            let what = match (fault, error) {
                (Some(fault), _) => fault.to_string(),
                (None, Some(error)) => format!("the head of the request cannot be read: {error}"),
                (None, None) => "the head of the request cannot be read".to_owned(),
            };
            (reason, ApiError::bad_request("bad_head", what))
        }
    })
}

/// The error as bytes of HTTP/1.1, for where the library writes no more.
fn written(error: &ApiError) -> Vec<u8> {
    let body = json!({"error": {"code": error.code, "message": error.message}}).to_string();
    let date =
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now());
    let date = date.map(|date| format!("date: {date}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-content-type-options: nosniff\r\n{date}\r\n{body}",
        error.status,
        body.len()
    )
    .into_bytes()
}
