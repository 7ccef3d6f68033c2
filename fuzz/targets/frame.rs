//! Any bytes as WebSocket frames, in pieces of any size: nothing panics, the pieces make no difference, and messages stay
//! below their bound. The first byte is the size of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::frame::{Decoder, Event, FrameError, Opcode, Peer, encode_masked};

const MESSAGE_BYTES_MAX: usize = 512;

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let piece = usize::from(*piece).max(1);
    for peer in [Peer::Client, Peer::Server] {
        let whole = decode(peer, bytes, bytes.len().max(1));
        assert_eq!(decode(peer, bytes, piece), whole);
        for event in whole.0 {
            check_round_trip(event);
        }
    }
});

fn decode(peer: Peer, bytes: &[u8], piece: usize) -> (Vec<Event>, Option<FrameError>) {
    telecast_fuzz::decode(Decoder::new(peer, MESSAGE_BYTES_MAX), bytes, piece)
}

fn check_round_trip(event: Event) {
    let (opcode, payload) = match &event {
        Event::Text(text) => (Opcode::Text, text.as_bytes()),
        Event::Binary(bytes) => (Opcode::Binary, &bytes[..]),
        Event::Ping(bytes) => (Opcode::Ping, &bytes[..]),
        Event::Pong(bytes) => (Opcode::Pong, &bytes[..]),
        Event::Close { .. } => return,
    };
    assert!(payload.len() <= MESSAGE_BYTES_MAX);
    let mut bytes = Vec::new();
    encode_masked(&mut bytes, true, opcode, [1, 2, 3, 4], payload);
    assert_eq!(decode(Peer::Client, &bytes, 3), (vec![event], None));
}
