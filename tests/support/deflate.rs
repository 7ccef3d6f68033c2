//! A client that offers permessage-deflate, by hand (RFC 7692): what it sends and inflates does not pass through the code
//! under test.

use std::io;
use std::net::SocketAddr;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire;

/// The bit that marks a compressed message.
pub const RSV1: u8 = 0x40;
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// See the module.
pub struct Deflating {
    stream: TcpStream,
    /// The `Sec-WebSocket-Extensions` of the answer.
    pub answer: Option<String>,
}

/// A message of a server.
#[derive(Debug)]
pub struct Received {
    pub compressed: bool,
    /// The frame's payload as it came.
    pub raw: Vec<u8>,
    /// Inflated where it was compressed.
    pub text: String,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Deflating {
    /// Connects to `/ws` with these parameters and this offer; an empty one is left out.
    pub async fn connect(address: SocketAddr, parameters: &str, offer: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        let extensions =
            if offer.is_empty() { String::new() } else { format!("Sec-WebSocket-Extensions: {offer}\r\n") };
        let request = format!(
            "GET /ws?{parameters} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("an open connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).expect("a head in UTF-8");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let answer = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-extensions").then(|| value.to_owned())
        });
        Self { stream, answer }
    }

    /// The next message; control frames but close are let go.
    pub async fn next(&mut self) -> Received {
        loop {
            let (first, raw) = super::patiently("a frame", self.frame()).await.expect("an open connection");
            assert_eq!(first & 0xb0, 0x80, "one message is one frame");
            let compressed = first & RSV1 != 0;
            match first & 0x0f {
                wire::TEXT => {
                    let bytes = if compressed { inflate(&raw) } else { raw.clone() };
                    let text = String::from_utf8(bytes).expect("text");
                    return Received { compressed, raw, text };
                }
                wire::PING | wire::PONG => assert!(!compressed, "a compressed control frame"),
                other => panic!("opcode {other}: {raw:?}"),
            }
        }
    }

    /// The next message of this type.
    pub async fn next_of(&mut self, kind: &str) -> Received {
        loop {
            let message = self.next().await;
            if message.text.starts_with('{') && message.json()["type"] == kind {
                return message;
            }
        }
    }

    /// The code of the close frame; what comes before it is let go.
    pub async fn closed(&mut self) -> u16 {
        super::patiently("a close frame", async {
            loop {
                let (first, payload) = self.frame().await.expect("a close frame before the end");
                if first & 0x0f == wire::CLOSE {
                    return u16::from_be_bytes([payload[0], payload[1]]);
                }
            }
        })
        .await
    }

    /// Sends a text, compressed.
    pub async fn send(&mut self, text: &str) {
        self.send_raw(RSV1 | wire::TEXT, &deflate(text.as_bytes())).await;
    }

    /// Sends a whole frame with these first bits besides FIN.
    pub async fn send_raw(&mut self, first: u8, payload: &[u8]) {
        self.send_bytes(&wire::masked(first, payload)).await;
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("an open connection");
    }

    async fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await?;
        let length = match self.stream.read_u8().await? {
            126 => usize::from(self.stream.read_u16().await?),
            127 => usize::try_from(self.stream.read_u64().await?).expect("a length that fits into memory"),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok((first, payload))
    }
}

/// A compressed payload, from a fresh window.
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 1024);
    Compress::new(Compression::best(), false)
        .compress_vec(message, &mut out, FlushCompress::Sync)
        .expect("room");
    assert_eq!(out.split_off(out.len() - 4), TAIL);
    out
}

/// The message behind a compressed payload, from a fresh window.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 << 20);
    let payload = [payload, &TAIL].concat();
    let mut inflater = Decompress::new(false);
    inflater.decompress_vec(&payload, &mut out, FlushDecompress::Sync).expect("DEFLATE");
    assert_eq!(inflater.total_in(), payload.len() as u64, "all of it is one message");
    out
}
