//! Snapshots on a real cluster: under load, on streams of several shards, and right after a start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::telecast::proto::offset::{Offset, Shard};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::stage::Stage;
use crate::support::collector::{Collector, MEASUREMENTS};
use crate::support::patiently;
use crate::support::state::{State, Truth, assert_follows, offset};
use crate::support::telecast;

/// Joins of each kind of log; `TELECAST_TEST_JOINS=1000` for a whole thousand.
const JOINS: usize = 150;
/// Clients that join at the same time.
const TOGETHER: usize = 10;
const COLLECTORS: usize = 6;

/// A client that is given messages until it has what it wants.
struct Reader(tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>);

impl Reader {
    async fn connect(address: std::net::SocketAddr, parameters: &str) -> Self {
        let url = format!("ws://{address}/ws?{parameters}");
        let (socket, _) =
            patiently("a handshake", tokio_tungstenite::connect_async(url)).await.expect("a session");
        Self(socket)
    }

    async fn next(&mut self) -> Value {
        loop {
            match patiently("a message", self.0.next()).await.expect("no end").expect("no error") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Joins with a snapshot and follows for a while. Returns where it got to, and what it knows there.
async fn join(address: std::net::SocketAddr, follow: usize) -> (Offset, State) {
    let mut reader = Reader::connect(address, "snapshot=true").await;
    let welcome = reader.next().await;
    assert_eq!((&welcome["type"], welcome.get("offset")), (&"welcome".into(), None));
    let (mut state, mut at, mut live) = (State::default(), None::<Offset>, 0);
    while live < follow {
        let message = reader.next().await;
        match message["type"].as_str() {
            Some("snapshot") => {
                state.take(&message);
                if message["part"] == message["parts"] {
                    at = Some(offset(&message));
                }
            }
            Some("metrics") => {
                let next = offset(&message);
                assert_follows(&at.expect("a snapshot before anything else"), &next);
                state.take(&message);
                at = Some(next);
                live += 1;
            }
            Some("heartbeat") => assert!(at.is_some(), "without a snapshot there is no place to tell"),
            other => panic!("{other:?} of a session that only joins"),
        }
    }
    (at.expect("a place"), state)
}

/// Everything that the log has up to a place, from its beginning.
async fn truth(stage: &Stage, shards: u16, end: &Offset) -> Truth {
    let mut reader = Reader::connect(stage.edge(0), "from=earliest").await;
    let mut truth = Truth::new(shards);
    let mut seen: BTreeMap<u16, u64> = BTreeMap::new();
    let is_there = |seen: &BTreeMap<u16, u64>| {
        (0..shards).all(|shard| seen.get(&shard).copied().unwrap_or(0) >= end.sequence(Shard(shard)))
    };
    while !is_there(&seen) {
        let message = reader.next().await;
        if message["type"] == "metrics" {
            let at = offset(&message);
            seen.extend((0..shards).map(|shard| (shard, at.sequence(Shard(shard)))));
            truth.take(&message);
        }
        assert_ne!(message["type"], "gap");
    }
    truth
}

async fn joins_under_load(shards: u16) {
    let joins =
        std::env::var("TELECAST_TEST_JOINS").ok().and_then(|joins| joins.parse().ok()).unwrap_or(JOINS);
    let stage = Stage::with(2, |launch| launch.set("log.shards", shards)).await;
    let mut collectors: Vec<Collector> =
        (0..COLLECTORS).map(|number| stage.collector(&format!("web-{number}"))).collect();
    for collector in &mut collectors {
        collector.flush(1).await;
    }
    // Until the edges have them, so that every snapshot has something.
    for edge in 0..2 {
        let mut witness = Reader::connect(stage.edge(edge), "from=earliest").await;
        let mut missing = COLLECTORS * MEASUREMENTS.len();
        while missing > 0 {
            missing -= usize::from(witness.next().await["type"] == "metrics");
        }
    }
    let over = AtomicBool::new(false);
    let publish = async {
        while !over.load(Ordering::Relaxed) {
            for collector in &mut collectors {
                collector.flush(1).await;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let join_all = async {
        let mut joined = Vec::new();
        while joined.len() < joins {
            let number = joined.len();
            let together =
                (0..TOGETHER).map(|client| join(stage.edge((number + client) % 2), 1 + client % 4));
            joined.extend(futures_util::future::join_all(together).await);
        }
        over.store(true, Ordering::Relaxed);
        joined
    };
    let ((), joined) = tokio::join!(publish, join_all);
    let end = joined.iter().fold(joined[0].0.clone(), |end, (at, _)| {
        (0..shards).map(Shard).fold(end, |end, shard| {
            let furthest = end.sequence(shard).max(at.sequence(shard));
            end.with(shard, furthest)
        })
    });
    let truth = truth(&stage, shards, &end).await;
    for (at, state) in &joined {
        assert!(
            *state == truth.at(at),
            "at {at:?} this is known: {state:?}\nand this is true: {:?}",
            truth.at(at)
        );
    }
    let snapshots =
        stage.edges[0].metric("ws_snapshots_total").await + stage.edges[1].metric("ws_snapshots_total").await;
    assert!(snapshots >= joins as f64, "{snapshots} snapshots of {joins}");
}

#[tokio::test]
async fn state_after_a_join_under_load_equals_state_from_the_beginning() {
    joins_under_load(1).await;
}

#[tokio::test]
async fn state_after_a_join_under_load_equals_state_from_the_beginning_on_two_shards() {
    joins_under_load(2).await;
}

#[tokio::test]
async fn a_node_that_has_just_started_knows_the_last_values_and_tells_them_over_http() {
    let stage = Stage::new().await;
    let mut collector = stage.collector("web-01");
    collector.flush(5).await;
    let late = telecast::edge(&stage.nats.url()).start().await;
    let wait = async || {
        let answer = late.get("/api/metrics/latest?filter=*.cpu").await;
        assert_eq!(answer.status, 200);
        let metrics = answer.json["metrics"].as_array().expect("metrics").clone();
        // Four values of the tag `cpu`.
        (metrics.len() == 4).then_some((answer.json.clone(), metrics))
    };
    let ((answer, metrics), _) = crate::support::eventually("the last values", wait).await;
    assert!(metrics.iter().all(|metric| metric["collector"] == "web-01" && metric["name"] == "cpu"));
    let mut latest = State::default();
    latest.take(&answer);
    let mut reader = Reader::connect(late.address(), "snapshot=true&filter=*.cpu").await;
    let mut snapshot = State::default();
    while snapshot.len() < 4 {
        let message = reader.next().await;
        if message["type"] == "snapshot" {
            snapshot.take(&message);
        }
    }
    assert_eq!(latest, snapshot);
    for (query, code) in
        [("from=latest", "bad_parameter"), ("nonsense=1", "bad_parameter"), ("filter=cpu", "bad_filter")]
    {
        let refused = late.get(&format!("/api/metrics/latest?{query}")).await;
        assert_eq!((refused.status, &refused.json["error"]["code"]), (400, &code.into()), "{query}");
    }
}

#[tokio::test]
async fn health_says_when_the_bound_of_the_last_values_bites() {
    let stage = Stage::with(1, |launch| launch.set("edge.snapshot.series_max", 5)).await;
    let mut collector = stage.collector("web-01");
    let warns = async || {
        collector.flush(1).await;
        let health = stage.edges[0].get("/health").await.json;
        let warnings = health["warnings"].as_array().expect("warnings").clone();
        warnings
            .iter()
            .any(|warning| warning.as_str().is_some_and(|text| text.contains("edge.snapshot.series_max = 5")))
            .then_some(())
    };
    crate::support::eventually("a warning", warns).await;
    assert!(stage.edges[0].metric("ws_snapshot_series_dropped_total{reason=\"count\"}").await > 0.0);
    assert!(stage.edges[0].metric("ws_snapshot_series").await <= 5.0);
}
