//! A listening socket: accepts connections as long as there is room, and says so where there is none.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Policy;
use super::connection::Connection;
use super::peers::Arrival;
use crate::ops::meters::RequestRefusal;

/// Connections the kernel holds for us before they are accepted: two thousand may come in one second.
const BACKLOG: i32 = 4096;
/// Requests in progress when the listener stops have so long to end.
const GOODBYE: Duration = Duration::from_secs(5);
/// Bytes that may wait in the kernel unsent before a socket takes no more: what is not sent yet can still be replaced by
/// something newer in this process, but not there.
const UNSENT_BYTES_MAX: u32 = 32 * 1024;
/// Pause after the process ran out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// It was there when the process ran out: it comes at once, or has gone.
const LATE_ACCEPT_TIMEOUT: Duration = Duration::from_millis(10);
/// Connections that make room at once then.
const EXHAUSTED_ROOM: usize = 32;
/// What happens with every connection of an attack is logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One listening socket and what it serves.
pub struct Listener {
    socket: TcpListener,
    policy: Arc<Policy>,
}

impl Listener {
    /// Takes the address.
    ///
    /// # Errors
    /// When it is in use or not allowed.
    pub fn bind(address: SocketAddr, policy: Arc<Policy>) -> io::Result<Self> {
        let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        // A restart must not wait for the connections of the process before to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { socket: TcpListener::from_std(socket.into())?, policy })
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
        let mut complaints = Complaints::default();
        let mut spare = None;
        loop {
            spare = spare.or_else(spare_descriptor);
            // Accepting is cancel-safe: a connection is either returned or still waiting.
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((socket, remote)) => {
                    if let Some(connection) = self.admit(socket, remote, &mut complaints) {
                        let tasks = connections.clone();
                        connections.spawn(connection.serve(router.clone(), shutdown.clone(), tasks));
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    self.policy.count(RequestRefusal::Descriptors);
                    complaints.note(&error.to_string());
                    self.policy.peers.make_room(EXHAUSTED_ROOM);
                    drop(spare.take());
                    if let Some(connection) = self.accept_late().await {
                        let tasks = connections.clone();
                        connections.spawn(connection.serve(router.clone(), shutdown.clone(), tasks));
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
        connections.close();
        if tokio::time::timeout(GOODBYE, connections.wait()).await.is_err() {
            tracing::warn!(event = "requests_cut", left = connections.len(), "requests did not end in time");
        }
    }

    /// A connection for which there is no descriptor but one that was kept: it may be a probe.
    async fn accept_late(&self) -> Option<Connection> {
        let accepted = tokio::time::timeout(LATE_ACCEPT_TIMEOUT, self.socket.accept()).await;
        let (socket, remote) = accepted.ok()?.ok()?;
        let (policy, leave) = (self.policy.clone(), CancellationToken::new());
        let Arrival::Refused(place, excess) = policy.peers.arrive_late(remote.ip(), &leave) else {
            return None;
        };
        bound_peer(&socket, policy.unacknowledged_max);
        Some(Connection { policy, socket, remote, place, excess: Some(excess), leave })
    }

    /// A connection that is served, if only to be told why it is not.
    fn admit(
        &self,
        socket: TcpStream,
        remote: SocketAddr,
        complaints: &mut Complaints,
    ) -> Option<Connection> {
        let policy = self.policy.clone();
        let leave = CancellationToken::new();
        let (place, excess) = match policy.peers.arrive(remote.ip(), policy.trusts(remote.ip()), &leave) {
            Arrival::Served(place) => (place, None),
            Arrival::Refused(place, excess) => (place, Some(excess)),
            Arrival::Dropped(excess) => {
                policy.count(excess.into());
                complaints.note(&format!("{excess} ({remote})"));
                return None;
            }
        };
        bound_peer(&socket, policy.unacknowledged_max);
        Some(Connection { policy, socket, remote, place, excess, leave })
    }
}

/// Log lines about connections that are not accepted, one for many.
#[derive(Default)]
struct Complaints {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Complaints {
    fn note(&mut self, error: &str) {
        let now = Instant::now();
        if self.logged.is_some_and(|logged| now < logged + LOG_INTERVAL) {
            self.unlogged += 1;
            return;
        }
        tracing::error!(
            event = "accept_failed",
            error,
            before = self.unlogged,
            "connections cannot be accepted; trying again, and telling every ten seconds at most"
        );
        *self = Self { logged: Some(now), unlogged: 0 };
    }
}

/// A descriptor that is given up for a connection when there is no other. None if there is none now either.
fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

/// What a connection costs is bounded in the kernel, for what nobody above it can see: bytes that it was given, and a peer
/// that has stopped taking them. Writers give such clients up themselves; the rest of a response has no writer.
fn bound_peer(socket: &TcpStream, unacknowledged_max: Duration) {
    // A kernel that refuses serves the peer all the same, with its own bounds. Frames are small and must leave at once.
    let _ = socket.set_nodelay(true);
    let socket = socket2::SockRef::from(socket);
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
