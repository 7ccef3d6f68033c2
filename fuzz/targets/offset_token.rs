//! Any text as an offset token: nothing panics, and what is accepted has one place and one spelling of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smallvec::SmallVec;
use telecast_fuzz::proto::offset::{Epoch, Offset, SHARDS_MAX};

fuzz_target!(|input: &[u8]| {
    if let Ok(token) = std::str::from_utf8(input)
        && let Ok(offset) = token.parse::<Offset>()
    {
        assert_eq!(offset.token().parse(), Ok(offset));
    }
    // The checksum keeps random text out, so offsets are made from the bytes as well.
    let mut numbers = input.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok()).map(u64::from_le_bytes);
    let Some(epoch) = numbers.next().map(Epoch) else { return };
    let sequences: SmallVec<[u64; 2]> = numbers.take(usize::from(SHARDS_MAX)).collect();
    if !sequences.is_empty() {
        let offset = Offset { epoch, sequences };
        assert_eq!(offset.token().parse(), Ok(offset));
    }
});
