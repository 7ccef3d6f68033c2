//! Any bytes as the lines of `Sec-WebSocket-Extensions`: nothing panics, an offer in front that can be honoured is taken
//! whatever follows it in the list, and a list is read the same in one line or several.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::deflate::negotiate;

fuzz_target!(|input: &[u8]| {
    let alone = negotiate(input.split(|byte| *byte == b'\n'));
    let first = b"permessage-deflate; client_max_window_bits";
    let behind = negotiate(std::iter::once(&first[..]).chain(input.split(|byte| *byte == b'\n')));
    assert_eq!(behind.is_ok(), alone.is_ok());
    if let Ok(agreed) = behind {
        assert_eq!(agreed, negotiate([&first[..]]).unwrap());
    }
    if let Ok(agreed) = alone {
        // Quotes hold tokens only, so no comma of a well-formed line is inside of them.
        let joined: Vec<u8> = input.iter().map(|byte| if *byte == b'\n' { b',' } else { *byte }).collect();
        assert_eq!(negotiate([&joined[..]]), Ok(agreed));
        // Our own answer is an offer that can be honoured.
        if let Some(agreed) = agreed {
            assert_eq!(negotiate([agreed.answer().as_bytes()]), Ok(Some(agreed)));
        }
    }
});
