//! What a client says: from its bytes to events, one at a time, while earlier ones may still be worked on.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::oneshot;

use crate::edge::resolve::Place;
use crate::edge::view::ViewKey;
use crate::proto::frame::{Decoder, Event};
use crate::proto::message::Id;

/// Messages a client may send per second, and at once. People and dashboards send a handful per minute.
pub(crate) const MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
const MESSAGES_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();

/// What a client has begun to say. A session gets one with its first message: one that only answers pings has none.
pub(crate) struct Inbound {
    /// Between two reads in the middle of a frame or message; else a new one does as well.
    pub(crate) decoder: Option<Decoder>,
    /// What came behind a request that is still being worked on: part of one read.
    pub(crate) waiting: VecDeque<Event>,
    /// The request that is being worked on. Nothing is read until it is answered.
    pub(crate) request: Option<Request>,
    limiter: DefaultDirectRateLimiter,
}

/// A client's wish for another place, which has to be found first.
pub(crate) struct Request {
    pub(crate) id: Option<Id>,
    pub(crate) view: ViewKey,
    pub(crate) place: oneshot::Receiver<Result<Place, String>>,
}

impl Inbound {
    /// Nothing has been said yet.
    pub(crate) fn new() -> Self {
        let quota = Quota::per_second(MESSAGES_PER_SECOND).allow_burst(MESSAGES_BURST);
        Self { decoder: None, waiting: VecDeque::new(), request: None, limiter: RateLimiter::direct(quota) }
    }

    /// Whether one more message is within the client's rate.
    pub(crate) fn allows(&self) -> bool {
        self.limiter.check().is_ok()
    }
}
