//! Addresses to connect to: as people write them, and as sockets need them.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use hyper::Uri;

/// A server that does not accept within this time does not serve.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A WebSocket to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Without the brackets of IPv6.
    host: String,
    port: u16,
    /// As the request names it.
    path: String,
    /// Without `?`; may be empty.
    query: String,
}

/// Why an address is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not readable at all.
    #[error("`{0}` is no address: it looks like ws://HOST:PORT{1}")]
    Malformed(String, &'static str),
    /// TLS is for proxies.
    #[error(
        "`{0}` asks for TLS, which is not spoken here: give the ws:// address of the node behind the proxy"
    )]
    Tls(String),
    /// Some other protocol.
    #[error("`{0}` is no WebSocket: it looks like ws://HOST:PORT{1}")]
    Scheme(String, &'static str),
    /// What clients ask for is set by this program: it checks that each message comes, once and in order.
    #[error(
        "`{0}` has a parameter `{1}`, which is for this program to set: it checks every message; --filter takes filters"
    )]
    Parameter(String, &'static str),
}

/// Why a target cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// DNS.
    #[error("{host} has no address: {error}")]
    Unknown {
        /// As asked for.
        host: String,
        /// As the resolver said it.
        error: io::Error,
    },
    /// Nothing accepts.
    #[error(
        "nothing accepts connections at {host}:{port}: {error}. Is the node running, and is this its port?"
    )]
    Closed {
        /// As asked for.
        host: String,
        /// As asked for.
        port: u16,
        /// Of the last attempt.
        error: io::Error,
    },
}

impl Target {
    /// Where clients connect: `/ws` unless the text names another path.
    pub fn of_clients(text: &str) -> Result<Self, TargetError> {
        Self::parse(text, "/ws")
    }

    /// Where collectors connect: `/ws/collector` unless the text names another path.
    pub fn of_collectors(text: &str) -> Result<Self, TargetError> {
        Self::parse(text, "/ws/collector")
    }

    /// The same node's place for collectors, if it has one.
    pub fn for_collectors(&self) -> Self {
        Self { path: "/ws/collector".to_owned(), query: String::new(), ..self.clone() }
    }

    fn parse(text: &str, path: &'static str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(text.to_owned(), path);
        let whole = if text.contains("://") { text.to_owned() } else { format!("ws://{text}") };
        let uri: Uri = whole.parse().map_err(|_| malformed())?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss" | "https") => return Err(TargetError::Tls(text.to_owned())),
            _ => return Err(TargetError::Scheme(text.to_owned(), path)),
        }
        let host = uri.host().map(|host| host.trim_matches(['[', ']'])).filter(|host| !host.is_empty());
        // A port that is no number of a port reads as none.
        let bare = uri
            .authority()
            .is_some_and(|authority| authority.as_str().ends_with(uri.host().unwrap_or_default()));
        let port = if bare { Some(80) } else { uri.port_u16() };
        let query = uri.query().unwrap_or_default();
        for name in ["filter", "from", "snapshot", "interval", "format"] {
            if query.split('&').any(|pair| pair.split('=').next() == Some(name)) {
                return Err(TargetError::Parameter(text.to_owned(), name));
            }
        }
        let asked = uri.path();
        Ok(Self {
            host: host.ok_or_else(malformed)?.to_owned(),
            port: port.filter(|port| *port > 0).ok_or_else(malformed)?,
            path: if asked.is_empty() || asked == "/" { path } else { asked }.to_owned(),
            query: query.to_owned(),
        })
    }

    /// The request's target, with these parameters besides the address's own.
    pub fn request_target(&self, parameters: &[(&str, &str)]) -> String {
        let mut target = self.path.clone();
        let own = Some(self.query.clone()).filter(|query| !query.is_empty());
        let added = parameters.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value)));
        for (at, pair) in own.into_iter().chain(added).enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            target.push_str(&pair);
        }
        target
    }

    /// `HOST:PORT`, as the `Host` header has it.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The first of the host's addresses that accepts a connection. Tried before the load begins: a name often has addresses
    /// of both families, of which the server uses one. Blocks.
    pub fn reach(&self) -> Result<SocketAddr, ReachError> {
        let unknown = |error| ReachError::Unknown { host: self.host.clone(), error };
        let addresses = (self.host.as_str(), self.port).to_socket_addrs().map_err(unknown)?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect_timeout(&address, PROBE_TIMEOUT) {
                Ok(_) => return Ok(address),
                Err(error) => last = error,
            }
        }
        Err(ReachError::Closed { host: self.host.clone(), port: self.port, error: last })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ws://{}{}", self.authority(), self.path)
    }
}

/// RFC 3986 section 2.3: everything but the unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_leaves_out_is_the_usual() {
        for (text, shown) in [
            ("ws://edge:3002/ws", "ws://edge:3002/ws"),
            ("ws://edge:3002", "ws://edge:3002/ws"),
            ("edge:3002", "ws://edge:3002/ws"),
            ("ws://edge/other", "ws://edge:80/other"),
            ("ws://[::1]:3002/", "ws://[::1]:3002/ws"),
        ] {
            assert_eq!(Target::of_clients(text).unwrap().to_string(), shown, "{text}");
        }
        let ingest = Target::of_clients("ws://one:9090/ws?token=a").unwrap().for_collectors();
        assert_eq!(ingest, Target::of_collectors("one:9090").unwrap());
    }

    #[test]
    fn a_bad_address_is_told_what_a_good_one_looks_like() {
        for (text, part) in [
            ("wss://edge/ws", "behind the proxy"),
            ("http://edge/ws", "ws://HOST:PORT/ws"),
            ("ws://", "ws://HOST:PORT/ws"),
            ("ws://edge:99999", "ws://HOST:PORT/ws"),
            ("edge:0", "ws://HOST:PORT/ws"),
            ("ws://edge/ws?from=latest", "`from`"),
            ("ws://edge/ws?filter=a.b", "--filter"),
            ("ws://edge/ws?snapshot=true", "`snapshot`"),
            ("ws://edge/ws?token=t&interval=1000", "`interval`"),
        ] {
            let error = Target::of_clients(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn parameters_are_added_and_escaped() {
        let target = Target::of_clients("ws://edge:1/ws?token=t").unwrap();
        let request = target.request_target(&[("filter", "*.cpu{cpu=a b}"), ("from", "A-_9")]);
        assert_eq!(request, "/ws?token=t&filter=%2A.cpu%7Bcpu%3Da%20b%7D&from=A-_9");
        assert_eq!(Target::of_clients("edge:1").unwrap().request_target(&[]), "/ws");
    }
}
