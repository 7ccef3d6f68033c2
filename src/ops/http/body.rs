//! Bodies of requests that nobody wants, and the end of answers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::request::Parts;
use axum::http::{Version, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::exchange::Serving;
use crate::sync::Locked;

/// A body that has no more than this to come is read to its end, and the connection kept, as Go's server does.
const READ_ON_BYTES_MAX: u64 = 256 * 1024;
/// Of a body that is refused, or of whatever else a peer still sends, so much is read before the connection is closed: sixteen
/// times what a write may have by default.
const LINGER_BYTES_MAX: u64 = 64 << 20;
/// A peer has so long for it …
const LINGER_TIME: Duration = Duration::from_secs(5);
/// … and longer as long as it sends at this rate, an uplink of 1 Mbit/s …
const LINGER_BYTES_PER_S_MIN: u64 = 128 * 1024;
/// … but never longer than this, as nginx has it.
const LINGER_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes discarded at a time.
const LINGER_READ_BYTES: usize = 16 * 1024;

/// When a peer's time to send what nobody reads is up.
struct Patience {
    began: Instant,
    bytes: u64,
}

impl Patience {
    fn new() -> Self {
        Self { began: Instant::now(), bytes: 0 }
    }

    fn deadline(&self) -> Instant {
        let earned = Duration::from_secs(self.bytes / LINGER_BYTES_PER_S_MIN);
        self.began + (LINGER_TIME + earned).min(LINGER_TIME_MAX)
    }
}

/// What its handler leaves of a request's body.
#[derive(Clone)]
pub(super) struct Rest(Arc<RestInner>);

struct RestInner {
    /// The sender waits for `100 Continue` before it sends a body (RFC 9110 section 10.1.1).
    waits_for_continue: bool,
    is_touched: AtomicBool,
    /// The body, as far as it was not read; or nothing, if it cannot be read on.
    left: Locked<Option<Option<Incoming>>>,
}

impl Rest {
    pub(super) fn of(parts: &Parts, incoming: &Incoming) -> Self {
        let expects =
            |value: &axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        let waits_for_continue = !incoming.is_end_stream()
            && parts.version >= Version::HTTP_11
            && parts.headers.get_all(header::EXPECT).iter().any(expects);
        let inner = RestInner {
            waits_for_continue,
            is_touched: AtomicBool::new(false),
            left: Locked::empty("rest of a body"),
        };
        Self(Arc::new(inner))
    }

    /// What is left, if anything is. `Some(None)` is something that cannot be read on.
    pub(super) fn take(&self) -> Option<Option<Incoming>> {
        self.0.left.with(Option::take)
    }

    /// Whether reading to the end is cheaper than a new connection. A sender that waits to be told to go on need not send its
    /// body at all, and one that does not say how much is to come may send for ever.
    pub(super) fn is_worth_reading(&self, incoming: &Incoming) -> bool {
        let is_asked_for = self.0.is_touched.load(Ordering::Relaxed) || !self.0.waits_for_continue;
        is_asked_for && incoming.size_hint().exact().is_some_and(|bytes| bytes <= READ_ON_BYTES_MAX)
    }
}

/// A request's body as its handler reads it. What it does not read goes to [`Rest`].
pub(super) struct Tracked {
    incoming: Option<Incoming>,
    is_broken: bool,
    rest: Rest,
}

impl Tracked {
    pub(super) fn new(incoming: Incoming, rest: Rest) -> Self {
        Self { incoming: Some(incoming), is_broken: false, rest }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) {
            let left = Some(incoming).filter(|_| !self.is_broken);
            self.rest.0.left.with(|place| *place = Some(left));
        }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.rest.0.is_touched.store(true, Ordering::Relaxed);
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(incoming).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.incoming = None,
            Poll::Ready(Some(Err(_))) => self.is_broken = true,
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

/// Reads a body to its end and forgets it. False if it did not end in time.
pub(super) async fn discard(mut incoming: Incoming) -> bool {
    let mut patience = Patience::new();
    loop {
        match timeout_at(patience.deadline(), incoming.frame()).await {
            Ok(None) => return true,
            Ok(Some(Ok(frame))) => {
                patience.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
}

/// Reads on what the peer of a socket sends that was closed on this side, until it has read the answer and closes too.
pub(super) async fn linger(socket: &TcpStream) {
    let mut patience = Patience::new();
    let mut buffer = vec![0; LINGER_READ_BYTES];
    while patience.bytes < LINGER_BYTES_MAX {
        if !matches!(timeout_at(patience.deadline(), socket.readable()).await, Ok(Ok(()))) {
            return;
        }
        match socket.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(bytes) => patience.bytes += bytes as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// What is wrong with the framing of a body, if that is why it cannot be read; the library's other errors are of connections.
pub(crate) fn malformed(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let cause = causes.find_map(|error| error.downcast_ref::<std::io::Error>())?;
    matches!(cause.kind(), InvalidData | InvalidInput).then(|| cause.to_string())
}

/// An answer's body, with which its request ends.
pub(super) struct Answer {
    body: Body,
    _serving: Arc<Serving>,
}

impl Answer {
    pub(super) fn new(body: Body, serving: Arc<Serving>) -> Self {
        Self { body, _serving: serving }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
