//! `/sse`: a session as server-sent events, in the body of a response that ends with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::io::{AsyncRead, DuplexStream, ReadBuf};

use super::{Address, Admitted, Refusal, bad_request, parameters, refused};
use crate::edge::Edge;
use crate::edge::socket::Socket;
use crate::edge::wire::Wire;
use crate::edge::writer::Joining;
use crate::ops::meters::Transport;
use crate::proto::message::subscription::{Extra, extra};
use crate::proto::message::{Rules, Subscription};

/// What an `EventSource` sends when it comes back: the id of the last event it got.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// nginx holds back what it proxies until it has some kilobytes of it; this is how a response asks it not to.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Bytes given to the connection at a time. It holds some of these pieces while its peer takes nothing, so small ones bound
/// what a slow client costs.
const PIECE_BYTES: usize = 4 * 1024;

/// Answers with a session.
pub(super) async fn connect(
    State(edge): State<Arc<Edge>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    address: Address,
) -> Response {
    let result = open(&edge, &method, &uri, &headers, address).await;
    edge.answer(result)
}

async fn open(
    edge: &Edge,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    address: Address,
) -> Result<Response, Refusal> {
    let mut parameters = parameters(uri).map_err(refused)?;
    resume_from_last_event(&mut parameters, headers)?;
    let subscription = Subscription::from_query(&parameters, Rules::default()).map_err(refused)?;
    let Admitted { seat, place, admission } = edge.admit(&subscription, Wire::Events, address).await?;
    let (socket, reader) = Socket::pipe();
    if method == Method::GET {
        let (early, admission) = (Bytes::new(), Some(admission));
        edge.hand_over(Joining { socket, transport: Transport::Sse, early, seat, place, admission }).await;
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::new(Events(reader))).into_response())
}

/// A client that comes back by itself does so with the URL it began with: what it has got since counts, not where it began.
fn resume_from_last_event(
    parameters: &mut Vec<(String, String)>,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else { return Ok(()) };
    let Ok(id) = id.to_str() else {
        return Err(bad_request(
            "bad_from",
            "the header `Last-Event-ID` is no offset: send an event's id, or leave it out",
        ));
    };
    // A URL may say it too, as an event source spelled it when it opened this stream: the header is newer.
    parameters.retain(|(name, _)| name != "from" && extra(name) != Some(Extra::LastEventId));
    parameters.push(("from".to_owned(), id.to_owned()));
    Ok(())
}

/// What a session writes, as the body of a response. The session ends when it is dropped.
pub(super) struct Events(pub(super) DuplexStream);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        // On the stack: a client for whom there is nothing to read costs no buffer.
        let mut piece = [0; PIECE_BYTES];
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer))?;
        let bytes = buffer.filled();
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(Bytes::copy_from_slice(bytes)))))
    }
}
