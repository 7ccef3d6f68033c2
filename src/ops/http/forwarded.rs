//! Whom a trusted proxy forwards.
//!
//! Each proxy adds the address it was connected from at the right of `X-Forwarded-For` (or of `Forwarded`, RFC 7239), and
//! whatever a client wrote itself stays at the left of that. So lists are read from the right, as long as trusted proxies
//! wrote them.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};

use crate::config::Network;

/// Read only where there is no `X-Forwarded-For`: a proxy sets one of the two, and would pass on the other as a client forged it.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// The peer of the connection itself.
    Peer,
    /// Somebody behind a trusted proxy.
    Forwarded(IpAddr),
    /// A trusted proxy, for itself.
    Proxy,
}

/// The client of a request when `peer` sends these headers.
pub(super) fn client(trusted: &[Network], peer: IpAddr, headers: &HeaderMap) -> Client {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if trusted.is_empty() || !is_trusted(peer) {
        return Client::Peer;
    }
    let hops = if headers.contains_key(X_FORWARDED_FOR) {
        hops(headers, &X_FORWARDED_FOR, Some)
    } else {
        hops(headers, &header::FORWARDED, element_for)
    };
    for hop in hops.into_iter().rev() {
        match hop {
            Some(address) if is_trusted(address) => {}
            Some(address) => return Client::Forwarded(address),
            // What a trusted proxy wrote and nobody can read ("unknown") hides who is behind it: it counts for the proxy.
            None => return Client::Peer,
        }
    }
    Client::Proxy
}

/// The addresses of a list, from left to right.
fn hops<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    of: impl Fn(&'a str) -> Option<&'a str>,
) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(name).iter();
    values
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(|element| of(element.trim()).and_then(address))
        .collect()
}

/// The node in `for=` of one element of `Forwarded`.
fn element_for(element: &str) -> Option<&str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| name.eq_ignore_ascii_case("for")).map(|(_, node)| node.trim_matches('"'))
}

/// An address, with or without a port.
fn address(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(node);
    let address = bare.parse().or_else(|_| node.parse::<SocketAddr>().map(|socket| socket.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::config::Network;

    fn trusted() -> Vec<Network> {
        Network::list("10.0.0.0/8,fd00::/8")
    }

    fn of(peer: &str, lines: &[(&'static str, &'static str)]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        client(&trusted(), peer.parse().unwrap(), &headers)
    }

    fn forwarded(address: &str) -> Client {
        Client::Forwarded(address.parse().unwrap())
    }

    #[test]
    fn only_a_listed_proxy_is_believed() {
        let forged = [("x-forwarded-for", "198.51.100.1")];
        assert_eq!(of("203.0.113.9", &forged), Client::Peer);
        assert_eq!(of("10.0.0.1", &forged), forwarded("198.51.100.1"));
        assert_eq!(of("::ffff:10.0.0.1", &forged), forwarded("198.51.100.1"));
        assert_eq!(client(&[], "10.0.0.1".parse().unwrap(), &HeaderMap::new()), Client::Peer);
    }

    #[test]
    fn lists_are_read_from_the_right_until_the_first_that_is_not_listed() {
        let chain = [("x-forwarded-for", "1.1.1.1, 198.51.100.1"), ("x-forwarded-for", "10.0.0.2 ,10.0.0.3")];
        assert_eq!(of("10.0.0.1", &chain), forwarded("198.51.100.1"));
        let ports = [("x-forwarded-for", "[2001:db8::1]:4711, 10.0.0.3:80")];
        assert_eq!(of("fd00::1", &ports), forwarded("2001:db8::1"));
        assert_eq!(of("10.0.0.1", &[("x-forwarded-for", "10.0.0.7")]), Client::Proxy);
        assert_eq!(of("10.0.0.1", &[]), Client::Proxy);
        assert_eq!(of("10.0.0.1", &[("x-forwarded-for", "1.1.1.1, unknown")]), Client::Peer);
    }

    #[test]
    fn forwarded_is_read_where_nothing_else_is() {
        let both = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(of("10.0.0.1", &both), forwarded("198.51.100.1"));
        for (line, client) in [
            ("for=1.1.1.1;proto=http, proto=https;For=\"[2001:db8::17]:4711\"", forwarded("2001:db8::17")),
            ("for=192.0.2.43, for=10.0.0.9", forwarded("192.0.2.43")),
            ("for=192.0.2.43, for=_hidden", Client::Peer),
            ("for=192.0.2.43, proto=https", Client::Peer),
        ] {
            assert_eq!(of("10.0.0.1", &[("forwarded", line)]), client, "{line}");
        }
    }
}
