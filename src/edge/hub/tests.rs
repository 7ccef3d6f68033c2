use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::broker::Stored;
use crate::config::{CompressionSettings, SnapshotSettings};
use crate::edge::batch::Frame;
use crate::edge::encode;
use crate::edge::view::Pending;
use crate::edge::wire::Wire;
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::envelope::Envelope;
use crate::proto::filter::{FilterSet, Match};
use crate::proto::message::Format;
use crate::sync::model;

const RING_BYTES: usize = 8 << 20;
const SNAPSHOT: SnapshotSettings =
    SnapshotSettings { series_max: 1_000_000, bytes_max: 1 << 30, age_max: Duration::from_secs(3_600) };

fn hub() -> (Arc<Hub>, Vec<Arc<Doorbell>>) {
    let doorbells = vec![Doorbell::new(0), Doorbell::new(1)];
    let settings = CompressionSettings { enabled: true, level: 1, message_bytes_min: 256 };
    let compressor = Compressor::new(settings, &Meters::register());
    let series = SeriesStore::new(Offset::start(Epoch(1), 1), SNAPSHOT);
    (
        Hub::new(
            vec![Epoch(1)],
            series,
            RING_BYTES,
            ViewLimits::of_bytes(RING_BYTES),
            doorbells.clone(),
            compressor,
        ),
        doorbells,
    )
}

fn key(filter: &str, format: Format) -> ViewKey {
    ViewKey {
        filters: FilterSet::parse(filter.split(' ')).unwrap(),
        format,
        wire: Wire::WebSocket,
        interval_ms: None,
    }
}

fn stored(sequence: Sequence, channel: Channel, lines: &str) -> Stored {
    let envelope = Envelope { channel, stamp: None, lines: Bytes::copy_from_slice(lines.as_bytes()) };
    Stored { sequence, stored_ns: 1_700_000_000_000_000_000, envelope }
}

fn channel(collector: &str, measurement: &str) -> Channel {
    Channel::new(CollectorId::new(collector).unwrap(), measurement)
}

fn append(hub: &Hub, stored: Stored) {
    hub.append(Shard(0), vec![Ordered::Envelope(stored)]);
}

/// What a session that reads the view from its beginning gets, without the frames' headers.
fn texts(seat: &Seat) -> Vec<String> {
    match seat.view().pending(0, 1_000, 1 << 20) {
        Pending::Frames(batch) => {
            let text = |(_, frame): &(Index, Bytes)| String::from_utf8_lossy(&frame[4..]).into_owned();
            batch.frames().iter().map(text).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn each_view_gets_its_lines_and_no_other_view_is_touched() {
    let (hub, doorbells) = hub();
    let seats: Vec<Seat> =
        ["*.cpu{host=a}", "*.cpu{host=b*}", "web.cpu", "*.cpu{host=a,x!=*} *.mem", "web.mem"]
            .map(|filter| hub.attach_to(&key(filter, Format::Influx), None).view)
            .into();
    seats[0].view().listen(doorbells[0].clone());
    seats[4].view().listen(doorbells[1].clone());
    append(
        &hub,
        stored(1, channel("web", "cpu"), "cpu,host=a v=1 1\ncpu,host=b1 v=2 2\ncpu,host=a,x=y v=3 3"),
    );
    let tail = |seat: &Seat| {
        texts(seat).iter().map(|text| text.split_once('\n').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tail(&seats[0]), ["cpu,host=a v=1 1\ncpu,host=a,x=y v=3 3\n"]);
    assert_eq!(tail(&seats[1]), ["cpu,host=b1 v=2 2\n"]);
    assert_eq!(tail(&seats[2]), ["cpu,host=a v=1 1\ncpu,host=b1 v=2 2\ncpu,host=a,x=y v=3 3\n"]);
    assert_eq!(tail(&seats[3]), ["cpu,host=a v=1 1\n"]);
    assert_eq!(seats[4].view().end(), 0);
    assert_eq!(doorbells[0].take_grown(), [seats[0].view().address()]);
    assert!(doorbells[1].take_grown().is_empty(), "its writer has nothing to look for");
}

#[test]
fn a_part_is_compressed_once_for_all_views_that_take_it() {
    let (hub, _) = hub();
    let seats = ["*.cpu{host=a}", "*.cpu{host=a*}"].map(|filter| {
        let key = ViewKey { wire: Wire::Deflated, ..key(filter, Format::Json) };
        hub.attach_to(&key, None).view
    });
    let line = |at: usize| format!("cpu,host={} usage_idle={at}.5,usage_user=1.5 {at}\n", ["a", "b"][at % 2]);
    append(&hub, stored(1, channel("web", "cpu"), &(0..20).map(line).collect::<String>()));
    let wires = seats.each_ref().map(|seat| match seat.view().pending(0, 1, 1 << 20) {
        Pending::Frames(batch) => batch.wire().clone(),
        Pending::Nothing | Pending::Overtaken { .. } => panic!("a frame each"),
    });
    assert_eq!(wires[0][0], 0xC1, "a compressed text");
    assert_eq!(wires[0].as_ptr(), wires[1].as_ptr());
}

#[test]
fn a_view_without_sessions_is_forgotten_and_gets_nothing_more() {
    let (hub, _) = hub();
    let meters = Meters::register();
    let stays = hub.attach_to(&key("*.cpu", Format::Json), None).view;
    let goes = hub.attach_to(&key("*.cpu{host=a}", Format::Json), None).view;
    let view = goes.view().clone();
    drop(goes);
    hub.tidy(&meters);
    append(&hub, stored(1, channel("web", "cpu"), "cpu,host=a v=1 1"));
    assert_eq!((stays.view().end(), view.end()), (1, 0));
    let again = hub.attach_to(&key("*.cpu{host=a}", Format::Json), None).view;
    append(&hub, stored(2, channel("web", "cpu"), "cpu,host=a v=1 1"));
    assert_eq!((again.view().end(), view.end()), (1, 0));
}

/// Telegraf's `cpu`, about as many bytes of it as asked for.
fn lines_of(bytes: usize) -> String {
    let line = |at: usize| format!("cpu,host=h{} usage_idle={at}.5,usage_user=1.5 {at}\n", at % 7);
    (0..bytes / 40).map(line).collect()
}

#[test]
fn the_ring_is_within_its_bytes_whatever_views_and_replays_make_of_it() {
    let (hub, _) = hub();
    let keys =
        [Format::Json, Format::Influx].map(|format| ViewKey { wire: Wire::Deflated, ..key(">", format) });
    let seats = keys.each_ref().map(|key| hub.attach_to(key, None).view);
    for sequence in 1..200 {
        append(&hub, stored(sequence, channel("web", "cpu"), &lines_of(40_000)));
        assert!(hub.state.with(|state| state.ring.bytes()) <= RING_BYTES);
    }
    drop(seats);
    hub.tidy(&Meters::register());
    // Nobody watches any more, so the frames of what comes now are not made, and the ring fills with lines alone.
    for sequence in 200..500 {
        append(&hub, stored(sequence, channel("web", "cpu"), &lines_of(40_000)));
    }
    let full = hub.state.with(|state| state.ring.bytes());
    let first = hub.state.with(|state| state.ring.first_index());
    assert!(full > RING_BYTES - 50_000);
    let limits = ReadLimits { envelopes_max: 1_000, bytes_max: usize::MAX };
    let entries = hub.entries(Epoch(1), Shard(0), first, limits).unwrap();
    let compressor = hub.state.with(|state| state.compressor.clone());
    let made = entries.iter().flat_map(|entry| keys.iter().map(|key| compressor.replayed(entry, key)));
    assert_eq!(made.flatten().count(), entries.len() * 2);
    assert_eq!(
        hub.state.with(|state| state.ring.bytes()),
        full,
        "an idle ring that is replayed does not grow"
    );
}

/// With a lock that whoever is awake takes first, a session waited for its place until the whole backlog was in.
#[test]
fn who_looks_for_a_place_has_a_turn_between_the_steps_of_a_follower() {
    const ENVELOPES: u64 = 100;
    let (hub, _) = hub();
    let _seat = hub.attach_to(&key(">", Format::Json), None).view;
    let text = lines_of(BYTES_PER_LOCK + 100);
    let backlog: Vec<_> =
        (1..=ENVELOPES).map(|at| Ordered::Envelope(stored(at, channel("web", "cpu"), &text))).collect();
    let visits = std::thread::scope(|scope| {
        let follower = scope.spawn(|| hub.append(Shard(0), backlog));
        let mut heads = std::collections::BTreeSet::new();
        while !follower.is_finished() {
            heads.insert(hub.state.with(|state| state.ring.head_index()));
        }
        heads.len() as u64
    });
    assert!(visits >= ENVELOPES / 4, "{visits} visits between {ENVELOPES} steps");
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// CPU time of one run of `step`, in microseconds: of many rounds the best, as it was disturbed least.
fn microseconds(mut step: impl FnMut(u64)) -> f64 {
    const RUNS: u64 = 200;
    const ROUNDS: u64 = 7;
    let round = |round: u64| {
        let begin = cpu_time();
        (round * RUNS..(round + 1) * RUNS).for_each(&mut step);
        (cpu_time() - begin).as_secs_f64() * 1e6 / RUNS as f64
    };
    (0..ROUNDS).map(round).fold(f64::MAX, f64::min)
}

/// Ten lines of ten hosts, other hosts in each envelope.
fn ten_hosts(sequence: Sequence, hosts: u64) -> Stored {
    let line = |at: u64| {
        let host = (sequence * 10 + at) % hosts;
        format!(
            "cpu,cpu=cpu-total,host=web-{host},region=eu usage_user=12.5,usage_system={at}.25,used={sequence}i 1700000000000000000\n"
        )
    };
    stored(sequence, channel("gateway", "cpu"), &(0..10).map(line).collect::<String>())
}

/// `cargo test --release --lib edge::hub -- --ignored --nocapture --test-threads 1`; the first two kinds of filters are to cost
/// the same whatever their number.
#[test]
#[ignore = "a measurement"]
fn what_views_cost_per_envelope() {
    println!("µs of CPU per envelope of ten lines (JSON)\n");
    println!(
        "| filters | views | index | each view for itself | ratio | index, against one view |\n|---|---|---|---|---|---|"
    );
    let cases: [(&str, &dyn Fn(u64) -> String); 5] = [
        ("other collectors: none matches", &|n| format!("other-{n}.cpu")),
        ("other tag values: none matches", &|n| format!("*.cpu{{host=other-{n}}}")),
        ("a line each", &|n| format!("*.cpu{{host=web-{n}}}")),
        ("all lines, by their tags", &|n| format!("*.cpu{{host!=other-{n}}}")),
        ("everything of the channel", &|n| format!("*.cpu other-{n}.mem")),
    ];
    for (name, filter) in cases {
        let mut alone = 0.0;
        for views in [1, 100, 1_000] {
            let (hub, _) = hub();
            let seats: Vec<Seat> =
                (0..views).map(|n| hub.attach_to(&key(&filter(n), Format::Json), None).view).collect();
            let indexed = microseconds(|run| {
                hub.append(Shard(0), vec![Ordered::Envelope(ten_hosts(run + 1, 1_000))]);
            });
            // As it was without an index: the views of a channel are known, each of them reads and encodes the lines.
            let mut ring = Ring::new(Offset::start(Epoch(1), 1), RING_BYTES);
            let channel = channel("gateway", "cpu");
            let account = Account::new(RING_BYTES);
            let routes: Vec<(View, Match)> = seats
                .iter()
                .map(|seat| seat.view().key().clone())
                .map(|key| (key.filters.matches_channel(&channel), key))
                .filter(|(wanted, _)| *wanted != Match::No)
                .map(|(wanted, key)| {
                    (View::new(key, 0, ring.head().clone(), RING_BYTES, account.clone()), wanted)
                })
                .collect();
            let each = microseconds(|run| {
                let stored = ten_hosts(run + 1, 1_000);
                let (envelope, stored_ns) = (stored.envelope.clone(), stored.stored_ns);
                let entry = ring.push(Shard(0), stored);
                for (view, wanted) in &routes {
                    let whole = *wanted == Match::Whole;
                    let bytes = match whole {
                        true => entry.frame(Format::Json, |entry| encode::whole(entry, Format::Json)),
                        false => {
                            let filters = &view.key().filters;
                            encode::filtered(&envelope, stored_ns, &entry.offset, filters, Format::Json)
                        }
                    };
                    if let Some(bytes) = black_box(bytes) {
                        let (index, offset) = (entry.index, entry.offset.clone());
                        let frame = Frame { index, offset, bytes, own: !whole, passage: None };
                        view.push(frame, ring.first_index());
                    }
                }
            });
            if views == 1 {
                alone = indexed;
            }
            println!(
                "| {name} | {views} | {indexed:.1} | {each:.1} | {:.2} | {:.2} |",
                indexed / each,
                indexed / alone
            );
        }
    }
}

/// Like the measurement above.
#[test]
#[ignore = "a measurement"]
fn what_views_that_come_and_go_cost_among_many_channels() {
    const CHANNELS: u64 = 100_000;
    let (hub, _) = hub();
    let meters = Meters::register();
    let attach = |filter: String| hub.attach_to(&key(&filter, Format::Json), None).view;
    let seats: Vec<Seat> = (0..1_000).map(|n| attach(format!("*.cpu{{host=web-{n}}}"))).collect();
    let collectors: Vec<Channel> = (0..CHANNELS).map(|n| channel(&format!("host-{n}"), "cpu")).collect();
    let each = |begin: Duration, count: u64| (cpu_time() - begin).as_secs_f64() * 1e6 / count as f64;
    let begin = cpu_time();
    for (at, channel) in (1..).zip(&collectors) {
        hub.append(Shard(0), vec![Ordered::Envelope(stored(at, channel.clone(), "cpu,host=none v=1 1"))]);
    }
    println!("first envelope of a channel: {:.2} µs", each(begin, CHANNELS));
    let begin = cpu_time();
    let others: Vec<Seat> = (0..1_000).map(|n| attach(format!("host-{n}.cpu"))).collect();
    println!("a new view: {:.2} µs", each(begin, 1_000));
    let begin = cpu_time();
    hub.tidy(&meters);
    println!("tidying {} views: {:.1} µs", seats.len() + others.len(), each(begin, 1));
    drop((seats, others));
    let begin = cpu_time();
    hub.tidy(&meters);
    println!("tidying as all of them are gone: {:.1} µs", each(begin, 1));
}

/// An entry that was applied before its predecessor, or not at all because two threads left it to each other, would show
/// here as a value that does not belong to the place.
#[test]
fn the_last_values_are_those_of_a_place_whoever_appends_and_looks() {
    const ENVELOPES: Sequence = 2_000;
    const SHARDS: u16 = 3;
    let series = SeriesStore::new(Offset::start(Epoch(1), SHARDS), SNAPSHOT);
    let (_, doorbells) = hub();
    let settings = CompressionSettings { enabled: false, level: 1, message_bytes_min: 256 };
    let compressor = Compressor::new(settings, &Meters::register());
    let epochs = vec![Epoch(1); usize::from(SHARDS)];
    let hub = Hub::new(epochs, series, RING_BYTES, ViewLimits::of_bytes(RING_BYTES), doorbells, compressor);
    let check = || {
        let extract = hub.with_series(|series| series.matching(&FilterSet::default()));
        for group in &extract.groups {
            let shard = Shard(group.collector.as_str().parse().unwrap());
            let sequence = extract.at.offset.sequence(shard);
            assert_eq!(group.lines, format!("cpu v={sequence}i {sequence}\n").into_bytes());
        }
        (extract.at.index, extract.groups.len())
    };
    std::thread::scope(|scope| {
        for shard in 0..SHARDS {
            let hub = &hub;
            scope.spawn(move || {
                for sequence in 1..=ENVELOPES {
                    let line = format!("cpu v={sequence}i {sequence}");
                    let stored = stored(sequence, channel(&shard.to_string(), "cpu"), &line);
                    hub.append(Shard(shard), vec![Ordered::Envelope(stored)]);
                }
            });
        }
        while check().0 < ENVELOPES * u64::from(SHARDS) {}
    });
    assert_eq!(check(), (hub.head().index, usize::from(SHARDS)));
    assert!(hub.state.with(|state| state.unapplied.is_empty()));
}

/// Like the measurements above.
#[test]
#[ignore = "a measurement"]
fn what_the_last_values_cost_per_envelope() {
    println!("µs of CPU per envelope of ten lines (JSON)\n");
    println!(
        "| series | everything for views | of that: last values | ratio to the rest |\n|---|---|---|---|"
    );
    for hosts in [10, 1_000, 100_000] {
        let (hub, _) = hub();
        let seat = hub.attach_to(&key(">", Format::Json), None).view;
        for sequence in 1..=hosts / 10 {
            hub.append(Shard(0), vec![Ordered::Envelope(ten_hosts(sequence, hosts))]);
        }
        let first = hosts / 10 + 1;
        let all = microseconds(|run| {
            hub.append(Shard(0), vec![Ordered::Envelope(ten_hosts(first + run, hosts))]);
        });
        let make = microseconds(|run| {
            black_box(ten_hosts(first + run, hosts));
        });
        let mut store = SeriesStore::new(Offset::start(Epoch(1), 1), SNAPSHOT);
        let mut ring = Ring::new(Offset::start(Epoch(1), 1), RING_BYTES);
        for sequence in 1..=hosts / 10 {
            store.apply(&ring.push(Shard(0), ten_hosts(sequence, hosts)));
        }
        let entries: Vec<_> =
            (0..1_400).map(|run| ring.push(Shard(0), ten_hosts(first + run, hosts))).collect();
        let apply = microseconds(|run| store.apply(&entries[run as usize]));
        let all = all - make;
        println!("| {} | {all:.2} | {apply:.2} | {:.2} |", store.len(), apply / (all - apply));
        drop(seat);
    }
}

/// Its announcement may be among the frames that a session was too slow for.
#[test]
fn who_has_missed_that_the_log_went_back_is_led_back_to_where_it_went_on() {
    let (hub, _) = hub();
    hub.reset(Shard(0), Epoch(2), 0);
    assert!(hub.head().back.is_none(), "another log is no way back");
    for sequence in 1..=5 {
        append(&hub, stored(sequence, channel("web", "cpu"), "cpu v=1 1"));
    }
    let before = hub.head();
    hub.reset(Shard(0), Epoch(2), 3);
    for sequence in 4..=9 {
        append(&hub, stored(sequence, channel("web", "cpu"), "cpu v=2 2"));
    }
    let head = hub.head();
    let at = |sequence| head.offset.with(Shard(0), sequence);
    assert_eq!(
        head.back_from(&before.offset).map(|to| to.sequence(Shard(0))),
        Some(3),
        "although it is at 9 by now"
    );
    assert_eq!((head.back_from(&at(4)).is_some(), head.back_from(&at(3)).is_none()), (true, true));
    assert_eq!(head.resets_known_at(before.index), before.resets);
    assert_eq!(head.resets_known_at(head.index), head.resets);
}

/// A thread that finds the last values locked leaves its entries to the holder of the lock, which may have looked already.
#[test]
fn entries_that_are_left_to_whoever_holds_the_last_values_are_applied_by_somebody() {
    model::check(|| {
        let (hub, _) = hub();
        let append = |collector: &'static str, sequence| {
            let hub = hub.clone();
            move || append(&hub, stored(sequence, channel(collector, "cpu"), "cpu v=1i 1"))
        };
        let followers = [model::spawn(append("a", 1)), model::spawn(append("b", 2))];
        hub.with_series(|_| ());
        let seat = hub.attach_to(&key(">", Format::Influx), None).view;
        followers.into_iter().for_each(|follower| follower.join().unwrap());
        assert!(hub.state.with(|state| state.unapplied.is_empty()), "nothing is left behind");
        assert_eq!(hub.values.with(|values| values.series.len()), 2);
        drop(seat);
        hub.tidy(&Meters::register());
    });
}

#[test]
fn a_client_is_told_how_many_series_its_filters_have_now() {
    let (hub, _) = hub();
    let set = |text: &str| FilterSet::parse(text.split(' ')).unwrap();
    assert_eq!(hub.matching(&set("*.*")), Some(0));
    append(&hub, stored(1, channel("web", "cpu"), "cpu,host=a,cpu=0 v=1 1\ncpu,host=a,cpu=1 v=2 2"));
    append(&hub, stored(2, channel("db", "cpu"), "cpu,host=b,cpu=0 v=1 1"));
    append(&hub, stored(3, channel("db", "mem"), "mem,host=b v=1 1"));
    for (filters, matching) in [
        ("*.*", 4),
        ("*.cpu", 3),
        ("web.*", 2),
        ("db.*", 2),
        ("web.* *.cpu", 3),
        ("web.* db.* *.cpu *.mem", 4),
        ("db.cpu web.*", 3),
        ("*.cpu{cpu=0}", 2),
        ("*.cpu{cpu=0} db.*", 3),
        // What a shell makes of it that eats braces.
        ("*.cpucpu=0", 0),
        ("*.disk{path=/}", 0),
        ("nobody.*", 0),
        ("*.cpu{cpu=7}", 0),
    ] {
        assert_eq!(hub.matching(&set(filters)), Some(matching), "{filters}");
    }
}

#[test]
fn counting_by_tags_is_bounded_in_series_and_in_times() {
    let (hub, _) = hub();
    let lines = |numbers: std::ops::Range<usize>| {
        numbers.map(|n| format!("cpu,n={n} v=1 1")).collect::<Vec<_>>().join("\n")
    };
    append(&hub, stored(1, channel("web", "cpu"), &lines(0..4_096)));
    let set = |text: &str| FilterSet::parse([text]).unwrap();
    let counted = (0..1_000).filter(|n| hub.matching(&set(&format!("*.cpu{{n={n}}}"))) == Some(1)).count();
    // Some more, where this thread was away for so long that a second passed.
    assert!((64..500).contains(&counted), "{counted}");
    assert_eq!(hub.matching(&set("*.cpu")), Some(4_096), "what is counted by name always is");
    append(&hub, stored(2, channel("web", "cpu"), &lines(4_096..4_097)));
    std::thread::sleep(Duration::from_millis(1_001));
    assert_eq!(hub.matching(&set("*.cpu{n=0}")), None);
    assert_eq!(hub.matching(&set("*.cpu")), Some(4_097));
    assert_eq!(hub.matching(&set("*.mem{n=0}")), Some(0));
}

/// A view is filed before it is somewhere, in an index that no envelope goes by; then the two change places.
#[test]
fn a_view_that_comes_while_envelopes_do_has_each_of_them_behind_its_place() {
    model::check(|| {
        let (hub, _) = hub();
        let follower = {
            let hub = hub.clone();
            model::spawn(move || {
                for sequence in 1..=2 {
                    append(&hub, stored(sequence, channel("a", "cpu"), "cpu v=1i 1"));
                }
            })
        };
        let leaves = {
            let hub = hub.clone();
            model::spawn(move || {
                drop(hub.attach_to(&key("b.cpu", Format::Influx), None).view);
                hub.tidy(&Meters::register());
            })
        };
        let Attachment { view, at, start } = hub.attach_to(&key("a.cpu", Format::Influx), None);
        let Start::Live(cursor, _) = start else { panic!("the newest place is on the view") };
        follower.join().unwrap();
        leaves.join().unwrap();
        assert_eq!(view.view().end() - cursor, 2 - at.sequence(Shard(0)));
    });
}

proptest::proptest! {
    /// Both indexes: each view that is filed or taken out has them change places.
    #[test]
    fn whoever_comes_and_goes_each_view_gets_what_it_wants_and_nothing_else(
        steps in proptest::collection::vec((0usize..3, 0usize..6), 1..60),
    ) {
        const FILTERS: [&str; 6] = ["a.cpu", "*.cpu", ">", "a.cpu{host=x} b.>", "*.cpu{host!=x}", "b.cpu"];
        let (hub, _) = hub();
        let meters = Meters::register();
        let mut seats: Vec<Option<Seat>> = FILTERS.map(|_| None).into();
        let mut sequence = 0;
        for (step, which) in steps {
            match step {
                0 => seats[which] = Some(hub.attach_to(&key(FILTERS[which], Format::Influx), None).view),
                1 => seats[which] = None,
                _ => drop(hub.tidy(&meters)),
            }
            sequence += 1;
            let channel = channel(["a", "b"][which % 2], "cpu");
            let before: Vec<_> = seats.iter().flatten().map(|seat| seat.view().end()).collect();
            append(&hub, stored(sequence, channel.clone(), "cpu,host=x v=1i 1"));
            for (seat, before) in seats.iter().flatten().zip(before) {
                let filters = &seat.view().key().filters;
                let wanted = filters.matches_channel(&channel) != Match::No
                    && filters.matches_line(&channel, |tag| (tag == "host").then_some("x".into()));
                proptest::prop_assert_eq!(seat.view().end() - before, u64::from(wanted), "{}", filters);
            }
        }
    }
}

#[test]
fn a_full_hub_takes_views_out_that_nobody_has_before_it_refuses_and_joins_are_free() {
    let (doorbells, settings) =
        (vec![Doorbell::new(0)], CompressionSettings { enabled: true, level: 1, message_bytes_min: 256 });
    let compressor = Compressor::new(settings, &Meters::register());
    let series = SeriesStore::new(Offset::start(Epoch(1), 1), SNAPSHOT);
    let limits = ViewLimits { count_max: 2, ..ViewLimits::of_bytes(RING_BYTES) };
    let hub = Hub::new(vec![Epoch(1)], series, RING_BYTES, limits, doorbells, compressor);
    let seat =
        |filter, leaving: Option<&Seat>| hub.seat(&key(filter, Format::Json), Client::at(None), leaving);
    let first = seat("a.b", None).unwrap();
    let second = seat("c.d", None).unwrap();
    assert_eq!(seat("e.f", None).err(), Some(TooManyViews::OfNode(2)));
    let joined = seat("a.b", None).unwrap();
    assert!(seat("e.f", Some(&first)).is_err(), "others have that view too");
    let third = seat("e.f", Some(&second)).unwrap();
    drop((second, third));
    // Nobody has tidied since.
    assert!(seat("g.h", None).is_ok());
    drop((first, joined));
}
