//! Makes the streams be as the configuration wants them, or says why they cannot.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::broker::BrokerError;
use crate::broker::nats::api::{Failure, code};
use crate::broker::nats::link::{Link, Live};
use crate::broker::nats::stream::{self, Verdict};
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
    for shard in (0..link.log.shards).map(Shard) {
        stream(live, &stream::log_stream(&link.log, shard), updates).await?;
    }
    stream(live, &stream::state_stream(&link.log), updates).await.map(StateIncarnation)
}

/// Returns when it was created.
async fn stream(live: &Live, wanted: &Value, updates: Updates) -> Result<String, BrokerError> {
    let name = wanted["name"].as_str().unwrap_or_default();
    let found = match info(live, name).await {
        Err(failure) if failure.is(code::STREAM_NOT_FOUND) => create(live, name, wanted).await,
        found => found,
    };
    let found = found.map_err(|failure| explain(name, failure))?;
    match stream::judge(&found.config, wanted) {
        Verdict::Matches => Ok(found.created),
        Verdict::Update(_) if updates == Updates::Leave => Ok(found.created),
        Verdict::Update(config) => {
            let changes = stream::changes(&found.config, &config);
            let updated: Result<StreamInfo, _> = live.api(&format!("STREAM.UPDATE.{name}"), &config).await;
            updated.map_err(|failure| explain(name, failure))?;
            tracing::info!(
                event = "stream_changed",
                stream = name,
                changes,
                "changed a stream's limits to the configured ones"
            );
            Ok(found.created)
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
fn explain(name: &str, failure: Failure) -> BrokerError {
    match failure {
        Failure::NoResponders => BrokerError::Unavailable(
            "JetStream does not answer: start nats-server with -js, or enable it for this account".into(),
        ),
        failure if failure.is(code::SUBJECTS_OVERLAP) => BrokerError::Incompatible(format!(
            "stream {name} cannot be created, because another stream takes its subjects: set another log.name, \
             or delete the other one (`nats stream ls --subjects` names it)"
        )),
        failure => match BrokerError::from(failure) {
            BrokerError::Unavailable(text) => BrokerError::Unavailable(format!("stream {name}: {text}")),
            BrokerError::Refused(text) => BrokerError::Refused(format!("stream {name}: {text}")),
            BrokerError::Incompatible(text) => BrokerError::Incompatible(format!("stream {name}: {text}")),
        },
    }
}
