//! What a client knows of every series, and what it should know at each place of the log.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use telecast::proto::channel::CollectorId;
use telecast::proto::offset::{Offset, Shard};

/// Collector, measurement and tags.
type Series = (String, String, String);

/// The last value of each series: its fields, and the time of its last line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(BTreeMap<Series, (Map<String, Value>, Value)>);

impl State {
    /// Takes the metrics of a `metrics` or `snapshot` message, or of `/api/metrics/latest`.
    pub fn take(&mut self, message: &Value) {
        for metric in message["metrics"].as_array().expect("metrics") {
            let series = series(message, metric);
            let (fields, timestamp) = self.0.entry(series).or_default();
            let newer = metric["fields"].as_object().expect("fields").clone();
            fields.extend(newer);
            *timestamp = metric["timestamp"].clone();
        }
    }

    /// How many series.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn series(message: &Value, metric: &Value) -> Series {
    let owner = metric.get("collector").unwrap_or(&message["collector"]);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    // Objects of serde_json are sorted by key.
    (text(owner), text(&metric["name"]), metric["tags"].to_string())
}

/// The last values of a series' fields, and their time.
type Latest = (Map<String, Value>, Value);

/// The state at every place of the log, from a client that has everything from the beginning.
#[derive(Default)]
pub struct Truth {
    shards: u16,
    /// Of each series, in the order of its shard: the sequence that changed it, and its value since then.
    histories: BTreeMap<Series, Vec<(u64, Latest)>>,
    now: State,
}

impl Truth {
    /// Of a log with so many shards.
    pub fn new(shards: u16) -> Self {
        Self { shards, ..Self::default() }
    }

    /// Takes the log's next `metrics` message.
    pub fn take(&mut self, message: &Value) {
        let collector = CollectorId::new(message["collector"].as_str().expect("a collector")).expect("an id");
        let sequence = offset(message).sequence(collector.shard(self.shards));
        self.now.take(message);
        for metric in message["metrics"].as_array().expect("metrics") {
            let series = series(message, metric);
            let value = self.now.0[&series].clone();
            self.histories.entry(series).or_default().push((sequence, value));
        }
    }

    /// What everybody should know who has everything up to a place.
    pub fn at(&self, place: &Offset) -> State {
        let known = self.histories.iter().filter_map(|(series, history)| {
            let shard = CollectorId::new(&series.0).expect("an id").shard(self.shards);
            let seen = history.partition_point(|(sequence, _)| *sequence <= place.sequence(shard));
            Some((series.clone(), history[seen.checked_sub(1)?].1.clone()))
        });
        State(known.collect())
    }
}

/// The place that a message tells.
pub fn offset(message: &Value) -> Offset {
    let token = message["offset"].as_str().unwrap_or_else(|| panic!("an offset: {message}"));
    token.parse().unwrap_or_else(|error| panic!("{error}: {message}"))
}

/// Holds that `next` follows `last` on exactly one shard, by one: nothing twice, and nothing left out.
pub fn assert_follows(last: &Offset, next: &Offset) {
    let steps: Vec<(u64, u64)> = (0..last.sequences.len() as u16)
        .map(|shard| (last.sequence(Shard(shard)), next.sequence(Shard(shard))))
        .filter(|(before, after)| before != after)
        .collect();
    assert!(
        matches!(steps[..], [(before, after)] if after == before + 1),
        "{last:?} is followed by {next:?}"
    );
}
