//! Where clients may begin: anywhere in the log, before it, and in another log.

use async_nats::jetstream;
use serde_json::json;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::collector::MEASUREMENTS;
use crate::support::ledger::Ledger;
use crate::support::nats::NatsServer;

/// The log's stream, as its name is documented: the log's name and the shard.
const STREAM: &str = "telecast-0";
/// The smallest ring there may be.
const RING_BYTES: u64 = 1 << 20;

/// The administrator's own connection to the servers.
async fn administrator(stage: &Stage) -> jetstream::Context {
    let client = async_nats::connect(stage.nats.url()).await.expect("a connection");
    jetstream::new(client)
}

/// Replaces a stream by an empty one, as restoring or moving a cluster does.
pub async fn recreate(stage: &Stage, stream: &str) {
    let administrator = administrator(stage).await;
    let mut old = administrator.get_stream(stream).await.expect("the stream");
    let configuration = old.info().await.expect("its configuration").config.clone();
    administrator.delete_stream(stream).await.expect("its end");
    let create = async || administrator.create_stream(configuration.clone()).await.is_ok().then_some(());
    // A node may have noticed first and created it.
    crate::support::eventually("a new log", create).await;
}

#[tokio::test]
async fn an_offset_older_than_the_ring_is_resumed_from_the_log_without_a_seam() {
    let stage = Stage::with(2, |launch| {
        launch.set("edge.ring_bytes_max", RING_BYTES).set("collector.envelope_bytes_max", 65_536)
    })
    .await;
    let mut early = Client::connect(stage.edge(0), "").await;
    let mut filtered = Client::connect(stage.edge(0), "filter=*.mem").await;
    let mut collector = stage.collector("web-01");
    collector.flush(10).await;
    early.all_of(&collector).await;
    filtered.until("a beginning", |ledger| ledger.metrics() >= 10).await;
    // Away, while far more than the ring holds goes by: each row is 3 envelopes of some 400 bytes in the ring.
    for _ in 0..2_000 {
        collector.flush(1).await;
    }
    let mut live = Client::connect(stage.edge(1), "from=earliest").await;
    live.all_of(&collector).await;
    let (ring, evicted) =
        (stage.edges[1].metric("ws_ring_bytes").await, collector.flushed().len() as f64 * 3.0 * 320.0);
    assert!(ring <= RING_BYTES as f64 * 1.1 && evicted > RING_BYTES as f64 * 1.5, "{ring} {evicted}");
    early.resume(stage.edge(1)).await;
    filtered.resume(stage.edge(1)).await;
    // The seam between the log and the live flow is crossed under traffic.
    for _ in 0..100 {
        collector.flush(1).await;
    }
    early.all_of(&collector).await;
    live.all_of(&collector).await;
    assert_eq!(early.ledger.data, live.ledger.data);
    let flushed = collector.flushed();
    filtered.until("its channel", |ledger| ledger.metrics() >= flushed.len()).await;
    filtered.channel_is("web-01", "mem", &flushed);
    assert!(early.ledger.gaps.is_empty() && filtered.ledger.gaps.is_empty() && live.ledger.gaps.is_empty());
}

#[tokio::test]
async fn from_earliest_latest_and_ago_begin_where_they_say() {
    let stage = Stage::new().await;
    let mut collector = stage.collector("web-01");
    let mut witness = Client::connect(stage.edge(0), "").await;
    collector.flush(20).await;
    witness.all_of(&collector).await;
    let later = collector.flushed().len() as i64;

    let mut latest = Client::connect(stage.edge(0), "from=latest").await;
    let mut earliest = Client::connect(stage.edge(0), "from=earliest").await;
    let mut ago = Client::connect(stage.edge(0), "from=-5m").await;
    let mut just_now = Client::connect(stage.edge(0), "from=-1ms").await;
    collector.flush(20).await;
    for client in [&mut earliest, &mut ago] {
        client.all_of(&collector).await;
        assert!(client.ledger.gaps.is_empty(), "what never was there is no loss");
    }
    let new: Vec<i64> = (later..later + 20).collect();
    for client in [&mut latest, &mut just_now] {
        client.until("what is new", |ledger| ledger.metrics() >= 60).await;
        client.ledger_is("web-01", &new);
    }
}

/// A restarted edge has an empty ring and warms it; what lies before that is found in the log by time.
#[tokio::test]
async fn a_time_span_reaches_back_behind_the_ring() {
    let stage = Stage::with(1, |launch| {
        launch.set("edge.ring_bytes_max", RING_BYTES).set("collector.envelope_bytes_max", 65_536)
    })
    .await;
    let mut collector = stage.collector("web-01");
    for _ in 0..2_000 {
        collector.flush(1).await;
    }
    let mut witness = Client::connect(stage.edge(0), "from=earliest").await;
    witness.all_of(&collector).await;
    let mut client = Client::connect(stage.edge(0), "from=-1h").await;
    client.all_of(&collector).await;
    assert!(client.ledger.gaps.is_empty());
    assert_eq!(client.ledger.data, witness.ledger.data);
}

#[tokio::test]
async fn what_retention_took_is_one_gap_and_then_everything_that_is_left() {
    let stage = Stage::with(2, |launch| {
        launch
            .set("edge.ring_bytes_max", RING_BYTES)
            .set("collector.envelope_bytes_max", 65_536)
            .set("log.max_bytes", 1 << 20)
    })
    .await;
    let mut away = Client::connect(stage.edge(0), "").await;
    let mut away_filtered = Client::connect(stage.edge(0), "filter=*.cpu").await;
    let mut collector = stage.collector("web-01");
    collector.flush(10).await;
    away.all_of(&collector).await;
    away_filtered.until("a beginning", |ledger| ledger.metrics() >= 10).await;
    let mut witness = Client::connect(stage.edge(0), "").await;
    for _ in 0..2_500 {
        collector.flush(1).await;
    }
    let flushed = collector.flushed();
    witness.until("the end", |ledger| ledger.numbers("web-01", "disk").last() == flushed.last()).await;
    let mut live = Client::connect(stage.edge(1), "from=earliest").await;
    let last = collector.flushed().len() as i64 - 1;
    let complete = |ledger: &Ledger| {
        MEASUREMENTS.iter().all(|measurement| ledger.numbers("web-01", measurement).last() == Some(&last))
    };
    live.until("everything that is left", complete).await;
    assert!(live.ledger.gaps.is_empty(), "from=earliest asks for whatever there is");
    let left = live.ledger.numbers("web-01", "cpu").len();
    assert!((100..2_400).contains(&left), "retention has taken something, and not everything: {left}");

    away.resume(stage.edge(1)).await;
    away.until("everything that is left", complete).await;
    assert_eq!(away.ledger.gap_reasons(), ["retention"]);
    for measurement in MEASUREMENTS {
        let numbers = away.ledger.numbers("web-01", measurement);
        let resumed = numbers[10];
        assert!(resumed > 10);
        let wanted: Vec<i64> = (0..10).chain(resumed..=last).collect();
        away.channel_is("web-01", measurement, &wanted);
    }
    away_filtered.resume(stage.edge(1)).await;
    let cpu_complete = |ledger: &Ledger| ledger.numbers("web-01", "cpu").last() == Some(&last);
    away_filtered.until("its channel", cpu_complete).await;
    assert_eq!(away_filtered.ledger.gap_reasons(), ["retention"]);
}

#[tokio::test]
async fn a_log_that_was_created_anew_is_one_reset_for_who_stayed_and_for_who_comes_back() {
    let stage = Stage::new().await;
    let mut stayed = Client::connect(stage.edge(0), "").await;
    let mut filtered = Client::connect(stage.edge(1), "filter=nobody.at_all").await;
    let mut left = Client::connect(stage.edge(1), "").await;
    let mut collector = stage.collector("web-01");
    collector.flush(50).await;
    stayed.all_of(&collector).await;
    left.all_of(&collector).await;

    recreate(&stage, STREAM).await;
    stayed.until("a reset", |ledger| ledger.gaps.len() == 1).await;
    filtered.until("a reset", |ledger| ledger.gaps.len() == 1).await;
    // Fewer than before, so that the new sequences alone would look like old ones.
    collector.flush(5).await;
    stayed.all_of(&collector).await;
    left.resume(stage.edge(0)).await;
    left.all_of(&collector).await;
    for client in [&stayed, &filtered, &left] {
        assert_eq!(client.ledger.gap_reasons(), ["reset"]);
    }
    // Afterwards everything is as ever, on the other edge too.
    left.resume(stage.edge(1)).await;
    stayed.resume(stage.edge(1)).await;
    collector.flush(5).await;
    stayed.all_of(&collector).await;
    left.all_of(&collector).await;
    assert_eq!(left.ledger.gaps.len() + stayed.ledger.gaps.len(), 2);
}

#[tokio::test]
async fn a_replay_is_the_same_again_from_another_place_on_the_same_connection() {
    let stage = Stage::with(1, |launch| launch).await;
    let mut collector = stage.collector("web-01");
    let mut client = Client::connect(stage.edge(0), "").await;
    let start = client.ledger.offset.clone().expect("the welcome's offset");
    collector.flush(20).await;
    client.all_of(&collector).await;
    // A replay goes back on purpose: a new account.
    let before = std::mem::take(&mut client.ledger);
    let ack = client.ask(&json!({"type": "replay", "id": 7, "from": start.token()}).to_string(), "ack").await;
    assert_eq!(ack, json!({"type": "ack", "id": 7}));
    collector.flush(5).await;
    client.all_of(&collector).await;
    assert_eq!(client.ledger.data[..before.data.len()], before.data);
}

/// Streams in the servers' memory do not outlive them: nodes create the log anew.
#[tokio::test]
async fn a_log_in_memory_that_went_with_its_server_is_one_reset_and_then_goes_on() {
    let stage = Stage::with(2, |launch| launch.set("log.storage", "memory")).await;
    let mut stayed = Client::connect(stage.edge(0), "").await;
    let mut left = Client::connect(stage.edge(1), "").await;
    let mut collector = stage.collector("web-01");
    collector.flush(20).await;
    stayed.all_of(&collector).await;
    left.all_of(&collector).await;
    stage.nats.restart();
    collector.flush(5).await;
    stayed.all_of(&collector).await;
    stage.edges[1].ready().await;
    left.resume(stage.edge(1)).await;
    left.all_of(&collector).await;
    for client in [&stayed, &left] {
        assert_eq!(client.ledger.gap_reasons(), ["reset"]);
    }
}

/// The server hangs up on a peer that lets so much pile up; by default 64 MB, which would outlast this log.
const PENDING_BYTES_MAX: &str = "max_pending: 2MB";

/// An edge that was frozen while the log turned over cannot know what it missed until it asks.
#[tokio::test]
async fn what_retention_took_while_an_edge_was_frozen_is_one_gap_for_its_clients() {
    let nats = NatsServer::start_with(PENDING_BYTES_MAX);
    let stage = Stage::on(nats, 2, |launch| launch.set("log.max_bytes", 1 << 20)).await;
    let mut frozen = Client::connect(stage.edge(0), "").await;
    let mut witness = Client::connect(stage.edge(1), "filter=*.disk").await;
    let mut collector = stage.collector("web-01");
    collector.flush(10).await;
    frozen.all_of(&collector).await;
    stage.edges[0].pause();
    for _ in 0..100 {
        collector.flush(1_000).await;
        let flushed = collector.flushed();
        witness.until("the disks", |ledger| ledger.metrics() >= flushed.len()).await;
    }
    stage.edges[0].resume();
    let last = collector.flushed().len() as i64 - 1;
    let complete = |ledger: &Ledger| {
        MEASUREMENTS.iter().all(|measurement| ledger.numbers("web-01", measurement).last() == Some(&last))
    };
    frozen.until("the end", complete).await;
    // What the sockets held before the freeze may come; then the hole; then the rest, to the end.
    for measurement in MEASUREMENTS {
        let numbers = frozen.ledger.numbers("web-01", measurement);
        let holes = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        assert!(holes <= frozen.ledger.gaps.len(), "{holes} holes, {:?}", frozen.ledger.gaps);
    }
    let reasons = frozen.ledger.gap_reasons();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| *reason == "retention"), "{reasons:?}");
}

/// What edges read at a time, in sequences; see the page on performance.
const BLOCK: usize = 512;

#[tokio::test]
async fn a_crowd_that_resumes_from_the_same_old_place_costs_the_stream_a_bounded_number_of_reads() {
    const CLIENTS: usize = 30;
    let stage = Stage::with(1, |launch| {
        launch.set("edge.ring_bytes_max", RING_BYTES).set("collector.envelope_bytes_max", 65_536)
    })
    .await;
    let mut witness = Client::connect(stage.edge(0), "filter=*.disk").await;
    let start = witness.ledger.offset.clone().expect("the welcome's offset");
    let mut collector = stage.collector("web-01");
    for _ in 0..2_000 {
        collector.flush(1).await;
    }
    let flushed = collector.flushed();
    witness.until("everything", |ledger| ledger.metrics() >= flushed.len()).await;
    let before = stage.edges[0].metric("ws_replay_reads_total").await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let filter = ["*.cpu", "*.mem", "*.*%7Bcpu=cpu1%7D"][number % 3];
        clients.push(Client::connect(stage.edge(0), &format!("filter={filter}&from={start}")).await);
    }
    // The seam is crossed under traffic, by all of them.
    collector.flush(100).await;
    let last = collector.flushed().len() as i64 - 3;
    let channels = ["cpu", "mem", "cpu"];
    for (client, channel) in clients.iter_mut().zip(channels.into_iter().cycle()) {
        client.until("the end", |ledger| ledger.numbers("web-01", channel).last() >= Some(&last)).await;
        assert!(client.ledger.gaps.is_empty());
    }
    let reads = stage.edges[0].metric("ws_replay_reads_total").await - before;
    let blocks = (flushed.len() * MEASUREMENTS.len()).div_ceil(BLOCK);
    assert!((1.0..=blocks as f64).contains(&reads), "{reads} reads of {blocks} blocks for {CLIENTS} clients");
    assert!(stage.edges[0].metric("ws_replayed_bytes_total").await > 0.0);
    assert_eq!(
        stage.edges[0].metric(r#"ws_replay_requests_total{outcome="recovered"}"#).await,
        CLIENTS as f64
    );
}
