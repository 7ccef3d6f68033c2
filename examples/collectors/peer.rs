//! A WebSocket client on a bare socket, no dearer than it has to be: what it costs is missing from what is measured.

use std::io;

use hyper::Uri;
use telecast::proto::frame::{Decoder, Event, FrameError, Opcode, Peer as Side, encode_masked};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Largest message of the server.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Longest answer to a handshake.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("`{0}` is no address: it looks like ws://localhost:9090/ws")]
    Address(String),
    #[error("{url}: {error}")]
    Connect { url: String, error: io::Error },
    #[error("{url}: instead of opening a WebSocket the server answered: {answer}")]
    Refused { url: String, answer: String },
    #[error("the connection broke: {0}")]
    Socket(#[from] io::Error),
    #[error("the server broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the server ended the connection ({code:?} {reason:?})")]
    Closed { code: Option<u16>, reason: String },
}

/// An open connection.
pub(crate) struct Peer {
    socket: TcpStream,
    decoder: Decoder,
    input: Vec<u8>,
    used: usize,
    output: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(url: &str) -> Result<Self, PeerError> {
        let address = || PeerError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| address())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("ws")).ok_or_else(address)?;
        let port = uri.port_u16().unwrap_or(80);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let failed = |error| PeerError::Connect { url: url.to_owned(), error };
        let mut socket = TcpStream::connect((host, port)).await.map_err(failed)?;
        socket.set_nodelay(true)?;
        // The key is the RFC's example: it keeps caches from answering, and here is none.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut input = Vec::with_capacity(64 << 10);
        let used = loop {
            let end = input.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            if input.len() > ANSWER_BYTES_MAX || socket.read_buf(&mut input).await? == 0 {
                break input.len();
            }
        };
        if !input.starts_with(b"HTTP/1.1 101") {
            let answer = String::from_utf8_lossy(&input).lines().next().unwrap_or("nothing").to_owned();
            return Err(PeerError::Refused { url: url.to_owned(), answer });
        }
        let decoder = Decoder::new(Side::Server, MESSAGE_BYTES_MAX);
        Ok(Self { socket, decoder, input, used, output: Vec::new() })
    }

    /// Sends one whole message.
    pub(crate) async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.output.clear();
        encode_masked(&mut self.output, true, opcode, fastrand::u32(..).to_be_bytes(), payload);
        self.socket.write_all(&self.output).await
    }

    /// What the server says next; a ping is the caller's to answer. Cancel-safe, which it would not be if it wrote.
    pub(crate) async fn next(&mut self) -> Result<Event, PeerError> {
        loop {
            let mut rest = &self.input[self.used..];
            let event = self.decoder.decode(&mut rest)?;
            self.used = self.input.len() - rest.len();
            match event {
                Some(Event::Close { code, reason }) => return Err(PeerError::Closed { code, reason }),
                Some(event) => return Ok(event),
                None => {
                    self.input.drain(..self.used);
                    self.used = 0;
                    self.input.reserve(16 << 10);
                    if self.socket.read_buf(&mut self.input).await? == 0 {
                        return Err(PeerError::Closed { code: None, reason: "without a close frame".into() });
                    }
                }
            }
        }
    }
}
