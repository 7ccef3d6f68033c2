//! By which name a request addresses this node (RFC 9112 section 3.2).

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri, Version, header};

/// The host that a request names, as far as one can be read: of the target if it is a whole URL, else of `Host`.
pub(super) fn of<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    uri.authority()
        .map(Authority::as_str)
        .or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()))
}

/// Refuses requests whose host is missing, there twice, or none: proxies and servers must not disagree about it.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), String> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err("the header `Host` is missing: HTTP/1.1 has one in every request".to_owned()),
        (Some(_), Some(_)) => Err("the header `Host` is there more than once: send one".to_owned()),
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(host), None) => {
            let shown: String = String::from_utf8_lossy(host.as_bytes()).chars().take(80).collect();
            Err(format!("the header `Host` is {shown:?}, which is no host: send HOST or HOST:PORT"))
        }
    }
}

/// Without the port, in lower case.
pub(super) fn name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    name.to_ascii_lowercase()
}

fn is_host(value: &HeaderValue) -> bool {
    // RFC 3986 section 3.2.2 without percent-encoding, which no name that is looked up has.
    let of_host = |c: char| c.is_ascii_alphanumeric() || "-._~[]:!$&'()*+;=".contains(c);
    let Some(text) = value.to_str().ok().filter(|text| text.chars().all(of_host)) else { return false };
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or("?");
    let is_port =
        matches!(port, "" | ":") || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    !authority.host().is_empty() && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_there_once_and_is_one() {
        let check = |version, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
            }
            check(version, &headers).is_ok()
        };
        for good in ["a", "localhost:9090", "127.0.0.1:1", "[::1]:80", "node_1.example.", "a:"] {
            assert!(check(Version::HTTP_11, &[good]), "{good}");
        }
        for bad in [
            "",
            "a b",
            "user@host",
            "a:port",
            "a:70000",
            "a/b",
            "http://a",
            "a,b",
            "[::1",
            "a?b",
            "a\\b",
            "a:1:2",
        ] {
            assert!(!check(Version::HTTP_11, &[bad]), "{bad}");
            assert!(!check(Version::HTTP_10, &[bad]), "{bad}");
        }
        assert!(!check(Version::HTTP_11, &[]) && !check(Version::HTTP_11, &["a", "a"]));
        assert!(check(Version::HTTP_10, &[]));
    }

    #[test]
    fn a_name_has_no_port() {
        for (host, wanted) in
            [("A.example:80", "a.example"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a", "a")]
        {
            assert_eq!(name(host), wanted);
        }
    }
}
