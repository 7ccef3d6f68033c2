//! A model of one session: it knows everything that was ever stored, walks where the session's messages say it is, and holds
//! every position on the way to what a client was promised.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;
use telecast::broker::Broker as _;
use telecast::proto::offset::{Epoch, Offset, Sequence, Shard};

use crate::bench::{Log, Row};

/// Whether a client wants a row.
type Wants = fn(&Row) -> bool;

/// What clients ask for, and which rows that is. Everybody wants the rows that tell the end.
pub const WISHES: [(&str, Wants); 5] = [
    ("filter=%3E", |_| true),
    ("filter=*.cpu&filter=*.end", |row| row.1 == "cpu" || row.1 == "end"),
    ("filter=web-01.%3E&filter=*.end", |row| row.0 == "web-01" || row.1 == "end"),
    ("filter=*.*%7Bregion=eu%7D&filter=*.end", |row| row.2.is_multiple_of(2) || row.1 == "end"),
    ("filter=nobody.%3E&filter=*.end", |row| row.1 == "end"),
];

/// The log, and which epochs its shards have had.
pub struct Truth {
    pub log: Log,
    epochs: Mutex<Vec<Vec<Epoch>>>,
    /// Epochs of whole logs, by shard: found once each.
    combined: Mutex<HashMap<Epoch, Vec<Epoch>>>,
}

impl Truth {
    pub async fn new(log: Log) -> Self {
        let truth = Self { log, epochs: Mutex::default(), combined: Mutex::default() };
        for shard in truth.shards() {
            let epoch = truth.log.broker.bounds(shard).await.unwrap().epoch;
            truth.epochs.lock().unwrap().push(vec![epoch]);
        }
        truth
    }

    pub fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.log.broker.shards()).map(Shard)
    }

    /// Replaces a shard by an empty one.
    pub async fn recreate(&self, shard: Shard) {
        self.log.broker.recreate(shard).unwrap();
        let epoch = self.log.broker.bounds(shard).await.unwrap().epoch;
        self.epochs.lock().unwrap()[usize::from(shard.0)].push(epoch);
    }

    /// The place behind everything that is stored now.
    pub async fn head(&self) -> Offset {
        let mut epochs = Vec::new();
        let mut head = Offset::start(Epoch(0), self.log.broker.shards());
        for shard in self.shards() {
            let bounds = self.log.broker.bounds(shard).await.unwrap();
            epochs.push(bounds.epoch);
            head = head.with(shard, bounds.last);
        }
        head.epoch = Epoch::combine(&epochs);
        head
    }

    /// An edge learns of new shards one after the other, so any combination of what they were and are may be a log's epoch.
    fn epoch_of(&self, whole: Epoch, shard: Shard) -> Epoch {
        let mut known = self.combined.lock().unwrap();
        let epochs = known.entry(whole).or_insert_with(|| {
            let mut all = vec![vec![]];
            for shard in &*self.epochs.lock().unwrap() {
                let longer = |begun: &Vec<Epoch>| {
                    shard.iter().map(|epoch| [&begun[..], &[*epoch]].concat()).collect::<Vec<_>>()
                };
                all = all.iter().flat_map(longer).collect();
            }
            let found = all.into_iter().find(|epochs| Epoch::combine(epochs) == whole);
            found.expect("an epoch that the log has had")
        });
        epochs[usize::from(shard.0)]
    }

    fn row(&self, whole: Epoch, shard: Shard, sequence: Sequence) -> Row {
        let position = (self.epoch_of(whole, shard), shard, sequence);
        self.log.stored(&position).unwrap_or_else(|| panic!("nothing was ever stored at {position:?}"))
    }
}

/// Positions, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub published: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub conflated: u64,
    pub gap: u64,
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, more: Self) {
        self.published += more.published;
        self.delivered += more.delivered;
        self.filtered += more.filtered;
        self.conflated += more.conflated;
        self.gap += more.gap;
    }
}

/// One session as its client sees it.
#[derive(Debug)]
pub struct Walk {
    pub id: String,
    /// What it asked for.
    pub wish: usize,
    /// What it asked for before, while it cannot know from where on the new wish holds.
    before: Option<usize>,
    pub at: Offset,
    /// It asked for the last values instead of what it misses.
    pub snapshots: bool,
    /// What it misses, while the state that takes its place has not come whole.
    missed: Option<(Offset, Offset, String)>,
    /// It asked for the newest values only. What was left out for them, and what nobody asked for, it cannot tell apart.
    conflated: bool,
    /// It asked for whatever there is: shards of which nothing came yet may begin anywhere.
    quiet: Vec<bool>,
    pub account: Account,
    /// The account is the session's own, to the last position.
    pub exact: bool,
    pub reasons: Vec<String>,
}

impl Walk {
    /// A session that was welcomed.
    pub fn begin(welcome: &Value, wish: usize, quiet: bool, conflated: bool) -> Self {
        let at = offset(welcome, "offset");
        let quiet = vec![quiet; at.sequences.len()];
        let id = welcome["session"].as_str().unwrap().to_owned();
        // Where the first row of whoever asks for what there is may be is not said, so neither is what was filtered out.
        let exact = !quiet[0] && !conflated;
        let (account, reasons) = (Account::default(), Vec::new());
        let (before, snapshots, missed) = (None, false, None);
        Self { id, wish, before, at, snapshots, missed, conflated, quiet, account, exact, reasons }
    }

    /// Takes a message with an offset.
    pub async fn take(&mut self, truth: &Truth, message: &Value) {
        match message["type"].as_str().unwrap() {
            "metrics" if self.conflated => {
                for metric in message["metrics"].as_array().unwrap() {
                    let row = row(message, metric);
                    assert!(self.wants(&row), "{}: {row:?} was not asked for", self.id);
                }
                self.pass(truth, &offset(message, "offset"), None);
            }
            "metrics" => {
                let metrics = message["metrics"].as_array().unwrap();
                assert_eq!(metrics.len(), 1, "an envelope has one metric here");
                self.deliver(truth, offset(message, "offset"), &row(message, &metrics[0]));
            }
            "gap" if message["snapshot"] == true => {
                assert!(self.snapshots && self.missed.is_none());
                let reason = message["reason"].as_str().unwrap().to_owned();
                self.missed = Some((offset(message, "from"), offset(message, "to"), reason));
            }
            "snapshot" => {
                for metric in message["metrics"].as_array().unwrap() {
                    let row = row(message, metric);
                    assert!(self.wants(&row), "{}: {row:?} was not asked for", self.id);
                }
                if message["part"] == message["parts"] {
                    self.go_on_behind_state(truth, &offset(message, "offset"));
                }
            }
            "gap" => {
                let (from, to) = (offset(message, "from"), offset(message, "to"));
                self.gap(truth, from, to, message["reason"].as_str().unwrap()).await;
            }
            "heartbeat" | "goodbye" => self.pass(truth, &offset(message, "offset"), None),
            _ => {}
        }
    }

    /// Another wish holds from here on, or from a place that was passed since the last message.
    pub fn wish(&mut self, wish: usize) {
        self.before = Some(std::mem::replace(&mut self.wish, wish));
    }

    /// It goes on from another place, on request. How far it had got then it is not told.
    pub fn replay(&mut self, from: Offset) {
        self.at = from;
        self.exact = false;
    }

    fn wants(&self, row: &Row) -> bool {
        (WISHES[self.wish].1)(row)
    }

    fn deliver(&mut self, truth: &Truth, to: Offset, row: &Row) {
        let shard =
            telecast::proto::channel::CollectorId::new(&row.0).unwrap().shard(to.sequences.len() as u16);
        let stored = truth.row(to.epoch, shard, to.sequence(shard));
        assert_eq!(*row, stored, "{}: what came is not what is stored at {to:?}", self.id);
        assert!(self.wants(row), "{}: {row:?} was not asked for", self.id);
        assert!(to.sequence(shard) > self.at.sequence(shard), "{}: {row:?} came twice", self.id);
        self.pass(truth, &to, Some(shard));
    }

    /// Goes on to a place; what lies before it was filtered out, but for the last position of the shard that was delivered.
    fn pass(&mut self, truth: &Truth, to: &Offset, delivered: Option<Shard>) {
        assert!(self.at.is_at_or_before(to), "{}: from {:?} back to {to:?}", self.id, self.at);
        for shard in truth.shards() {
            let number = usize::from(shard.0);
            let mut skipped = 0;
            for sequence in self.at.sequence(shard) + 1..=to.sequence(shard) {
                if delivered == Some(shard) && sequence == to.sequence(shard) {
                    self.account.delivered += 1;
                    self.quiet[number] = false;
                    continue;
                }
                let row = truth.row(to.epoch, shard, sequence);
                let before = self.before.is_some_and(|wish| !(WISHES[wish].1)(&row));
                if self.wants(&row) && !before && !self.conflated {
                    assert!(self.quiet[number], "{}: {row:?} at {sequence} was lost in silence", self.id);
                    skipped = sequence - self.at.sequence(shard);
                }
                self.account.filtered += 1;
            }
            self.account.filtered -= skipped;
            self.account.published += to.sequence(shard) - self.at.sequence(shard) - skipped;
        }
        self.at = to.clone();
        self.before = None;
    }

    /// What it has missed is stood for by the state at a place.
    fn go_on_behind_state(&mut self, truth: &Truth, at: &Offset) {
        let (from, to, reason) = self.missed.take().expect("a gap before the state");
        assert_eq!(to, *at, "the state is that of the end of the gap");
        self.pass(truth, &from, None);
        assert_ne!(from, to, "an empty gap");
        self.exact &= reason != "reset";
        self.quiet.fill(false);
        self.account.published += from.positions_to(&to);
        self.account.gap += from.positions_to(&to);
        self.reasons.push(format!("{reason} and a snapshot"));
        self.at = to;
    }

    async fn gap(&mut self, truth: &Truth, from: Offset, to: Offset, reason: &str) {
        self.pass(truth, &from, None);
        assert!(reason == "reset" || from.epoch != to.epoch || from.is_at_or_before(&to));
        assert_ne!(from, to, "an empty gap");
        for shard in truth.shards() {
            let bounds = truth.log.broker.bounds(shard).await.unwrap();
            // Where nothing matches no state comes: the gap that would be before it says all there is to say.
            if reason == "retention" && !self.snapshots && truth.epoch_of(to.epoch, shard) == bounds.epoch {
                let moved = from.sequence(shard) < to.sequence(shard);
                assert!(
                    !moved || to.sequence(shard) < bounds.first,
                    "{}: it is there, up to {to:?}",
                    self.id
                );
            }
            if from.sequence(shard) < to.sequence(shard) {
                self.quiet[usize::from(shard.0)] = false;
            }
        }
        if reason == "reset" {
            // All of the new log is wanted now, whatever of it there still is.
            self.quiet.fill(true);
            self.exact = false;
        }
        self.account.published += from.positions_to(&to);
        self.account.gap += from.positions_to(&to);
        self.reasons.push(reason.to_owned());
        self.at = to;
    }
}

fn row(message: &Value, metric: &Value) -> Row {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&message["collector"]), text(&metric["name"]), metric["fields"]["count"].as_u64().unwrap())
}

/// The offset that a message carries in `member`.
pub fn offset(message: &Value, member: &str) -> Offset {
    message[member].as_str().unwrap().parse().unwrap()
}
