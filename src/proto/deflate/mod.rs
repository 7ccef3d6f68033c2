//! permessage-deflate (RFC 7692), without state between messages.
//!
//! [`negotiate`] reads what a client offers and chooses; [`Deflater`] and [`inflate`] are the two directions. Each message
//! stands for itself in both (`server_no_context_takeover`, `client_no_context_takeover`), so that a message is compressed
//! once for however many clients, and no connection holds a window.

mod deflater;
mod inflate;
mod offer;

pub use deflater::{Deflater, LEVEL_MAX, LEVEL_MIN};
pub use inflate::{FINAL_BLOCKS_MAX, InflateError, inflate, wire_bytes_max};
pub use offer::{Agreement, MalformedOffers, negotiate};

/// What ends a flushed piece of DEFLATE, and stays off the wire (RFC 7692 section 7.2.1): an empty stored block less its
/// first bits.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

#[cfg(test)]
mod tests;
