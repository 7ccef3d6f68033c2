//! Any text as a filter: nothing panics, what is accepted is written back as the same filter, and an error's column lies in
//! the text. The first line is the filter, the rest what it is matched against.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::envelope::channel_of_suffix;
use telecast_fuzz::proto::filter::{Filter, FilterSet, Match, keep_escapes};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let kept = keep_escapes(text);
    assert!(kept.len() >= text.len(), "escapes are kept, nothing is lost");
    let (text, against) = text.split_once('\n').unwrap_or((text, "web-01.cpu"));
    let filter: Filter = match text.parse() {
        Ok(filter) => filter,
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.column));
            return;
        }
    };
    // Encoded for a URL, as JavaScript does it and as others do, nothing of it has to be kept from the decoding.
    for plain in [&b"-_.!~*'()"[..], b""] {
        let mut url = String::new();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
                url.push(char::from(byte));
            } else {
                url.push_str(&format!("%{byte:02X}"));
            }
        }
        assert_eq!(keep_escapes(&url), url.as_str(), "{text}");
    }
    let written = filter.to_string();
    assert!(written.len() <= text.len(), "writing must not make a filter too long");
    assert_eq!(written.parse(), Ok(filter.clone()));
    let channel = channel_of_suffix(against);
    let tag = |key: &str| (!key.is_empty()).then_some(Cow::Borrowed(against));
    let passes = filter.matches_channel(&channel) && filter.matches_tags(tag);
    let expected = match (filter.matches_channel(&channel), filter.has_predicates()) {
        (false, _) => Match::No,
        (true, false) => Match::Whole,
        (true, true) => Match::Lines,
    };
    let set = FilterSet::new([filter]).expect("one filter is a set");
    assert_eq!(set.matches_channel(&channel), expected);
    assert_eq!(set.matches_line(&channel, tag), passes);
});
