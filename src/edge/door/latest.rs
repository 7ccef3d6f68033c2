//! `/api/metrics/latest`: the last values, in one answer.
//!
//! All who ask the same at the same time take it from one encoding, each at its own pace; one that nobody takes is given up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::{Refusal, content_type, parameters, refused};
use crate::edge::Edge;
use crate::edge::snapshot::Answer;
use crate::ops::meters::ConnectFailure;
use crate::ops::reply::ApiError;
use crate::proto::message::{Rules, Subscription};

/// A request waits so long for its turn: others copy last values, or have not taken theirs.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers with what there is.
pub(super) async fn answer(State(edge): State<Arc<Edge>>, method: Method, uri: Uri) -> Response {
    let result = latest(&edge, &method, &uri).await;
    edge.answer(result)
}

async fn latest(edge: &Edge, method: &Method, uri: &Uri) -> Result<Response, Refusal> {
    let rules = Rules { state: true, lines: true, own: &[] };
    let parameters = parameters(uri).map_err(refused)?;
    let subscription = Subscription::from_query(&parameters, rules).map_err(refused)?;
    let hub = edge.serving()?;
    let format = subscription.format;
    let headers = [
        (header::CONTENT_TYPE, content_type(format)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    if method == Method::HEAD {
        return Ok((headers, Body::empty()).into_response());
    }
    let snapshots = &edge.shared.snapshots;
    let answer = snapshots.answer(&edge.shared, hub, &subscription.filters, format);
    let Ok(Ok(answer)) = tokio::time::timeout(TURN_TIMEOUT, answer).await else {
        let message = "too many answers are on their way already: try again, or ask for less with `filter`";
        return Err((ConnectFailure::Capacity, ApiError::unavailable("capacity", message, 2)));
    };
    let left = answer.parts.bytes();
    Ok((StatusCode::OK, headers, Body::new(Taking { answer, next: 0, left })).into_response())
}

/// An answer on its way to one client.
struct Taking {
    answer: Arc<Answer>,
    next: usize,
    left: usize,
}

impl hyper::body::Body for Taking {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Ok(part) = self.answer.parts.part(self.next) else {
            // The connection ends before what its head has promised, so no client takes this for a whole answer.
            let why = "the answer was not read in time, and others waited for its room";
            return Poll::Ready(Some(Err(io::Error::other(why))));
        };
        let Some(part) = part else { return Poll::Ready(None) };
        self.answer.parts.note(part.len());
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
