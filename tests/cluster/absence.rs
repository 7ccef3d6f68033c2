//! NATS that is not there: yet, or for a while.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::collector::Collector;
use crate::support::event_source::EventSource;
use crate::support::nats::NatsServer;
use crate::support::poller::Poller;
use crate::support::telecast::{self, Telecast};

/// What operators and balancers see while NATS is away.
async fn is_alive_but_not_ready(node: &Telecast) {
    assert_eq!(node.get("/livez").await.status, 200);
    let ready = node.get("/readyz").await;
    assert_eq!((ready.status, &ready.json["ready"]), (503, &json!(false)), "{}", ready.json);
    assert!(ready.json["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{}", ready.json);
    let health = node.get("/health").await;
    assert_eq!((health.status, &health.json["status"]), (503, &json!("unhealthy")), "{}", health.json);
    assert_eq!(health.json["checks"]["nats"], json!({"status": "disconnected", "healthy": false}));
    assert_eq!(node.metric("ws_nats_connected").await, 0.0);
}

#[tokio::test]
async fn nodes_start_without_nats_say_so_and_work_when_it_comes() {
    let nats = NatsServer::absent();
    let ingest = telecast::ingest(&nats.url()).set("collector.write_timeout_ms", 300).start_unready().await;
    let edge = telecast::edge(&nats.url()).start_unready().await;
    for node in [&ingest, &edge] {
        is_alive_but_not_ready(node).await;
    }
    let refusal = Client::attempt(edge.address(), "/ws", "").await.err().expect("a refusal");
    assert_eq!((refusal.status, &refusal.json["error"]["code"]), (503, &json!("log_unavailable")));
    assert!(refusal.json["error"]["message"].as_str().is_some_and(|message| message.contains("try again")));
    assert!(refusal.headers.contains_key("retry-after"));

    let write = ingest.post("/api/v1/write?collector=web-01", "cpu n=0i 1767225600000000000").await;
    assert_eq!((write.status, &write.json["error"]["code"]), (503, &json!("log_unavailable")));
    assert!(write.headers.contains_key("retry-after"));
    // What a WebSocket collector brings is kept.
    let mut collector = Collector::new("web-02", &[ingest.address()]);
    collector.flush(10).await;

    nats.restart();
    ingest.ready().await;
    edge.ready().await;
    for node in [&ingest, &edge] {
        assert_eq!(node.get("/health").await.json["checks"]["nats"]["status"], "connected");
    }
    let mut client = Client::connect(edge.address(), "from=earliest").await;
    collector.flush(10).await;
    client.all_of(&collector).await;
    assert!(client.ledger.gaps.is_empty());
    // As agents do: the same again, until it is stored.
    let again = async || {
        let answer = ingest.post("/api/v1/write?collector=web-01", "cpu n=0i 1767225600000000000").await;
        (answer.status == 204).then_some(())
    };
    crate::support::eventually("the write", again).await;
    collector.flush(1).await;
    client.all_of(&collector).await;
    client.until("the write", |ledger| !ledger.numbers("web-01", "cpu").is_empty()).await;
    client.channel_is("web-01", "cpu", &[0]);
}

/// Killed, the connection breaks at once; frozen, only silence tells.
#[tokio::test]
async fn clients_hear_within_ten_seconds_that_a_killed_server_is_gone_and_lose_nothing() {
    clients_are_told_and_lose_nothing(NatsServer::kill, NatsServer::restart).await;
}

#[tokio::test]
async fn clients_hear_within_ten_seconds_that_a_frozen_server_is_gone_and_lose_nothing() {
    clients_are_told_and_lose_nothing(NatsServer::pause, NatsServer::resume).await;
}

async fn clients_are_told_and_lose_nothing(leave: impl Fn(&NatsServer), come_back: impl Fn(&NatsServer)) {
    let stage = Stage::new().await;
    let mut clients = [Client::connect(stage.edge(0), "").await, Client::connect(stage.edge(1), "").await];
    let mut collector = stage.collector("web-01");
    collector.flush(10).await;
    clients[0].all_of(&collector).await;

    leave(&stage.nats);
    let left = Instant::now();
    for client in &mut clients {
        client.until("stale", |ledger| ledger.count("stale") == 1).await;
        assert!(left.elapsed() < Duration::from_secs(10), "{:?}", left.elapsed());
        assert!(client.ledger.last("stale")["since_ms"].is_u64());
    }
    collector.flush(10).await;
    come_back(&stage.nats);
    for client in &mut clients {
        client.until("live", |ledger| ledger.count("live") == 1).await;
        collector.flush(1).await;
        client.all_of(&collector).await;
        assert_eq!((client.ledger.count("stale"), client.ledger.count("live")), (1, 1));
        assert!(client.ledger.gaps.is_empty());
    }
}

/// Whoever asks must not be answered at once again and again while there is nothing but silence to tell of.
#[tokio::test]
async fn readers_of_events_and_those_who_ask_are_told_that_the_log_is_away_and_that_it_is_back() {
    let stage = Stage::with(1, |launch| launch).await;
    let mut source = EventSource::connect(stage.edge(0), "").await;
    let mut poller = Poller::new(stage.edge(0), "timeout=2");
    poller.poll().await;
    stage.nats.kill();
    source.until("the silence", |ledger| ledger.count("stale") == 1).await;
    let began = Instant::now();
    poller.poll().await;
    assert_eq!(poller.ledger.count("stale"), 1);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    stage.nats.restart();
    source.until("its end", |ledger| ledger.count("live") == 1).await;
    let mut collector = stage.collector("web-01");
    collector.flush(5).await;
    source.until("the metrics", |ledger| ledger.metrics() == 15).await;
    poller.until("the metrics", |ledger| ledger.metrics() == 15).await;
    assert!(source.ledger.gaps.is_empty() && poller.ledger.gaps.is_empty());
}
