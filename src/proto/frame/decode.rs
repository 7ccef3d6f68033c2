//! Reads frames, however the bytes were cut on their way.

use super::{COMPRESSED, CONTROL_BYTES_MAX, Opcode, extended_length_bytes};
use crate::proto::deflate::{InflateError, inflate, wire_bytes_max};
use crate::proto::message::CloseCode;

/// Longest header of a client's frame, in bytes: two, a 64-bit length and the mask.
const CLIENT_HEADER_BYTES_MAX: usize = 14;

/// Who wrote the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Every frame is masked.
    Client,
    /// No frame is masked.
    Server,
}

/// What a peer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A complete text message.
    Text(String),
    /// A complete binary message.
    Binary(Vec<u8>),
    /// To be answered by a pong with the same payload.
    Ping(Vec<u8>),
    /// The answer to a ping, or unasked for.
    Pong(Vec<u8>),
    /// The end: to be answered by a close; nothing comes after it.
    Close {
        /// The code, if one was sent; it is one that may be sent.
        code: Option<u16>,
        /// The reason, often empty.
        reason: String,
    },
}

impl Event {
    /// Bytes of its payload.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => bytes.len(),
            Self::Close { reason, .. } => reason.len(),
        }
    }
}

/// How a peer broke the protocol. The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// RFC 6455 section 5.1.
    #[error("clients mask every frame")]
    Unmasked,
    /// RFC 6455 section 5.1.
    #[error("servers mask no frame")]
    Masked,
    /// No extension was agreed on that would use it, or not on this frame (RFC 7692 section 6.2).
    #[error("a reserved bit is set that no agreed extension has on this frame")]
    ReservedBits,
    /// Neither data nor control.
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// Only messages may be fragmented.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// More than [`CONTROL_BYTES_MAX`].
    #[error("a control frame has more than {CONTROL_BYTES_MAX} bytes")]
    OversizeControl,
    /// RFC 6455 section 5.2: the shortest form is the only one.
    #[error("a length is not written in its shortest form")]
    LengthNotMinimal,
    /// RFC 6455 section 5.2.
    #[error("a length has its highest bit set")]
    LengthNegative,
    /// Goes on with nothing.
    #[error("a continuation has no message to continue")]
    ContinuationOfNothing,
    /// The message before was not finished.
    #[error("a message begins before the one before it ended")]
    MessageInMessage,
    /// A single byte.
    #[error("a close frame has a payload of one byte")]
    ClosePayload,
    /// A code that may not be sent.
    #[error("{0} may not be sent as a close code")]
    CloseCode(u16),
    /// A text message or close reason.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A message is marked as compressed and cannot be inflated.
    #[error("a compressed message is not DEFLATE data")]
    Deflate,
    /// Larger than this side reads, as it came or once it is inflated.
    #[error("a message has more than {0} bytes")]
    TooLarge(usize),
}

impl FrameError {
    /// The code to close with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Utf8 | Self::Deflate => CloseCode::InvalidData,
            Self::TooLarge(_) => CloseCode::TooLarge,
            _ => CloseCode::Protocol,
        }
    }
}

/// Turns a peer's bytes into events.
///
/// It takes bytes as they come and holds memory only for the part of a message that has arrived: a claimed length
/// reserves nothing, and an idle connection costs the struct alone. What inflates a compressed message exists only while
/// it does.
#[derive(Debug)]
pub struct Decoder {
    peer: Peer,
    text_as_bytes: bool,
    inflates: bool,
    /// The unfinished message is compressed.
    compressed: bool,
    message_bytes_max: usize,
    /// The unfinished message, over all its fragments.
    message: Vec<u8>,
    /// How much of an unfinished text is known to be UTF-8.
    valid_bytes: usize,
    /// What the unfinished message is.
    message_kind: Option<Opcode>,
    /// The payload of an unfinished control frame.
    control: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; CLIENT_HEADER_BYTES_MAX], have: u8 },
    Payload { fin: bool, opcode: Opcode, mask: [u8; 4], remaining: usize },
    Ended,
}

impl State {
    const START: Self = Self::Header { bytes: [0; CLIENT_HEADER_BYTES_MAX], have: 0 };
}

// One per session: at 100,000 sessions this is 12 MB.
const _: () = assert!(size_of::<Decoder>() <= 128);

impl Decoder {
    /// Reads what `peer` sends, messages of up to `message_bytes_max` bytes.
    pub fn new(peer: Peer, message_bytes_max: usize) -> Self {
        Self {
            peer,
            text_as_bytes: false,
            inflates: false,
            compressed: false,
            message_bytes_max,
            message: Vec::new(),
            valid_bytes: 0,
            message_kind: None,
            control: Vec::new(),
            state: State::START,
        }
    }

    /// Hands text messages over as [`Event::Binary`], unchecked. Against the letter of RFC 6455, for a reader that checks
    /// the parts of a message for itself and would rather lose one part than the connection.
    pub fn text_as_bytes(self) -> Self {
        Self { text_as_bytes: true, ..self }
    }

    /// Reads compressed messages too: permessage-deflate was agreed on, without state between messages.
    pub fn inflating(self) -> Self {
        Self { inflates: true, ..self }
    }

    /// Takes bytes from the front of `input` until an event is complete; `None` means that all were taken and more are
    /// needed. After a close or an error the rest is taken and ignored (RFC 6455 section 5.5.1).
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Event>, FrameError> {
        loop {
            let step = match &self.state {
                State::Header { .. } => self.take_header(input),
                State::Payload { .. } => self.take_payload(input),
                State::Ended => {
                    *input = &[];
                    return Ok(None);
                }
            };
            match step {
                Ok(Step::More) => return Ok(None),
                Ok(Step::Next) => {}
                Ok(Step::Event(event)) => {
                    if matches!(event, Event::Close { .. }) {
                        self.end();
                    }
                    return Ok(Some(event));
                }
                Err(error) => {
                    self.end();
                    return Err(error);
                }
            }
        }
    }

    /// Whether a message or frame has begun and not ended.
    pub fn is_mid_message(&self) -> bool {
        self.message_kind.is_some() || !matches!(self.state, State::Header { have: 0, .. } | State::Ended)
    }

    /// What it holds of an unfinished message or frame, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        self.message.len() + self.control.len()
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.message = Vec::new();
        self.control = Vec::new();
        self.message_kind = None;
    }

    /// Collects a header; each rule is checked as soon as its bytes are there.
    fn take_header(&mut self, input: &mut &[u8]) -> Result<Step, FrameError> {
        let State::Header { mut bytes, have } = self.state else { return Ok(Step::Next) };
        let mut have = usize::from(have);
        loop {
            let need = header_bytes(&bytes[..have]);
            if have == need {
                break;
            }
            let taken = (need - have).min(input.len());
            if taken == 0 {
                self.state = State::Header { bytes, have: have as u8 };
                return Ok(Step::More);
            }
            bytes[have..have + taken].copy_from_slice(&input[..taken]);
            *input = &input[taken..];
            have += taken;
            if have == 2 {
                self.check_first_bytes(bytes[0], bytes[1])?;
            }
        }
        self.begin_payload(&bytes[..have])?;
        Ok(Step::Next)
    }

    fn check_first_bytes(&self, first: u8, second: u8) -> Result<(), FrameError> {
        let begins_message = matches!(first & 15, 1 | 2);
        let allowed = if self.inflates && begins_message { COMPRESSED } else { 0 };
        if first & 0x70 & !allowed != 0 {
            return Err(FrameError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 15).ok_or(FrameError::ReservedOpcode(first & 15))?;
        match (self.peer, second & 0x80 != 0) {
            (Peer::Client, false) => return Err(FrameError::Unmasked),
            (Peer::Server, true) => return Err(FrameError::Masked),
            _ => {}
        }
        let fin = first & 0x80 != 0;
        match opcode {
            _ if opcode.is_control() && !fin => Err(FrameError::FragmentedControl),
            _ if opcode.is_control() && usize::from(second & 0x7f) > CONTROL_BYTES_MAX => {
                Err(FrameError::OversizeControl)
            }
            Opcode::Continuation if self.message_kind.is_none() => Err(FrameError::ContinuationOfNothing),
            Opcode::Text | Opcode::Binary if self.message_kind.is_some() => Err(FrameError::MessageInMessage),
            _ => Ok(()),
        }
    }

    fn begin_payload(&mut self, header: &[u8]) -> Result<(), FrameError> {
        let opcode = Opcode::from_bits(header[0] & 15).ok_or(FrameError::ReservedOpcode(header[0] & 15))?;
        let mut mask = [0; 4];
        let mut length = &header[2..];
        if self.peer == Peer::Client
            && let Some((rest, key)) = length.split_last_chunk()
        {
            (length, mask) = (rest, *key);
        }
        let claimed = match length {
            [] => u64::from(header[1] & 0x7f),
            digits => digits.iter().fold(0, |length, digit| length << 8 | u64::from(*digit)),
        };
        let least = match length.len() {
            0 => 0,
            2 => 126,
            _ => 1 << 16,
        };
        if claimed >> 63 != 0 {
            return Err(FrameError::LengthNegative);
        }
        if claimed < least {
            return Err(FrameError::LengthNotMinimal);
        }
        let begins_message = matches!(opcode, Opcode::Text | Opcode::Binary);
        if begins_message {
            self.compressed = header[0] & COMPRESSED != 0;
        }
        let room = match (opcode.is_control(), self.compressed) {
            (true, _) => CONTROL_BYTES_MAX,
            (false, false) => self.message_bytes_max - self.message.len(),
            (false, true) => wire_bytes_max(self.message_bytes_max) - self.message.len(),
        };
        let remaining = usize::try_from(claimed)
            .ok()
            .filter(|claimed| *claimed <= room)
            .ok_or(FrameError::TooLarge(self.message_bytes_max))?;
        if begins_message {
            self.message_kind = Some(if self.text_as_bytes { Opcode::Binary } else { opcode });
        }
        self.state = State::Payload { fin: header[0] & 0x80 != 0, opcode, mask, remaining };
        Ok(())
    }

    fn take_payload(&mut self, input: &mut &[u8]) -> Result<Step, FrameError> {
        let State::Payload { fin, opcode, ref mut mask, ref mut remaining } = self.state else {
            return Ok(Step::Next);
        };
        let (taken, rest) = input.split_at(input.len().min(*remaining));
        *input = rest;
        *remaining -= taken.len();
        let complete = *remaining == 0;
        let buffer = if opcode.is_control() { &mut self.control } else { &mut self.message };
        super::extend_masked(buffer, taken, *mask);
        // The next byte continues where the mask stopped.
        mask.rotate_left(taken.len() % 4);
        if !opcode.is_control() {
            self.check_utf8()?;
        }
        if !complete {
            return Ok(Step::More);
        }
        self.state = State::START;
        match opcode {
            Opcode::Ping => Ok(Step::Event(Event::Ping(std::mem::take(&mut self.control)))),
            Opcode::Pong => Ok(Step::Event(Event::Pong(std::mem::take(&mut self.control)))),
            Opcode::Close => close_event(&std::mem::take(&mut self.control)).map(Step::Event),
            _ if fin => self.finish_message().map(Step::Event),
            _ => Ok(Step::Next),
        }
    }

    /// Text is checked as it comes, so that nonsense ends at its first byte and not at the end of a long message.
    fn check_utf8(&mut self) -> Result<(), FrameError> {
        if self.message_kind != Some(Opcode::Text) || self.compressed {
            return Ok(());
        }
        match std::str::from_utf8(&self.message[self.valid_bytes..]) {
            Ok(_) => self.valid_bytes = self.message.len(),
            Err(error) if error.error_len().is_some() => return Err(FrameError::Utf8),
            Err(error) => self.valid_bytes += error.valid_up_to(),
        }
        Ok(())
    }

    fn finish_message(&mut self) -> Result<Event, FrameError> {
        let mut message = std::mem::take(&mut self.message);
        self.valid_bytes = 0;
        if self.compressed {
            message = inflate(&message, self.message_bytes_max).map_err(|error| match error {
                InflateError::Invalid => FrameError::Deflate,
                InflateError::TooLarge(bytes_max) => FrameError::TooLarge(bytes_max),
            })?;
        }
        match self.message_kind.take() {
            Some(Opcode::Text) => String::from_utf8(message).map(Event::Text).map_err(|_| FrameError::Utf8),
            _ => Ok(Event::Binary(message)),
        }
    }
}

enum Step {
    /// The input is used up.
    More,
    /// Something is complete, but no event.
    Next,
    Event(Event),
}

/// How long a header is, as far as its first bytes tell.
fn header_bytes(have: &[u8]) -> usize {
    let Some(second) = have.get(1) else { return 2 };
    2 + extended_length_bytes(*second) + if second & 0x80 != 0 { 4 } else { 0 }
}

fn close_event(payload: &[u8]) -> Result<Event, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Event::Close { code: None, reason: String::new() }),
            _ => Err(FrameError::ClosePayload),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(FrameError::CloseCode(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| FrameError::Utf8)?;
    Ok(Event::Close { code: Some(code), reason: reason.to_owned() })
}

/// RFC 6455 section 7.4 and the IANA registry: 1004 is reserved, 1005, 1006 and 1015 only name what happened.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
