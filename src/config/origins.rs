//! Origins of web pages, in the spelling of the `Origin` header (RFC 6454 section 6.2), because that is what they are
//! compared with.

use super::lists;

/// A list as it is kept, or nothing if one of them is none. `*` stands for all, and so for itself only.
pub(super) fn normalise(text: &str) -> Option<String> {
    if text.trim() == "*" { Some("*".to_owned()) } else { lists::normalise(text, spelled) }
}

fn spelled(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if scheme.is_empty() || !scheme.chars().all(of_scheme) {
        return None;
    }
    // The colons of an IPv6 address are in brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse::<u16>().ok()?)),
        _ => (authority, None),
    };
    let of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = is_address.map_or(!host.is_empty() && host.chars().all(of_host), |address| {
        address.parse::<std::net::Ipv6Addr>().is_ok()
    });
    // Browsers leave out the port that a scheme implies.
    let port = match (scheme, port) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    is_host.then(|| format!("{scheme}://{host}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_spelled_as_browsers_do() {
        for (text, wanted) in [
            ("", Some("")),
            ("*", Some("*")),
            ("https://Dash.Example.com", Some("https://dash.example.com")),
            ("https://a.example:443, http://b:8080 ,", Some("https://a.example,http://b:8080")),
            ("http://[::1]:3000", Some("http://[::1]:3000")),
            ("http://[::1]", Some("http://[::1]")),
            ("chrome-extension://abcdef", Some("chrome-extension://abcdef")),
            ("a.example", None),
            ("https://a.example/", None),
            ("https://*.example", None),
            ("https://a.example, *", None),
            ("https://", None),
            ("https://a b", None),
            ("https://a:port", None),
            ("null", None),
        ] {
            assert_eq!(normalise(text).as_deref(), wanted, "{text}");
        }
    }
}
