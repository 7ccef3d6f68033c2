//! NATS that answers and does not store: no room, a disk that fails, messages that it does not take.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::json;
use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::nats::NatsServer;
use crate::support::poller::Poller;
use crate::support::telecast::{self, Launch, Telecast};

/// What an operator meets on a node of whose log nothing new comes, whether it writes or reads.
async fn is_unhealthy(node: &Telecast, words: &[&str]) {
    let (health, _) = eventually("an unhealthy node", async || {
        let health = node.get("/health").await;
        (health.status == 503).then_some(health)
    })
    .await;
    assert_eq!(health.json["checks"]["nats"], json!({"status": "stalled", "healthy": false}));
    let errors = health.json["errors"].to_string();
    assert!(words.iter().all(|word| errors.contains(word)), "{errors}");
    let status = telecast::status(node.address()).await;
    assert_eq!((status.code, status.text.starts_with("unhealthy: ")), (Some(1), true), "{}", status.text);
    assert!(words.iter().all(|word| status.text.contains(word)), "{}", status.text);
    assert_eq!(node.metric("ws_nats_connected").await, 1.0);
}

async fn is_healthy(node: &Telecast) {
    let healthy = async || (node.get("/health").await.json["status"] == "healthy").then_some(());
    eventually("a healthy node", healthy).await;
    assert_eq!(telecast::status(node.address()).await.code, Some(0));
}

/// A small log, and writers that do not wait long for it.
fn impatient(launch: Launch) -> Launch {
    launch
        .set("log.max_bytes", 1 << 20)
        .set("collector.write_timeout_ms", 500)
        .set("nats.request_timeout_ms", 2_000)
}

fn write(collector: &str, number: i64) -> (String, String) {
    let line = format!("cpu n={number}i {}", 1_767_225_600_000_000_000 + number);
    (format!("/api/v1/write?collector={collector}"), line)
}

/// The account's room is taken by somebody else's stream until that is purged.
#[tokio::test]
async fn a_log_without_room_is_told_to_operators_and_within_ten_seconds_to_clients_of_other_nodes() {
    let nats = NatsServer::start_with(
        "accounts { A { jetstream { max_file: 8M }, users: [ { user: a, password: a } ] } }\nno_auth_user: a",
    );
    let stage = Stage::on(nats, 1, impatient).await;
    let (ingest, edge) = (&stage.ingest, &stage.edges[0]);
    let mut client = Client::connect(edge.address(), "").await;
    let mut poller = Poller::new(edge.address(), "timeout=2");
    poller.poll().await;
    let (path, line) = write("web-01", 0);
    assert_eq!(ingest.post(&path, line).await.status, 204);
    client.until("the first", |ledger| ledger.metrics() == 1).await;

    let js = jetstream::new(async_nats::connect(stage.nats.url()).await.expect("a connection"));
    let config = jetstream::stream::Config { name: "other".into(), ..Default::default() };
    let mut other = js.create_stream(config).await.expect("a stream");
    for bytes in [500_000, 10_000, 200, 1] {
        let full = async || {
            let sent = js.publish("other", vec![0; bytes].into()).await.expect("an open connection");
            sent.await.is_err().then_some(())
        };
        eventually("a full account", full).await;
    }
    // Nobody writes: a quiet log is no silent one.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((client.ledger.count("stale"), edge.get("/health").await.status), (0, 200));

    let (path, line) = write("web-01", 1);
    let began = Instant::now();
    let refused = ingest.post(&path, line).await;
    let message = refused.json["error"]["message"].to_string();
    assert!(refused.status == 503 && message.contains("NATS has no room"), "{message}");
    client.until("stale", |ledger| ledger.count("stale") == 1).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(client.ledger.last("stale")["since_ms"].as_u64().is_some_and(|ms| ms >= 6_000));
    is_unhealthy(ingest, &["nothing has been stored for", "1 batch waits", "no room"]).await;
    is_unhealthy(edge, &["nothing has arrived for", "cannot store", "no room"]).await;
    // Collectors fare better elsewhere; clients do not.
    assert_eq!((ingest.get("/readyz").await.status, edge.get("/readyz").await.status), (503, 200));
    assert!(ingest.metric(r#"ws_publish_failures_total{reason="full"}"#).await >= 1.0);
    assert!(ingest.metric("ws_publish_oldest_seconds").await >= 6.0);
    assert!(ingest.metric("ws_publish_stalled_seconds").await >= 6.0);
    // A client that connects now is told as well.
    let mut late = Client::connect(edge.address(), "").await;
    late.until("stale", |ledger| ledger.count("stale") == 1).await;
    poller.until("stale", |ledger| ledger.count("stale") >= 1).await;

    other.purge().await.expect("purged");
    for client in [&mut client, &mut late] {
        client.until("live", |ledger| ledger.count("live") == 1).await;
    }
    is_healthy(ingest).await;
    is_healthy(edge).await;
    assert_eq!(
        (ingest.get("/readyz").await.status, ingest.metric("ws_publish_oldest_seconds").await),
        (200, 0.0)
    );
    // What was begun was kept, and goes first.
    client.until("what waited", |ledger| ledger.metrics() == 2).await;
    client.channel_is("web-01", "cpu", &[0, 1]);
    assert!(client.ledger.gaps.is_empty() && client.ledger.count("stale") == 1);
    let _ = other.info().await;
}

/// A nats-server whose disk failed acknowledges nothing, without an error, until it is restarted.
#[tokio::test]
async fn a_server_that_acknowledges_nothing_is_unhealthy_and_the_reason_says_what_to_do() {
    let stage = Stage::with(1, impatient).await;
    let (ingest, edge) = (&stage.ingest, &stage.edges[0]);
    let mut client = Client::connect(edge.address(), "").await;
    stage.nats.break_disk("telecast-0");
    let mut number = 0_i64;
    // The block that is open takes some hundred kilobytes.
    let stuck = async || {
        let text = "x".repeat(50_000);
        let line = format!("log n={number}i,text=\"{text}\" {}", 1_767_225_600_000_000_000 + number);
        number += 1;
        let answer = ingest.post("/api/v1/write?collector=web-01", line).await;
        (answer.status == 503).then_some(())
    };
    eventually("a disk that fails", stuck).await;
    is_unhealthy(ingest, &["nothing has been stored for", "did not answer a batch", "disk", "restarted"])
        .await;
    client.until("stale", |ledger| ledger.count("stale") == 1).await;
    is_unhealthy(edge, &["nothing has arrived for", "restarted"]).await;
    let refused = ingest.post("/api/v1/write?collector=web-01", "cpu n=1i").await;
    assert!(refused.json["error"]["message"].as_str().is_some_and(|text| text.contains("restarted")));
    assert!(ingest.metric(r#"ws_publish_failures_total{reason="no_answer"}"#).await >= 1.0);

    stage.nats.stop();
    stage.nats.mend_disk("telecast-0");
    stage.nats.restart();
    client.until("live", |ledger| ledger.count("live") == 1).await;
    is_healthy(ingest).await;
    is_healthy(edge).await;
    let (path, line) = write("web-02", 7);
    let stored = async || (ingest.post(&path, line.clone()).await.status == 204).then_some(());
    eventually("a write", stored).await;
    client.until("it", |ledger| ledger.numbers("web-02", "cpu") == [7]).await;
}

#[tokio::test]
async fn flushes_are_split_to_what_the_server_takes_and_a_longer_line_is_told_which_bound_it_broke() {
    let nats = NatsServer::start_with("max_payload: 65536");
    let stage = Stage::on(nats, 1, |launch| launch).await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let lines = |lines: std::ops::Range<i64>, bytes: usize| {
        let line =
            |n: i64| format!("q n={n}i,text=\"{}\" {}\n", "z".repeat(bytes), 1_767_225_600_000_000_000 + n);
        lines.map(line).collect::<String>()
    };
    let write = |body| stage.ingest.post("/api/v1/write?collector=big", body);
    assert_eq!(write(lines(0..400, 500)).await.status, 204);
    client.until("all of it", |ledger| ledger.metrics() == 400).await;
    let refused = write(lines(0..1, 66_000)).await;
    let message = refused.json["error"]["message"].to_string();
    assert!(refused.status == 400 && message.contains("65536 bytes (max_payload"), "{message}");
    // It does not cost its neighbours.
    let mut collector = stage.collector("web-01");
    assert_eq!(
        write(lines(400..401, 100) + &lines(401..402, 200_000) + &lines(402..403, 100)).await.status,
        204
    );
    client.until("the neighbours", |ledger| ledger.metrics() == 402).await;
    let warned = async || {
        let health = stage.ingest.get("/health").await;
        (health.status == 200 && health.json["warnings"].to_string().contains("(max_payload")).then_some(())
    };
    eventually("a warning", warned).await;

    // What waited for a server that takes less than the one before is cut once more.
    collector.flush(1).await;
    client.all_of(&collector).await;
    stage.nats.stop();
    collector.flush(1_000).await;
    stage.nats.configure("max_payload: 8192");
    stage.nats.restart();
    client.all_of(&collector).await;
    assert!(client.ledger.gaps.is_empty());
    assert_eq!(stage.ingest.metric(r#"ws_envelopes_dropped_total{reason="refused"}"#).await, 0.0);
    assert_eq!(write(lines(403..503, 500)).await.status, 204);
    client.until("the rest", |ledger| ledger.numbers("big", "q").len() == 502).await;
}

/// Latencies would be negative, or too long by as much, and nobody would know why.
#[tokio::test]
async fn an_ingest_whose_clock_is_90_seconds_off_is_a_health_warning_of_the_edges_that_hear_it() {
    let stage = Stage::with(1, |launch| launch).await;
    assert!(stage.edges[0].metric("ws_clock_ahead_seconds").await.abs() < 1.0);
    let js = jetstream::new(async_nats::connect(stage.nats.url()).await.expect("a connection"));
    let warned = async || {
        let ahead = jiff::Timestamp::now().as_nanosecond() + 90_000_000_000;
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Telecast-Revision", "1");
        headers.insert("Telecast-Sequence", "1");
        headers.insert("Telecast-Received", ahead.to_string().as_str());
        let sent = js.publish_with_headers("telecast.in.0.web-01.cpu", headers, "cpu n=1i 1".into()).await;
        sent.expect("an open connection").await.expect("stored");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let health = stage.edges[0].get("/health").await;
        (health.json["status"] == "degraded").then_some(health)
    };
    let (health, _) = eventually("a warning", warned).await;
    let warnings = health.json["warnings"].to_string();
    assert!(warnings.contains("is 90 s ahead of") || warnings.contains("is 89 s ahead of"), "{warnings}");
    assert_eq!(health.status, 200);
}
