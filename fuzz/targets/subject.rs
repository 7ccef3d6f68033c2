//! Any text as the tokens of a subject: nothing panics, and every channel that is read has one subject that leads back to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::channel::{escape_token, unescape_token};
use telecast_fuzz::proto::envelope::{channel_of_suffix, subject_suffix};
use telecast_fuzz::proto::offset::Shard;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert_eq!(unescape_token(&escape_token(text)), text);
    let channel = channel_of_suffix(text);
    let suffix = subject_suffix(Shard(0), &channel);
    let tokens = suffix.strip_prefix("0.").expect("the shard comes first");
    assert_eq!(tokens.matches('.').count(), 1);
    assert_eq!(channel_of_suffix(tokens), channel);
});
