//! Any bytes as compressed WebSocket frames, in pieces of any size, and as a message to compress: nothing panics, the pieces
//! make no difference, messages stay below their bound once they are inflated, and what is compressed comes back. The
//! first byte is the size of the pieces.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::deflate::{Deflater, InflateError, inflate};
use telecast_fuzz::proto::frame::{Decoder, Event, FrameError, Opcode, Peer, encode_compressed};

const MESSAGE_BYTES_MAX: usize = 512;

thread_local! {
    static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new(1));
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let piece = usize::from(*piece).max(1);
    for peer in [Peer::Client, Peer::Server] {
        let whole = decode(peer, bytes, bytes.len().max(1));
        assert_eq!(decode(peer, bytes, piece), whole);
        assert!(whole.0.iter().all(|event| event.bytes() <= MESSAGE_BYTES_MAX));
    }
    match inflate(bytes, MESSAGE_BYTES_MAX) {
        Ok(message) => assert!(message.len() <= MESSAGE_BYTES_MAX && message.capacity() <= MESSAGE_BYTES_MAX + 1),
        Err(InflateError::Invalid) => {}
        Err(InflateError::TooLarge(bytes_max)) => assert_eq!(bytes_max, MESSAGE_BYTES_MAX),
    }
    // The same bytes as the only frame of a server, so that most of them reach the inflater.
    let mut frame = Vec::new();
    encode_compressed(&mut frame, Opcode::Binary, bytes);
    assert_eq!(decode(Peer::Server, &frame, piece), decode(Peer::Server, &frame, frame.len()));
    DEFLATER.with_borrow_mut(|deflater| {
        if let Some(deflated) = deflater.deflate(bytes) {
            assert!(deflated.len() < bytes.len());
            assert_eq!(inflate(deflated, bytes.len()).as_deref(), Ok(bytes));
        }
    });
});

fn decode(peer: Peer, bytes: &[u8], piece: usize) -> (Vec<Event>, Option<FrameError>) {
    telecast_fuzz::decode(Decoder::new(peer, MESSAGE_BYTES_MAX).inflating(), bytes, piece)
}
