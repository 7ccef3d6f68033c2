//! The client's side of the WebSocket handshake (RFC 6455 section 4.1), as bytes. Pure.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::end::End;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Largest head of an answer that is read, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest pause a server may ask for.
const RETRY_AFTER_S_MAX: u64 = 60;

/// One handshake: what was asked, and as much of the answer as has come.
#[derive(Debug)]
pub(super) struct Upgrade {
    accept: String,
    head: Vec<u8>,
}

impl Upgrade {
    /// The request's bytes, and what waits for the answer to it. Extensions would be offered here; none is spoken.
    pub(super) fn request(authority: &str, target: &str, nonce: u128) -> (Vec<u8>, Self) {
        let key = STANDARD.encode(nonce.to_be_bytes());
        let accept = accept(&key);
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
            concat!("telecast-load/", env!("CARGO_PKG_VERSION"))
        );
        (request.into_bytes(), Self { accept, head: Vec::new() })
    }

    /// Takes bytes of the answer. Once it is complete and right: how many of them are behind it, and belong to frames.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>, End> {
        // The end may lie across the seam.
        let seam = self.head.len().saturating_sub(3);
        self.head.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(&self.head[seam..], b"\r\n\r\n") else {
            return if self.head.len() > HEAD_BYTES_MAX { Err(End::BadHandshake) } else { Ok(None) };
        };
        let head_bytes = seam + end + 4;
        let behind = self.head.len() - head_bytes;
        self.head.truncate(head_bytes);
        self.check()?;
        self.head = Vec::new();
        Ok(Some(behind))
    }

    fn check(&self) -> Result<(), End> {
        let head = std::str::from_utf8(&self.head).map_err(|_| End::BadHandshake)?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        let header = |name: &str| {
            head.lines().skip(1).find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then_some(value.trim())
            })
        };
        match status {
            Some(101) if header("sec-websocket-accept") == Some(self.accept.as_str()) => Ok(()),
            Some(101) | None => Err(End::BadHandshake),
            Some(status) => {
                let seconds = header("retry-after").and_then(|value| value.parse::<u64>().ok());
                let retry_after = seconds.map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_S_MAX)));
                Err(End::Refused { status, retry_after })
            }
        }
    }
}

/// What proves that an answer is one to the handshake with this key.
pub(super) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nonce of the example in RFC 6455 section 1.3: "the sample nonce".
    const NONCE: u128 = u128::from_be_bytes(*b"the sample nonce");
    const ANSWER: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi";

    fn upgrade() -> Upgrade {
        Upgrade::request("edge:3002", "/ws", NONCE).1
    }

    #[test]
    fn the_example_of_the_rfc_is_asked_and_accepted_however_it_is_cut() {
        let (request, _) = Upgrade::request("edge:3002", "/ws?a=b", NONCE);
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("GET /ws?a=b HTTP/1.1\r\nHost: edge:3002\r\n"), "{request}");
        assert!(request.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{request}");
        assert_eq!(upgrade().take(ANSWER), Ok(Some(4)));
        for cut in 1..ANSWER.len() - 4 {
            let mut upgrade = upgrade();
            assert_eq!(upgrade.take(&ANSWER[..cut]), Ok(None), "{cut}");
            assert_eq!(upgrade.take(&ANSWER[cut..]), Ok(Some(4)), "{cut}");
        }
    }

    #[test]
    fn another_answer_is_told_by_its_status() {
        let full = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n";
        let refused = End::Refused { status: 503, retry_after: Some(Duration::from_secs(5)) };
        assert_eq!(upgrade().take(full), Err(refused));
        let not_found = upgrade().take(b"HTTP/1.1 404 Not Found\r\n\r\n");
        assert_eq!(not_found, Err(End::Refused { status: 404, retry_after: None }));
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let other = Upgrade::request("edge:3002", "/ws", 1).1.take(ANSWER);
        assert_eq!(other, Err(End::BadHandshake));
        assert_eq!(upgrade().take(b"SSH-2.0-OpenSSH\r\n\r\n"), Err(End::BadHandshake));
        assert_eq!(upgrade().take(&[b'x'; HEAD_BYTES_MAX + 1]), Err(End::BadHandshake));
    }
}
