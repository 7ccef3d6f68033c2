//! HTTP below every role: listeners, connections with their limits, and what all requests have in common.
//!
//! `listener` accepts, if `peers` has room for the address; `connection` is one connection. In it, `stream` sees bytes (and reads
//! heads with `head`), `gate` sees requests (with `host`, `forwarded`, `origins`) and answers (with `body`), and `exchange` is
//! what the two know of each other. `handshake` turns a request into a WebSocket, for clients and collectors alike.
//!
//! `axum::serve` gives hyper no timer, and hyper's own would run between requests as well: hence all this.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::{Network, ServerSettings};
use crate::ops::meters::{Label as _, Meters, RequestRefusal};
use crate::ops::node::Node;

pub(crate) use body::malformed;
pub(crate) use exchange::Held;
pub use listener::Listener;
pub use origins::{Access, Origins};
pub(crate) use peers::{Peers, group};

mod body;
mod connection;
mod exchange;
mod forwarded;
mod gate;
pub(crate) mod handshake;
mod head;
mod host;
mod listener;
mod origins;
mod peers;
mod stream;
#[cfg(test)]
mod tests;

/// Where collectors connect: a page that opens this socket writes.
const COLLECTORS_SOCKET: &str = "/ws/collector";

/// What holds for all connections of a process.
pub struct Policy {
    node: Arc<Node>,
    peers: Arc<Peers>,
    origins: Origins,
    allowed_hosts: Vec<String>,
    trusted_proxies: Vec<Network>,
    header_timeout: Duration,
    header_bytes_max: usize,
    idle_timeout: Duration,
    unacknowledged_max: Duration,
}

impl Policy {
    /// As configured. A peer that does not take for `unacknowledged_max` what was written to it, or is not there any more, is cut
    /// off.
    pub fn new(node: Arc<Node>, settings: &ServerSettings, unacknowledged_max: Duration) -> Arc<Self> {
        Arc::new(Self {
            peers: Peers::new(settings.limits, settings.header_timeout),
            origins: Origins::new(&settings.cors_origins, &settings.allowed_origins),
            allowed_hosts: settings.allowed_hosts.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            header_timeout: settings.header_timeout,
            header_bytes_max: settings.header_bytes_max,
            idle_timeout: settings.idle_timeout,
            unacknowledged_max,
            node,
        })
    }

    /// Whose pages may do what.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }

    fn meters(&self) -> &Meters {
        &self.node.meters
    }

    fn count(&self, reason: RequestRefusal) {
        self.meters().requests_refused.of(reason).increment(1);
    }

    /// Counts a request that no route saw.
    fn refused(&self, reason: RequestRefusal, remote: std::net::SocketAddr, message: &str) {
        self.count(reason);
        tracing::debug!(event = "request_refused", %remote, reason = reason.value(), error = message, "a request was refused");
    }
}

impl From<peers::Excess> for RequestRefusal {
    fn from(excess: peers::Excess) -> Self {
        match excess {
            peers::Excess::AddressConnections(_) => Self::AddressConnections,
            peers::Excess::AddressConnects(_) => Self::AddressConnects,
            peers::Excess::Descriptors => Self::Descriptors,
        }
    }
}

impl fmt::Display for peers::Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressConnections(max) => write!(f, "an address has its maximum of {max} connections"),
            Self::AddressConnects(max) => write!(f, "an address opens more than {max} connections a second"),
            Self::Descriptors => f.write_str("this process has its maximum of connections"),
        }
    }
}

/// The bare socket under an upgraded connection, what was read from it already, and the room it takes.
pub(crate) async fn take_socket(upgrade: OnUpgrade) -> Option<(TcpStream, bytes::Bytes, Held)> {
    let upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<stream::Stream>>().ok()?;
    let (socket, held) = parts.io.into_inner().into_socket()?;
    Some((socket, parts.read_buf, held))
}
