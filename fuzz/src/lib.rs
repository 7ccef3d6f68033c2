//! The pure core, compiled once more under instrumentation; the targets are in `targets/`.

#[path = "../../src/proto/mod.rs"]
pub mod proto;

use proto::frame::{Decoder, Event, FrameError};

/// What a decoder makes of bytes that come in pieces of this size.
pub fn decode(mut decoder: Decoder, bytes: &[u8], piece: usize) -> (Vec<Event>, Option<FrameError>) {
    let mut events = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}
