use bytes::BytesMut;
use proptest::prelude::*;

use crate::ingest::socket::frames::{Decoder, Event, Fault, close, control_frame};

const MASK: [u8; 4] = [7, 0, 255, 33];

/// A masked frame; `first` holds FIN, reserved bits and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=65535 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// All events of `bytes` when they come in pieces of `piece`.
fn events(bytes: &[u8], piece: usize) -> Result<Vec<Event>, Fault> {
    let mut decoder = Decoder::new(100_000);
    let mut input = BytesMut::new();
    let mut events = Vec::new();
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        while let Some(event) = decoder.next(&mut input)? {
            events.push(event);
        }
    }
    Ok(events)
}

#[track_caller]
fn check_fault(bytes: &[u8], fault: Fault, code: u16) {
    assert_eq!(events(bytes, usize::MAX), Err(fault));
    assert_eq!(fault.close_code(), code);
}

#[test]
fn fragments_make_one_message_and_control_frames_may_come_between_them() {
    let bytes =
        [frame(0x01, b"cpu "), frame(0x89, b"hi"), frame(0x00, b""), frame(0x8a, b""), frame(0x80, b"u=1")]
            .concat();
    let expected = vec![Event::Ping(b"hi".to_vec()), Event::Pong, Event::Message(b"cpu u=1".to_vec())];
    for piece in 1..bytes.len() {
        assert_eq!(events(&bytes, piece).as_ref(), Ok(&expected));
    }
}

#[test]
fn what_breaks_the_protocol_is_named() {
    check_fault(&[0x82, 0x01, b'x'], Fault::Unmasked, 1002);
    check_fault(&frame(0xC2, b"x"), Fault::ReservedBits, 1002);
    check_fault(&frame(0x83, b"x"), Fault::Opcode(3), 1002);
    check_fault(&frame(0x8B, b"x"), Fault::Opcode(11), 1002);
    check_fault(&frame(0x09, b"x"), Fault::Control, 1002);
    check_fault(&frame(0x89, &[0; 126]), Fault::Control, 1002);
    check_fault(&frame(0x80, b"x"), Fault::Continuation, 1002);
    check_fault(&[frame(0x01, b"a"), frame(0x81, b"b")].concat(), Fault::Interleaved, 1002);
    check_fault(&frame(0x88, b"x"), Fault::CloseCode, 1002);
    check_fault(&frame(0x88, &1005u16.to_be_bytes()), Fault::CloseCode, 1002);
}

#[test]
fn a_claimed_length_is_refused_before_its_bytes_come_and_costs_no_memory() {
    let mut claim = vec![0x82, 0x80 | 127];
    claim.extend_from_slice(&u64::MAX.to_be_bytes());
    check_fault(&claim, Fault::TooLarge(100_000), 1009);
    let two = [frame(0x02, &[0; 60_000]), frame(0x80, &[0; 60_000])].concat();
    check_fault(&two, Fault::TooLarge(100_000), 1009);
    assert!(events(&frame(0x82, &[0; 100_000]), usize::MAX).is_ok());
}

#[test]
fn a_close_frame_may_hold_a_code_or_nothing() {
    assert_eq!(events(&frame(0x88, b""), 1), Ok(vec![Event::Close(None)]));
    assert_eq!(events(&frame(0x88, b"\x03\xe8bye"), 1), Ok(vec![Event::Close(Some(1000))]));
}

#[test]
fn our_control_frames_are_short_and_their_reasons_stay_text() {
    assert_eq!(control_frame(9, &[]), [0x89, 0]);
    let frame = close(4009, &"é".repeat(200));
    assert!(frame.len() <= 127);
    assert!(std::str::from_utf8(&frame[4..]).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
        let _ = events(&bytes, piece);
    }

    #[test]
    fn messages_survive_any_fragmentation(
        messages in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4), 1..4),
        piece in 1usize..1000,
    ) {
        let mut bytes = Vec::new();
        for fragments in &messages {
            for (at, fragment) in fragments.iter().enumerate() {
                let last = if at + 1 == fragments.len() { 0x80 } else { 0 };
                bytes.extend(frame(last | if at == 0 { 2 } else { 0 }, fragment));
            }
        }
        let expected = messages.iter().map(|fragments| Event::Message(fragments.concat())).collect();
        prop_assert_eq!(events(&bytes, piece), Ok(expected));
    }
}
