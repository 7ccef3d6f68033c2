//! The pure vocabulary: what metrics, channels, envelopes, offsets, filters, messages and frames are, byte for byte.
//!
//! Nothing here waits, reads a clock, logs, or knows who calls it: data in, data or an error out. It imports nothing
//! else of this crate, and a test holds it to that.

pub mod channel;
pub mod deflate;
pub mod envelope;
pub mod event_stream;
pub mod filter;
pub mod frame;
pub mod json;
pub mod line;
pub mod message;
pub mod metric;
pub mod offset;
pub mod printable;
