//! The body of a large answer, as its client takes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::Refusal;
use crate::edge::snapshot::Encoded;
use crate::ops::meters::ConnectFailure;
use crate::ops::node::Admission;
use crate::ops::reply::ApiError;

/// A request waits so long for its turn: others copy last values, or have not taken theirs.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request is told whose turn has not come.
pub(super) fn no_turn() -> Refusal {
    let message = "too many answers are on their way already: try again, or ask for less with `filter`";
    (ConnectFailure::Capacity, ApiError::unavailable("capacity", message, 2))
}

/// An answer on its way to one client.
pub(super) struct Taking {
    parts: Arc<Encoded<Bytes>>,
    next: usize,
    left: usize,
    /// Its client's place, if it has one.
    _admission: Option<Admission>,
}

impl Taking {
    pub(super) fn new(parts: Arc<Encoded<Bytes>>, admission: Option<Admission>) -> Self {
        Self { next: 0, left: parts.bytes(), parts, _admission: admission }
    }
}

impl hyper::body::Body for Taking {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Ok(part) = self.parts.part(self.next) else {
            // The connection ends before what its head has promised, so no client takes this for a whole answer.
            let why = "the answer was not read in time, and others waited for its room";
            return Poll::Ready(Some(Err(io::Error::other(why))));
        };
        let Some(part) = part else { return Poll::Ready(None) };
        self.parts.note(part.len());
        self.next += 1;
        self.left -= part.len();
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}
