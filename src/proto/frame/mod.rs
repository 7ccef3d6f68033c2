//! WebSocket frames, byte for byte (RFC 6455 section 5).
//!
//! This file writes them; [`Decoder`] reads them. Handshakes and sockets are elsewhere. The only extension is
//! permessage-deflate, where it was agreed on; other reserved bits are refused. Tested against the behaviour that the
//! Autobahn suite asks for.

mod decode;

pub use decode::{Decoder, Event, FrameError, Peer};

/// Largest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Longest reason in a close frame, in bytes: a control frame less the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Longest header of a server's frame, in bytes: two and a 64-bit length.
pub const HEADER_BYTES_MAX: usize = 10;

/// The reserved bit that marks the first frame of a compressed message (RFC 7692 section 6).
const COMPRESSED: u8 = 0x40;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// Goes on with the message before.
    Continuation = 0,
    /// UTF-8 text.
    Text = 1,
    /// Any bytes.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Whether frames of this kind may come between the fragments of a message.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }
}

/// The header of a server's frame: a few bytes, on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    length: u8,
}

impl Header {
    /// The bytes to send before the payload.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::ops::Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// The header of a whole (unfragmented) server frame.
pub fn header(opcode: Opcode, payload_bytes: usize) -> Header {
    build_header(true, opcode, false, payload_bytes)
}

/// Appends a whole server frame.
pub fn encode(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    debug_assert!(!opcode.is_control() || payload.len() <= CONTROL_BYTES_MAX);
    let header = header(opcode, payload.len());
    out.reserve(header.len() + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
}

/// Appends a whole server frame whose payload was compressed.
pub fn encode_compressed(out: &mut Vec<u8>, opcode: Opcode, deflated: &[u8]) {
    let start = out.len();
    encode(out, opcode, deflated);
    out[start] |= COMPRESSED;
}

/// The payload of a whole server frame.
pub fn payload(frame: &[u8]) -> &[u8] {
    let header = 2 + frame.get(1).map_or(0, |second| extended_length_bytes(*second));
    frame.get(header..).unwrap_or_default()
}

/// Bytes of the length behind the first two of a header.
fn extended_length_bytes(second: u8) -> usize {
    match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Appends a client's frame, whole (`fin`) or a fragment. `mask` should be random: it protects proxies on the way from
/// what a page makes a browser send (RFC 6455 section 10.3).
pub fn encode_masked(out: &mut Vec<u8>, fin: bool, opcode: Opcode, mask: [u8; 4], payload: &[u8]) {
    let header = build_header(fin, opcode, true, payload.len());
    out.reserve(header.len() + mask.len() + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// The payload of a close frame; a reason that does not fit is cut at a character.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    payload
}

/// A length takes the shortest of the three forms.
fn build_header(fin: bool, opcode: Opcode, masked: bool, payload_bytes: usize) -> Header {
    let mut bytes = [0; HEADER_BYTES_MAX];
    bytes[0] = (u8::from(fin) << 7) | opcode as u8;
    let length = if payload_bytes <= CONTROL_BYTES_MAX {
        bytes[1] = payload_bytes as u8;
        2
    } else if let Ok(short) = u16::try_from(payload_bytes) {
        bytes[1] = 126;
        bytes[2..4].copy_from_slice(&short.to_be_bytes());
        4
    } else {
        bytes[1] = 127;
        bytes[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
        10
    };
    bytes[1] |= u8::from(masked) << 7;
    Header { bytes, length }
}

#[cfg(test)]
mod tests;
