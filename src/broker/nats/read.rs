//! Stored envelopes by range: batch direct get, bounded, checked for holes the transport may have made.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use async_nats::header::NATS_LAST_SEQUENCE;
use async_nats::{HeaderMap, HeaderName, Message, StatusCode};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::broker::nats::api::{ApiError, Failure};
use crate::broker::nats::link::{Link, Live};
use crate::broker::nats::{message, stream};
use crate::broker::{Bounds, BrokerError, Cause, ReadLimits, Stored};
use crate::proto::offset::{Epoch, Sequence, Shard};

/// Most messages asked for at once; they wait in the subscription, which holds far more.
pub(super) const CHUNK_MESSAGES_MAX: usize = 4096;
/// Most bytes asked for at once, as the server counts them: with headers and subjects.
pub(super) const CHUNK_BYTES_MAX: usize = 8 << 20;
/// Fewest bytes asked for at once: because of those headers, a small limit would else take a round trip per message.
pub(super) const CHUNK_BYTES_MIN: usize = 64 << 10;
/// A replica that lags is asked again so many times.
pub(super) const LAGGING_ATTEMPTS: usize = 20;
/// After this long, which is how far replicas usually are apart.
pub(super) const LAGGING_PAUSE: Duration = Duration::from_millis(50);

/// In the answer's last message: how much more is stored.
const PENDING: HeaderName = HeaderName::from_static("Nats-Num-Pending");
/// Answers of direct get: end of the batch, nothing found.
const END_OF_BATCH: u16 = 204;
const NOT_FOUND: u16 = 404;

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server that answered holds nothing more.
    Exhausted,
    /// There is more behind the last message.
    More,
    /// The taker had enough.
    Stopped,
}

/// See [`crate::broker::Broker::read`].
pub(super) async fn read(
    link: &Link,
    shard: Shard,
    from: Sequence,
    limits: ReadLimits,
) -> Result<Vec<Stored>, BrokerError> {
    let live = link.ready()?;
    let mut range = Range { next: from.max(1), bytes: 0, found: Vec::new(), limits };
    let mut lagging = 0;
    while range.chunk(link, &live, shard).await? == End::Exhausted {
        // One copy cannot lag behind itself. Of several, any may have answered.
        if link.log.replicas < 2 || !range.found.is_empty() {
            break;
        }
        let bounds = bounds(link, shard).await?;
        if bounds.last < range.next || bounds.first > bounds.last {
            break;
        }
        lagging += 1;
        if lagging > LAGGING_ATTEMPTS {
            return Err(BrokerError::retryable(
                Cause::Other,
                format!(
                    "a replica of shard {} does not hold {} yet, of {}",
                    shard.0, range.next, bounds.last
                ),
            ));
        }
        tokio::time::sleep(LAGGING_PAUSE).await;
    }
    Ok(range.found)
}

/// See [`crate::broker::Broker::bounds`]. Answered by the stream's leader.
pub(super) async fn bounds(link: &Link, shard: Shard) -> Result<Bounds, BrokerError> {
    let live = link.ready()?;
    let name = stream::log_stream_name(&link.log, shard);
    let (asked, asked_at) = (Instant::now(), jiff::Timestamp::now());
    let info: StreamInfo = live
        .api(&format!("STREAM.INFO.{name}"), &json!({}))
        .await
        .map_err(|failure| missing(link, failure))?;
    if let Some(ts) = info.ts.as_deref().and_then(|ts| ts.parse::<jiff::Timestamp>().ok()) {
        link.note_clock(asked_at, asked.elapsed(), ts);
    }
    let created: jiff::Timestamp = info.created.parse().map_err(|error| {
        BrokerError::retryable(
            Cause::Other,
            format!("stream {name}: unreadable time of creation {}: {error}", info.created),
        )
    })?;
    let created_ns = created.as_nanosecond();
    let StreamState { messages, first_seq, last_seq } = info.state;
    let first = if messages == 0 { last_seq + 1 } else { first_seq };
    Ok(Bounds { epoch: Epoch(created_ns as u64), first, last: last_seq })
}

#[derive(Deserialize)]
struct StreamInfo {
    /// The log's incarnation: another one for a stream that was deleted and created again.
    created: String,
    state: StreamState,
    /// The server's clock when it answered.
    #[serde(default)]
    ts: Option<String>,
}

#[derive(Deserialize)]
struct StreamState {
    messages: u64,
    first_seq: Sequence,
    last_seq: Sequence,
}

/// A read as it goes on.
struct Range {
    next: Sequence,
    bytes: usize,
    found: Vec<Stored>,
    limits: ReadLimits,
}

impl Range {
    /// Reads until a limit or the end. The server counts bytes its own way, so it may take several batches.
    async fn chunk(&mut self, link: &Link, live: &Live, shard: Shard) -> Result<End, BrokerError> {
        let name = stream::log_stream_name(&link.log, shard);
        loop {
            let wanted = self.limits.envelopes_max.max(1) - self.found.len();
            let bytes = self.limits.bytes_max.saturating_sub(self.bytes);
            let request = json!({
                "seq": self.next,
                "batch": wanted.min(CHUNK_MESSAGES_MAX),
                "max_bytes": bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
            });
            let end = direct_get(link, live, &name, &request, |sequence, message| {
                self.next = sequence + 1;
                self.take(message)
            });
            match end.await.map_err(|failure| missing(link, failure))? {
                End::More => {}
                end => return Ok(end),
            }
        }
    }

    /// What is no envelope is passed over, as if it had never been published.
    fn take(&mut self, message: Message) -> ControlFlow<()> {
        let Some(stored) = message::stored(message) else { return ControlFlow::Continue(()) };
        self.bytes += stored.envelope.lines.len();
        self.found.push(stored);
        let full = self.found.len() >= self.limits.envelopes_max || self.bytes >= self.limits.bytes_max;
        if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Sends one batch direct get and hands each message with its sequence to `take`.
///
/// Each message names the one before it (0 in the first), and the last, without a body, names the last of the batch: a
/// hole that a full buffer made on the way is an error, never a shorter answer.
pub(super) async fn direct_get(
    link: &Link,
    live: &Live,
    stream: &str,
    request: &Value,
    mut take: impl FnMut(Sequence, Message) -> ControlFlow<()>,
) -> Result<End, Failure> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let lost = |error: &dyn std::fmt::Display| Failure::Lost(error.to_string());
    let inbox = live.client.new_inbox();
    let mut answers = live.client.subscribe(inbox.clone()).await.map_err(|error| lost(&error))?;
    let body = request.to_string().into();
    live.client.publish_with_reply(subject.clone(), inbox, body).await.map_err(|error| lost(&error))?;
    let mut last = 0;
    loop {
        let answer = tokio::time::timeout(link.nats.request_timeout, answers.next()).await;
        let message = answer.map_err(|_| live.no_answer(&subject))?.ok_or_else(|| live.lost())?;
        if let Some(status) = message.status {
            return end_of_batch(&subject, status, &message, last);
        }
        let (sequence, before) =
            message.headers.as_ref().and_then(place).ok_or_else(|| unreadable(&subject))?;
        if before != last || sequence <= last {
            return Err(Failure::Lost(format!("{subject}: {sequence} follows {before}, not {last}")));
        }
        last = sequence;
        if take(sequence, message).is_break() {
            return Ok(End::Stopped);
        }
    }
}

fn end_of_batch(
    subject: &str,
    status: StatusCode,
    message: &Message,
    last: Sequence,
) -> Result<End, Failure> {
    match status.as_u16() {
        END_OF_BATCH => {
            let headers = message.headers.as_ref().ok_or_else(|| unreadable(subject))?;
            if number(headers, NATS_LAST_SEQUENCE) != Some(last) {
                return Err(Failure::Lost(format!(
                    "{subject}: messages after {last} were lost on their way"
                )));
            }
            let more = number(headers, PENDING).is_none_or(|pending| pending > 0);
            Ok(if more { End::More } else { End::Exhausted })
        }
        NOT_FOUND => Ok(End::Exhausted),
        503 => Err(Failure::NoResponders),
        code => {
            let description = message.description.clone().unwrap_or_default();
            Err(Failure::Api(ApiError {
                code,
                err_code: 0,
                description: format!("{subject}: {description}"),
            }))
        }
    }
}

fn unreadable(subject: &str) -> Failure {
    Failure::Lost(format!("{subject} answered without a sequence"))
}

/// A message's sequence, and the one before it in the batch.
fn place(headers: &HeaderMap) -> Option<(Sequence, Sequence)> {
    Some((message::sequence(headers)?, number(headers, NATS_LAST_SEQUENCE)?))
}

fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    // The last one is the server's own, see `message::sequence`.
    headers.get_last(name)?.as_str().parse().ok()
}

pub(super) fn missing(link: &Link, failure: Failure) -> BrokerError {
    if failure.hints_at_missing_stream() {
        link.recheck();
    }
    failure.into()
}
