//! The last envelope of each channel, by direct gets of many subjects at once.

use std::collections::HashMap;
use std::ops::ControlFlow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::broker::nats::link::Link;
use crate::broker::nats::read::{End, LAGGING_ATTEMPTS, LAGGING_PAUSE, direct_get, missing};
use crate::broker::nats::{message, stream};
use crate::broker::{BrokerError, LAST_CHANNELS_MAX, LogChannel, Stored};
use crate::proto::offset::{Sequence, Shard};

/// Most bytes asked for at once. Requests carry all subjects again, so it is more than a range read takes.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Most bytes of subjects in one request: servers take 1 MiB unless configured otherwise.
const REQUEST_BYTES_MAX: usize = 256 << 10;

/// See [`crate::broker::Broker::channels`]. Answered by the stream's leader, 100,000 at a time.
pub(super) async fn channels(
    link: &Link,
    shard: Shard,
    channels_max: usize,
) -> Result<Option<Vec<LogChannel>>, BrokerError> {
    let live = link.ready()?;
    let name = stream::log_stream_name(&link.log, shard);
    // The number alone first: each page of the list has the server sort all subjects of the stream.
    let counted: Counted = live
        .api(&format!("STREAM.INFO.{name}"), &json!({}))
        .await
        .map_err(|failure| missing(link, failure))?;
    if counted.state.num_subjects > channels_max {
        return Ok(None);
    }
    let mut channels = Vec::new();
    let mut offset = 0;
    loop {
        let request = json!({"subjects_filter": ">", "offset": offset});
        let page: SubjectsPage = live
            .api(&format!("STREAM.INFO.{name}"), &request)
            .await
            .map_err(|failure| missing(link, failure))?;
        let subjects = page.state.subjects.unwrap_or_default();
        offset += subjects.len();
        let last_page = subjects.is_empty() || offset >= page.total;
        channels.extend(subjects.into_keys().map(|subject| LogChannel(subject.into())));
        if last_page {
            // Between two pages a channel may come or go, and shift the others: one that is listed twice is read once.
            channels.sort_unstable();
            channels.dedup();
            return Ok(Some(channels));
        }
    }
}

#[derive(Deserialize)]
struct Counted {
    state: CountedState,
}

#[derive(Deserialize)]
struct CountedState {
    /// Left out when there are none.
    #[serde(default)]
    num_subjects: usize,
}

#[derive(Deserialize)]
struct SubjectsPage {
    /// Of subjects; the server leaves it out when they fit one page.
    #[serde(default)]
    total: usize,
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    subjects: Option<HashMap<String, IgnoredAny>>,
}

/// See [`crate::broker::Broker::last`].
pub(super) async fn last(
    link: &Link,
    shard: Shard,
    channels: &[LogChannel],
    up_to: Sequence,
) -> Result<Vec<Stored>, BrokerError> {
    let mut found = Vec::new();
    let mut rest = channels;
    while !rest.is_empty() && up_to > 0 {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|channel| {
            bytes += channel.0.len() + 3;
            bytes <= REQUEST_BYTES_MAX
        });
        let (now, later) = rest.split_at(fitting.take(LAST_CHANNELS_MAX).count().max(1));
        some(link, shard, now, up_to, &mut found).await?;
        rest = later;
    }
    found.sort_unstable_by_key(|stored: &Stored| stored.sequence);
    Ok(found)
}

/// As many as one request may name. The answer is cut at a number of bytes, and then gone on with behind its last sequence.
async fn some(
    link: &Link,
    shard: Shard,
    channels: &[LogChannel],
    up_to: Sequence,
    found: &mut Vec<Stored>,
) -> Result<(), BrokerError> {
    let live = link.ready()?;
    let name = stream::log_stream_name(&link.log, shard);
    let subjects: Vec<&str> = channels.iter().map(|channel| &*channel.0).collect();
    let mut next: Sequence = 1;
    let mut lagging = 0;
    loop {
        let request = json!({
            "seq": next,
            "multi_last": subjects,
            "up_to_seq": up_to,
            "batch": LAST_CHANNELS_MAX,
            "max_bytes": ANSWER_BYTES_MAX,
        });
        let end = direct_get(link, &live, &name, &request, |sequence, message| {
            next = sequence + 1;
            found.extend(message::stored(message));
            ControlFlow::Continue(())
        });
        if end.await.map_err(|failure| missing(link, failure))? == End::More {
            continue;
        }
        // A replica that has not got to `up_to` yet answers with nothing at all, as one does whose channels have expired.
        lagging += 1;
        if next > 1 || link.log.replicas < 2 || lagging > LAGGING_ATTEMPTS {
            return Ok(());
        }
        tokio::time::sleep(LAGGING_PAUSE).await;
    }
}
