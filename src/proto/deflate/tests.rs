use proptest::prelude::*;

use super::*;

const BYTES_MAX: usize = 16 * 1024;
const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The answer to these header lines; empty when nothing is agreed on.
fn answer(lines: &[&str]) -> Result<&'static str, MalformedOffers> {
    let agreed = negotiate(lines.iter().map(|line| line.as_bytes()))?;
    Ok(agreed.map_or("", Agreement::answer))
}

#[test]
fn the_first_offer_that_can_be_honoured_is_accepted() {
    let named = format!("{PLAIN}; server_max_window_bits=15");
    for (offers, expected) in [
        ("permessage-deflate", PLAIN),
        // Chrome, Safari and Node; Firefox sends the one above.
        ("permessage-deflate; client_max_window_bits", PLAIN),
        ("permessage-deflate;client_max_window_bits=8", PLAIN),
        ("permessage-deflate; client_max_window_bits = \"15\"", PLAIN),
        ("permessage-deflate; client_max_window_bits=\"1\\5\"", PLAIN),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", PLAIN),
        ("permessage-deflate; server_max_window_bits=15", &named),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", PLAIN),
        (
            "permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=15",
            &named,
        ),
        ("x-webkit-deflate-frame, permessage-deflate", PLAIN),
        ("permessage-bzip2; level=\"9\",, ,permessage-deflate ,", PLAIN),
    ] {
        assert_eq!(answer(&[offers]), Ok(expected), "{offers}");
    }
    assert_eq!(
        answer(&["foo; bar", "permessage-deflate; server_max_window_bits=15", "permessage-deflate"]),
        Ok(&*named)
    );
}

#[test]
fn offers_that_cannot_be_honoured_are_declined_and_harm_nothing() {
    for offers in [
        "",
        " , ",
        "x-webkit-deflate-frame",
        "permessage-deflate-2",
        "permessage-deflate; server_max_window_bits=14",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=015",
        "permessage-deflate; client_max_window_bits=08",
        "permessage-deflate; client_max_window_bits=115",
        "permessage-deflate; client_max_window_bits=15x",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=15; server_max_window_bits=15",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; level",
    ] {
        assert_eq!(answer(&[offers]), Ok(""), "{offers}");
    }
    assert_eq!(answer(&[]), Ok(""));
}

#[test]
fn what_is_no_list_of_extensions_fails_the_handshake() {
    for offers in [
        "permessage-deflate client_max_window_bits",
        "permessage-deflate;",
        "permessage-deflate; =8",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=\"",
        "permessage-deflate; client_max_window_bits=\"\"",
        "permessage-deflate; client_max_window_bits=\"1 5\"",
        "permessage-deflate; client_max_window_bits=\"15\\",
        "; permessage-deflate",
        "permessage-deflate, =",
        "permessage-déflate",
        "(comment)",
    ] {
        assert_eq!(answer(&[offers]), Err(MalformedOffers), "{offers}");
    }
    assert_eq!(answer(&["permessage-deflate", "="]), Err(MalformedOffers), "even behind an accepted one");
}

#[test]
fn the_examples_of_the_rfc_are_inflated() {
    // Section 7.2.3: one block; stored; final; two blocks; an empty message.
    for (payload, expected) in [
        (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], "Hello"),
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "Hello"),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
        (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
        (&[0x00], ""),
        // Against the letter, and without another meaning: nothing at all, and a final block without the byte behind it.
        (&[], ""),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
    ] {
        assert_eq!(inflate(payload, 5), Ok(expected.into()), "{payload:x?}");
    }
}

#[test]
fn what_is_not_deflate_or_cut_off_is_refused() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for payload in [
        // A reserved block type, a length that contradicts itself, a distance before the beginning.
        &[0x06][..],
        &[0x00, 0x05, 0x00, 0x00, 0x00],
        &[0x03 | 0x04, 0x00, 0x00],
        &hello[..6],
        &hello[..3],
    ] {
        assert_eq!(inflate(payload, BYTES_MAX), Err(InflateError::Invalid), "{payload:x?}");
    }
    let finals = |count: usize| [0x03, 0x00].repeat(count);
    assert_eq!(inflate(&finals(FINAL_BLOCKS_MAX + 1), BYTES_MAX), Ok(Vec::new()));
    assert_eq!(inflate(&finals(FINAL_BLOCKS_MAX + 2), BYTES_MAX), Err(InflateError::Invalid));
}

#[test]
fn a_bomb_is_refused_at_the_bound() {
    let mut deflater = Deflater::new(9);
    for (bytes, expected) in [
        (BYTES_MAX, None),
        (BYTES_MAX + 1, Some(InflateError::TooLarge(BYTES_MAX))),
        (64 << 20, Some(InflateError::TooLarge(BYTES_MAX))),
    ] {
        let bomb = deflater.deflate(&vec![b'x'; bytes]).unwrap();
        assert_eq!(inflate(bomb, BYTES_MAX).err(), expected, "{bytes} bytes in {}", bomb.len());
    }
    let full = inflate(deflater.deflate(&[b'x'; BYTES_MAX]).unwrap(), BYTES_MAX).unwrap();
    assert!(full.capacity() <= BYTES_MAX + 1, "{}", full.capacity());
    assert_eq!(inflate(deflater.deflate(&[b'x'; 100]).unwrap(), 0), Err(InflateError::TooLarge(0)));
}

#[test]
fn what_does_not_get_smaller_is_left_as_it_is() {
    let mut deflater = Deflater::new(1);
    let noise: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for payload in [&b""[..], b"x", b"{}", &noise[..64]] {
        assert_eq!(deflater.deflate(payload), None, "{} bytes", payload.len());
    }
    let text = br#"{"type":"metrics","metrics":[{"name":"cpu"},{"name":"cpu"},{"name":"cpu"}]}"#;
    assert!(deflater.deflate(text).is_some_and(|deflated| deflated.len() < text.len()));
}

#[test]
fn what_cannot_be_compressed_still_fits_the_wire_at_the_bound() {
    // The worst that a compressor does: stored blocks, here of 100 bytes each.
    let message: Vec<u8> = (0..BYTES_MAX).map(|n| n as u8).collect();
    let mut payload = Vec::new();
    for block in message.chunks(100) {
        let length = block.len() as u16;
        payload.push(0);
        payload.extend_from_slice(&length.to_le_bytes());
        payload.extend_from_slice(&(!length).to_le_bytes());
        payload.extend_from_slice(block);
    }
    payload.push(0);
    assert!(payload.len() <= wire_bytes_max(BYTES_MAX), "{}", payload.len());
    assert_eq!(inflate(&payload, BYTES_MAX), Ok(message));
}

proptest! {
    #[test]
    fn what_is_deflated_is_inflated_again(
        messages in prop::collection::vec(prop_oneof![".{0,2000}", "[a-c]{0,2000}", "(\\{\"name\":\"cpu\",\"v\":[0-9]{1,9}\\}){0,99}"], 1..6),
        level in LEVEL_MIN..=LEVEL_MAX,
    ) {
        let mut deflater = Deflater::new(level);
        for message in &messages {
            if let Some(deflated) = deflater.deflate(message.as_bytes()) {
                prop_assert!(deflated.len() < message.len());
                prop_assert_eq!(inflate(deflated, message.len()).unwrap(), message.as_bytes());
                prop_assert!(inflate(deflated, message.len() - 1).is_err());
            }
        }
    }

    #[test]
    fn any_bytes_are_inflated_within_the_bound(payload in prop::collection::vec(any::<u8>(), 0..300), bytes_max in 0usize..2000) {
        if let Ok(message) = inflate(&payload, bytes_max) {
            prop_assert!(message.len() <= bytes_max && message.capacity() <= bytes_max.max(1) + 1);
        }
    }

    #[test]
    fn any_header_is_answered(line in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = negotiate([&line[..]]);
    }

    #[test]
    fn well_formed_parameters_never_fail_the_handshake(
        offers in prop::collection::vec(("permessage-deflate|[a-z!-]{1,5}", prop::collection::vec(
            ("server_max_window_bits|client_max_window_bits|server_no_context_takeover|[a-z_]{1,5}", prop::option::of("1[0-6]|[0-9]|\"1[0-6]\"|[a-z]{1,3}")), 0..4)), 0..4),
        space in "[ \t]{0,2}",
    ) {
        let offer = |(name, parameters): &(String, Vec<(String, Option<String>)>)| {
            parameters.iter().fold(name.clone(), |offer, (name, value)| match value {
                Some(value) => format!("{offer}{space};{space}{name}={value}"),
                None => format!("{offer}{space};{space}{name}"),
            })
        };
        let line = offers.iter().map(offer).collect::<Vec<_>>().join(&format!("{space},{space}"));
        prop_assert!(answer(&[&line]).is_ok(), "{}", line);
    }
}
