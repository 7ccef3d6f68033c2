//! WebSocket by hand (RFC 6455): for peers that must send exactly these bytes, wrong ones included.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Opcodes of RFC 6455 section 5.2.
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A frame as it was read.
#[derive(Debug)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code and the reason of a close frame.
    pub fn close(&self) -> (u16, String) {
        assert_eq!(self.opcode, CLOSE, "a close frame");
        let (code, reason) = self.payload.split_first_chunk::<2>().expect("a close code");
        (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("a reason in UTF-8"))
    }
}

/// Shakes hands with the header lines that Telegraf's WebSocket library sends. An answer other than 101 is an error that
/// names the status.
pub async fn shake_hands(address: SocketAddr, path: &str) -> io::Result<TcpStream> {
    shake_hands_hastily(address, path, &[]).await
}

/// The same, with frames that do not wait for the answer.
pub async fn shake_hands_hastily(address: SocketAddr, path: &str, frames: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
    );
    stream.write_all(&[request.as_bytes(), frames].concat()).await?;
    // Byte by byte: what follows the head belongs to the frames.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    match head.lines().next() {
        Some(line) if line.starts_with("HTTP/1.1 101 ") => Ok(stream),
        line => Err(io::Error::other(format!("refused: {}", line.unwrap_or_default()))),
    }
}

/// A whole frame as clients send it. The mask is any four bytes; a fixed one keeps runs comparable.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = head(opcode, payload.len(), 0x80);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A whole frame as only servers may send it.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(opcode, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

/// The next frame of a server.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let first = stream.read_u8().await?;
    let length = match stream.read_u8().await? {
        126 => usize::from(stream.read_u16().await?),
        127 => usize::try_from(stream.read_u64().await?).expect("a length that fits into memory"),
        length @ 0..126 => usize::from(length),
        _ => return Err(io::Error::other("servers do not mask")),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    assert_eq!(first & 0xf0, 0x80, "one message is one frame, without extensions");
    Ok(Frame { opcode: first & 0x0f, payload })
}

/// The code of the next close frame; what comes before it is let go.
pub async fn read_close(stream: &mut (impl AsyncRead + Unpin)) -> u16 {
    super::patiently("a close frame", async {
        loop {
            let frame = read_frame(stream).await.expect("a close frame before the end");
            if frame.opcode == CLOSE {
                return frame.close().0;
            }
        }
    })
    .await
}

fn head(opcode: u8, length: usize, mask_bit: u8) -> Vec<u8> {
    let mut head = vec![0x80 | opcode];
    match u16::try_from(length) {
        Ok(short @ 0..126) => head.push(mask_bit | short as u8),
        Ok(medium) => {
            head.push(mask_bit | 126);
            head.extend_from_slice(&medium.to_be_bytes());
        }
        Err(_) => {
            head.push(mask_bit | 127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}
