//! WebSocket frames and clients' messages.

use std::hint::black_box;

use telecast::proto::frame::{self, Decoder, Opcode, Peer};
use telecast::proto::message::ClientMessage;

use crate::Prepared;

/// Frames of one run.
const FRAMES: usize = 1_000;
const PAYLOAD_BYTES: usize = 512;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const SUBSCRIBE: &[u8] =
    br#"{"type":"subscribe","id":7,"filter":["*.cpu{host=web-1}","gateway.mem"],"from":"latest","format":"json"}"#;

pub(crate) fn encode() -> Prepared {
    written(|out, payload| frame::encode(out, Opcode::Text, payload))
}

pub(crate) fn mask() -> Prepared {
    written(|out, payload| frame::encode_masked(out, true, Opcode::Text, MASK, payload))
}

pub(crate) fn unmask() -> Prepared {
    read(Opcode::Text, &[b'x'; PAYLOAD_BYTES])
}

pub(crate) fn ping() -> Prepared {
    read(Opcode::Ping, b"ping")
}

pub(crate) fn subscribe() -> Prepared {
    const MESSAGES: usize = 100;
    Prepared::new(MESSAGES, MESSAGES * SUBSCRIBE.len(), || {
        for _ in 0..MESSAGES {
            let message = ClientMessage::parse(black_box(SUBSCRIBE));
            debug_assert!(message.is_ok(), "{message:?}");
            black_box(&message);
        }
    })
}

fn written(write: fn(&mut Vec<u8>, &[u8])) -> Prepared {
    let payload = [b'x'; PAYLOAD_BYTES];
    let mut out = Vec::new();
    Prepared::new(FRAMES, FRAMES * PAYLOAD_BYTES, move || {
        for _ in 0..FRAMES {
            out.clear();
            write(&mut out, black_box(&payload));
            black_box(&out);
        }
    })
}

/// Frames that arrive one after the other, as a client with little to say sends them.
fn read(opcode: Opcode, payload: &[u8]) -> Prepared {
    let mut wire = Vec::new();
    frame::encode_masked(&mut wire, true, opcode, MASK, payload);
    let mut decoder = Decoder::new(Peer::Client, 64 << 10);
    Prepared::new(FRAMES, FRAMES * wire.len(), move || {
        for _ in 0..FRAMES {
            let event = decoder.decode(&mut black_box(wire.as_slice()));
            debug_assert!(matches!(event, Ok(Some(_))), "{event:?}");
            black_box(&event);
        }
    })
}
