//! Names of hosts, in the spelling of the `Host` header, because that is what they are compared with.

/// A name as it is kept, or nothing if it is none.
pub(super) fn spelled(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::Ipv6Addr>() {
        return Some(format!("[{address}]"));
    }
    let of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    text.chars().all(of_host).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::super::lists;
    use super::*;

    #[test]
    fn hosts_are_spelled_as_requests_do() {
        for (text, wanted) in [
            ("", Some("")),
            ("Dash.Example.com, localhost", Some("dash.example.com,localhost")),
            ("10.0.0.1,::1,[::1]", Some("10.0.0.1,[::1],[::1]")),
            ("https://dash.example.com", None),
            ("dash.example.com:8080", None),
            ("*", None),
        ] {
            assert_eq!(lists::normalise(text, spelled).as_deref(), wanted, "{text}");
        }
    }
}
