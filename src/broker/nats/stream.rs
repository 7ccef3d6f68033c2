//! How the streams have to be, and what to do about the ones that are not. Pure.
//!
//! Configurations stay JSON: an update sends back everything that was found, with the few keys of ours changed, so that
//! settings of a newer server survive.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{LogSettings, Storage};
use crate::proto::offset::Shard;

/// How long the server remembers that a key of the state was removed, so that watchers can be told.
const REMOVAL_MARKER_TTL: Duration = Duration::from_secs(60);
/// The server's own smallest window; the state uses no message ids.
const STATE_DUPLICATE_WINDOW: Duration = Duration::from_secs(1);

/// Keys that the configuration may change in an existing stream without anybody losing what they rely on.
const ADJUSTABLE: [&str; 4] = ["max_age", "max_bytes", "num_replicas", "duplicate_window"];
/// Where a shard's stream says how many shards the log has: a node that counts otherwise would look for collectors, and
/// put them, where nobody else does.
const SHARDS: &str = "telecast.shards";
/// What a server leaves out, or writes as `false` or as nothing, when it is not set.
const ABSENT: [&str; 5] = ["mirror", "sources", "subject_transform", "sealed", "no_ack"];

/// A shard's stream.
pub(super) fn log_stream_name(log: &LogSettings, shard: Shard) -> String {
    format!("{}-{}", log.name, shard.0)
}

/// The bucket's stream, named as every KV client expects.
pub(super) fn state_stream_name(log: &LogSettings) -> String {
    format!("KV_{}-state", log.name)
}

/// Before a key: where it is written, and where watchers hear of it.
pub(super) fn state_subject(log: &LogSettings, token: &str) -> String {
    format!("$KV.{}-state.{token}", log.name)
}

/// See [`state_subject`].
pub(super) fn state_live_subject(log: &LogSettings, token: &str) -> String {
    format!("{}.state.{token}", log.name)
}

/// What a shard publishes live.
pub(super) fn live_subject(log: &LogSettings, shard: Shard) -> String {
    format!("{}.live.{}.>", log.name, shard.0)
}

/// Where writers that cannot store tell the readers of a shard (`*`: of every shard). No stream takes it.
pub(super) fn stall_subject(log: &LogSettings, shard: &str) -> String {
    format!("{}.stalled.{shard}", log.name)
}

/// The whole configuration of a shard's stream.
pub(super) fn log_stream(log: &LogSettings, shard: Shard) -> Value {
    let subjects = format!("{}.in.{}.>", log.name, shard.0);
    json!({
        "name": log_stream_name(log, shard),
        "description": "Telecast: the log",
        "metadata": {SHARDS: log.shards.to_string()},
        "subjects": [subjects],
        "republish": {"src": subjects, "dest": live_subject(log, shard)},
        "retention": "limits",
        "discard": "old",
        "storage": storage(log.storage),
        "num_replicas": log.replicas,
        "max_age": nanoseconds(log.max_age),
        "max_bytes": log.max_bytes,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        // The server refuses a window longer than the age.
        "duplicate_window": nanoseconds(log.duplicate_window.min(log.max_age)),
        "allow_direct": true,
        "deny_delete": true,
        "deny_purge": true,
    })
}

/// The whole configuration of the state's stream: a KV bucket whose changes are republished.
pub(super) fn state_stream(log: &LogSettings) -> Value {
    json!({
        "name": state_stream_name(log),
        "description": "Telecast: nodes and leases",
        "subjects": [state_subject(log, ">")],
        "republish": {"src": state_subject(log, ">"), "dest": state_live_subject(log, ">")},
        "retention": "limits",
        "discard": "new",
        "storage": storage(log.storage),
        "num_replicas": log.replicas,
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "duplicate_window": nanoseconds(STATE_DUPLICATE_WINDOW),
        "allow_direct": true,
        "allow_rollup_hdrs": true,
        "allow_msg_ttl": true,
        "subject_delete_marker_ttl": nanoseconds(REMOVAL_MARKER_TTL),
        "deny_delete": true,
    })
}

/// What to do about an existing stream.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is as wanted.
    Matches,
    /// It is, after an update to this configuration.
    Update(Value),
    /// An operator has to decide; in words.
    Incompatible(String),
}

/// Compares what was found with what is wanted.
pub(super) fn judge(found: &Value, wanted: &Value) -> Verdict {
    let name = wanted["name"].as_str().unwrap_or_default();
    let nothing = Value::Null;
    for (key, wanted) in wanted.as_object().into_iter().flatten() {
        let found = found.get(key).unwrap_or(&nothing);
        if !ADJUSTABLE.contains(&key.as_str()) && key != "description" && !same(key, found, wanted) {
            return incompatible(name, key, found, wanted);
        }
    }
    for key in ABSENT {
        let found = found.get(key).unwrap_or(&nothing);
        if !matches!(found, Value::Null | Value::Bool(false)) && *found != json!([]) {
            return incompatible(name, key, found, &nothing);
        }
    }
    let mut updated = found.clone();
    for key in ADJUSTABLE {
        updated[key] = wanted[key].clone();
    }
    if updated == *found { Verdict::Matches } else { Verdict::Update(updated) }
}

/// What an update changes, for people.
pub(super) fn changes(found: &Value, updated: &Value) -> String {
    let changed = ADJUSTABLE.iter().filter(|key| found[**key] != updated[**key]);
    let described: Vec<_> = changed.map(|key| format!("{key} {} → {}", found[*key], updated[*key])).collect();
    described.join(", ")
}

fn incompatible(name: &str, key: &str, found: &Value, wanted: &Value) -> Verdict {
    Verdict::Incompatible(format!(
        "stream {name} has {key} {found}, and this configuration needs {wanted}: change the configuration \
         (another log.name makes new streams), change the stream (`nats stream edit {name}`), or delete it \
         and lose what it holds (`nats stream rm {name}`)"
    ))
}

fn same(key: &str, found: &Value, wanted: &Value) -> bool {
    match key {
        // The server may add `headers_only`, which must not be set: readers need the bodies.
        "republish" => {
            let whole = !found["headers_only"].as_bool().unwrap_or(false);
            whole && found["src"] == wanted["src"] && found["dest"] == wanted["dest"]
        }
        // How long markers stay is not ours to insist on, as long as there are some.
        "subject_delete_marker_ttl" => found.as_u64().is_some_and(|ttl| ttl > 0),
        // The server and operators add their own; streams of before do not say it.
        "metadata" => found[SHARDS].is_null() || found[SHARDS] == wanted[SHARDS],
        _ => found == wanted,
    }
}

fn storage(storage: Storage) -> &'static str {
    match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Value {
        let log = LogSettings {
            name: "telecast".into(),
            shards: 1,
            replicas: 1,
            storage: Storage::File,
            max_age: Duration::from_secs(3600),
            max_bytes: 1 << 20,
            duplicate_window: Duration::from_secs(120),
        };
        log_stream(&log, Shard(0))
    }

    fn changed(key: &str, value: Value) -> Value {
        let mut found = wanted();
        // What servers add by themselves.
        found["metadata"] = json!({"_nats.ver": "2.15.1"});
        found["sealed"] = json!(false);
        found[key] = value;
        found
    }

    #[test]
    fn limits_are_adjusted_and_the_rest_is_kept() {
        assert_eq!(judge(&changed("a_key_of_2030", json!(true)), &wanted()), Verdict::Matches);
        let Verdict::Update(updated) = judge(&changed("max_age", json!(1)), &wanted()) else {
            panic!("an update is due");
        };
        assert_eq!(updated["max_age"], wanted()["max_age"]);
        assert_eq!(changes(&changed("max_age", json!(1)), &updated), "max_age 1 → 3600000000000");
        assert_eq!(updated["metadata"]["_nats.ver"], "2.15.1");
    }

    #[test]
    fn what_readers_rely_on_is_never_adjusted() {
        let wrong = [
            ("subjects", json!(["telecast.>"])),
            ("storage", json!("memory")),
            ("retention", json!("workqueue")),
            ("discard", json!("new")),
            ("allow_direct", json!(false)),
            ("republish", Value::Null),
            ("republish", json!({"src": "telecast.in.0.>", "dest": "elsewhere.>"})),
            (
                "republish",
                json!({"src": "telecast.in.0.>", "dest": "telecast.live.0.>", "headers_only": true}),
            ),
            ("mirror", json!({"name": "other"})),
            ("sources", json!([{"name": "other"}])),
            ("max_msgs", json!(10)),
            ("metadata", json!({"telecast.shards": "4"})),
        ];
        for (key, value) in wrong {
            let Verdict::Incompatible(reason) = judge(&changed(key, value.clone()), &wanted()) else {
                panic!("{key} {value} must be refused");
            };
            assert!(
                reason.contains("telecast-0") && reason.contains(key) && reason.contains("nats stream edit")
            );
        }
    }

    #[test]
    fn the_window_is_never_longer_than_the_age() {
        let log = LogSettings {
            name: "t".into(),
            shards: 1,
            replicas: 1,
            storage: Storage::Memory,
            max_age: Duration::from_secs(1),
            max_bytes: 1,
            duplicate_window: Duration::from_secs(120),
        };
        assert_eq!(log_stream(&log, Shard(0))["duplicate_window"], 1_000_000_000);
    }
}
