//! Compresses messages, one by one.

use flate2::{Compress, Compression, FlushCompress};

use super::TAIL;

/// Quickest level.
pub const LEVEL_MIN: u32 = 1;
/// Most thorough level.
pub const LEVEL_MAX: u32 = 9;

/// Kept for the next message, in bytes; larger messages are rare and make their own room.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

/// Compresses one message after the other, each for itself. About 300 kB, so there are few of them, shared by all
/// connections.
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
    scratch: Vec<u8>,
}

impl Deflater {
    /// A compressor of a level from [`LEVEL_MIN`] to [`LEVEL_MAX`]; others are taken as the nearest of these.
    pub fn new(level: u32) -> Self {
        let level = Compression::new(level.clamp(LEVEL_MIN, LEVEL_MAX));
        Self { stream: Compress::new(level, false), scratch: Vec::new() }
    }

    /// The payload of a compressed message, if it is smaller than `payload`.
    pub fn deflate(&mut self, payload: &[u8]) -> Option<&[u8]> {
        // As much room as pays: a stream that fills it up is not finished, and not wanted.
        let room = payload.len() + TAIL.len();
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH_BYTES_MAX.max(room));
        self.scratch.reserve(room);
        self.stream.reset();
        self.stream.compress_vec(payload, &mut self.scratch, FlushCompress::Sync).ok()?;
        let finished = self.stream.total_in() == payload.len() as u64 && self.scratch.ends_with(&TAIL);
        let deflated = self.scratch.len().checked_sub(TAIL.len())?;
        (finished && deflated < payload.len()).then(|| &self.scratch[..deflated])
    }
}
