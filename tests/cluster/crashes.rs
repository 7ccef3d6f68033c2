//! Whatever dies, and however: clients end with every metric exactly once.

use std::time::Duration;

use crate::stage::Stage;
use crate::support::client::{Client, Event};
use crate::support::collector::{Collector, MEASUREMENTS};
use crate::support::ledger::Ledger;
use crate::support::telecast;

/// A collector that dies within a frame has sent nothing of it, and its successor is not kept out by what is left of it.
#[tokio::test]
async fn a_collector_killed_in_the_middle_of_a_flush_costs_nothing_but_that_flush() {
    let stage = Stage::new().await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let mut collector = stage.collector("web-01");
    for _ in 0..10 {
        collector.flush(5).await;
    }
    let next = collector.die_in_the_middle(5).await;
    // A supervisor takes longer to start it again than ingest to see the end of the socket.
    let gone = async || (stage.ingest.metric("ws_collectors_connected").await == 0.0).then_some(());
    crate::support::eventually("the end of the old connection", gone).await;
    let mut successor = Collector::reborn("web-01", &[stage.ingest.address()], next);
    for _ in 0..10 {
        successor.flush(5).await;
    }
    client.all_of(&successor).await;
    assert!(client.ledger.gaps.is_empty());
}

#[tokio::test]
async fn clients_of_a_killed_edge_go_on_at_the_other_one_without_loss_or_repetition() {
    let stage = Stage::new().await;
    let mut everything = Client::connect(stage.edge(0), "").await;
    let mut some = Client::connect(stage.edge(0), "filter=*.cpu%7Bcpu=cpu1%7D").await;
    let mut collector = stage.collector("web-01");
    for round in 0..40 {
        collector.flush(2).await;
        if round == 15 {
            // Somewhere in the stream: some messages were read, some are on their way.
            everything.until("a part", |ledger| ledger.metrics() > 30).await;
            stage.edges[0].kill();
        }
    }
    for client in [&mut everything, &mut some] {
        while client.next().await != Event::Lost {}
        client.resume(stage.edge(1)).await;
        assert!(client.ledger.gaps.is_empty());
    }
    everything.all_of(&collector).await;
    let wanted: Vec<i64> = collector.flushed().into_iter().filter(|number| number % 4 == 1).collect();
    let all_came = |ledger: &Ledger| ledger.metrics() >= wanted.len();
    some.until("its part", all_came).await;
    some.channel_is("web-01", "cpu", &wanted);
    assert_eq!(some.ledger.channels(), [("web-01", "cpu")]);
}

#[tokio::test]
async fn a_nats_server_killed_and_started_again_costs_nobody_anything() {
    let stage = Stage::new().await;
    let mut clients = [Client::connect(stage.edge(0), "").await, Client::connect(stage.edge(1), "").await];
    let mut collector = stage.collector("web-01");
    for round in 0..60 {
        collector.flush(2).await;
        match round {
            20 => stage.nats.kill(),
            // While it is away, ingest keeps what comes.
            40 => stage.nats.restart(),
            _ => {}
        }
    }
    for client in &mut clients {
        // The same connection all the time: `all_of` fails when it ends.
        client.all_of(&collector).await;
        assert!(client.ledger.gaps.is_empty());
    }
    assert_eq!(clients[0].ledger.data, clients[1].ledger.data);
}

/// Killed in the middle of a burst, the server may have stored what it did not acknowledge: sent again, that must not be
/// stored twice.
#[tokio::test]
async fn what_was_stored_but_not_acknowledged_is_not_stored_again() {
    let stage = Stage::new().await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let mut collectors: Vec<Collector> =
        (0..8).map(|number| stage.collector(&format!("web-{number}"))).collect();
    for _ in 0..5 {
        for collector in &mut collectors {
            for _ in 0..20 {
                collector.flush(1).await;
            }
        }
        stage.nats.restart();
    }
    for collector in &collectors {
        client.all_of(collector).await;
    }
    assert!(client.ledger.gaps.is_empty());
}

#[tokio::test]
async fn an_ingest_that_is_asked_to_stop_loses_nothing_it_accepted() {
    let stage = Stage::with(1, |launch| launch.set("edge.drain_grace_ms", 300)).await;
    let other = telecast::ingest(&stage.nats.url()).start().await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let targets = [stage.ingest.address(), other.address()];
    let mut collectors: Vec<Collector> =
        (0..4).map(|number| Collector::new(&format!("web-{number}"), &targets)).collect();
    let mut rounds = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    // Until the old one is gone and some rounds more, so that every step of its drain happens under traffic.
    while rounds < 20
        || !stage.ingest.logged("stopped")
        || other.metric("ws_collectors_connected").await < 4.0
    {
        pace.tick().await;
        for collector in &mut collectors {
            collector.flush(2).await;
        }
        rounds += 1;
        if rounds == 10 {
            stage.ingest.terminate();
        }
    }
    assert_eq!(stage.ingest.ended().await, Some(0));
    assert!(!stage.ingest.logged("accepted_metrics_lost"));
    for collector in &collectors {
        let flushed = collector.flushed();
        for measurement in MEASUREMENTS {
            let count = |ledger: &Ledger| ledger.numbers(collector.id(), measurement).len();
            client.until("everything accepted", |ledger| count(ledger) >= flushed.len()).await;
            // What the old node accepted last may be stored after what the new one accepted first: nothing in the
            // cluster orders two nodes' writes of one collector.
            let mut numbers = client.ledger.numbers(collector.id(), measurement).to_vec();
            numbers.sort_unstable();
            assert_eq!(numbers, flushed, "{} {measurement}", collector.id());
        }
    }
    assert!(client.ledger.gaps.is_empty());
}

/// Telegraf sends a flush again whose write failed, though all of it may have arrived.
#[tokio::test]
async fn a_flush_that_is_sent_again_is_stored_once() {
    let stage = Stage::with(1, |launch| launch).await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let mut collector = stage.collector("web-01");
    for _ in 0..20 {
        let next = collector.flushed().len() as i64;
        collector.flush(3).await;
        client.all_of(&collector).await;
        let gone = async || (stage.ingest.metric("ws_collectors_connected").await == 0.0).then_some(());
        drop(collector);
        crate::support::eventually("the end of the connection", gone).await;
        collector = Collector::reborn("web-01", &[stage.ingest.address()], next);
        collector.flush(3).await;
    }
    collector.flush(1).await;
    client.all_of(&collector).await;
}

#[tokio::test]
async fn an_edge_that_was_frozen_goes_on_without_a_gap() {
    let stage = Stage::new().await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let mut witness = Client::connect(stage.edge(1), "").await;
    let mut collector = stage.collector("web-01");
    for round in 0..60 {
        for _ in 0..20 {
            collector.flush(1).await;
        }
        match round % 20 {
            5 => stage.edges[0].pause(),
            15 => stage.edges[0].resume(),
            _ => {}
        }
    }
    witness.all_of(&collector).await;
    client.all_of(&collector).await;
    assert_eq!(client.ledger.data, witness.ledger.data);
    assert!(client.ledger.gaps.is_empty());
}
