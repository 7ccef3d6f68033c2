//! A server's bytes into messages, without a copy wherever the bytes allow it. Pure.
//!
//! A socket that is read into a large buffer mostly gives whole, unfragmented frames, and those are handed out in place.
//! Everything else (a frame cut by the end of the buffer, a fragment, a control frame) goes through [`Decoder`], which
//! also knows every rule of RFC 6455.

use std::borrow::Cow;

use crate::proto::frame::{Decoder, Event, FrameError, Peer};

/// Largest message that is read, in bytes: far above any envelope as JSON.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// FIN and text, FIN and binary.
const WHOLE: [u8; 2] = [0x81, 0x82];

/// What a server says, as far as a client that counts needs to know it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A message. Text is not checked to be UTF-8: it is compared with what was sent.
    Message(Cow<'a, [u8]>),
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    /// The end, with its code if there was one.
    Close(Option<u16>),
}

/// Reads one connection.
#[derive(Debug)]
pub(super) struct Scanner(Decoder);

impl Scanner {
    pub(super) fn new() -> Self {
        Self(Decoder::new(Peer::Server, MESSAGE_BYTES_MAX).text_as_bytes())
    }

    /// Takes bytes from the front of `input` until a frame is complete; `None` means that all were taken.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        loop {
            if !self.0.is_mid_message()
                && let Some(payload) = take_whole(input)
            {
                return Ok(Some(Frame::Message(Cow::Borrowed(payload))));
            }
            return Ok(match self.0.decode(input)? {
                None => None,
                Some(Event::Binary(message)) => Some(Frame::Message(Cow::Owned(message))),
                Some(Event::Text(message)) => Some(Frame::Message(Cow::Owned(message.into_bytes()))),
                Some(Event::Ping(payload)) => Some(Frame::Ping(payload)),
                Some(Event::Close { code, .. }) => Some(Frame::Close(code)),
                Some(Event::Pong(_)) => continue,
            });
        }
    }
}

/// The payload of the first frame, if it is a whole message and all of it is there. What breaks a rule is left to the
/// decoder, which says how.
fn take_whole<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [first, length, rest @ ..] = *input else { return None };
    if !WHOLE.contains(first) {
        return None;
    }
    let (bytes, rest) = match length {
        0..126 => (usize::from(*length), rest),
        126 => {
            let (digits, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*digits)).checked_sub(126)? + 126, rest)
        }
        127 => {
            let (digits, rest) = rest.split_first_chunk()?;
            let bytes = usize::try_from(u64::from_be_bytes(*digits)).ok()?;
            (Some(bytes).filter(|bytes| (1 << 16..=MESSAGE_BYTES_MAX).contains(bytes))?, rest)
        }
        // Masked.
        _ => return None,
    };
    let (payload, rest) = rest.split_at_checked(bytes)?;
    *input = rest;
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::frame::{self, Opcode};
    use proptest::prelude::*;

    /// Frames as a server may send them, a fragmented message among them.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![0usize..130, 120usize..300, 65_530usize..65_545];
        let one = (size, 0..5u8, any::<u8>()).prop_map(|(size, kind, fill)| {
            let mut bytes = Vec::new();
            let payload = vec![fill; size];
            match kind {
                0 | 1 => frame::encode(&mut bytes, Opcode::Text, &payload),
                2 => frame::encode(&mut bytes, Opcode::Binary, &payload),
                3 => frame::encode(&mut bytes, Opcode::Ping, &payload[..size.min(125)]),
                _ => {
                    let (first, second) = payload.split_at(size / 2);
                    let begin = bytes.len();
                    frame::encode(&mut bytes, Opcode::Text, first);
                    bytes[begin] &= 0x7f;
                    frame::encode(&mut bytes, Opcode::Pong, b"between");
                    frame::encode(&mut bytes, Opcode::Continuation, second);
                }
            }
            bytes
        });
        prop::collection::vec(one, 1..12).prop_map(|frames| frames.concat())
    }

    fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Frame<'static>>, FrameError> {
        let mut scanner = Scanner::new();
        let mut frames = Vec::new();
        for mut input in pieces {
            while let Some(frame) = scanner.next(&mut input)? {
                frames.push(match frame {
                    Frame::Message(message) => Frame::Message(Cow::Owned(message.into_owned())),
                    Frame::Ping(payload) => Frame::Ping(payload),
                    Frame::Close(code) => Frame::Close(code),
                });
            }
            assert!(input.is_empty());
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn any_cutting_of_the_stream_gives_the_same_frames(
            bytes in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let whole = scan(std::iter::once(&bytes[..]));
            let pieces = scan(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
            prop_assert!(whole.is_ok());
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn any_bytes_give_what_the_decoder_gives(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0usize..64) {
            let at = at.min(bytes.len());
            let mut decoder = Decoder::new(Peer::Server, MESSAGE_BYTES_MAX).text_as_bytes();
            let mut input = &bytes[..];
            let mut expected = 0;
            let fate = loop {
                match decoder.decode(&mut input) {
                    Ok(Some(Event::Pong(_))) => {}
                    Ok(Some(_)) => expected += 1,
                    Ok(None) => break Ok(expected),
                    Err(error) => break Err(error),
                }
            };
            let scanned = scan([&bytes[..at], &bytes[at..]].into_iter()).map(|frames| frames.len());
            prop_assert_eq!(scanned, fate);
        }
    }

    #[test]
    fn a_whole_message_is_not_copied() {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, Opcode::Text, &[b'x'; 512]);
        let mut input = &bytes[..];
        let frame = Scanner::new().next(&mut input).unwrap().unwrap();
        assert!(matches!(frame, Frame::Message(Cow::Borrowed(message)) if message.len() == 512));
    }
}
