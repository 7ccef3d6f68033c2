//! Crowds that come back: what they cost the log, and that nobody gets anything but what it missed.

use telecast::broker::Broker as _;
use telecast::proto::offset::{Offset, Sequence, Shard};
use tokio::task::JoinSet;

use crate::bench::{Client, Log, Row, RunningEdge, by_collector, tiny_ring, until};
use crate::unruly::{Live, Unruly};

/// Everybody reads at once, until each has as many rows as it is to get.
async fn all_read(clients: Vec<(Client, usize)>) -> Vec<Client> {
    let mut reading = JoinSet::new();
    for (mut client, rows) in clients {
        reading.spawn(async move {
            client.read_rows(rows).await;
            client
        });
    }
    reading.join_all().await
}

/// Waits until the edge has everything, which takes reads of its own if the live flow was too quick for it.
async fn settled(edge: &RunningEdge, log: &Log) {
    let mut head = Offset { epoch: telecast::proto::offset::Epoch(0), sequences: Default::default() };
    for shard in (0..log.broker.shards()).map(Shard) {
        head.sequences.push(log.broker.bounds(shard).await.unwrap().last);
    }
    loop {
        let probe: Offset = edge.connect("?filter=nobody.at_all").await.offset.parse().unwrap();
        if probe.sequences == head.sequences {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_back_costs_the_log_one_read_per_piece() {
    const CLIENTS: usize = 100;
    let settings = tiny_ring(&[]);
    let log = Log::new(&settings);
    let broker = Unruly::new(&log, Live::Orderly);
    let edge = RunningEdge::start(broker.clone(), &settings).await;
    let start: Offset = edge.connect("").await.offset.parse().unwrap();
    let truth = log.publish_many("web-01", 3_000).await;
    settled(&edge, &log).await;

    // All from the same place; then each from another one of the same seconds.
    for apart in [0, 3] {
        let before = broker.reads();
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let seen = number * apart;
            let from = start.with(Shard(0), seen as Sequence);
            clients.push((edge.connect(&format!("?from={from}")).await, truth.len() - seen));
        }
        for client in all_read(clients).await {
            assert_eq!(client.rows, truth[truth.len() - client.rows.len()..]);
            assert!(client.gaps.is_empty());
        }
        let reads = broker.reads() - before;
        assert!(reads <= 3_000_u64.div_ceil(512), "{reads} reads for {CLIENTS} clients, {apart} apart");
    }
    // By time: what was stored before the second is searched for once in each second.
    let before = broker.reads();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push((edge.connect("?from=-1h").await, truth.len()));
    }
    assert!(all_read(clients).await.iter().all(|client| client.rows == truth));
    let (reads, search) = (broker.reads() - before, 3_000_u64.ilog2() as u64 + 1);
    assert!(reads <= 10 * search, "{reads} reads, of {search} each second");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_back_to_several_shards_walks_the_same_way() {
    const CLIENTS: usize = 60;
    let settings = tiny_ring(&[("log.shards", "3")]);
    let log = Log::new(&settings);
    let broker = Unruly::new(&log, Live::Orderly);
    let edge = RunningEdge::start(broker.clone(), &settings).await;
    let start = edge.connect("").await.offset;
    let mut truth: Vec<Row> = Vec::new();
    for number in 0..9 {
        truth.extend(log.publish_many(&format!("web-{number}"), 300).await);
    }
    settled(&edge, &log).await;
    let before = broker.reads();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let filter = ["", "&filter=*.cpu"][number % 2];
        clients.push((edge.connect(&format!("?from={start}{filter}")).await, truth.len()));
    }
    for client in all_read(clients).await {
        assert_eq!(by_collector(&client.rows), by_collector(&truth));
        assert!(client.gaps.is_empty());
    }
    let reads = broker.reads() - before;
    assert!(reads <= 3 + 2_700 / 512, "{reads} reads for {CLIENTS} clients");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_whose_past_is_gone_is_told_so_after_few_questions() {
    const CLIENTS: usize = 60;
    let mut settings = tiny_ring(&[]);
    settings.log.max_bytes = 100_000;
    let log = Log::new(&settings);
    let broker = Unruly::new(&log, Live::Orderly);
    let edge = RunningEdge::start(broker.clone(), &settings).await;
    let start = edge.connect("").await.offset;
    let last = log.publish_many("web-01", 3_000).await.pop().unwrap();
    settled(&edge, &log).await;
    let before = (broker.reads(), broker.bounds_asked());
    let mut reading = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = edge.connect(&format!("?from={start}")).await;
        let last = last.clone();
        reading.spawn(async move {
            while client.rows.last() != Some(&last) {
                client.next().await.unwrap();
            }
            client.gaps
        });
    }
    for gaps in reading.join_all().await {
        assert_eq!(
            gaps.iter().map(|(from, _, why)| (from, why.as_str())).collect::<Vec<_>>(),
            [(&start, "retention")]
        );
    }
    let after = (broker.reads(), broker.bounds_asked());
    let (reads, bounds) = (after.0 - before.0, after.1 - before.1);
    assert!(reads <= 10 && bounds <= CLIENTS as u64 / 2, "{reads} reads, {bounds} questions for the bounds");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_ends_when_the_last_client_that_waits_for_it_is_gone() {
    let settings = tiny_ring(&[("edge.replay_concurrency_max", "1")]);
    let log = Log::new(&settings);
    let broker = Unruly::new(&log, Live::Orderly);
    let edge = RunningEdge::start(broker.clone(), &settings).await;
    let start = edge.connect("").await.offset;
    let truth = log.publish_many("web-01", 1_000).await;
    settled(&edge, &log).await;
    broker.set_mute(true);
    let from = format!("?from={start}");
    let (one, other) = (edge.connect(&from).await, edge.connect(&from).await);
    until(|| broker.waiting() == 1).await;
    drop(one);
    until(|| edge.node.clients() == 1).await;
    assert_eq!(broker.waiting(), 1, "the other still waits for it");
    drop(other);
    until(|| broker.waiting() == 0).await;
    broker.set_mute(false);
    // Had it gone on, there were no permit left.
    let mut client = edge.connect(&from).await;
    client.read_rows(truth.len()).await;
    assert_eq!(client.rows, truth);
    edge.stop().await;
}
