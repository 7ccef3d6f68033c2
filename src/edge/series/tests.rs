//! Claims about the last values, and a naive model that they are held against.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::changes::Changes;
use super::extract::Extract;
use super::*;
use crate::edge::ring::Ring;
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::envelope::Envelope;
use crate::proto::filter::FilterSet;
use crate::proto::message::Incomplete;
use crate::proto::offset::Epoch;

const UNBOUNDED: SnapshotSettings =
    SnapshotSettings { series_max: usize::MAX, bytes_max: usize::MAX, age_max: Duration::MAX };

/// A ring and the last values of what is in it.
struct Stage {
    ring: Ring,
    store: SeriesStore,
}

impl Stage {
    fn new(shards: u16, limits: SnapshotSettings) -> Self {
        let start = Offset::start(Epoch(1), shards);
        Self { ring: Ring::new(start.clone(), 1 << 30), store: SeriesStore::new(start, limits) }
    }

    /// The shard's next envelope, stored `second` seconds after 1970.
    fn write(&mut self, shard: u16, channel: &str, second: i64, lines: &str) {
        let shard = Shard(shard);
        let sequence = self.ring.head().sequence(shard) + 1;
        let entry = self.ring.push(shard, stored(sequence, channel, second, lines));
        self.store.apply(&entry);
    }

    fn place(&self) -> Offset {
        (*self.store.at().offset).clone()
    }

    fn changed_after(&self, filters: &FilterSet, after: &Offset) -> Changes {
        self.store.changed_after(filters, after, &self.place(), usize::MAX)
    }
}

fn stored(sequence: Sequence, channel: &str, second: i64, lines: &str) -> Stored {
    let (collector, measurement) = channel.split_once('.').unwrap();
    let channel = Channel::new(CollectorId::new(collector).unwrap(), measurement);
    let lines = Bytes::copy_from_slice(lines.as_bytes());
    Stored { sequence, stored_ns: second * 1_000_000_000, envelope: Envelope { channel, stamp: None, lines } }
}

fn filters(text: &str) -> FilterSet {
    FilterSet::parse([text]).unwrap()
}

/// `collector: line` of each series.
fn texts(extract: &Extract) -> Vec<String> {
    let lines = |group: &Group| {
        let lines = String::from_utf8(group.lines.clone()).unwrap();
        lines.lines().map(|line| format!("{}: {line}", group.collector)).collect::<Vec<_>>()
    };
    extract.groups.iter().flat_map(lines).collect()
}

#[test]
fn a_series_has_its_newest_value_of_every_field() {
    let mut stage = Stage::new(1, UNBOUNDED);
    stage.write(0, "b.system", 1, "system,host=b load1=1,load5=2 100\nsystem,host=b uptime=7i 101");
    stage.write(0, "a.cpu", 1, "cpu,cpu=0,host=a v=1 100\ncpu,cpu=1,host=a v=1 100");
    stage.write(0, "a.cpu", 2, "cpu,host=a,cpu=0 v=2");
    let all = stage.store.matching(&filters(">"));
    assert_eq!(
        texts(&all),
        [
            "a: cpu,cpu=1,host=a v=1 100",
            "a: cpu,cpu=0,host=a v=2 2000000000",
            "b: system,host=b load1=1,load5=2,uptime=7i 101",
        ]
    );
    assert_eq!((all.groups.len(), all.at.index), (2, 3));
    assert_eq!(
        texts(&stage.store.matching(&filters("*.cpu{cpu=0}"))),
        ["a: cpu,cpu=0,host=a v=2 2000000000"]
    );
    assert!(stage.store.matching(&filters("c.>")).groups.is_empty());
}

#[test]
fn what_changed_after_a_place_is_what_was_written_after_it() {
    let mut stage = Stage::new(2, UNBOUNDED);
    stage.write(0, "a.cpu", 1, "cpu v=1 1");
    stage.write(1, "b.cpu", 1, "cpu v=1 1");
    let middle = stage.place();
    stage.write(1, "b.mem", 2, "mem v=2 2");
    stage.write(0, "a.cpu", 2, "cpu v=2 2");
    let changes = stage.changed_after(&filters(">"), &middle);
    assert_eq!(texts(&changes.extract), ["a: cpu v=2 2", "b: mem v=2 2"]);
    assert!(changes.incomplete_to.is_none());
    // A place of another edge, which met the shards in another order.
    let elsewhere = middle.with(Shard(1), 2).with(Shard(0), 0);
    let changes = stage.changed_after(&filters(">"), &elsewhere);
    assert_eq!(
        (texts(&changes.extract), changes.incomplete_to.is_none()),
        (vec!["a: cpu v=2 2".to_owned()], true)
    );
    assert!(stage.changed_after(&filters(">"), &stage.place()).extract.groups.is_empty());
}

#[test]
fn changes_come_in_parts_that_end_at_places_and_miss_nothing() {
    let mut stage = Stage::new(2, UNBOUNDED);
    let start = stage.place();
    stage.write(0, "a.cpu", 1, "cpu,k=x v=1 1\ncpu,k=y v=1 1\ncpu,k=z v=1 1");
    stage.write(1, "b.cpu", 2, "cpu v=1 1");
    stage.write(0, "a.mem", 3, "mem v=1 1");
    let until = stage.place();
    // Both have been written again since: they are of what follows.
    stage.write(0, "a.cpu", 4, "cpu,k=y v=2 2");
    stage.write(1, "c.cpu", 5, "cpu v=2 2");
    let mut after = start;
    let mut parts = Vec::new();
    while after != until {
        let changes = stage.store.changed_after(&filters(">"), &after, &until, 1);
        assert!(after.is_at_or_before(&changes.to) && after != changes.to, "each part moves on");
        parts.push(texts(&changes.extract));
        after = changes.to;
    }
    assert_eq!(
        parts,
        [vec!["a: cpu,k=x v=1 1", "a: cpu,k=z v=1 1"], vec!["b: cpu v=1 1"], vec!["a: mem v=1 1"]]
    );
    assert_eq!(
        texts(&stage.changed_after(&filters(">"), &until).extract),
        ["a: cpu,k=y v=2 2", "c: cpu v=2 2"]
    );
    let changed = stage.store.changed_channels(&until, |channel| channel.collector.as_str() == "a");
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].lines, b"cpu,k=y v=2 2\n");
    assert_eq!(changed[0].places, [(Shard(0), 3)]);
}

#[test]
fn what_is_over_a_bound_goes_and_is_remembered_as_missing() {
    for (limits, reason) in [
        (SnapshotSettings { series_max: 2, ..UNBOUNDED }, SeriesDrop::Count),
        (SnapshotSettings { bytes_max: 1_226, ..UNBOUNDED }, SeriesDrop::Bytes),
        (SnapshotSettings { age_max: Duration::from_secs(15), ..UNBOUNDED }, SeriesDrop::Age),
    ] {
        let mut stage = Stage::new(1, limits);
        stage.write(0, "a.cpu", 10, "cpu,host=first v=1 1");
        let before = stage.place();
        stage.write(0, "a.cpu", 20, "cpu,host=second v=1 1");
        stage.write(0, "a.cpu", 21, "cpu,host=first v=1 1");
        let after = stage.place();
        stage.write(0, "b.cpu", 36, "cpu,host=third v=1 1");
        let mut dropped = [0; 4];
        dropped[reason.index()] = 1;
        assert_eq!(stage.store.take_dropped(), dropped, "{reason:?}");
        let all = filters(">");
        assert_eq!(
            texts(&stage.store.matching(&all)),
            ["a: cpu,host=first v=1 1", "b: cpu,host=third v=1 1"]
        );
        assert!(stage.changed_after(&all, &before).incomplete_to.is_some(), "the second has changed, too");
        assert!(stage.changed_after(&all, &after).incomplete_to.is_none());
    }
}

#[test]
fn a_series_takes_what_is_accounted_for_it_and_gives_it_back() {
    let mut stage = Stage::new(1, SnapshotSettings { age_max: Duration::from_secs(5), ..UNBOUNDED });
    for second in 1..5 {
        stage.write(0, "a.cpu", second, &format!("cpu,host=x v{second}=\"{}\" 1", "y".repeat(100)));
    }
    assert_eq!(stage.store.len(), 1);
    assert!(stage.store.bytes() > 600);
    stage.store.expire(100_000_000_000);
    assert_eq!((stage.store.len(), stage.store.bytes()), (0, 0));
    stage.write(0, "b.cpu", 101, "no line");
    assert_eq!((stage.store.len(), stage.store.bytes()), (0, 0), "nor does a channel without series stay");
}

#[test]
fn a_shard_that_is_another_one_takes_its_series_along() {
    let mut stage = Stage::new(2, UNBOUNDED);
    stage.write(0, "a.cpu", 1, "cpu v=1 1");
    stage.write(1, "b.cpu", 1, "cpu v=1 1");
    stage.write(1, "b.mem", 1, "mem v=1 1");
    let before = stage.place();
    // It went backwards: the log has lost what was written last.
    let entry = stage.ring.push_reset(Epoch(1), Shard(1), 1);
    stage.store.apply(&entry);
    assert_eq!(texts(&stage.store.matching(&filters(">"))), ["a: cpu v=1 1", "b: cpu v=1 1"]);
    let entry = stage.ring.push_reset(Epoch(2), Shard(1), 0);
    stage.store.apply(&entry);
    assert_eq!(texts(&stage.store.matching(&filters(">"))), ["a: cpu v=1 1"]);
    assert_eq!(stage.store.take_dropped()[SeriesDrop::Reset.index()], 2);
    let changes = stage.changed_after(&filters(">"), &before);
    assert_eq!(
        (texts(&changes.extract), changes.incomplete_to.is_none()),
        (vec!["a: cpu v=1 1".to_owned()], false)
    );
    stage.write(1, "b.cpu", 2, "cpu v=2 2");
    assert_eq!(stage.store.len(), 2);
}

#[test]
fn before_its_beginning_only_the_last_envelope_of_a_channel_is_known() {
    let start = Offset::start(Epoch(1), 1).with(Shard(0), 10);
    let mut store = SeriesStore::new(start.clone(), UNBOUNDED);
    store.begin_older([Shard(0)].into_iter());
    assert_eq!(store.take_older(Shard(0), &stored(9, "b.cpu", 2, "cpu v=2 2")), Taken::Yes);
    assert_eq!(store.take_older(Shard(0), &stored(7, "a.cpu", 1, "cpu v=1 1")), Taken::Yes);
    let changes = store.changed_after(&filters(">"), &start.with(Shard(0), 8), &start, usize::MAX);
    assert_eq!(
        (texts(&changes.extract), changes.incomplete_to.is_none()),
        (vec!["b: cpu v=2 2".to_owned()], false)
    );
    assert!(store.changed_after(&filters(">"), &start, &start, usize::MAX).incomplete_to.is_none());
}

#[test]
fn the_store_says_until_when_a_bound_may_have_cost_a_value() {
    let limits = SnapshotSettings { series_max: 1, age_max: Duration::from_secs(10), ..UNBOUNDED };
    let mut stage = Stage::new(1, limits);
    stage.write(0, "a.cpu", 100, "cpu v=1 1");
    assert_eq!(stage.store.incomplete(), None);
    stage.write(0, "b.cpu", 101, "cpu v=1 1");
    assert_eq!(stage.store.incomplete(), Some(Incomplete::Bounds));
    stage.store.expire(110_000_000_000);
    assert_eq!(stage.store.incomplete(), Some(Incomplete::Bounds), "written 10 s ago");
    stage.store.expire(110_000_000_001);
    assert_eq!(stage.store.incomplete(), None, "too old by now");
}

#[test]
fn nothing_older_is_taken_of_a_log_that_has_become_another_one() {
    let start = Offset::start(Epoch(1), 2).with(Shard(0), 10).with(Shard(1), 10);
    let mut ring = Ring::new(start.clone(), 1 << 30);
    let mut store = SeriesStore::new(start, UNBOUNDED);
    store.begin_older([Shard(0), Shard(1)].into_iter());
    store.apply(&ring.push_reset(Epoch(2), Shard(1), 0));
    assert_eq!(store.take_older(Shard(1), &stored(9, "b.cpu", 2, "cpu v=2 2")), Taken::Unwanted);
    assert_eq!(store.take_older(Shard(0), &stored(9, "a.cpu", 2, "cpu v=2 2")), Taken::Yes);
    assert_eq!((store.len(), store.incomplete()), (1, Some(Incomplete::Starting)));
    store.apply(&ring.push_reset(Epoch(3), Shard(0), 0));
    assert_eq!((store.len(), store.incomplete()), (0, None), "a new log is followed from its beginning");
}

/// One line of the model: tags in whatever order, some of three fields.
#[derive(Clone, Debug)]
struct Wrote {
    shard: u16,
    channel: usize,
    tags: Vec<(char, u8)>,
    fields: Vec<char>,
}

const CHANNELS: [&str; 3] = ["a.cpu", "a.mem", "b.cpu"];

fn wrote() -> impl Strategy<Value = Wrote> {
    let tags = prop::sample::subsequence(vec!['k', 'l', 'm'], 0..=3).prop_shuffle();
    let tags = (tags, prop::collection::vec(0u8..2, 3))
        .prop_map(|(keys, values)| keys.into_iter().zip(values).collect());
    let fields = prop::sample::subsequence(vec!['x', 'y', 'z'], 1..=3).prop_shuffle();
    (0..CHANNELS.len(), tags, fields).prop_map(|(channel, tags, fields)| {
        // A collector's envelopes are all of one shard.
        Wrote { shard: u16::from(CHANNELS[channel].starts_with('b')), channel, tags, fields }
    })
}

/// What the model knows of a series: fields, and the step that wrote it last.
type Model = BTreeMap<(usize, BTreeMap<char, u8>), (BTreeMap<char, usize>, usize)>;

fn model_texts(model: &Model, wanted: impl Fn(usize, &BTreeMap<char, u8>, usize) -> bool) -> Vec<String> {
    let mut texts = Vec::new();
    for ((channel, tags), (fields, step)) in model {
        if wanted(*channel, tags, *step) {
            let (collector, measurement) = CHANNELS[*channel].split_once('.').unwrap();
            let tags: String = tags.iter().map(|(key, value)| format!(",{key}={value}")).collect();
            let fields: Vec<_> = fields.iter().map(|(key, step)| format!("{key}={step}i")).collect();
            texts.push(format!("{collector}: {measurement}{tags} {} {step}", fields.join(",")));
        }
    }
    texts.sort();
    texts
}

/// Sorted, fields too: their order is whatever it was first.
fn sorted_texts(extract: &Extract) -> Vec<String> {
    let with_sorted_fields = |text: String| {
        let parts: Vec<&str> = text.rsplitn(3, ' ').collect();
        let mut fields: Vec<&str> = parts[1].split(',').collect();
        fields.sort_unstable();
        format!("{} {} {}", parts[2], fields.join(","), parts[0])
    };
    let mut texts: Vec<String> = texts(extract).into_iter().map(with_sorted_fields).collect();
    texts.sort();
    texts
}

proptest! {
    /// Also when bounds and a new log take series away, and when older ones come in behind newer ones.
    #[test]
    fn what_is_counted_by_name_is_what_is_there(
        writes in prop::collection::vec(wrote(), 1..40),
        older in prop::collection::vec(wrote(), 0..10),
        series_max in prop::sample::select(vec![3usize, usize::MAX]),
        ends_anew: bool,
        texts in prop::collection::vec("(a|b|c|\\*)\\.(cpu|mem|x|\\*)(\\{k=(0|1|\\*)\\})?", 1..6),
    ) {
        let mut stage = Stage::new(2, SnapshotSettings { series_max, ..UNBOUNDED });
        let counts = stage.store.counts();
        let filters = FilterSet::parse(texts.iter().map(String::as_str)).unwrap();
        let line = |Wrote { channel, tags, .. }: &Wrote, step: usize| {
            let measurement = CHANNELS[*channel].split_once('.').unwrap().1;
            let tags: String = tags.iter().map(|(key, value)| format!(",{key}={value}")).collect();
            format!("{measurement}{tags} x=1 {step}")
        };
        let check = |store: &SeriesStore| match counts.of(&filters) {
            Count::Exactly(count) => {
                prop_assert_eq!(count, store.count(&filters));
                Ok(())
            }
            Count::AtMost(count) => {
                prop_assert!(filters.has_predicates() && count >= store.count(&filters) && count <= store.len() as u64);
                Ok(())
            }
            Count::Unknown => Err(TestCaseError::fail("nobody reads older values")),
        };
        for (step, write) in writes.iter().enumerate() {
            stage.write(write.shard, CHANNELS[write.channel], step as i64, &line(write, step));
            check(&stage.store)?;
        }
        stage.store.begin_older([Shard(0), Shard(1)].into_iter());
        for write in &older {
            let _ = stage.store.take_older(Shard(write.shard), &stored(1, CHANNELS[write.channel], 0, &line(write, 0)));
            prop_assert_eq!(counts.of(&filters), Count::Unknown);
        }
        stage.store.end_older();
        check(&stage.store)?;
        if ends_anew {
            for shard in [Shard(0), Shard(1)] {
                let entry = stage.ring.push_reset(Epoch(2), shard, 0);
                stage.store.apply(&entry);
                check(&stage.store)?;
            }
            prop_assert_eq!(counts.of(&filters), Count::Exactly(0));
        }
    }
}

proptest! {
    /// Whatever is written in whatever order: the store answers as a naive one would, at every place.
    #[test]
    fn the_store_answers_as_the_model_does(
        writes in prop::collection::vec(wrote(), 1..60),
        since in any::<prop::sample::Index>(),
        series_max in prop::sample::select(vec![3usize, usize::MAX]),
    ) {
        let mut stage = Stage::new(2, SnapshotSettings { series_max, ..UNBOUNDED });
        let mut model = Model::new();
        let since = since.index(writes.len() + 1);
        let mut place = stage.place();
        let mut newest_dropped = 0;
        for (step, Wrote { shard, channel, tags, fields }) in writes.iter().enumerate() {
            if step == since {
                place = stage.place();
            }
            let measurement = CHANNELS[*channel].split_once('.').unwrap().1;
            let tag_text: String = tags.iter().map(|(key, value)| format!(",{key}={value}")).collect();
            let field_texts: Vec<_> = fields.iter().map(|key| format!("{key}={step}i")).collect();
            let line = format!("{measurement}{tag_text} {} {step}", field_texts.join(","));
            stage.write(*shard, CHANNELS[*channel], step as i64, &line);
            let series = model.entry((*channel, tags.iter().copied().collect())).or_default();
            series.0.extend(fields.iter().map(|key| (*key, step)));
            series.1 = step;
            if model.len() > series_max {
                let oldest = model.iter().min_by_key(|(_, (_, step))| *step).unwrap().0.clone();
                newest_dropped = model.remove(&oldest).unwrap().1 + 1;
            }
        }
        if since == writes.len() {
            place = stage.place();
        }
        let answer = |text: &str| sorted_texts(&stage.store.matching(&filters(text)));
        prop_assert_eq!(answer(">"), model_texts(&model, |_, _, _| true));
        prop_assert_eq!(answer("a.>"), model_texts(&model, |channel, _, _| channel < 2));
        let predicates = |channel: usize, tags: &BTreeMap<char, u8>, _| {
            CHANNELS[channel].ends_with("cpu") && tags.get(&'k') == Some(&1) && tags.get(&'l') != Some(&0)
        };
        prop_assert_eq!(answer("*.cpu{k=1,l!=0}"), model_texts(&model, predicates));
        let changes = stage.changed_after(&filters(">"), &place);
        prop_assert_eq!(sorted_texts(&changes.extract), model_texts(&model, |_, _, step| step >= since));
        prop_assert_eq!(changes.incomplete_to.is_none(), newest_dropped <= since);
        let some = stage.changed_after(&filters("*.cpu"), &place);
        prop_assert_eq!(sorted_texts(&some.extract), model_texts(&model, |channel, _, step| channel != 1 && step >= since));
        prop_assert!(stage.store.bytes() >= stage.store.len() * SERIES_OVERHEAD_BYTES);
    }
    /// What lies before the ring is added from its newest envelope back, while the ring goes on.
    #[test]
    fn what_is_added_from_the_newest_back_is_what_would_have_been_added_in_order(
        writes in prop::collection::vec(wrote(), 1..60),
        begins in any::<prop::sample::Index>(),
        series_max in prop::sample::select(vec![3usize, usize::MAX]),
        older_at_once in 1usize..5,
    ) {
        let limits = SnapshotSettings { series_max, ..UNBOUNDED };
        let mut in_order = Stage::new(2, limits);
        let mut log = Vec::new();
        for (step, Wrote { shard, channel, tags, fields }) in writes.iter().enumerate() {
            let measurement = CHANNELS[*channel].split_once('.').unwrap().1;
            let tag_text: String = tags.iter().map(|(key, value)| format!(",{key}={value}")).collect();
            let field_texts: Vec<_> = fields.iter().map(|key| format!("{key}={step}i")).collect();
            // Two lines, of the same series where there are no tags.
            let lines = format!(
                "{measurement} x=-1i {step}\n{measurement}{tag_text} {} {step}",
                field_texts.join(",")
            );
            in_order.write(*shard, CHANNELS[*channel], step as i64, &lines);
            let sequence = in_order.ring.head().sequence(Shard(*shard));
            log.push((Shard(*shard), stored(sequence, CHANNELS[*channel], step as i64, &lines)));
        }
        let newer = log.split_off(begins.index(log.len() + 1));
        let start = log.iter().fold(Offset::start(Epoch(1), 2), |at, (shard, stored)| at.with(*shard, stored.sequence));
        let mut ring = Ring::new(start.clone(), 1 << 30);
        let mut store = SeriesStore::new(start, limits);
        store.begin_older([Shard(0), Shard(1)].into_iter());
        prop_assert_eq!(store.incomplete(), Some(Incomplete::Starting));
        let (mut newer, mut is_full) = (newer.into_iter(), false);
        loop {
            for _ in 0..older_at_once {
                let Some((shard, stored)) = log.pop().filter(|_| !is_full) else { break };
                is_full = store.take_older(shard, &stored) == Taken::Full;
            }
            let Some((shard, stored)) = newer.next() else {
                if log.is_empty() || is_full { break } else { continue }
            };
            let entry = ring.push(shard, stored);
            store.apply(&entry);
        }
        store.end_older();
        let (expected, found) = (in_order.store.matching(&filters(">")), store.matching(&filters(">")));
        if series_max == usize::MAX {
            prop_assert_eq!(sorted_texts(&found), sorted_texts(&expected));
            prop_assert_eq!(found.incomplete, None);
        } else {
            // Of a series that had to go meanwhile, other fields are known.
            let series = |extract: &Extract| -> Vec<String> {
                let without_fields = |text: &String| text.rsplitn(3, ' ').last().unwrap().to_owned();
                let mut series: Vec<_> = texts(extract).iter().map(without_fields).collect();
                series.sort();
                series
            };
            prop_assert_eq!(series(&found), series(&expected));
            prop_assert!(found.incomplete.is_none() || found.incomplete == Some(Incomplete::Bounds));
        }
    }
}
