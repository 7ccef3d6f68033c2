//! WebSocket messages out of bytes (RFC 6455 §5), for a server that takes large messages from few peers.
//!
//! Pure. Three things matter here and are why the library's reader is not used: memory grows with the bytes that came
//! and never with a length that was claimed, unmasked frames are refused, and reading can be cancelled at any point
//! because all state is in the [`Decoder`].

use bytes::{Buf, BytesMut};

/// Longest payload of a control frame (RFC 6455 §5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// Reassembles messages.
pub(super) struct Decoder {
    message_bytes_max: usize,
    frame: Option<Frame>,
    /// A data message has begun whose last fragment has not come.
    fragmented: bool,
    message: Vec<u8>,
    control: Vec<u8>,
}

/// The frame whose payload is being read.
struct Frame {
    last: bool,
    kind: Kind,
    mask: [u8; 4],
    length: usize,
    taken: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A whole message, text or binary: lines are checked one by one, so one bad byte need not cost a message.
    Message(Vec<u8>),
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    /// The peer lives.
    Pong,
    /// The peer is done, and says why.
    Close(Option<u16>),
}

/// What a peer did that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("frames from a client must be masked")]
    Unmasked,
    #[error("a reserved bit is set: no extension was agreed on")]
    ReservedBits,
    #[error("opcode {0} is reserved")]
    Opcode(u8),
    #[error("a control frame is whole and has at most 125 bytes")]
    Control,
    #[error("a continuation without a beginning")]
    Continuation,
    #[error("a new message inside another")]
    Interleaved,
    #[error("a close frame holds a valid code or nothing")]
    CloseCode,
    #[error("a message has at most {0} bytes: send smaller batches")]
    TooLarge(usize),
}

impl Fault {
    /// RFC 6455 §7.4.1.
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::TooLarge(_) => 1009,
            _ => 1002,
        }
    }
}

impl Decoder {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, frame: None, fragmented: false, message: Vec::new(), control: Vec::new() }
    }

    /// Takes from `input` what belongs to the next event; `None` when more is needed.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Fault> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some(frame) = self.header(input)? else { return Ok(None) };
                self.frame = Some(frame);
                continue;
            };
            let length = (frame.length - frame.taken).min(input.len());
            let into = if frame.kind == Kind::Data { &mut self.message } else { &mut self.control };
            let from = into.len();
            into.extend_from_slice(&input[..length]);
            input.advance(length);
            let mut mask = frame.mask;
            mask.rotate_left(frame.taken % 4);
            fastwebsockets::unmask(&mut into[from..], mask);
            frame.taken += length;
            if frame.taken < frame.length {
                return Ok(None);
            }
            let (kind, last) = (frame.kind, frame.last);
            self.frame = None;
            if let Some(event) = self.finished(kind, last)? {
                return Ok(Some(event));
            }
        }
    }

    fn finished(&mut self, kind: Kind, last: bool) -> Result<Option<Event>, Fault> {
        Ok(match kind {
            Kind::Data if !last => None,
            Kind::Data => {
                self.fragmented = false;
                Some(Event::Message(std::mem::take(&mut self.message)))
            }
            Kind::Ping => Some(Event::Ping(std::mem::take(&mut self.control))),
            Kind::Pong => {
                self.control.clear();
                Some(Event::Pong)
            }
            Kind::Close => Some(Event::Close(close_code(&self.control)?)),
        })
    }

    fn header(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Fault> {
        let &[first, second, ..] = &input[..] else { return Ok(None) };
        let last = first & 0x80 != 0;
        let kind = self.kind(first & 0x0f, last)?;
        if first & 0x70 != 0 {
            return Err(Fault::ReservedBits);
        }
        if second & 0x80 == 0 {
            return Err(Fault::Unmasked);
        }
        let (length, head) = match second & 0x7f {
            126 => (input.get(2..4).map(|bytes| bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b))), 4),
            127 => {
                (input.get(2..10).map(|bytes| bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b))), 10)
            }
            length => (Some(u64::from(length)), 2),
        };
        let Some(length) = length else { return Ok(None) };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if kind != Kind::Data && length > CONTROL_BYTES_MAX {
            return Err(Fault::Control);
        }
        if kind == Kind::Data && length > self.message_bytes_max - self.message.len() {
            return Err(Fault::TooLarge(self.message_bytes_max));
        }
        let Some(mask) = input.get(head..head + 4) else { return Ok(None) };
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        input.advance(head + 4);
        if kind == Kind::Data {
            self.fragmented = true;
        }
        Ok(Some(Frame { last, kind, mask, length, taken: 0 }))
    }

    fn kind(&self, opcode: u8, last: bool) -> Result<Kind, Fault> {
        let kind = match opcode {
            0 if !self.fragmented => return Err(Fault::Continuation),
            1 | 2 if self.fragmented => return Err(Fault::Interleaved),
            0..=2 => Kind::Data,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            reserved => return Err(Fault::Opcode(reserved)),
        };
        if kind != Kind::Data && !last { Err(Fault::Control) } else { Ok(kind) }
    }
}

/// One whole, unmasked control frame; a payload that is too long is cut.
pub(super) fn control_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    let mut frame = Vec::with_capacity(2 + payload.len());
    frame.push(0x80 | opcode);
    frame.push(payload.len() as u8);
    frame.extend_from_slice(payload);
    frame
}

/// A ping without a payload: some agents answer every ping with an empty pong.
pub(super) fn ping() -> Vec<u8> {
    control_frame(9, &[])
}

pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    control_frame(10, payload)
}

/// A close frame; the reason is cut at a character so that it stays UTF-8.
pub(super) fn close(code: u16, reason: &str) -> Vec<u8> {
    let cut = reason.floor_char_boundary(CONTROL_BYTES_MAX - 2);
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..cut]);
    control_frame(8, &payload)
}

/// The code of a close frame's payload, if it has one that may be sent (RFC 6455 §7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    match payload {
        [] => Ok(None),
        [high, low, ..] => match u16::from_be_bytes([*high, *low]) {
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(Some(code)),
            _ => Err(Fault::CloseCode),
        },
        [_] => Err(Fault::CloseCode),
    }
}
