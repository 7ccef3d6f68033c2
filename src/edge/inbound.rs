//! What a client says: from its bytes to events, one at a time, while earlier ones may still be worked on.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::edge::resolve::Place;
use crate::edge::view::ViewKey;
use crate::proto::frame::Decoder;
use crate::proto::message::Id;

/// Messages a client may send per second, and at once. People and dashboards send a handful per minute.
pub(crate) const MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
const MESSAGES_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();

/// What a client has begun to say. A session gets one with its first message: one that only answers pings has none.
pub(crate) struct Inbound {
    /// Between two reads in the middle of a frame or message; else a new one does as well.
    pub(crate) decoder: Option<Decoder>,
    /// Since when a message has begun and not ended.
    pub(crate) begun: Option<Instant>,
    /// What came behind a request that is still being worked on: the rest of one read.
    pub(crate) rest: Vec<u8>,
    /// The client has said more than it may. It is not read before the clock has come round.
    pub(crate) paused: bool,
    /// The request that is being worked on. Nothing is read until it is answered.
    pub(crate) request: Option<Request>,
    limiter: DefaultDirectRateLimiter,
}

/// A client's wish for another place, which has to be found first.
pub(crate) struct Request {
    pub(crate) id: Option<Id>,
    pub(crate) view: ViewKey,
    /// What it is told when the place is found.
    pub(crate) ack: Bytes,
    pub(crate) place: oneshot::Receiver<Result<Place, String>>,
}

impl Inbound {
    /// Nothing has been said yet.
    pub(crate) fn new() -> Self {
        let quota = Quota::per_second(MESSAGES_PER_SECOND).allow_burst(MESSAGES_BURST);
        Self {
            decoder: None,
            begun: None,
            rest: Vec::new(),
            paused: false,
            request: None,
            limiter: RateLimiter::direct(quota),
        }
    }

    /// Whether one more message is within the client's rate; if not, the client is paused.
    pub(crate) fn allows(&mut self) -> bool {
        let allows = self.limiter.check().is_ok();
        self.paused |= !allows;
        allows
    }

    /// A read has ended in the middle of a message, perhaps not the first one.
    pub(crate) fn note_begun(&mut self, now: Instant) {
        self.begun.get_or_insert(now);
    }

    /// Whether a message has been unfinished for longer than it may be.
    pub(crate) fn is_late(&self, now: Instant, timeout: Duration) -> bool {
        self.begun.is_some_and(|begun| now.saturating_duration_since(begun) >= timeout)
    }

    /// Keeps bytes for later, and the decoder that is to read them.
    pub(crate) fn put_off(&mut self, decoder: Decoder, rest: &[u8]) {
        self.decoder = Some(decoder);
        self.rest = rest.to_vec();
    }
}
