//! Decompresses a message, within a bound.

use flate2::{Decompress, FlushDecompress, Status};

use super::TAIL;

/// Final blocks (BFINAL) in one message. Senders that flush write none, others one; each of them costs a new window, so a
/// message made of nothing else would cost a thousand times its bytes.
pub const FINAL_BLOCKS_MAX: usize = 16;

/// Smallest room that is made at a time, in bytes.
const ROOM_BYTES_MIN: usize = 1024;

/// What follows the tail here: an empty final block. It is reached only if the message before it ends where a block does,
/// which nothing else would tell.
const END: [u8; 2] = [0x03, 0x00];

/// Why a message cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// Not DEFLATE, or cut off.
    #[error("a compressed message is not DEFLATE data")]
    Invalid,
    /// More than the given number of bytes.
    #[error("a message has more than {0} bytes")]
    TooLarge(usize),
}

/// Bytes that a compressed message may have on the wire if it may have `bytes_max` when it is inflated: what cannot be
/// compressed grows by five bytes per stored block, which some compressors keep as short as 100 bytes.
pub fn wire_bytes_max(bytes_max: usize) -> usize {
    bytes_max.saturating_add(bytes_max / 16).saturating_add(64)
}

/// The message behind a compressed payload, of up to `bytes_max` bytes; no more than one byte above it is ever
/// reserved. The window (some 40 kB) exists during the call only.
pub fn inflate(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    if payload.is_empty() {
        // An empty message has one byte (RFC 7692 section 7.2.3.6); without it there is still nothing in it.
        return Ok(Vec::new());
    }
    let mut inflating =
        Inflating { stream: Decompress::new(false), out: Vec::new(), bytes_max, final_blocks: 0 };
    // A final block at the very end leaves nothing that the tail could complete.
    if !inflating.take(payload)? {
        inflating.take(&TAIL)?;
        if !inflating.take(&END)? {
            return Err(InflateError::Invalid);
        }
    }
    Ok(inflating.out)
}

struct Inflating {
    stream: Decompress,
    out: Vec<u8>,
    bytes_max: usize,
    final_blocks: usize,
}

impl Inflating {
    /// Takes all of `input`. True when it ends with a final block.
    fn take(&mut self, mut input: &[u8]) -> Result<bool, InflateError> {
        loop {
            self.make_room();
            let before = self.stream.total_in();
            let status = self
                .stream
                .decompress_vec(input, &mut self.out, FlushDecompress::Sync)
                .map_err(|_| InflateError::Invalid)?;
            let taken = (self.stream.total_in() - before) as usize;
            input = &input[taken.min(input.len())..];
            if self.out.len() > self.bytes_max {
                return Err(InflateError::TooLarge(self.bytes_max));
            }
            let room_left = self.out.len() < self.out.capacity();
            match status {
                Status::StreamEnd if input.is_empty() => return Ok(true),
                Status::StreamEnd => self.begin_again()?,
                _ if !room_left => {}
                _ if input.is_empty() => return Ok(false),
                // Room and input, and neither is used.
                _ if taken == 0 => return Err(InflateError::Invalid),
                _ => {}
            }
        }
    }

    /// Blocks may follow a final one, from the next byte on (RFC 7692 section 7.2.1).
    fn begin_again(&mut self) -> Result<(), InflateError> {
        self.final_blocks += 1;
        if self.final_blocks > FINAL_BLOCKS_MAX {
            return Err(InflateError::Invalid);
        }
        self.stream.reset(false);
        Ok(())
    }

    /// Room for one byte above the bound at most: whether it is needed is how a message that is too large shows.
    fn make_room(&mut self) {
        if self.out.len() == self.out.capacity() {
            let room = self.out.len().max(ROOM_BYTES_MIN);
            self.out.reserve_exact(room.min(self.bytes_max.saturating_add(1) - self.out.len()));
        }
    }
}
