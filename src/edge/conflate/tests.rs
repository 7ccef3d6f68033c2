//! Claims about what views with an interval are given, flush by flush, and a naive model that they are held against.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::broker::Stored;
use crate::config::{CompressionSettings, SnapshotSettings};
use crate::edge::books::{Books, Fates, Passage, Settled};
use crate::edge::compress::Compressor;
use crate::edge::hub::{Hub, Start};
use crate::edge::sequencer::Ordered;
use crate::edge::view::{Pending, Seat, ViewKey};
use crate::edge::wire::Wire;
use crate::ops::meters::Meters;
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::envelope::Envelope;
use crate::proto::filter::FilterSet;
use crate::proto::frame;
use crate::proto::message::Format;
use crate::proto::offset::{Epoch, Sequence, Shard};

const UNBOUNDED: SnapshotSettings =
    SnapshotSettings { series_max: usize::MAX, bytes_max: usize::MAX, age_max: Duration::MAX };

/// An edge's middle, whose groups flush when the test says so.
struct Stage {
    hub: Arc<Hub>,
    compressor: Arc<Compressor>,
    meters: Meters,
    new_groups: mpsc::UnboundedReceiver<GroupKey>,
    groups: Vec<(GroupKey, Matcher)>,
    sequences: Vec<Sequence>,
}

/// A client of a view, which has read everything so far.
struct Reader {
    seat: Seat,
    cursor: u64,
    index: Index,
    books: Books,
}

impl Stage {
    fn new(shards: u16, limits: SnapshotSettings) -> Self {
        let meters = Meters::register();
        let settings = CompressionSettings { enabled: false, level: 1, message_bytes_min: 256 };
        let compressor = Compressor::new(settings, &meters);
        let epochs = vec![Epoch(1); usize::from(shards)];
        let series = SeriesStore::new(Offset::start(Epoch::combine(&epochs), shards), limits);
        let hub = Hub::new(epochs, series, 64 << 20, 16 << 20, Vec::new(), compressor.clone());
        let new_groups = hub.take_new_groups().unwrap();
        let sequences = vec![0; usize::from(shards)];
        Self { hub, compressor, meters, new_groups, groups: Vec::new(), sequences }
    }

    fn write(&mut self, shard: u16, channel: &str, lines: &str) {
        let (collector, measurement) = channel.split_once('.').unwrap();
        let channel = Channel::new(CollectorId::new(collector).unwrap(), measurement);
        let lines = Bytes::copy_from_slice(lines.as_bytes());
        let sequence = &mut self.sequences[usize::from(shard)];
        *sequence += 1;
        let stored =
            Stored { sequence: *sequence, stored_ns: 1, envelope: Envelope { channel, stamp: None, lines } };
        self.hub.append(Shard(shard), vec![Ordered::Envelope(stored)], &self.meters);
    }

    fn lose(&mut self, shard: u16, envelopes: u64) {
        let sequence = &mut self.sequences[usize::from(shard)];
        let first = *sequence + 1;
        *sequence += envelopes;
        self.hub.append(Shard(shard), vec![Ordered::Gone(first..=*sequence)], &self.meters);
    }

    fn join(&self, filter: &str, format: Format) -> Reader {
        let filters = FilterSet::parse(filter.split(' ')).unwrap();
        let key = ViewKey { filters, format, wire: Wire::WebSocket, interval_ms: Some(1000) };
        let attachment = self.hub.attach(&key, None);
        let Start::Live(cursor, index) = attachment.start else { panic!("at its view's place") };
        Reader { seat: attachment.view, cursor, index, books: Books::open(1, attachment.at) }
    }

    /// All groups flush once.
    fn flush(&mut self) {
        self.hub.with_series(|_| {});
        while let Ok(key) = self.new_groups.try_recv() {
            self.groups.push((key, Matcher::default()));
        }
        self.groups.retain_mut(|(key, matcher)| {
            let Some(round) = self.hub.collect(*key, matcher) else { return false };
            round.flush(matcher, &self.compressor, &self.meters, || {});
            true
        });
    }

    fn head(&self) -> String {
        self.hub.head().offset.token()
    }
}

impl Reader {
    /// The messages that have come since the last call.
    fn texts(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match self.seat.view().pending(self.cursor, 1_000, 1 << 20) {
                Pending::Frames(batch) => {
                    let frames = batch.frames();
                    self.cursor += frames.len() as u64;
                    let progress = batch.progress(batch.wire().len());
                    self.books.pass(progress.index - self.index, &batch.passage(0, frames.len()));
                    if let Some(from) = batch.reset_from() {
                        self.books.pass_reset(from, &progress.offset);
                    }
                    self.index = progress.index;
                    let text = |frame: &Bytes| String::from_utf8(frame::payload(frame).to_vec()).unwrap();
                    texts.extend(frames.iter().map(|(_, frame)| text(frame)));
                }
                Pending::Nothing => return texts,
                Pending::Overtaken { .. } => panic!("overtaken"),
            }
        }
    }

    /// Its account, after it has read everything.
    fn account(&mut self) -> Settled {
        assert!(self.texts().is_empty());
        let (_, index, place) = self.seat.view().place();
        self.books.pass(index - self.index, &Passage::default());
        self.index = index;
        let settled = self.books.settle(&place);
        assert!(settled.is_balanced(), "{settled:?}");
        settled
    }

    fn messages(&mut self) -> Vec<Value> {
        self.texts().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }
}

/// `collector name v` of each metric.
fn values(messages: &[Value]) -> Vec<String> {
    let of_message = |message: &Value| {
        let collector = message["collector"].as_str().unwrap().to_owned();
        let metrics = message["metrics"].as_array().unwrap().clone();
        metrics
            .into_iter()
            .map(move |metric| {
                format!("{collector} {} {}", metric["name"].as_str().unwrap(), metric["fields"]["v"])
            })
            .collect::<Vec<_>>()
    };
    messages.iter().flat_map(of_message).collect()
}

#[test]
fn a_flush_has_the_newest_values_and_says_what_they_stand_for() {
    let mut stage = Stage::new(1, UNBOUNDED);
    stage.write(0, "a.cpu", "cpu v=0 1");
    let mut reader = stage.join("*.cpu", Format::Json);
    let mut influx = stage.join("*.cpu", Format::Influx);
    let begin = stage.head();
    stage.write(0, "a.cpu", "cpu v=1 1");
    stage.write(0, "b.cpu", "cpu v=2 1");
    stage.write(0, "a.mem", "mem v=3 1");
    stage.write(0, "a.cpu", "cpu v=4 2");
    assert_eq!(reader.texts(), [""; 0], "no envelope feeds it");
    stage.flush();
    let end = stage.head();
    assert_eq!(
        reader.texts(),
        [
            format!(
                r#"{{"type":"metrics","offset":"{begin}","from":"{begin}","conflated":0,"collector":"a","metrics":[{{"name":"cpu","tags":{{}},"fields":{{"v":4}},"timestamp":0}}]}}"#
            ),
            format!(
                r#"{{"type":"metrics","offset":"{end}","from":"{begin}","conflated":1,"collector":"b","metrics":[{{"name":"cpu","tags":{{}},"fields":{{"v":2}},"timestamp":0}}]}}"#
            )
        ]
    );
    assert_eq!(
        influx.texts(),
        [format!("# offset {end}\n# from {begin} conflated 1\ncpu v=4 2\ncpu v=2 1\n")]
    );
    // Without changes, and without changes that match, there is no message; the next one begins here all the same.
    stage.flush();
    stage.write(0, "a.mem", "mem v=5 3");
    stage.flush();
    assert!(reader.texts().is_empty());
    let begin = stage.head();
    stage.write(0, "a.cpu", "cpu v=6 4");
    stage.flush();
    let messages = reader.messages();
    assert_eq!((messages.len(), messages[0]["from"].as_str()), (1, Some(&*begin)));
    let fates = Fates { delivered: 3, filtered: 2, conflated: 1, gap: 0 };
    assert_eq!(reader.account(), Settled { published: 6, fates });
}

#[test]
fn a_session_begins_where_its_view_is_and_a_new_view_where_the_log_is() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let mut first = stage.join(">", Format::Json);
    stage.flush();
    stage.write(0, "a.cpu", "cpu v=1 1\ncpu,k=x v=1 1");
    // Of the same group or another one, but a view of its own: what came before it is not new to it.
    let mut second = stage.join("a.>", Format::Json);
    let mut same = stage.join(">", Format::Json);
    let middle = stage.head();
    stage.write(0, "a.cpu", "cpu v=2 2");
    stage.write(0, "a.cpu", "cpu v=3 2");
    stage.flush();
    let messages = first.messages();
    assert_eq!(values(&messages), ["a cpu 1", "a cpu 3"]);
    assert_eq!(messages[0]["conflated"], 2);
    assert_eq!(values(&same.messages()), values(&messages));
    let messages = second.messages();
    assert_eq!(values(&messages), ["a cpu 3"]);
    assert_eq!((&messages[0]["conflated"], messages[0]["from"].as_str()), (&Value::from(1), Some(&*middle)));
}

#[test]
fn a_hole_in_the_log_is_announced_before_what_came_behind_it() {
    let mut stage = Stage::new(2, UNBOUNDED);
    let mut reader = stage.join(">", Format::Json);
    let begin = stage.head();
    stage.write(0, "a.cpu", "cpu v=1 1");
    stage.write(0, "a.cpu", "cpu v=2 1");
    stage.lose(0, 5);
    let hole = stage.head();
    let mut later = stage.join("a.>", Format::Json);
    stage.write(0, "a.mem", "mem v=3 1");
    stage.write(0, "a.mem", "mem v=4 1");
    stage.flush();
    let messages = reader.messages();
    assert_eq!(
        messages[0],
        serde_json::json!({"type": "gap", "from": begin, "to": hole, "reason": "retention"})
    );
    assert_eq!(values(&messages[1..]), ["a cpu 2", "a mem 4"], "what is known is not held back");
    assert_eq!(messages[1]["from"].as_str(), Some(&*hole));
    assert_eq!(messages[1]["conflated"], 1, "counted behind the hole");
    assert_eq!(values(&later.messages()), ["a mem 4"], "who came behind the hole does not miss anything");
    let fates = Fates { delivered: 1, filtered: 0, conflated: 1, gap: 7 };
    assert_eq!(reader.account(), Settled { published: 9, fates });
    assert_eq!(later.account().fates, Fates { gap: 0, ..fates });
}

#[test]
fn a_log_that_is_another_one_is_a_reset_and_then_what_it_has() {
    for (epoch, last) in [(Epoch(2), 0), (Epoch(1), 1)] {
        let mut stage = Stage::new(1, UNBOUNDED);
        let mut reader = stage.join(">", Format::Json);
        stage.write(0, "a.cpu", "cpu v=1 1");
        stage.flush();
        assert_eq!(values(&reader.messages()), ["a cpu 1"]);
        stage.write(0, "b.cpu", "cpu v=2 1");
        stage.flush();
        assert_eq!(values(&reader.messages()), ["b cpu 2"]);
        let begin = stage.head();
        stage.write(0, "c.cpu", "cpu v=3 1");
        stage.hub.reset(Shard(0), epoch, last, &stage.meters);
        let reset = stage.head();
        stage.sequences[0] = last;
        stage.write(0, "d.cpu", "cpu v=4 1");
        stage.flush();
        let messages = reader.messages();
        assert_eq!(
            messages[0],
            serde_json::json!({"type": "gap", "from": begin, "to": reset, "reason": "reset"})
        );
        assert_eq!(values(&messages[1..]), ["d cpu 4"]);
        reader.account();
        stage.write(0, "e.cpu", "cpu v=5 1");
        stage.flush();
        assert_eq!(values(&reader.messages()), ["e cpu 5"]);
        reader.account();
    }
}

#[test]
fn what_the_last_values_cannot_hold_for_an_interval_is_a_gap() {
    let mut stage = Stage::new(1, SnapshotSettings { series_max: 2, ..UNBOUNDED });
    let mut reader = stage.join(">", Format::Json);
    for host in 0..5 {
        stage.write(0, "a.cpu", &format!("cpu,host={host} v={host} 1"));
    }
    stage.flush();
    let messages = reader.messages();
    assert_eq!((&messages[0]["type"], &messages[0]["reason"]), (&"gap".into(), &"retention".into()));
    assert_eq!(messages[1]["from"], messages[0]["to"]);
    assert_eq!(values(&messages[1..]), ["a cpu 3", "a cpu 4"]);
    assert_eq!(messages[1].get("conflated"), None, "nobody knows how much of the gap was overwritten");
    assert_eq!(reader.account().fates, Fates { delivered: 2, filtered: 0, conflated: 0, gap: 3 });
}

#[test]
fn only_the_last_two_flushes_are_kept() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let mut slow = stage.join(">", Format::Json);
    for round in 0..3 {
        stage.write(0, "a.cpu", &format!("cpu v={round} 1"));
        stage.write(0, "b.cpu", &format!("cpu v={round} 1"));
        stage.flush();
        if round == 1 {
            assert_eq!(slow.seat.view().end() - slow.cursor, 4);
            assert!(!slow.seat.view().has_overtaken(slow.cursor));
        }
    }
    assert!(slow.seat.view().has_overtaken(slow.cursor));
    slow.cursor += 2;
    assert_eq!(values(&slow.messages()), ["a cpu 1", "b cpu 1", "a cpu 2", "b cpu 2"]);
}

#[test]
fn a_group_ends_with_its_last_view_and_views_are_spread_over_the_phases() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let readers: Vec<Reader> = (0..8).map(|n| stage.join(&format!("host-{n}.cpu"), Format::Json)).collect();
    stage.flush();
    assert_eq!(stage.groups.len(), usize::from(PHASES));
    drop(readers);
    stage.hub.tidy(&stage.meters);
    stage.flush();
    assert!(stage.groups.is_empty());
    let mut again = stage.join("host-1.cpu", Format::Json);
    stage.write(0, "host-1.cpu", "cpu v=1 1");
    stage.flush();
    assert_eq!(values(&again.messages()), ["host-1 cpu 1"]);
}

#[test]
fn many_values_come_in_messages_of_bounded_size_and_only_the_last_one_moves_on() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let mut reader = stage.join(">", Format::Json);
    for host in 0..2_000 {
        stage.write(0, "a.cpu", &format!("cpu,host=host-{host} v={host},text=\"{}\" 1", "x".repeat(100)));
    }
    stage.flush();
    let texts = reader.texts();
    assert!((4..8).contains(&texts.len()) && texts.iter().all(|text| text.len() < 66_000), "{}", texts.len());
    let messages: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(values(&messages).len(), 2_000);
    let (last, others) = messages.split_last().unwrap();
    assert!(others.iter().all(|message| message["offset"] == message["from"]));
    assert_eq!((last["offset"].as_str(), &last["conflated"]), (Some(&*stage.head()), &0.into()));
}

/// What a session gets that comes to its view from `since`, part by part.
fn resumed(stage: &Stage, reader: &Reader, since: &Offset) -> Vec<resume::Part> {
    let (_, _, until) = reader.seat.view().place();
    let (mut since, mut at) = (since.clone(), since.clone());
    let mut parts = Vec::new();
    while since != *until {
        let part = resume::make(&stage.hub, reader.seat.view(), &stage.compressor, since, at, &until, false);
        since = part.to.clone();
        at = part.at_end();
        parts.push(part);
    }
    assert_eq!(at, *until);
    parts
}

fn messages_of(part: &resume::Part) -> Vec<Value> {
    let frames = part.batch.as_ref().map(|batch| batch.frames()).unwrap_or_default();
    frames.iter().map(|(_, frame)| serde_json::from_slice(frame::payload(frame)).unwrap()).collect()
}

#[test]
fn a_resume_is_what_has_changed_since_up_to_the_place_of_the_view() {
    let mut stage = Stage::new(2, UNBOUNDED);
    let reader = stage.join("*.cpu", Format::Json);
    stage.write(0, "a.cpu", "cpu v=1 1");
    stage.write(1, "b.cpu", "cpu v=2 1");
    let since = (*stage.hub.head().offset).clone();
    stage.write(0, "c.cpu", "cpu v=3 1");
    stage.write(1, "b.cpu", "cpu v=4 1");
    stage.write(1, "b.cpu", "cpu v=5 1");
    stage.write(0, "c.mem", "mem v=6 1");
    stage.flush();
    let end = stage.head();
    // It has been written since, so it comes with the next flush and not before.
    stage.write(0, "c.cpu", "cpu v=7 1");
    let parts = resumed(&stage, &reader, &since);
    assert_eq!(parts.len(), 1);
    let messages = messages_of(&parts[0]);
    assert_eq!(values(&messages), ["b cpu 5"]);
    assert_eq!(messages[0]["from"].as_str(), Some(&*since.token()));
    assert_eq!((messages[0]["offset"].as_str(), messages[0].get("conflated")), (Some(&*end), None));
    // Another edge has met the shards in another order.
    let elsewhere = since.with(Shard(1), 3).with(Shard(0), 0);
    assert_eq!(values(&messages_of(&resumed(&stage, &reader, &elsewhere)[0])), ["a cpu 1"]);
}

#[test]
fn a_resume_of_much_comes_in_parts_that_each_end_at_a_place() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let reader = stage.join(">", Format::Json);
    let begin = (*stage.hub.head().offset).clone();
    for host in 0..4_000 {
        stage.write(0, "a.cpu", &format!("cpu,host=host-{host} v={host},text=\"{}\" 1", "x".repeat(60)));
    }
    stage.flush();
    let parts = resumed(&stage, &reader, &begin);
    assert!((2..8).contains(&parts.len()), "{}", parts.len());
    let mut at = begin;
    let mut came = 0;
    for part in &parts {
        let messages = messages_of(part);
        assert!(messages.iter().all(|message| message["from"].as_str() == Some(&at.token())));
        at = messages.last().unwrap()["offset"].as_str().unwrap().parse().unwrap();
        assert_eq!(at, part.to);
        came += values(&messages).len();
    }
    assert_eq!(came, 4_000);
}

#[test]
fn a_resume_from_before_what_is_known_is_a_gap_and_then_everything_that_is() {
    let mut stage = Stage::new(1, SnapshotSettings { series_max: 2, ..UNBOUNDED });
    let reader = stage.join(">", Format::Json);
    let begin = (*stage.hub.head().offset).clone();
    for host in 0..4 {
        stage.write(0, "a.cpu", &format!("cpu,host={host} v={host} 1"));
    }
    stage.flush();
    let messages = messages_of(&resumed(&stage, &reader, &begin)[0]);
    let missing = begin.with(Shard(0), 2).token();
    assert_eq!(
        messages[0],
        serde_json::json!({"type": "gap", "from": begin.token(), "to": missing, "reason": "retention"})
    );
    assert_eq!(messages[1]["from"].as_str(), Some(&*missing));
    assert_eq!(values(&messages[1..]), ["a cpu 2", "a cpu 3"]);
}

/// What one client of a view has got, by the counts that it was told.
#[derive(Default)]
struct Got {
    sent: u64,
    conflated: u64,
    state: BTreeMap<String, u64>,
    offset: Option<Offset>,
}

impl Got {
    fn take(&mut self, messages: &[Value]) -> Result<(), TestCaseError> {
        let mut series = std::collections::BTreeSet::new();
        for message in messages {
            prop_assert_eq!(&message["type"], "metrics");
            let from: Offset = message["from"].as_str().unwrap().parse().unwrap();
            let before = self.offset.as_ref();
            prop_assert!(before.is_none_or(|before| before.is_at_or_before(&from)), "nothing is told twice");
            self.conflated += message["conflated"].as_u64().unwrap();
            for metric in message["metrics"].as_array().unwrap() {
                let key = format!("{} {} {}", message["collector"], metric["name"], metric["tags"]);
                let value = metric["fields"]["v"].as_u64().unwrap();
                prop_assert!(series.insert(key.clone()), "at most one value of a series");
                prop_assert!(self.state.get(&key).is_none_or(|before| *before < value), "never an older one");
                self.sent += 1;
                self.state.insert(key, value);
            }
        }
        if let Some(last) = messages.last() {
            self.offset = Some(last["offset"].as_str().unwrap().parse().unwrap());
        }
        Ok(())
    }
}

/// A client, what it has got, and what it is to get.
struct Client {
    filter: usize,
    reader: Reader,
    got: Got,
    published: u64,
    matched: u64,
    matched_envelopes: u64,
    state: BTreeMap<String, u64>,
}

impl Client {
    fn new(filter: usize, reader: Reader) -> Self {
        let (got, state) = (Got::default(), BTreeMap::new());
        Self { filter, reader, got, published: 0, matched: 0, matched_envelopes: 0, state }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { shard: u16, collector: u8, measurement: bool, hosts: Vec<u8> },
    Flush,
    Join(usize),
}

const FILTERS: [&str; 6] =
    [">", "*.cpu", "c1.>", "*.cpu{host=h1} *.mem", "*.cpu{host!=h1,host=h*}", "c0.cpu c1.mem{host=h*}"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0u8..4, any::<bool>(), prop::collection::vec(0u8..4, 1..5)).prop_map(
        |(collector, measurement, hosts)| Step::Write {
            shard: u16::from(collector % 2),
            collector,
            measurement,
            hosts,
        },
    );
    let step = prop_oneof![8 => write, 2 => Just(Step::Flush), 1 => (0..FILTERS.len()).prop_map(Step::Join)];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// What matched was sent, or overwritten and counted as such; and what is left is what was published.
    #[test]
    fn every_metric_that_matches_is_sent_or_conflated(steps in steps()) {
        let mut stage = Stage::new(2, UNBOUNDED);
        let mut clients: Vec<Client> = Vec::new();
        let mut value = 0u64;
        for step in steps.into_iter().chain([Step::Flush]) {
            match step {
                Step::Write { shard, collector, measurement, hosts } => {
                    let name = if measurement { "cpu" } else { "mem" };
                    let channel = format!("c{collector}.{name}");
                    let mut lines = String::new();
                    let mut wrote = Vec::new();
                    for host in hosts {
                        value += 1;
                        lines += &format!("{name},host=h{host} v={value}i 1\n");
                        wrote.push((host, value));
                    }
                    for client in &mut clients {
                        let filters = FilterSet::parse(FILTERS[client.filter].split(' ')).unwrap();
                        let of = Channel::new(CollectorId::new(&format!("c{collector}")).unwrap(), name);
                        let before = client.matched;
                        for (host, value) in &wrote {
                            let tag = |key: &str| (key == "host").then(|| format!("h{host}").into());
                            if filters.matches_line(&of, tag) {
                                client.matched += 1;
                                let key = format!("\"c{collector}\" \"{name}\" {{\"host\":\"h{host}\"}}");
                                client.state.insert(key, *value);
                            }
                        }
                        client.published += 1;
                        client.matched_envelopes += u64::from(client.matched > before);
                    }
                    stage.write(shard, &channel, &lines);
                }
                Step::Flush => {
                    stage.flush();
                    for client in &mut clients {
                        client.got.take(&client.reader.messages())?;
                        prop_assert_eq!(client.got.sent + client.got.conflated, client.matched);
                        prop_assert_eq!(&client.got.state, &client.state);
                        client.reader.account();
                        let Settled { published, fates } = client.reader.books.total().settled;
                        prop_assert_eq!(published, client.published);
                        prop_assert_eq!(fates.delivered + fates.conflated, client.matched_envelopes);
                    }
                }
                Step::Join(filter) => {
                    if clients.iter().all(|other| other.filter != filter) {
                        let reader = stage.join(FILTERS[filter], Format::Json);
                        clients.push(Client::new(filter, reader));
                    }
                }
            }
        }
    }
}
