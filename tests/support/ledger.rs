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
                self.data_at(token(&message, "offset"), text);
                for metric in message["metrics"].as_array().expect("metrics") {
                    let name = metric["name"].as_str().expect("a name").to_owned();
                    if let Some(number) = metric["fields"]["n"].as_i64() {
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
        let (head, lines) = text.split_once('\n').expect("a head line");
        self.data_at(head.strip_prefix("# offset ").expect("the offset"), text);
        for line in lines.lines() {
            let tag = |key: &str| line.split([',', ' ']).find_map(|part| part.strip_prefix(key));
            let number = tag("n=").expect("n").trim_end_matches('i').parse().expect("a number");
            let name = line.split(',').next().expect("a name").to_owned();
            self.number(tag("host=").expect("host"), name, number);
        }
    }
}

/// The offset that a message carries in `member`.
pub fn offset(message: &Value, member: &str) -> Offset {
    token(message, member).parse().unwrap_or_else(|error| panic!("{error}: {message}"))
}

fn token<'a>(message: &'a Value, member: &str) -> &'a str {
    message[member].as_str().unwrap_or_else(|| panic!("no {member} in {message}"))
}
