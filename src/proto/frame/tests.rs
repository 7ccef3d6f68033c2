use proptest::prelude::*;

use super::*;
use crate::proto::deflate::Deflater;
use crate::proto::message::CloseCode;

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A client's frame from raw parts, masked with zeros so that the payload can be read in the test.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

/// Feeds the bytes in pieces of `piece` and collects what comes out.
fn decode(peer: Peer, bytes: &[u8], piece: usize) -> (Vec<Event>, Option<FrameError>) {
    drain(Decoder::new(peer, MESSAGE_BYTES_MAX), bytes, piece)
}

/// The same where compression was agreed on.
fn decode_inflating(bytes: &[u8], piece: usize) -> (Vec<Event>, Option<FrameError>) {
    drain(Decoder::new(Peer::Client, MESSAGE_BYTES_MAX).inflating(), bytes, piece)
}

fn drain(mut decoder: Decoder, bytes: &[u8], piece: usize) -> (Vec<Event>, Option<FrameError>) {
    let mut events = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(input.is_empty());
    }
    (events, None)
}

#[track_caller]
fn check(bytes: &[u8], events: &[Event]) {
    for piece in [1, 2, 3, bytes.len()] {
        assert_eq!(decode(Peer::Client, bytes, piece), (events.to_vec(), None));
    }
}

#[track_caller]
fn check_refused(bytes: &[u8], error: FrameError, code: u16) {
    for piece in [1, 2, 3, bytes.len()] {
        assert_eq!(decode(Peer::Client, bytes, piece).1, Some(error));
    }
    assert_eq!(error.close_code().number(), code);
}

#[test]
fn server_frames_have_the_shortest_header() {
    for (bytes, expected) in [
        (0, &[0x81, 0][..]),
        (125, &[0x81, 125]),
        (126, &[0x81, 126, 0, 126]),
        (65_535, &[0x81, 126, 0xff, 0xff]),
        (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        assert_eq!(header(Opcode::Text, bytes).as_slice(), expected);
    }
    let mut out = Vec::new();
    encode(&mut out, Opcode::Ping, b"x");
    assert_eq!(out, [0x89, 1, b'x']);
}

#[test]
fn the_payload_of_a_server_frame_is_found_behind_any_header() {
    for bytes in [0, 125, 126, 65_535, 65_536] {
        let mut out = Vec::new();
        encode(&mut out, Opcode::Text, &vec![7; bytes]);
        assert_eq!(payload(&out), vec![7; bytes]);
    }
    assert_eq!(payload(&[]), b"");
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    // Section 5.7.
    check(
        &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58],
        &[Event::Text("Hello".into())],
    );
    check(
        &[0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58],
        &[Event::Ping(b"Hello".to_vec())],
    );
    let fragments = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    assert_eq!(decode(Peer::Server, &fragments, 1), (vec![Event::Text("Hello".into())], None));
}

#[test]
fn control_frames_may_come_between_fragments() {
    let bytes =
        [raw(0x01, b"He"), raw(0x89, b"?"), raw(0x00, b""), raw(0x8a, b""), raw(0x80, b"llo")].concat();
    check(&bytes, &[Event::Ping(b"?".to_vec()), Event::Pong(Vec::new()), Event::Text("Hello".into())]);
}

#[test]
fn empty_messages_are_messages() {
    check(
        &[raw(0x81, b""), raw(0x82, b"")].concat(),
        &[Event::Text(String::new()), Event::Binary(Vec::new())],
    );
    check(&[raw(0x01, b""), raw(0x80, b"")].concat(), &[Event::Text(String::new())]);
}

#[test]
fn a_character_may_be_cut_between_fragments() {
    let bytes = [raw(0x01, &[0xe2, 0x82]), raw(0x80, &[0xac])].concat();
    check(&bytes, &[Event::Text("€".into())]);
}

#[test]
fn whatever_breaks_the_protocol_is_refused_with_the_right_code() {
    use FrameError as E;
    let long = |second: u8, digits: &[u8]| [&[0x82, second][..], digits, &[0; 4]].concat();
    for (bytes, error, code) in [
        (vec![0x81, 0x01, b'x'], E::Unmasked, 1002),
        (raw(0xc1, b"x"), E::ReservedBits, 1002),
        (raw(0xa1, b"x"), E::ReservedBits, 1002),
        (raw(0x91, b"x"), E::ReservedBits, 1002),
        (raw(0x83, b""), E::ReservedOpcode(3), 1002),
        (raw(0x87, b""), E::ReservedOpcode(7), 1002),
        (raw(0x8b, b""), E::ReservedOpcode(11), 1002),
        (raw(0x8f, b""), E::ReservedOpcode(15), 1002),
        (raw(0x09, b""), E::FragmentedControl, 1002),
        (raw(0x08, b""), E::FragmentedControl, 1002),
        (vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0], E::OversizeControl, 1002),
        (vec![0x88, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], E::OversizeControl, 1002),
        (raw(0x80, b"x"), E::ContinuationOfNothing, 1002),
        (raw(0x00, b"x"), E::ContinuationOfNothing, 1002),
        ([raw(0x01, b"x"), raw(0x81, b"y")].concat(), E::MessageInMessage, 1002),
        ([raw(0x01, b"x"), raw(0x02, b"y")].concat(), E::MessageInMessage, 1002),
        ([raw(0x81, b"x"), raw(0x80, b"y")].concat(), E::ContinuationOfNothing, 1002),
        (long(0xfe, &[0, 125]), E::LengthNotMinimal, 1002),
        (long(0xff, &[0, 0, 0, 0, 0, 0, 0xff, 0xff]), E::LengthNotMinimal, 1002),
        (long(0xff, &[0x80, 0, 0, 0, 0, 0, 0, 0]), E::LengthNegative, 1002),
        (long(0xff, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), E::TooLarge(MESSAGE_BYTES_MAX), 1009),
        (long(0xff, &[0, 0, 0, 0, 0, 0x10, 0, 1]), E::TooLarge(MESSAGE_BYTES_MAX), 1009),
        (raw(0x88, &[3]), E::ClosePayload, 1002),
        (raw(0x88, &[0x03, 0xe8, 0xff]), E::Utf8, 1007),
        (raw(0x81, &[0xff]), E::Utf8, 1007),
        (raw(0x81, &[0xe2, 0x82]), E::Utf8, 1007),
        ([raw(0x01, &[0xe2, 0x82]), raw(0x80, b"x")].concat(), E::Utf8, 1007),
        // A surrogate, and a code point above the last.
        (raw(0x81, &[0xed, 0xa0, 0x80]), E::Utf8, 1007),
        (raw(0x81, &[0xf4, 0x90, 0x80, 0x80]), E::Utf8, 1007),
    ] {
        check_refused(&bytes, error, code);
    }
    assert_eq!(decode(Peer::Server, &raw(0x81, b"x"), 1).1, Some(E::Masked));
}

#[test]
fn nonsense_in_a_text_ends_it_before_its_last_byte() {
    // The frame claims 100 bytes; the third is wrong already.
    let mut bytes = vec![0x81, 0x80 | 100, 0, 0, 0, 0];
    bytes.extend_from_slice(&[b'a', 0xc3, 0x28]);
    check_refused(&bytes, FrameError::Utf8, 1007);
}

#[test]
fn text_for_a_reader_that_checks_for_itself_is_bytes() {
    let mut decoder = Decoder::new(Peer::Client, MESSAGE_BYTES_MAX).text_as_bytes();
    let bytes = [raw(0x01, b"good\n"), raw(0x80, b"bad \xff")].concat();
    assert_eq!(decoder.decode(&mut &bytes[..]), Ok(Some(Event::Binary(b"good\nbad \xff".to_vec()))));
}

#[test]
fn fragments_together_stay_below_the_bound() {
    let mut decoder = Decoder::new(Peer::Client, 10);
    let bytes = [raw(0x02, &[0; 6]), raw(0x00, &[0; 4]), raw(0x80, &[0; 1])].concat();
    assert_eq!(decoder.decode(&mut &bytes[..]), Err(FrameError::TooLarge(10)));
    let mut decoder = Decoder::new(Peer::Client, 10);
    let bytes = [raw(0x02, &[0; 6]), raw(0x80, &[0; 4])].concat();
    assert_eq!(decoder.decode(&mut &bytes[..]), Ok(Some(Event::Binary(vec![0; 10]))));
}

#[test]
fn close_codes_that_may_not_be_sent_are_refused() {
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        check(
            &raw(0x88, &close_payload(code, "so")),
            &[Event::Close { code: Some(code), reason: "so".into() }],
        );
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        check_refused(&raw(0x88, &close_payload(code, "")), FrameError::CloseCode(code), 1002);
    }
    check(&raw(0x88, b""), &[Event::Close { code: None, reason: String::new() }]);
}

#[test]
fn nothing_is_read_after_the_end() {
    let bytes = [raw(0x88, b""), raw(0x81, b"late"), raw(0xff, b"nonsense")].concat();
    check(&bytes, &[Event::Close { code: None, reason: String::new() }]);
    let mut decoder = Decoder::new(Peer::Client, 10);
    assert!(decoder.decode(&mut &raw(0x83, b"")[..]).is_err());
    let late = raw(0x81, b"late");
    let mut input = &late[..];
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(input.is_empty() && !decoder.is_mid_message());
}

#[test]
fn a_claimed_length_reserves_nothing() {
    let mut decoder = Decoder::new(Peer::Client, usize::MAX);
    let claim = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3];
    assert_eq!(decoder.decode(&mut &claim[..]), Ok(None));
    assert!(decoder.is_mid_message());
}

#[test]
fn a_close_reason_is_cut_at_a_character() {
    let payload = close_payload(CloseCode::Draining.number(), &"ü".repeat(100));
    assert_eq!(payload.len(), 2 + 122);
    assert_eq!(std::str::from_utf8(&payload[2..]).unwrap(), "ü".repeat(61));
    assert_eq!(close_payload(1000, &"x".repeat(200)).len(), CONTROL_BYTES_MAX);
}

/// "Hello", compressed (RFC 7692 section 7.2.3.1).
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

#[track_caller]
fn check_inflated(bytes: &[u8], events: &[Event]) {
    for piece in [1, 2, 3, bytes.len()] {
        assert_eq!(decode_inflating(bytes, piece), (events.to_vec(), None));
    }
}

#[track_caller]
fn check_not_inflated(bytes: &[u8], error: FrameError, code: u16) {
    for piece in [1, 2, 3, bytes.len()] {
        assert_eq!(decode_inflating(bytes, piece).1, Some(error));
    }
    assert_eq!(error.close_code().number(), code);
}

#[test]
fn compressed_messages_are_inflated_whole_or_in_fragments_with_control_frames_between() {
    let hello = || Event::Text("Hello".into());
    check_inflated(&raw(0xc1, &HELLO), &[hello()]);
    check_inflated(&raw(0xc2, &HELLO), &[Event::Binary(b"Hello".to_vec())]);
    let fragments = [
        raw(0x41, &HELLO[..3]),
        raw(0x89, b"?"),
        raw(0x00, b""),
        raw(0x00, &HELLO[3..4]),
        raw(0x80, &HELLO[4..]),
    ];
    check_inflated(&fragments.concat(), &[Event::Ping(b"?".to_vec()), hello()]);
    check_inflated(
        &[raw(0xc1, &[0]), raw(0xc1, b"")].concat(),
        &[Event::Text(String::new()), Event::Text(String::new())],
    );
}

#[test]
fn each_message_says_for_itself_whether_it_is_compressed() {
    let bytes =
        [raw(0x81, b"plain"), raw(0xc1, &HELLO), raw(0x01, b"pl"), raw(0x80, b"ain"), raw(0xc1, &HELLO)]
            .concat();
    let text = |text: &str| Event::Text(text.into());
    check_inflated(&bytes, &[text("plain"), text("Hello"), text("plain"), text("Hello")]);
}

#[test]
fn the_mark_of_compression_is_refused_everywhere_but_at_the_beginning_of_a_message() {
    use FrameError as E;
    check_not_inflated(&[raw(0x41, &HELLO[..3]), raw(0xc0, &HELLO[3..])].concat(), E::ReservedBits, 1002);
    for first in [0xc8, 0xc9, 0xca, 0xe1, 0xd1, 0xa1, 0x91, 0xf2] {
        check_not_inflated(&raw(first, b""), E::ReservedBits, 1002);
    }
    // An RSV1 that nobody agreed on.
    check_refused(&raw(0xc1, &HELLO), E::ReservedBits, 1002);
    check_refused(&raw(0x41, &HELLO), E::ReservedBits, 1002);
}

#[test]
fn nonsense_in_compressed_messages_ends_the_connection_with_the_right_code() {
    use FrameError as E;
    check_not_inflated(&raw(0xc1, &[0x06]), E::Deflate, 1007);
    check_not_inflated(&raw(0xc1, &HELLO[..5]), E::Deflate, 1007);
    check_not_inflated(&raw(0xc2, b"not deflate"), E::Deflate, 1007);
    // A stored block of one byte that is no UTF-8: fine as bytes only.
    let stored = [0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00];
    check_not_inflated(&raw(0xc1, &stored), E::Utf8, 1007);
    check_inflated(&raw(0xc2, &stored), &[Event::Binary(vec![0xff])]);
}

#[test]
fn a_message_is_bounded_after_it_is_inflated() {
    let decode = |message: &[u8], bytes_max: usize| {
        let mut bytes = Vec::new();
        encode_masked(
            &mut bytes,
            true,
            Opcode::Binary,
            [1, 2, 3, 4],
            Deflater::new(1).deflate(message).unwrap(),
        );
        bytes[0] |= COMPRESSED;
        Decoder::new(Peer::Client, bytes_max).inflating().decode(&mut &bytes[..])
    };
    assert_eq!(decode(&[7; 1000], 1000), Ok(Some(Event::Binary(vec![7; 1000]))));
    assert_eq!(decode(&[7; 1001], 1000), Err(FrameError::TooLarge(1000)));
    assert_eq!(decode(&[7; 10 << 20], 16 << 10), Err(FrameError::TooLarge(16 << 10)));
    // What is too large before it is inflated is not read at all.
    let claim = [0xc2, 0xfe, 0x10, 0x00, 1, 2, 3, 4];
    let mut decoder = Decoder::new(Peer::Client, 1000).inflating();
    assert_eq!(decoder.decode(&mut &claim[..]), Err(FrameError::TooLarge(1000)));
}

/// A message and the places to cut it into fragments.
#[derive(Debug, Clone)]
struct Sent {
    event: Event,
    compressed: bool,
    cuts: Vec<prop::sample::Index>,
    mask: [u8; 4],
}

fn sent() -> impl Strategy<Value = Sent> {
    let control = || prop::collection::vec(any::<u8>(), 0..=CONTROL_BYTES_MAX);
    let event = prop_oneof![
        3 => ".{0,200}".prop_map(Event::Text),
        3 => prop::collection::vec(any::<u8>(), 0..400).prop_map(Event::Binary),
        1 => Just(Event::Binary(vec![7; 70_000])),
        1 => control().prop_map(Event::Ping),
        1 => control().prop_map(Event::Pong),
    ];
    (event, any::<bool>(), prop::collection::vec(any::<prop::sample::Index>(), 0..4), any::<[u8; 4]>())
        .prop_map(|(event, compressed, cuts, mask)| Sent { event, compressed, cuts, mask })
}

fn encode_sent(out: &mut Vec<u8>, sent: &Sent) {
    let (opcode, payload) = match &sent.event {
        Event::Text(text) => (Opcode::Text, text.as_bytes()),
        Event::Binary(bytes) => (Opcode::Binary, &bytes[..]),
        Event::Ping(bytes) => return encode_masked(out, true, Opcode::Ping, sent.mask, bytes),
        Event::Pong(bytes) => return encode_masked(out, true, Opcode::Pong, sent.mask, bytes),
        Event::Close { .. } => unreachable!("not generated"),
    };
    // What does not get smaller is sent as it is.
    let mut deflater = Deflater::new(1);
    let deflated = sent.compressed.then(|| deflater.deflate(payload)).flatten();
    let (payload, mark) = deflated.map_or((payload, 0), |deflated| (deflated, COMPRESSED));
    let start = out.len();
    let mut cuts: Vec<usize> = sent.cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    for (at, cut) in cuts.iter().enumerate() {
        let opcode = if at == 0 { opcode } else { Opcode::Continuation };
        encode_masked(out, false, opcode, sent.mask, &payload[from..*cut]);
        encode_masked(out, true, Opcode::Ping, sent.mask, b"between");
        from = *cut;
    }
    let opcode = if cuts.is_empty() { opcode } else { Opcode::Continuation };
    encode_masked(out, true, opcode, sent.mask, &payload[from..]);
    out[start] |= mark;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_sent_arrives_however_it_is_cut(
        messages in prop::collection::vec(sent(), 1..6),
        pieces in prop::collection::vec(1usize..300, 1..20),
    ) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| encode_sent(&mut bytes, message));
        let mut decoder = Decoder::new(Peer::Client, MESSAGE_BYTES_MAX).inflating();
        let mut events = Vec::new();
        let mut rest = &bytes[..];
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (mut input, later) = rest.split_at((*piece).min(rest.len()));
            rest = later;
            while let Some(event) = decoder.decode(&mut input).unwrap() {
                events.push(event);
            }
        }
        events.retain(|event| *event != Event::Ping(b"between".to_vec()));
        let expected: Vec<Event> = messages.into_iter().map(|message| message.event).collect();
        prop_assert_eq!(events, expected);
        prop_assert!(!decoder.is_mid_message());
    }

    #[test]
    fn compressed_server_frames_are_read_back(text in "[a-d]{100,3000}") {
        let mut bytes = Vec::new();
        encode_compressed(&mut bytes, Opcode::Text, Deflater::new(6).deflate(text.as_bytes()).unwrap());
        let decoder = Decoder::new(Peer::Server, MESSAGE_BYTES_MAX).inflating();
        prop_assert_eq!(drain(decoder, &bytes, 7), (vec![Event::Text(text)], None));
    }

    #[test]
    fn server_frames_are_read_back(text in ".{0,300}") {
        let mut bytes = Vec::new();
        encode(&mut bytes, Opcode::Text, text.as_bytes());
        prop_assert_eq!(decode(Peer::Server, &bytes, 7), (vec![Event::Text(text)], None));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_alike_however_they_are_cut(bytes in prop::collection::vec(any::<u8>(), 1..200), piece in 1usize..50) {
        prop_assert_eq!(decode(Peer::Client, &bytes, piece), decode(Peer::Client, &bytes, bytes.len()));
        prop_assert_eq!(decode(Peer::Server, &bytes, piece), decode(Peer::Server, &bytes, bytes.len()));
        prop_assert_eq!(decode_inflating(&bytes, piece), decode_inflating(&bytes, bytes.len()));
    }

    #[test]
    fn almost_right_frames_are_answered_alike_however_they_are_cut(
        frames in prop::collection::vec((prop::sample::select(vec![0x00u8, 0x01, 0x02, 0x41, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xc1, 0xc2]), prop::collection::vec(any::<u8>(), 0..9)), 1..8),
        piece in 1usize..20,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| raw(*first, payload)).collect();
        prop_assert_eq!(decode(Peer::Client, &bytes, piece), decode(Peer::Client, &bytes, bytes.len()));
        prop_assert_eq!(decode_inflating(&bytes, piece), decode_inflating(&bytes, bytes.len()));
    }
}
