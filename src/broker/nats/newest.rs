//! The newest envelope of a collector: one question to the stream's leader.

use async_nats::header::NATS_MESSAGE_ID;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::broker::nats::api::code;
use crate::broker::nats::link::Link;
use crate::broker::nats::read::missing;
use crate::broker::nats::{message, stream};
use crate::broker::{BrokerError, Cause, Newest};
use crate::proto::channel::CollectorId;
use crate::proto::offset::{Sequence, Shard};

#[derive(Deserialize)]
struct Found {
    message: StoredMessage,
}

/// Without the payload, which is not looked at.
#[derive(Deserialize)]
struct StoredMessage {
    seq: Sequence,
    /// In base64, as they are on the wire.
    #[serde(default)]
    hdrs: String,
}

/// See [`crate::broker::Broker::newest`]. Not a direct get: a replica that lags would name an older one.
pub(super) async fn newest(
    link: &Link,
    shard: Shard,
    collector: &CollectorId,
) -> Result<Option<Newest>, BrokerError> {
    let live = link.ready()?;
    let verb = format!("STREAM.MSG.GET.{}", stream::log_stream_name(&link.log, shard));
    let request = json!({"last_by_subj": message::subjects_of(&link.log.name, shard, collector)});
    match live.api::<Found>(&verb, &request).await {
        Ok(Found { message }) => {
            let message_id = message_id(&message.hdrs).unwrap_or_default();
            Ok(Some(Newest { sequence: message.seq, message_id }))
        }
        Err(failure) if failure.is(code::NO_MESSAGE) => Ok(None),
        Err(failure) => Err(of_question(missing(link, failure))),
    }
}

/// A question is never refused for good: its caller has metrics to store.
fn of_question(error: BrokerError) -> BrokerError {
    match error {
        BrokerError::Refused(text) => BrokerError::retryable(Cause::Other, text),
        error => error,
    }
}

/// Headers whose names differ in case only are different ones to the server, too.
fn message_id(base64: &str) -> Option<String> {
    let headers = String::from_utf8(STANDARD.decode(base64).ok()?).ok()?;
    let name: &str = NATS_MESSAGE_ID.as_ref();
    headers.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_among_other_headers() {
        let read = |text: &str| message_id(&STANDARD.encode(text));
        let headers = "NATS/1.0\r\nTelecast-Revision: 3\r\nNats-Msg-Id: c-1:2\r\nX: y\r\n\r\n";
        assert_eq!(read(headers).as_deref(), Some("c-1:2"));
        assert_eq!(read("NATS/1.0\r\nNats-Msg-Idx: c\r\n\r\n"), None);
        assert_eq!(message_id(""), None);
        assert_eq!(message_id("not base64"), None);
    }
}
