//! `/api/metrics/poll`: a session that is as long as one request.
//!
//! The session writes the same events as for `/sse`; here they are read until there is something to answer with. A session
//! of a poll says where it is whenever it has written everything, so an answer ends exactly there, or where it is large
//! enough.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::sse::Events;
use super::taking::{TURN_TIMEOUT, Taking, no_turn};
use super::{Address, Admitted, Refusal, bad_request, content_type, parameters, refused};
use crate::edge::Edge;
use crate::edge::socket::Socket;
use crate::edge::wire::Wire;
use crate::edge::writer::Joining;
use crate::ops::meters::{ConnectFailure, Transport};
use crate::ops::node::Admission;
use crate::ops::reply::ApiError;
use crate::proto::event_stream::{Event, Reader};
use crate::proto::message::{Format, Rules, Subscription, kind};

/// A parameter of the request, and not of the session.
const TIMEOUT: &str = "timeout";
/// How long a request waits for something new, unless it says so itself: below the half minute after which the first
/// proxies give up.
const TIMEOUT_DEFAULT_S: u64 = 25;
/// Longer silence is more than most proxies suffer: nginx's default is as long.
const TIMEOUT_MAX_S: u64 = 60;
/// A session that is on its way from an old place says within so long how far it has got, even if it has found nothing: an
/// answer that did not wait for that would lead back to where it began, however often its client asks.
const CATCH_UP_MIN: Duration = Duration::from_secs(10);
/// What comes so soon after the first news goes along, where more always comes.
const LINGER: Duration = Duration::from_millis(50);
/// An answer ends with the message that makes it this long, in bytes; what is whole only together may make it longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// From here on an answer shares the room of snapshots.
const LARGE_BYTES: usize = 64 * 1024;
/// Bytes given to the connection at a time.
const PIECE_BYTES: usize = 16 * 1024;

const NEXT_OFFSET: HeaderName = HeaderName::from_static("x-next-offset");

/// Answers as soon as there is something, or at the end of the client's time.
pub(super) async fn answer(
    State(edge): State<Arc<Edge>>,
    method: Method,
    uri: Uri,
    address: Address,
) -> Response {
    let result = poll(&edge, &method, &uri, address).await;
    edge.answer(result)
}

async fn poll(edge: &Edge, method: &Method, uri: &Uri, address: Address) -> Result<Response, Refusal> {
    let began = Instant::now();
    let parameters = parameters(uri).map_err(refused)?;
    let rules = Rules { lines: true, own: &[TIMEOUT], ..Rules::default() };
    let subscription = Subscription::from_query(&parameters, rules).map_err(refused)?;
    let timeout = timeout(&parameters)?;
    let Admitted { seat, place, admission } = edge.admit(&subscription, Wire::Events, address).await?;
    let (socket, reader) = Socket::pipe();
    if method == Method::HEAD {
        // The body is left out, and its length is not known without a session.
        return Ok((head(subscription.format, None), Body::new(Events(reader))).into_response());
    }
    let joining =
        Joining { socket, transport: Transport::Poll, early: Bytes::new(), seat, place, admission: None };
    edge.hand_over(joining).await;
    let found = collect(Events(reader), subscription.format, began, timeout).await;
    let Some(next) = found.next.as_ref().filter(|_| !found.is_cut_off()) else {
        // An empty answer at once would have the client ask again at once, without end.
        let message = "the log did not give what was asked for: try again";
        return Err((ConnectFailure::NotReady, ApiError::unavailable("unavailable", message, 1)));
    };
    let headers = head(subscription.format, Some(next));
    let answer = found.into_body();
    if answer.len() < LARGE_BYTES {
        let answer = Answer { rest: answer, _admission: admission };
        return Ok((StatusCode::OK, headers, Body::new(answer)).into_response());
    }
    // It is given up if it is not taken: a thousand that nobody reads would be a gigabyte.
    let kept = edge.shared.snapshots.keep(&edge.shared.node.meters, &answer);
    let kept = tokio::time::timeout(TURN_TIMEOUT, kept).await.map_err(|_| no_turn())?;
    Ok((StatusCode::OK, headers, Body::new(Taking::new(kept, Some(admission)))).into_response())
}

/// How long the request may take.
fn timeout(parameters: &[(String, String)]) -> Result<Duration, Refusal> {
    let Some((_, value)) = parameters.iter().find(|(name, _)| name == TIMEOUT) else {
        return Ok(Duration::from_secs(TIMEOUT_DEFAULT_S));
    };
    match value.parse() {
        Ok(seconds @ 0..=TIMEOUT_MAX_S) => Ok(Duration::from_secs(seconds)),
        _ => {
            let message = format!("`timeout` is a whole number of seconds from 0 to {TIMEOUT_MAX_S}");
            Err(bad_request("bad_parameter", message))
        }
    }
}

fn head(format: Format, next: Option<&str>) -> axum::http::HeaderMap {
    let mut headers = axum::http::HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, content_type(format));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(next).ok()) {
        headers.insert(NEXT_OFFSET, next);
    }
    headers
}

/// Reads a session's events until they make an answer.
async fn collect(mut events: Events, format: Format, began: Instant, timeout: Duration) -> Found {
    let mut found = Found::new(format);
    let mut reader = Reader::default();
    loop {
        let piece = match timeout_at(found.until(began, timeout), events.frame()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(_) => {
                found.has_ended = true;
                return found;
            }
            Err(_) => return found,
        };
        reader.feed(piece.data_ref().map_or(&[][..], |bytes| bytes));
        let now = Instant::now();
        while let Some(event) = reader.next_event() {
            found.take(&event, now);
            if found.is_enough() {
                return found;
            }
        }
    }
}

/// What a poll has got so far.
struct Found {
    format: Format,
    /// The messages in the form of the answer, which is not finished.
    body: Vec<u8>,
    /// Up to here they stand for themselves; what follows is part of something whose end has not come.
    whole_bytes: usize,
    /// Where the next poll goes on.
    next: Option<String>,
    /// As the session's welcome says it.
    matching: Option<u64>,
    /// Since when there is something to answer with at once.
    news_since: Option<Instant>,
    /// The session has had everything there was, or has said how far it is on its way.
    is_current: bool,
    /// It has just said so.
    is_at_end: bool,
    /// The session is gone.
    has_ended: bool,
}

impl Found {
    fn new(format: Format) -> Self {
        let body = match format {
            Format::Json => b"{\"messages\":[".to_vec(),
            Format::Influx | Format::InfluxEscaped => Vec::new(),
        };
        let whole_bytes = body.len();
        Self {
            format,
            body,
            whole_bytes,
            next: None,
            matching: None,
            news_since: None,
            is_current: false,
            is_at_end: false,
            has_ended: false,
        }
    }

    fn take(&mut self, event: &Event, now: Instant) {
        let kind = kind(&event.data);
        let was_whole = self.is_whole();
        match kind {
            Some("welcome") => self.matching = matching(&event.data),
            Some("heartbeat") => (self.is_current, self.is_at_end) = (true, true),
            _ => {
                self.add(kind, &event.data);
                // Told at the beginning that the log is silent, a client that came back at once would come back for ever.
                if kind != Some("stale") || self.is_current {
                    self.news_since.get_or_insert(now);
                }
                self.is_at_end = false;
            }
        }
        // Parts are ended by one with an id, and by nothing that comes between them.
        let may_be_part = matches!(kind, None | Some("metrics" | "snapshot" | "gap"));
        if may_be_part && event.id.is_some() || !may_be_part && was_whole {
            self.whole_bytes = self.body.len();
        }
        self.next = event.id.clone().or(self.next.take());
    }

    fn add(&mut self, kind: Option<&str>, message: &[u8]) {
        match self.format {
            Format::Json if self.body.ends_with(b"[") => {}
            Format::Json => self.body.push(b','),
            // Line protocol has comments, and nothing else that is no metric.
            Format::Influx | Format::InfluxEscaped if kind.is_some() => self.body.extend_from_slice(b"# "),
            Format::Influx | Format::InfluxEscaped => {}
        }
        self.body.extend_from_slice(message);
        if self.format.is_lines() {
            self.body.push(b'\n');
        }
    }

    /// The session ended before it came to anything.
    fn is_cut_off(&self) -> bool {
        self.has_ended && self.news_since.is_none() && !self.is_current
    }

    fn is_whole(&self) -> bool {
        self.whole_bytes == self.body.len()
    }

    fn is_enough(&self) -> bool {
        let is_full = self.is_at_end || self.body.len() >= ANSWER_BYTES_MAX;
        self.is_whole() && self.news_since.is_some() && is_full
    }

    /// Until when more is waited for.
    fn until(&self, began: Instant, timeout: Duration) -> Instant {
        match self.news_since {
            Some(since) if self.is_whole() => since + LINGER,
            None if self.is_current => began + timeout,
            _ => began + timeout.max(CATCH_UP_MIN),
        }
    }

    /// The answer. What lacks its end is left out: it comes again behind `next`.
    fn into_body(mut self) -> Bytes {
        self.body.truncate(self.whole_bytes);
        if self.format == Format::Json {
            self.body.push(b']');
            if let Some(matching) = self.matching {
                self.body.extend_from_slice(b",\"matching\":");
                self.body.extend_from_slice(itoa::Buffer::new().format(matching).as_bytes());
            }
            self.body.extend_from_slice(b",\"next\":\"");
            // An offset has no character that JSON would escape.
            self.body.extend_from_slice(self.next.unwrap_or_default().as_bytes());
            self.body.extend_from_slice(b"\"}");
        }
        Bytes::from(self.body)
    }
}

/// How many series the session's filters have, as its first message says.
fn matching(welcome: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Welcome {
        matching: Option<u64>,
    }
    serde_json::from_slice::<Welcome>(welcome).ok()?.matching
}

/// An answer on its way, in pieces: its client counts as one until the connection has taken nearly all of it.
struct Answer {
    rest: Bytes,
    _admission: Admission,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = self.rest.len().min(PIECE_BYTES);
        Poll::Ready((bytes > 0).then(|| Ok(Frame::data(self.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, data: &str) -> Event {
        Event { id: id.map(str::to_owned), data: data.as_bytes().to_vec() }
    }

    /// The answer after these events, and whether they are enough for one at once.
    fn check(format: Format, events: &[(Option<&str>, &str)], enough: bool, body: &str) {
        let mut found = Found::new(format);
        events.iter().for_each(|(id, data)| found.take(&event(*id, data), Instant::now()));
        assert_eq!(found.is_enough(), enough, "{events:?}");
        assert_eq!(String::from_utf8(found.into_body().to_vec()).unwrap(), body, "{events:?}");
    }

    const WELCOME: (Option<&str>, &str) = (Some("A"), r#"{"type":"welcome","protocol":1}"#);
    const HEARTBEAT: (Option<&str>, &str) = (Some("C"), r#"{"type":"heartbeat","offset":"C"}"#);
    const METRICS: (Option<&str>, &str) = (Some("B"), r#"{"type":"metrics","offset":"B"}"#);
    const STALE: (Option<&str>, &str) = (None, r#"{"type":"stale","since_ms":7}"#);
    const PART: (Option<&str>, &str) = (None, r#"{"type":"snapshot","part":1}"#);

    #[test]
    fn an_answer_ends_where_the_session_has_everything() {
        check(Format::Json, &[WELCOME], false, r#"{"messages":[],"next":"A"}"#);
        check(Format::Json, &[WELCOME, HEARTBEAT], false, r#"{"messages":[],"next":"C"}"#);
        let one = r#"{"messages":[{"type":"metrics","offset":"B"}],"next":"B"}"#;
        check(Format::Json, &[WELCOME, METRICS], false, one);
        check(Format::Json, &[WELCOME, HEARTBEAT, METRICS], false, one);
        let one = r#"{"messages":[{"type":"metrics","offset":"B"}],"next":"C"}"#;
        check(Format::Json, &[WELCOME, METRICS, HEARTBEAT], true, one);
        let goodbye = (Some("D"), r#"{"type":"goodbye"}"#);
        let both = r#"{"messages":[{"type":"metrics","offset":"B"},{"type":"goodbye"}],"next":"D"}"#;
        check(Format::Json, &[WELCOME, METRICS, goodbye], false, both);
    }

    #[test]
    fn an_answer_says_how_many_series_match_where_the_session_does() {
        let welcome = (Some("A"), r#"{"type":"welcome","protocol":1,"heartbeat_ms":15000,"matching":0}"#);
        check(Format::Json, &[welcome, HEARTBEAT], false, r#"{"messages":[],"matching":0,"next":"C"}"#);
        check(Format::InfluxEscaped, &[welcome, HEARTBEAT], false, "");
    }

    /// Or a client that comes back at once would ask without end while the log is away.
    #[test]
    fn a_silence_that_lasts_is_told_and_waited_for() {
        let told = r#"{"messages":[{"type":"stale","since_ms":7}],"next":"C"}"#;
        check(Format::Json, &[WELCOME, STALE, HEARTBEAT], false, told);
        check(Format::Json, &[WELCOME, HEARTBEAT, STALE, HEARTBEAT], true, told);
    }

    #[test]
    fn what_lacks_its_end_is_left_to_the_next_poll() {
        check(
            Format::Json,
            &[WELCOME, METRICS, PART, PART],
            false,
            r#"{"messages":[{"type":"metrics","offset":"B"}],"next":"B"}"#,
        );
        let last = (Some("S"), r#"{"type":"snapshot","part":2}"#);
        let whole = r#"{"messages":[{"type":"snapshot","part":1},{"type":"snapshot","part":2}],"next":"C"}"#;
        check(Format::Json, &[(None, WELCOME.1), PART, last, HEARTBEAT], true, whole);
    }

    #[test]
    fn nothing_that_comes_between_parts_makes_them_whole() {
        let parts = [(None, WELCOME.1), PART, STALE, HEARTBEAT];
        check(Format::Json, &parts, false, r#"{"messages":[],"next":"C"}"#);
    }

    #[test]
    fn line_protocol_has_other_messages_as_comments() {
        let data = (Some("B"), "# offset B\ncpu v=1 1");
        let gap = (Some("A"), r#"{"type":"gap"}"#);
        let body = "# {\"type\":\"gap\"}\n# offset B\ncpu v=1 1\n";
        check(Format::Influx, &[WELCOME, gap, data, HEARTBEAT], true, body);
    }

    #[test]
    fn it_is_waited_for_news_then_a_moment_and_for_the_end_of_what_has_begun() {
        let (began, timeout) = (Instant::now(), Duration::from_secs(1));
        let mut found = Found::new(Format::Json);
        let mut after = |(id, data): (Option<&str>, &str), seconds| {
            found.take(&event(id, data), began + Duration::from_secs(seconds));
            found.until(began, timeout) - began
        };
        assert_eq!(after(WELCOME, 0), CATCH_UP_MIN);
        assert_eq!(after(HEARTBEAT, 0), timeout);
        assert_eq!(after(METRICS, 1), timeout + LINGER);
        assert_eq!(after(PART, 1), CATCH_UP_MIN);
    }

    #[test]
    fn an_answer_is_bounded_where_more_always_comes() {
        let long = format!(r#"{{"type":"metrics","offset":"B","x":"{}"}}"#, "x".repeat(ANSWER_BYTES_MAX));
        let mut found = Found::new(Format::Json);
        found.take(&event(None, &long), Instant::now());
        assert!(!found.is_enough());
        found.take(&event(Some("B"), &long), Instant::now());
        assert!(found.is_enough());
    }
}
