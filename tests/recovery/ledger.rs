//! What a client must get, checked as it comes, so that thousands of messages cost no memory: each channel has a next row, and
//! whatever else comes is a fault.

use std::collections::HashMap;

use serde::Deserialize;
use telecast::proto::offset::Offset;

use crate::support::collector::{CPUS, MEASUREMENTS};

/// Faults a client keeps; the first ones say it all.
const FAULTS_MAX: usize = 5;

/// Whether a client wants a collector's measurement in the row with a number.
type Wants = fn(usize, &str, i64) -> bool;

/// What clients ask for, and which rows of which measurement that is.
pub const WISHES: [(&str, Wants); 6] = [
    ("filter=%3E", |_, _, _| true),
    ("filter=*.cpu", |_, measurement, _| measurement == "cpu"),
    ("filter=web-2.*", |collector, _, _| collector == 2),
    ("filter=web-1.mem&filter=web-3.disk", |collector, measurement, _| {
        (collector, measurement) == (1, "mem") || (collector, measurement) == (3, "disk")
    }),
    ("filter=*.*%7Bcpu=cpu1%7D", |_, _, number| number % CPUS == 1),
    ("filter=*.mem%7Bcpu=cpu2%7D", |_, measurement, number| measurement == "mem" && number % CPUS == 2),
];

/// Rows that each collector has sent, by its number.
pub type Truth = Vec<i64>;

/// Positions of the log that clients have passed, by what became of them, and what else is worth a total.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub published: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub conflated: u64,
    pub gaps: u64,
    pub metrics: u64,
    pub snapshots: u64,
    pub connections: u64,
    pub refusals: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, more: Self) {
        self.published += more.published;
        self.delivered += more.delivered;
        self.filtered += more.filtered;
        self.conflated += more.conflated;
        self.gaps += more.gaps;
        self.metrics += more.metrics;
        self.snapshots += more.snapshots;
        self.connections += more.connections;
        self.refusals += more.refusals;
    }
}

/// The account of one client.
pub struct Ledger {
    wish: usize,
    /// It asked for the newest values only.
    conflated: bool,
    /// It begins with the last values: before the last of them it has no place to come back to.
    snapshot: bool,
    /// Up to here it has everything; it resumes from here.
    pub at: Option<Offset>,
    /// Per channel, the next row it wants: of those before it has had each once. Of conflated series, the newest it has had.
    next: HashMap<(usize, &'static str, i64), i64>,
    pub totals: Totals,
    pub faults: Vec<String>,
}

#[derive(Deserialize)]
struct Message<'a> {
    r#type: &'a str,
    offset: Option<&'a str>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    reason: Option<&'a str>,
    collector: Option<&'a str>,
    part: Option<u32>,
    parts: Option<u32>,
    reconnect_after_ms: Option<u64>,
    #[serde(borrow, default)]
    metrics: Vec<Metric<'a>>,
}

#[derive(Deserialize)]
struct Metric<'a> {
    name: &'a str,
    #[serde(borrow)]
    tags: Tags<'a>,
    fields: Fields,
}

#[derive(Deserialize)]
struct Tags<'a> {
    cpu: &'a str,
}

#[derive(Deserialize)]
struct Fields {
    n: i64,
}

/// What a message asks of the client beside taking note.
#[derive(Debug, PartialEq)]
pub enum Then {
    Nothing,
    /// It is about to be closed, and may come back after so many milliseconds.
    Leave(u64),
}

impl Ledger {
    pub fn new(wish: usize, conflated: bool, snapshot: bool) -> Self {
        let (next, faults) = (HashMap::new(), Vec::new());
        Self { wish, conflated, snapshot, at: None, next, totals: Totals::default(), faults }
    }

    /// Takes a message as any transport brings it.
    pub fn take(&mut self, text: &str) -> Then {
        if text.starts_with('#') {
            self.take_influx(text);
            return Then::Nothing;
        }
        let message: Message<'_> = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => {
                self.fault(format!("{error}: {text}"));
                return Then::Nothing;
            }
        };
        match message.r#type {
            "welcome" => self.welcome(text, offset(message.offset)),
            "metrics" | "snapshot" => {
                for metric in &message.metrics {
                    let cpu = metric.tags.cpu.trim_start_matches("cpu").parse().unwrap_or(-1);
                    let is_state = message.r#type == "snapshot";
                    let collector = message.collector.unwrap_or_default();
                    self.row(is_state, collector, metric.name, cpu, metric.fields.n);
                }
                match message.r#type {
                    "snapshot" => self.snapshot(text, message.part == message.parts, offset(message.offset)),
                    _ => self.data(text, offset(message.from), offset(message.offset)),
                }
            }
            "gap" => self.gap(text, offset(message.from), offset(message.to), message.reason),
            "heartbeat" => self.pass(text, offset(message.offset), 0),
            "goodbye" => {
                self.pass(text, offset(message.offset), 0);
                return Then::Leave(message.reconnect_after_ms.unwrap_or(0));
            }
            "stale" | "live" => {}
            _ => self.fault(format!("unexpected: {text}")),
        }
        Then::Nothing
    }

    /// Everything before `next` was sent, as the answer to a poll says.
    pub fn polled(&mut self, next: &str) {
        self.pass("the next place of a poll", next.parse().ok(), 0);
    }

    /// Whether everything has come that was sent.
    pub fn is_complete(&self, truth: &Truth) -> bool {
        self.missing(truth).is_none()
    }

    /// The first channel or series of which something has not come.
    pub fn missing(&self, truth: &Truth) -> Option<String> {
        for (collector, rows) in truth.iter().enumerate() {
            for measurement in MEASUREMENTS {
                let wanted = |number: &i64| (WISHES[self.wish].1)(collector, measurement, *number);
                let had = |series: i64| self.next.get(&(collector, measurement, series)).copied();
                if self.conflated {
                    for cpu in 0..CPUS {
                        let newest = (0..*rows).rev().find(|number| number % CPUS == cpu && wanted(number));
                        if newest != had(cpu) {
                            let had = had(cpu);
                            return Some(format!(
                                "web-{collector} {measurement} cpu{cpu}: {had:?} is not {newest:?}"
                            ));
                        }
                    }
                } else {
                    let next = had(0).or_else(|| self.wanted_from(collector, measurement, 0));
                    if let Some(next) = next.filter(|next| next < rows) {
                        return Some(format!("web-{collector} {measurement}: from {next} on, of {rows}"));
                    }
                }
            }
        }
        None
    }

    /// A row, or what is left of all rows of a series up to a snapshot.
    fn row(&mut self, is_state: bool, collector: &str, name: &str, cpu: i64, number: i64) {
        self.totals.metrics += 1;
        let measurement = MEASUREMENTS.into_iter().find(|measurement| *measurement == name);
        let collector = collector.strip_prefix("web-").and_then(|number| number.parse::<usize>().ok());
        let (Some(measurement), Some(collector)) = (measurement, collector) else {
            return self.fault(format!("nobody sent {name} of {collector:?}"));
        };
        if cpu != number % CPUS || !(WISHES[self.wish].1)(collector, measurement, number) {
            return self
                .fault(format!("not asked for: {measurement} of web-{collector}, row {number}, cpu{cpu}"));
        }
        if self.conflated {
            let before = self.next.insert((collector, measurement, cpu), number);
            if before.is_some_and(|before| before > number) {
                self.fault(format!("web-{collector} {measurement}: {number} came after {before:?}"));
            }
            return;
        }
        let key = (collector, measurement, 0);
        let next = self.next.get(&key).copied().or_else(|| self.wanted_from(collector, measurement, 0));
        if is_state && self.at.is_none() {
            // Rows go round the series: those up to the newest of all are in the state.
            let after = self.wanted_from(collector, measurement, number + 1);
            self.next.insert(key, next.max(after).unwrap_or(0));
            return;
        }
        if next != Some(number) {
            let what =
                if Some(number) < next { "came twice" } else { "was lost in silence before this came" };
            self.fault(format!("web-{collector} {measurement}: row {next:?} wanted, {number}: {what}"));
        }
        if let Some(next) = self.wanted_from(collector, measurement, number + 1) {
            self.next.insert(key, next);
        }
    }

    /// The next row of a channel that this client wants; none of a channel that it does not want at all.
    fn wanted_from(&self, collector: usize, measurement: &str, from: i64) -> Option<i64> {
        (from..from + CPUS).find(|number| (WISHES[self.wish].1)(collector, measurement, *number))
    }

    fn welcome(&mut self, text: &str, offset: Option<Offset>) {
        match &self.at {
            Some(at) if !self.conflated && offset.as_ref() != Some(at) => {
                self.fault(format!("a resume begins at {at:?}, not at {text}"));
            }
            Some(_) => {}
            None if self.snapshot => {}
            None => self.at = offset,
        }
    }

    /// An envelope; or what stands for everything behind `from`.
    fn data(&mut self, text: &str, from: Option<Offset>, offset: Option<Offset>) {
        match (&from, &self.at) {
            (None, _) if self.conflated => self.fault(format!("what does it stand for? {text}")),
            (Some(_), _) if !self.conflated => self.fault(format!("every value is wanted, not {text}")),
            // Nothing that was asked for was written before that.
            (Some(from), Some(at)) if at.is_at_or_before(from) => {
                let passed = at.positions_to(from);
                self.totals.published += passed;
                self.totals.filtered += passed;
                self.at = Some(from.clone());
            }
            (None, at) if offset == *at => self.fault(format!("an offset that came before: {text}")),
            _ => {}
        }
        self.pass(text, offset, u64::from(from.is_none()));
    }

    /// The state at a place. Until its last part has come, the client is where it was.
    fn snapshot(&mut self, text: &str, whole: bool, offset: Option<Offset>) {
        self.totals.snapshots += 1;
        if whole {
            self.pass(text, offset, 0);
        }
    }

    /// Goes on to a place, past `delivered` envelopes that came and others that did not.
    fn pass(&mut self, text: &str, to: Option<Offset>, delivered: u64) {
        let Some(to) = to else { return self.fault(format!("no place: {text}")) };
        // Polls have no welcome that says where they begin.
        let begin = || match self.conflated || self.snapshot {
            true => to.clone(),
            false => Offset::start(to.epoch, to.sequences.len() as u16),
        };
        let at = self.at.take().unwrap_or_else(begin);
        if !at.is_at_or_before(&to) {
            self.fault(format!("from {at:?} back to {to:?}: {text}"));
        }
        let passed = at.positions_to(&to);
        self.totals.published += passed;
        self.totals.delivered += delivered;
        match self.conflated {
            true => self.totals.conflated += passed,
            false => self.totals.filtered += passed.saturating_sub(delivered),
        }
        self.at = Some(to);
    }

    /// Nothing is slow, nothing is trimmed and no log is replaced here, so there is nothing to announce either.
    fn gap(&mut self, text: &str, from: Option<Offset>, to: Option<Offset>, reason: Option<&str>) {
        self.fault(format!("a gap for {}: {text}", reason.unwrap_or_default()));
        self.pass(text, from, 0);
        if let (Some(from), Some(to)) = (&self.at, to) {
            self.totals.published += from.positions_to(&to);
            self.totals.gaps += from.positions_to(&to);
            self.at = Some(to);
        }
    }

    fn take_influx(&mut self, text: &str) {
        let mut lines = text.lines();
        let mut place = lines.next().and_then(|head| head.strip_prefix("# offset "));
        let (mut from, mut snapshot) = (None, None);
        for line in lines {
            if let Some(comment) = line.strip_prefix("# ") {
                match comment.split_once(' ') {
                    Some(("snapshot", parts)) => {
                        snapshot = parts.split_once('/').map(|(part, parts)| part == parts)
                    }
                    Some(("from", rest)) => from = offset(rest.split(' ').next()),
                    _ => place = None,
                }
                continue;
            }
            let value = |key: &str| line.split([',', ' ']).find_map(|part| part.strip_prefix(key));
            let number = |key: &str| value(key)?.trim_end_matches('i').parse().ok();
            match (value("host="), number("cpu=cpu"), number("n=")) {
                (Some(host), Some(cpu), Some(n)) => {
                    self.row(snapshot.is_some(), host, line.split(',').next().unwrap_or(""), cpu, n)
                }
                _ => self.fault(format!("no row: {line}")),
            }
        }
        match snapshot {
            Some(whole) => self.snapshot(text, whole, offset(place)),
            None => self.data(text, from, offset(place)),
        }
    }

    fn fault(&mut self, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }
}

fn offset(token: Option<&str>) -> Option<Offset> {
    token?.parse().ok()
}
