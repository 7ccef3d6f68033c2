//! What a client has got, and the promises that must hold for whatever it gets.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use telecast::proto::offset::Offset;

/// The account of one client, over all its connections.
#[derive(Default)]
pub struct Ledger {
    /// Where the client would resume.
    pub offset: Option<Offset>,
    /// Messages with data, as they came.
    pub data: Vec<String>,
    /// Gaps, as they came.
    pub gaps: Vec<Gap>,
    /// All messages without data, parsed.
    pub others: Vec<Value>,
    /// The newest number of each series, by collector and line protocol without fields.
    pub state: BTreeMap<(String, String), i64>,
    /// What newest values stand for besides themselves, as far as it was counted.
    pub conflated: u64,
    seen: HashSet<String>,
    numbers: BTreeMap<(String, String), Vec<i64>>,
}

/// An announced loss: what follows `from`, up to and including `to`.
#[derive(Debug)]
pub struct Gap {
    pub reason: String,
    pub from: Offset,
    pub to: Offset,
}

impl Gap {
    /// Whether what came to be at `offset` is part of the loss.
    pub fn leaves_out(&self, offset: &Offset) -> bool {
        self.from != *offset && self.from.is_at_or_before(offset) && offset.is_at_or_before(&self.to)
    }
}

impl Ledger {
    /// Takes a message, holding it to what every message must be.
    pub fn take(&mut self, text: &str) -> Value {
        if text.starts_with('#') {
            self.take_influx(text);
            return Value::Null;
        }
        let message: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        match message["type"].as_str() {
            Some("metrics") => {
                let collector = message["collector"].as_str().expect("a collector").to_owned();
                let newest = message["from"].as_str().is_some();
                if newest {
                    let (from, to) = (offset(&message, "from"), offset(&message, "offset"));
                    self.newest_at(&from, to, message["conflated"].as_u64(), text);
                } else {
                    self.data_at(token(&message, "offset"), text);
                }
                for metric in message["metrics"].as_array().expect("metrics") {
                    let name = metric["name"].as_str().expect("a name").to_owned();
                    if let Some(number) = metric["fields"]["n"].as_i64() {
                        self.series_is(collector.clone(), series(&name, &metric["tags"]), number, newest);
                        self.number(&collector, name, number);
                    }
                }
                return message;
            }
            Some("gap") => self.gap(&message),
            Some("welcome" | "heartbeat" | "goodbye") => {
                let offset = offset(&message, "offset");
                self.moves_to(&offset, text);
                self.offset = Some(offset);
            }
            Some("stale" | "live" | "error" | "ack" | "pong") => {}
            _ => panic!("a message of an unknown type: {text}"),
        }
        self.others.push(message.clone());
        message
    }

    /// The numbers that came from a collector for a measurement, as they came.
    pub fn numbers(&self, collector: &str, measurement: &str) -> &[i64] {
        self.numbers.get(&(collector.to_owned(), measurement.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// How many metrics came.
    pub fn metrics(&self) -> usize {
        self.numbers.values().map(Vec::len).sum()
    }

    /// Channels of which something came.
    pub fn channels(&self) -> Vec<(&str, &str)> {
        self.numbers.keys().map(|(collector, measurement)| (&**collector, &**measurement)).collect()
    }

    /// How many messages of a type without data came.
    pub fn count(&self, kind: &str) -> usize {
        self.others.iter().filter(|message| message["type"] == kind).count()
    }

    /// The last message of a type without data.
    pub fn last(&self, kind: &str) -> &Value {
        let last = self.others.iter().rev().find(|message| message["type"] == kind);
        last.unwrap_or_else(|| panic!("no {kind} among {:?}", self.others))
    }

    /// The reasons of the gaps, as they came.
    pub fn gap_reasons(&self) -> Vec<&str> {
        self.gaps.iter().map(|gap| &*gap.reason).collect()
    }

    fn data_at(&mut self, token: &str, text: &str) {
        let offset: Offset = token.parse().expect("an offset");
        assert!(self.seen.insert(token.to_owned()), "the same offset twice: {text}");
        self.moves_to(&offset, text);
        assert_ne!(Some(&offset), self.offset.as_ref(), "data that moves nothing: {text}");
        self.offset = Some(offset);
        self.data.push(text.to_owned());
    }

    /// Newest values of what lies behind `from`, of which only the last message moves on.
    fn newest_at(&mut self, from: &Offset, to: Offset, conflated: Option<u64>, text: &str) {
        self.moves_to(from, text);
        assert!(from.is_at_or_before(&to), "backwards: {text}");
        self.offset = Some(to);
        self.conflated += conflated.unwrap_or(0);
        self.data.push(text.to_owned());
    }

    fn series_is(&mut self, collector: String, series: String, number: i64, newest: bool) {
        let before = self.state.insert((collector, series), number);
        assert!(!newest || before.is_none_or(|before| before < number), "{number} after {before:?}");
    }

    fn gap(&mut self, message: &Value) {
        let (from, to) = (offset(message, "from"), offset(message, "to"));
        self.moves_to(&from, "the beginning of a gap");
        let reason = message["reason"].as_str().expect("a reason").to_owned();
        assert_ne!(from, to, "an empty gap");
        assert!(reason == "reset" || from.is_at_or_before(&to), "a gap backwards: {message}");
        self.offset = Some(to.clone());
        self.gaps.push(Gap { reason, from, to });
    }

    /// Nothing ever goes back, and only a gap leads into another epoch.
    fn moves_to(&self, next: &Offset, what: &str) {
        if let Some(now) = &self.offset {
            assert!(now.is_at_or_before(next), "from {now:?} back to {next:?}: {what}");
        }
    }

    fn number(&mut self, collector: &str, measurement: String, number: i64) {
        let numbers = self.numbers.entry((collector.to_owned(), measurement)).or_default();
        numbers.push(number);
    }

    fn take_influx(&mut self, text: &str) {
        let (head, mut lines) = text.split_once('\n').expect("a head line");
        let place = head.strip_prefix("# offset ").expect("the offset");
        let mut newest = false;
        if let Some((range, rest)) = lines.strip_prefix("# from ").and_then(|rest| rest.split_once('\n')) {
            let (from, conflated) = range.split_once(" conflated ").unwrap_or((range, ""));
            let (from, to) = (from.parse().expect("an offset"), place.parse().expect("an offset"));
            self.newest_at(&from, to, conflated.parse().ok(), text);
            (lines, newest) = (rest, true);
        } else {
            self.data_at(place, text);
        }
        for line in lines.lines() {
            let tag = |key: &str| line.split([',', ' ']).find_map(|part| part.strip_prefix(key));
            let number = tag("n=").expect("n").trim_end_matches('i').parse().expect("a number");
            let name = line.split(',').next().expect("a name").to_owned();
            let collector = tag("host=").expect("host");
            let series = line.split(' ').next().expect("a series").to_owned();
            self.series_is(collector.to_owned(), series, number, newest);
            self.number(collector, name, number);
        }
    }
}

/// As line protocol names it, where nothing has to be escaped.
fn series(name: &str, tags: &Value) -> String {
    let tags = tags.as_object().expect("tags");
    let tag = |(key, value): (&String, &Value)| format!(",{key}={}", value.as_str().expect("a text"));
    std::iter::once(name.to_owned()).chain(tags.iter().map(tag)).collect()
}

/// The offset that a message carries in `member`.
pub fn offset(message: &Value, member: &str) -> Offset {
    token(message, member).parse().unwrap_or_else(|error| panic!("{error}: {message}"))
}

fn token<'a>(message: &'a Value, member: &str) -> &'a str {
    message[member].as_str().unwrap_or_else(|| panic!("no {member} in {message}"))
}
