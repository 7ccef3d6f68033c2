//! Makes the streams be as the configuration wants them, or says why they cannot.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::broker::nats::api::{Failure, code};
use crate::broker::nats::link::{Link, Live};
use crate::broker::nats::stream::{self, Verdict};
use crate::broker::{BrokerError, Cause};
use crate::config::{LogSettings, Storage};
use crate::proto::offset::Shard;

/// A question that arrives while servers elect a leader is never answered, so it is asked again soon.
const INFO_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether an existing stream's limits may be changed. Only by nodes that ingest: the log's limits are in their
/// configuration, and a reader's defaults must not cut off what they keep. And only until the limits are in place once:
/// two nodes with different ones would otherwise change them back and forth for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updates {
    /// Bring them to what is configured.
    Apply,
    /// Another node may know better.
    Leave,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: Value,
    created: String,
}

/// When the state's stream was created: with another one, all revisions begin again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateIncarnation(String);

/// Every shard's stream and the state's. Writes nothing when they match: a user who may only read can connect.
pub(super) async fn streams(
    link: &Link,
    live: &Live,
    updates: Updates,
) -> Result<StateIncarnation, BrokerError> {
    let mut message_bytes_max = None;
    for shard in (0..link.log.shards).map(Shard) {
        let found = stream(link, live, &stream::log_stream(&link.log, shard), updates).await?;
        let bound = found.config["max_msg_size"].as_u64().filter(|bound| *bound > 0);
        message_bytes_max = message_bytes_max.into_iter().chain(bound).min();
    }
    link.note_envelope_limit(live, message_bytes_max);
    let state = stream(link, live, &stream::state_stream(&link.log), updates).await?;
    Ok(StateIncarnation(state.created))
}

/// Returns it as it was found, or created.
async fn stream(
    link: &Link,
    live: &Live,
    wanted: &Value,
    updates: Updates,
) -> Result<StreamInfo, BrokerError> {
    let name = wanted["name"].as_str().unwrap_or_default();
    let found = match info(live, name).await {
        Err(failure) if failure.is(code::STREAM_NOT_FOUND) => create(live, name, wanted).await,
        found => found,
    };
    let found = found.map_err(|failure| explain(&link.log, name, failure))?;
    match stream::judge(&found.config, wanted) {
        Verdict::Matches => Ok(found),
        Verdict::Update(_) if updates == Updates::Leave => Ok(found),
        Verdict::Update(config) => {
            let changes = stream::changes(&found.config, &config);
            let updated: Result<StreamInfo, _> = live.api(&format!("STREAM.UPDATE.{name}"), &config).await;
            updated.map_err(|failure| explain(&link.log, name, failure))?;
            tracing::info!(
                event = "stream_changed",
                stream = name,
                changes,
                "changed a stream's limits to the configured ones"
            );
            Ok(found)
        }
        Verdict::Incompatible(reason) => Err(BrokerError::Incompatible(reason)),
    }
}

async fn info(live: &Live, name: &str) -> Result<StreamInfo, Failure> {
    let verb = format!("STREAM.INFO.{name}");
    let answer = tokio::time::timeout(INFO_TIMEOUT, live.api(&verb, &json!({}))).await;
    answer.unwrap_or_else(|_| Err(live.no_answer(&verb)))
}

/// Another node may be doing the same: to the server, equal configurations are one creation, and a different one is
/// judged like any stream that was there before.
async fn create(live: &Live, name: &str, wanted: &Value) -> Result<StreamInfo, Failure> {
    match live.api(&format!("STREAM.CREATE.{name}"), wanted).await {
        Err(failure) if failure.is(code::STREAM_NAME_IN_USE) => info(live, name).await,
        Ok(created) => {
            tracing::info!(event = "stream_created", stream = name, "created a stream");
            Ok(created)
        }
        failed => failed,
    }
}

/// With the stream's name, and what to do where that is known.
fn explain(log: &LogSettings, name: &str, failure: Failure) -> BrokerError {
    match failure {
        Failure::NoResponders => BrokerError::retryable(
            Cause::NoStream,
            "JetStream does not answer: start nats-server with -js, or enable it for this account",
        ),
        failure if failure.is(code::SUBJECTS_OVERLAP) => BrokerError::Incompatible(format!(
            "stream {name} cannot be created, because another stream takes its subjects: set another log.name, \
             or delete the other one (`nats stream ls --subjects` names it)"
        )),
        failure => {
            let (advice, no_room) = (advice(log, &failure), failure.is_one_of(&code::NO_ROOM));
            let with = |text: String| match &advice {
                Some(advice) => format!("stream {name}: {text}: {advice}"),
                None => format!("stream {name}: {text}"),
            };
            match BrokerError::from(failure) {
                BrokerError::Unavailable { cause, reason } => {
                    let cause = if no_room { Cause::Full } else { cause };
                    BrokerError::retryable(cause, with(reason))
                }
                BrokerError::Refused(text) => BrokerError::Refused(with(text)),
                BrokerError::Incompatible(text) => BrokerError::Incompatible(with(text)),
            }
        }
    }
}

/// Which key of ours, or of the server, decides whether there is room for the streams.
fn advice(log: &LogSettings, failure: &Failure) -> Option<String> {
    let LogSettings { shards, replicas, max_bytes, .. } = log;
    if failure.is_one_of(&code::NO_ROOM) {
        let (kind, server_key) = match log.storage {
            Storage::File => ("disk", "max_file_store"),
            Storage::Memory => ("memory", "max_memory_store"),
        };
        return Some(format!(
            "the log reserves log.max_bytes = {max_bytes} bytes of {kind} for each of log.shards = {shards}: lower \
             log.max_bytes, or raise {server_key} of nats-server's jetstream block, or the account's limit"
        ));
    }
    if failure.is_one_of(&code::TOO_FEW_SERVERS) {
        return Some(format!(
            "log.replicas = {replicas} needs as many NATS servers in one cluster: lower it"
        ));
    }
    if failure.is(code::TOO_MANY_STREAMS) {
        let streams = u32::from(*shards) + 1;
        return Some(format!(
            "log.shards = {shards} needs {streams} streams: lower it, or let the account have more"
        ));
    }
    failure.is(code::BYTES_REQUIRED).then(|| {
        "the state's stream is small and has no bound: let the account have streams without one (max_bytes_required)".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::nats::api::ApiError;

    #[test]
    fn what_there_is_no_room_for_names_the_key_that_asks_for_it() {
        let log = LogSettings {
            name: "telecast".into(),
            shards: 4,
            replicas: 3,
            storage: Storage::File,
            max_age: Duration::from_secs(60),
            max_bytes: 1 << 30,
            duplicate_window: Duration::from_secs(60),
        };
        let check = |code, err_code, words: &[&str]| {
            let failure = Failure::Api(ApiError { code, err_code, description: "so it is".into() });
            let text = explain(&log, "telecast-0", failure).to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        for (status, err_code) in [(500, 10047), (400, 10002), (503, 10023), (500, 10028), (400, 10122)] {
            let words = ["telecast-0", "log.max_bytes = 1073741824", "log.shards = 4", "max_file_store"];
            check(status, err_code, &words);
        }
        check(500, 10074, &["log.replicas = 3"]);
        check(400, 10005, &["log.replicas = 3"]);
        check(400, 10027, &["log.shards = 4", "5 streams"]);
        check(400, 10113, &["max_bytes_required"]);
    }
}
