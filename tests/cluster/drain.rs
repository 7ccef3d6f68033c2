//! An edge that is asked to stop.

use std::time::Duration;

use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::client::Client;

const GRACE_MS: u64 = 1_000;

#[tokio::test]
async fn a_draining_edge_delivers_through_its_grace_and_sends_clients_away_with_their_place() {
    let stage =
        Stage::with(2, |launch| launch.set("edge.drain_grace_ms", GRACE_MS).set("edge.drain_waves_ms", 500))
            .await;
    let mut clients = Vec::new();
    for parameters in ["", "filter=web-01.mem", "filter=nobody.cpu", ""] {
        clients.push(Client::connect(stage.edge(0), parameters).await);
    }
    let mut collector = stage.collector("web-01");
    collector.flush(10).await;
    clients[0].all_of(&collector).await;

    stage.edges[0].terminate();
    let asked = Instant::now();
    let not_ready = async || (stage.edges[0].get("/readyz").await.status == 503).then_some(());
    let ((), took) = crate::support::eventually("it is not ready", not_ready).await;
    assert!(took < Duration::from_millis(GRACE_MS / 2), "{took:?}");
    assert_eq!(stage.edges[0].get("/livez").await.status, 200);
    // Balancers may not have noticed yet: it still takes clients and delivers.
    clients.push(Client::connect(stage.edge(0), "from=earliest").await);
    collector.flush(10).await;
    clients[0].all_of(&collector).await;
    assert!(asked.elapsed() < Duration::from_millis(GRACE_MS), "too late to prove anything");

    for client in &mut clients {
        let (code, _) = client.closed().await;
        assert_eq!(code, 1012);
        assert!(asked.elapsed() >= Duration::from_millis(GRACE_MS));
        let goodbye = client.ledger.last("goodbye");
        assert_eq!(goodbye["reason"], "draining");
        assert!(goodbye["reconnect_after_ms"].as_u64().is_some_and(|after| after > 0), "{goodbye}");
        assert_eq!(goodbye.as_object().map(|members| members.len()), Some(4), "{goodbye}");
    }
    collector.flush(10).await;
    assert_eq!(stage.edges[0].ended().await, Some(0));

    for client in &mut clients {
        client.resume(stage.edge(1)).await;
    }
    collector.flush(10).await;
    for number in [0, 3, 4] {
        clients[number].all_of(&collector).await;
    }
    let wanted = collector.flushed();
    clients[1].until("its part", |ledger| ledger.metrics() >= wanted.len()).await;
    assert_eq!(clients[1].ledger.numbers("web-01", "mem"), wanted);
    assert_eq!(clients[2].ledger.metrics(), 0);
    assert!(clients.iter().all(|client| client.ledger.gaps.is_empty()));
}

/// A client that is still being fed from the log is at neither end: its goodbye must name exactly where it is.
#[tokio::test]
async fn a_client_that_is_sent_away_while_it_catches_up_goes_on_elsewhere_without_loss() {
    let stage = Stage::with(2, |launch| {
        let launch = launch.set("edge.drain_grace_ms", 0).set("edge.drain_waves_ms", 0);
        launch.set("edge.ring_bytes_max", 1 << 20).set("collector.envelope_bytes_max", 1 << 16)
    })
    .await;
    let mut collector = stage.collector("web-01");
    for _ in 0..3_000 {
        collector.flush(2).await;
    }
    let mut witness = Client::connect(stage.edge(1), "").await;
    collector.flush(1).await;
    // From then on nobody can be overtaken by new data for not reading while the others are.
    let last = collector.flushed().last().copied();
    witness.until("the end", |ledger| ledger.numbers("web-01", "mem").last().copied() == last).await;
    let mut clients = Vec::new();
    for parameters in
        ["from=earliest", "from=earliest&filter=*.mem", "from=earliest&filter=*.cpu%7Bcpu=cpu1%7D"]
    {
        clients.push(Client::connect(stage.edge(0), parameters).await);
    }
    clients[0].until("a beginning", |ledger| ledger.metrics() > 100).await;
    stage.edges[0].terminate();
    for client in &mut clients {
        assert_eq!(client.closed().await.0, 1012);
        client.resume(stage.edge(1)).await;
    }
    assert_eq!(stage.edges[0].ended().await, Some(0));
    let flushed = collector.flushed();
    clients[0].all_of(&collector).await;
    clients[1].until("its part", |ledger| ledger.metrics() >= flushed.len()).await;
    clients[1].channel_is("web-01", "mem", &flushed);
    let wanted: Vec<i64> = flushed.into_iter().filter(|number| number % 4 == 1).collect();
    clients[2].until("its part", |ledger| ledger.metrics() >= wanted.len()).await;
    clients[2].channel_is("web-01", "cpu", &wanted);
}

#[tokio::test]
async fn nodes_stop_in_time_and_well_while_nats_is_away() {
    let stage = Stage::with(1, |launch| {
        let launch = launch.set("edge.drain_grace_ms", 0).set("edge.drain_waves_ms", 0);
        launch.set("collector.write_timeout_ms", 500)
    })
    .await;
    let mut client = Client::connect(stage.edge(0), "").await;
    stage.nats.kill();
    stage.ingest.terminate();
    stage.edges[0].terminate();
    let asked = Instant::now();
    assert_eq!(client.closed().await.0, 1012);
    assert_eq!(stage.edges[0].ended().await, Some(0));
    assert_eq!(stage.ingest.ended().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}
