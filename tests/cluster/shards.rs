//! A log of several streams: order is per collector, and a place is one sequence per stream.

use std::collections::BTreeSet;

use crate::stage::Stage;
use crate::support::client::{Client, Event};
use crate::support::collector::Collector;

const COLLECTORS: usize = 9;

#[tokio::test]
async fn order_is_per_collector_and_offsets_of_one_edge_resume_on_another_exactly_once() {
    let stage = Stage::with(2, |launch| launch.set("log.shards", 3)).await;
    let mut clients = Vec::new();
    for (edge, parameters) in [(0, ""), (1, ""), (0, "filter=*.mem"), (1, "from=earliest")] {
        clients.push(Client::connect(stage.edge(edge), parameters).await);
    }
    let mut collectors: Vec<Collector> =
        (0..COLLECTORS).map(|number| stage.collector(&format!("web-{number}"))).collect();
    for round in 0..60 {
        for collector in &mut collectors {
            collector.flush(1).await;
        }
        // Somewhere in the stream, each to the other edge: the edges merge the streams in different orders.
        if round % 15 == 7 {
            for (number, client) in clients.iter_mut().enumerate() {
                client.until("something new", |ledger| ledger.metrics() > round * 4).await;
                client.resume(stage.edge((number + round / 15 + 1) % 2)).await;
            }
        }
    }
    let shards: BTreeSet<u64> = clients[0]
        .ledger
        .offset
        .iter()
        .flat_map(|offset| offset.sequences.iter().copied())
        .filter(|sequence| *sequence > 0)
        .collect();
    assert!(shards.len() > 1, "the collectors have come to more than one stream");
    for collector in &collectors {
        for number in [0, 1, 3] {
            clients[number].all_of(collector).await;
        }
        let flushed = collector.flushed();
        let id = collector.id();
        clients[2].until("its channel", |ledger| ledger.numbers(id, "mem").len() >= flushed.len()).await;
        clients[2].channel_is(id, "mem", &flushed);
    }
    assert!(clients.iter().all(|client| client.ledger.gaps.is_empty()));
    // Everybody has come to the same place, whatever the way.
    assert_eq!(clients[0].ledger.offset, clients[1].ledger.offset);
    assert_eq!(clients[0].ledger.offset, clients[3].ledger.offset);
}

#[tokio::test]
async fn an_edge_that_dies_under_a_log_of_three_streams_costs_nobody_anything() {
    let stage = Stage::with(2, |launch| launch.set("log.shards", 3)).await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let mut collectors: Vec<Collector> =
        (0..COLLECTORS).map(|number| stage.collector(&format!("web-{number}"))).collect();
    for round in 0..40 {
        for collector in &mut collectors {
            collector.flush(1).await;
        }
        if round == 20 {
            client.until("a part", |ledger| ledger.metrics() > 100).await;
            stage.edges[0].kill();
        }
    }
    while client.next().await != Event::Lost {}
    client.resume(stage.edge(1)).await;
    for collector in &collectors {
        client.all_of(collector).await;
    }
    assert!(client.ledger.gaps.is_empty());
}

#[tokio::test]
async fn one_stream_created_anew_is_one_reset_of_the_whole_log() {
    let stage = Stage::with(2, |launch| launch.set("log.shards", 3)).await;
    let mut stayed = Client::connect(stage.edge(0), "").await;
    let mut left = Client::connect(stage.edge(1), "").await;
    let mut collectors: Vec<Collector> =
        (0..COLLECTORS).map(|number| stage.collector(&format!("web-{number}"))).collect();
    for collector in &mut collectors {
        collector.flush(5).await;
    }
    for collector in &collectors {
        stayed.all_of(collector).await;
        left.all_of(collector).await;
    }
    crate::resume::recreate(&stage, "telecast-1").await;
    stayed.until("a reset", |ledger| ledger.gaps.len() == 1).await;
    for collector in &mut collectors {
        collector.flush(5).await;
    }
    for collector in &collectors {
        stayed.all_of(collector).await;
    }
    assert_eq!(stayed.ledger.gap_reasons(), ["reset"]);
    // Who comes back with an offset of the old log gets what the new one has: the two old streams as well.
    left.resume(stage.edge(0)).await;
    left.until("the end", |ledger| ledger.offset == stayed.ledger.offset).await;
    assert_eq!(left.ledger.gap_reasons(), ["reset"]);
    for collector in &collectors {
        let numbers = left.ledger.numbers(collector.id(), "cpu");
        assert!(numbers.ends_with(&[5, 6, 7, 8, 9]), "{numbers:?}");
    }
}
