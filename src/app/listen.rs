//! Listeners: accept connections, speak HTTP/1.1 on them with time-outs, and hand them over when they become WebSockets.
//!
//! `axum::serve` gives hyper no timer, so its time-out for request heads never fires: hence an accept loop of our own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Connections the kernel holds for us before they are accepted: two thousand may come in one second.
const BACKLOG: i32 = 4096;
/// Requests in progress when the listener stops have so long to end.
const GOODBYE: Duration = Duration::from_secs(5);
/// Bytes that may wait in the kernel unsent before a socket takes no more: what is not sent yet can still be replaced by
/// something newer in this process, but not there.
const UNSENT_BYTES_MAX: u32 = 32 * 1024;
/// Pause after the process ran out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// One listening socket and what it serves.
pub struct Listener {
    socket: TcpListener,
    patience: Patience,
}

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request.
    pub header_timeout: Duration,
    /// For taking what was written to it: one that takes nothing for so long, or is not there any more, is cut off.
    pub unacknowledged_max: Duration,
}

impl Listener {
    /// Takes the address.
    ///
    /// # Errors
    /// When it is in use or not allowed.
    pub fn bind(address: SocketAddr, patience: Patience) -> io::Result<Self> {
        let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        // A restart must not wait for the connections of the process before to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { socket: TcpListener::from_std(socket.into())?, patience })
    }

    /// The address, with the port the system chose if 0 was asked for.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves `router` until `shutdown`, then lets requests in progress end.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            // Accepting is cancel-safe: a connection is either returned or still waiting.
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, remote)) => {
                    let connection =
                        serve_connection(stream, remote, router.clone(), self.patience, shutdown.clone());
                    connections.spawn(connection);
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(event = "accept_failed", %error, "no connection can be accepted; trying again");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
        connections.close();
        if tokio::time::timeout(GOODBYE, connections.wait()).await.is_err() {
            tracing::warn!(event = "requests_cut", left = connections.len(), "requests did not end in time");
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    remote: SocketAddr,
    router: Router,
    patience: Patience,
    shutdown: CancellationToken,
) {
    bound_peer(&stream, patience.unacknowledged_max);
    let service = service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(remote));
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.header_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // Polling the connection again after `shutdown` goes on where it was.
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(event = "connection_failed", %error, "connection ended with an error");
    }
}

/// What a connection costs is bounded in the kernel, for what nobody above it can see: bytes that it was given, and a peer
/// that has stopped taking them. Writers give such clients up themselves; the rest of a response has no writer.
fn bound_peer(stream: &TcpStream, unacknowledged_max: Duration) {
    // A kernel that refuses serves the peer all the same, with its own bounds. Frames are small and must leave at once.
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(unacknowledged_max));
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged_max;
}

/// The peer went away before it was accepted; the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
