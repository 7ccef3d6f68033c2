//! The keyed store: a KV bucket, so that operators can look into it with `nats kv`.
//!
//! Revisions are the bucket's stream sequences. Expiry is the server's: a value that is written with a TTL is replaced
//! by a marker when its time is over, and the marker is republished like any change.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MARKER_REASON, NATS_MESSAGE_TTL};
use async_nats::{HeaderMap, HeaderValue};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::broker::nats::api::{self, Failure, code};
use crate::broker::nats::link::{Link, Live};
use crate::broker::nats::{follow, stream};
use crate::broker::{
    BrokerError, Expected, PutError, STATE_EVENTS_MAX, StateEvent, StateStore, Versioned, ttl_whole_seconds,
};
use crate::proto::channel::escape_token;

/// How KV clients mark a removal.
pub(super) const OPERATION: &str = "KV-Operation";
/// The mark that a removal leaves goes after this long, and the bucket does not grow with keys of the past.
const REMOVAL_TTL_S: u64 = 60;

/// See the module.
pub(super) struct NatsState {
    link: Arc<Link>,
    tasks: TaskTracker,
}

/// The newest message of a key.
struct Newest {
    revision: u64,
    /// `None` for a marker that the key was removed or has expired.
    value: Option<Bytes>,
}

#[derive(Deserialize)]
struct PubAck {
    seq: u64,
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl NatsState {
    pub(super) fn new(link: Arc<Link>, tasks: TaskTracker) -> Self {
        Self { link, tasks }
    }

    /// Asks the leader: a lease must not be judged by what a lagging replica remembers.
    async fn newest(&self, live: &Live, key: &str) -> Result<Option<Newest>, Failure> {
        let verb = format!("STREAM.MSG.GET.{}", stream::state_stream_name(&self.link.log));
        let request = json!({"last_by_subj": stream::state_subject(&self.link.log, &key_token(key))});
        match live.api::<Found>(&verb, &request).await {
            Ok(Found { message }) => message.read().map(Some),
            Err(failure) if failure.is(code::NO_MESSAGE) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn write(
        &self,
        key: &str,
        value: Bytes,
        headers: HeaderMap,
        expected: Expected,
    ) -> Result<u64, PutError> {
        let live = self.link.ready()?;
        let first = match expected {
            Expected::Any => None,
            Expected::Absent => Some(0),
            Expected::Revision(revision) => Some(revision),
        };
        let mut written = self.write_once(&live, key, &value, &headers, first).await;
        if expected == Expected::Absent && is_conflict(&written) {
            // A removal leaves a marker for a while, and the key is absent all the same.
            let newest = self.newest(&live, key).await.map_err(|failure| self.failed(failure))?;
            let marker = match newest {
                Some(Newest { value: Some(_), .. }) => return Err(PutError::Conflict),
                Some(Newest { revision, value: None }) => revision,
                None => 0,
            };
            written = self.write_once(&live, key, &value, &headers, Some(marker)).await;
        }
        if is_conflict(&written) {
            return Err(PutError::Conflict);
        }
        written.map_err(|failure| self.failed(failure).into())
    }

    async fn write_once(
        &self,
        live: &Live,
        key: &str,
        value: &Bytes,
        headers: &HeaderMap,
        last: Option<u64>,
    ) -> Result<u64, Failure> {
        let mut headers = headers.clone();
        if let Some(last) = last {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(last));
        }
        let subject = stream::state_subject(&self.link.log, &key_token(key));
        let answer = live.request(subject, headers, value.clone()).await?;
        api::parse::<PubAck>(&answer).map(|ack| ack.seq)
    }

    fn failed(&self, failure: Failure) -> BrokerError {
        if failure.hints_at_missing_stream() {
            self.link.recheck();
        }
        failure.into()
    }
}

fn is_conflict(written: &Result<u64, Failure>) -> bool {
    matches!(written, Err(failure) if failure.is(code::WRONG_LAST_SEQUENCE))
}

#[async_trait]
impl StateStore for NatsState {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, BrokerError> {
        let live = self.link.ready()?;
        let newest = self.newest(&live, key).await.map_err(|failure| self.failed(failure))?;
        Ok(newest.and_then(|newest| Some(Versioned { value: newest.value?, revision: newest.revision })))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<u64, PutError> {
        let mut headers = HeaderMap::new();
        if let Some(ttl) = ttl {
            headers.insert(NATS_MESSAGE_TTL, format!("{}s", ttl_whole_seconds(ttl)));
        }
        self.write(key, value, headers, expected).await
    }

    async fn delete(&self, key: &str, expected: Expected) -> Result<(), PutError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        headers.insert(NATS_MESSAGE_TTL, format!("{REMOVAL_TTL_S}s"));
        self.write(key, Bytes::new(), headers, expected).await.map(drop)
    }

    async fn watch(&self, prefix: &str) -> Result<mpsc::Receiver<StateEvent>, BrokerError> {
        let (sender, receiver) = mpsc::channel(STATE_EVENTS_MAX);
        let (link, prefix) = (self.link.clone(), prefix.to_owned());
        let stop = self.link.stop.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(follow::follow(&link, &prefix, &sender)).await });
        Ok(receiver)
    }
}

impl RawMessage {
    fn read(self) -> Result<Newest, Failure> {
        let decode = |text: &str| {
            STANDARD
                .decode(text)
                .map_err(|error| Failure::Lost(format!("NATS answered something unreadable: {error}")))
        };
        let headers = decode(&self.hdrs)?;
        let headers = String::from_utf8_lossy(&headers);
        let mut names = headers.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name);
        let marker: &str = NATS_MARKER_REASON.as_ref();
        let removed = names.any(|name| name == OPERATION || name == marker);
        let value = if removed { None } else { Some(decode(&self.data)?.into()) };
        Ok(Newest { revision: self.seq, value })
    }
}

/// A key as subject tokens: `/` separates them, so that a watcher of `node/` need not be sent the leases. Everything
/// that a KV key may not hold, and `.`, becomes `=XX`.
pub(super) fn key_token(key: &str) -> String {
    let segments: Vec<_> = key.split('/').map(|segment| escape_token(segment).replace('%', "=")).collect();
    segments.join(".")
}

/// Reads [`key_token`] back; `None` for a key that others wrote in another spelling.
pub(super) fn key_of_token(token: &str) -> Option<String> {
    let segments = token.split('.').map(|segment| segment.replace('=', "%"));
    let key = segments
        .map(|segment| crate::proto::channel::unescape_token(&segment).into_owned())
        .collect::<Vec<_>>()
        .join("/");
    (key_token(&key) == token).then_some(key)
}

/// What to subscribe to for all keys that begin with `prefix`, and perhaps some more.
pub(super) fn prefix_filter(prefix: &str) -> String {
    match prefix.rsplit_once('/') {
        Some((folder, _)) => format!("{}.>", key_token(folder)),
        None => ">".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_is_narrowed_to_its_folder() {
        assert_eq!(prefix_filter(""), ">");
        assert_eq!(prefix_filter("node"), ">");
        assert_eq!(prefix_filter("node/"), "node.>");
        assert_eq!(prefix_filter("a.b/c/d"), "a=2Eb.c.>");
    }

    #[test]
    fn a_foreign_spelling_is_no_key() {
        assert_eq!(key_of_token("a=2eb"), None);
        assert_eq!(key_of_token("a=b"), None);
    }

    proptest! {
        #[test]
        fn keys_are_reversible(key in ".{0,40}|[a./=%]{0,10}") {
            let token = key_token(&key);
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=.".contains(&b)));
            prop_assert!(token.split('.').all(|token| !token.is_empty()));
            prop_assert_eq!(key_of_token(&token), Some(key));
        }
    }
}
