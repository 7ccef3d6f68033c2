//! Newest values as messages, with the range of the log they stand for. Pure.

use std::sync::Arc;

use bytes::Bytes;

use crate::edge::books::Fates;
use crate::edge::encode;
use crate::edge::series::{Part, Parts};
use crate::proto::message::Conflated;
use crate::proto::offset::Offset;

/// What messages stand for: the newest value of every series that has one in the range.
pub(super) struct Stretch {
    /// It begins behind this place.
    pub(super) from: Arc<Offset>,
    /// It ends with this one.
    pub(super) to: Arc<Offset>,
    /// Metrics that are left out for a newer one, where they were counted.
    pub(super) conflated: Option<u64>,
}

/// A message, and the place of a client that has it.
pub(super) struct Message {
    pub(super) bytes: Bytes,
    pub(super) offset: Arc<Offset>,
    pub(super) is_last: bool,
}

impl Stretch {
    /// What becomes of its positions, if so many envelopes match and the newest values are those of some of them.
    pub(super) fn fates(&self, sent: u64, matched: u64) -> Fates {
        let positions = self.from.positions_to(&self.to);
        let delivered = sent.min(positions);
        let conflated = matched.saturating_sub(sent).min(positions - delivered);
        Fates { delivered, conflated, filtered: positions - delivered - conflated, gap: 0 }
    }
}

/// Newest values as messages. Only the last one moves its clients on, so that a connection that breaks before it misses
/// nothing; it also has the whole count.
pub(super) fn messages(parts: Parts, stretch: &Stretch) -> impl Iterator<Item = Message> {
    let (format, parts) = (parts.format(), parts.finish());
    let last = parts.len().saturating_sub(1);
    let from = stretch.from.token();
    parts.into_iter().enumerate().map(move |(at, Part { collector, metrics })| {
        let (offset, conflated) = match at == last {
            true => (&stretch.to, stretch.conflated),
            false => (&stretch.from, stretch.conflated.map(|_| 0)),
        };
        let of = Conflated { from: &from, conflated };
        let bytes = encode::newest(format, &offset.token(), of, &collector, &metrics);
        Message { bytes, offset: offset.clone(), is_last: at == last }
    })
}
