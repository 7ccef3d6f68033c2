//! A WebSocket of a client that only listens, by hand: hundreds of them cost little.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use flate2::{Decompress, FlushDecompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::deflate::RSV1;
use crate::support::wire;

/// Long enough for a node on a busy machine, and for nginx to give up on one that is gone.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// No message here is larger when it is inflated.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// See the module.
pub struct Socket {
    stream: BufReader<TcpStream>,
    inflate: Decompress,
}

impl Socket {
    /// Shakes hands. An answer other than 101 is an error.
    pub async fn open(address: SocketAddr, path: &str, deflated: bool) -> io::Result<Self> {
        let offer = if deflated { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
        );
        let shake = async {
            let mut stream = BufReader::new(TcpStream::connect(address).await?);
            stream.write_all(request.as_bytes()).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            match head.starts_with("HTTP/1.1 101 ") {
                true if deflated && !head.contains("permessage-deflate") => {
                    Err(io::Error::other("compression was declined"))
                }
                true => Ok(Self { stream, inflate: Decompress::new(false) }),
                false => Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned())),
            }
        };
        timeout(HANDSHAKE_TIMEOUT, shake).await?
    }

    /// The next message; an error is the end, orderly or not. Not cancel-safe.
    pub async fn next(&mut self) -> io::Result<String> {
        loop {
            let first = self.stream.read_u8().await?;
            let length = match self.stream.read_u8().await? {
                126 => usize::from(self.stream.read_u16().await?),
                127 => usize::try_from(self.stream.read_u64().await?).map_err(io::Error::other)?,
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await?;
            match first & 0x0f {
                wire::TEXT if first & RSV1 != 0 => return self.inflated(payload),
                wire::TEXT => return String::from_utf8(payload).map_err(io::Error::other),
                wire::PING => self.stream.write_all(&wire::masked(wire::PONG, &payload)).await?,
                wire::CLOSE => {
                    let _ = self.stream.write_all(&wire::masked(wire::CLOSE, &payload)).await;
                    return Err(io::Error::other("closed"));
                }
                _ => return Err(io::Error::other(format!("a frame that begins with {first:#x}"))),
            }
        }
    }

    fn inflated(&mut self, mut payload: Vec<u8>) -> io::Result<String> {
        payload.extend_from_slice(&[0, 0, 0xff, 0xff]);
        let mut inflated = Vec::with_capacity(MESSAGE_BYTES_MAX);
        self.inflate.reset(false);
        self.inflate
            .decompress_vec(&payload, &mut inflated, FlushDecompress::Sync)
            .map_err(io::Error::other)?;
        String::from_utf8(inflated).map_err(io::Error::other)
    }
}
