//! Once, in order, whatever the live flow and the connections do.

use std::time::Duration;

use crate::bench::{Client, Log, Row, RunningEdge, by_collector, settings, tiny_ring};
use crate::unruly::{Live, Unruly};

#[tokio::test(flavor = "multi_thread")]
async fn live_messages_that_are_dropped_repeated_or_late_arrive_once_and_in_order() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    for seed in 0..5 {
        let edge = RunningEdge::start(Unruly::new(&log, Live::Disordered(seed)), &settings).await;
        let mut everything = edge.connect("").await;
        let mut one = edge.connect("?filter=web-01.>").await;
        let mut lines = edge.connect("?filter=*.cpu{region=eu}").await;
        let mut truth = Vec::new();
        for turn in 0..300 {
            let collector = ["web-01", "web-02", "db-01"][turn % 3];
            truth.push(log.publish(collector, if turn % 2 == 0 { "cpu" } else { "mem" }).await);
        }
        everything.read_rows(truth.len()).await;
        assert_eq!(everything.rows, truth, "seed {seed}");
        let of_one: Vec<Row> = truth.iter().filter(|row| row.0 == "web-01").cloned().collect();
        one.read_rows(of_one.len()).await;
        assert_eq!(one.rows, of_one, "seed {seed}");
        let of_lines: Vec<Row> =
            truth.iter().filter(|row| row.1 == "cpu" && row.2 % 2 == 0).cloned().collect();
        lines.read_rows(of_lines.len()).await;
        assert_eq!(lines.rows, of_lines, "seed {seed}");
        assert!(everything.gaps.is_empty() && one.gaps.is_empty() && lines.gaps.is_empty());
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_flow_that_brings_nothing_at_all_is_replaced_by_the_log() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(Unruly::new(&log, Live::Lost), &settings).await;
    let mut client = edge.connect("").await;
    let truth = log.publish_many("web-01", 50).await;
    client.read_rows(50).await;
    assert_eq!(client.rows, truth);
    edge.stop().await;
}

/// Until the log has been asked for its bounds so many times more.
async fn asked(broker: &Unruly, times: u64) {
    let before = broker.bounds_asked();
    while broker.bounds_asked() < before + times {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Right after an election, or under load, a server may say less of the log than an edge has got from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lags_behind_an_edge_or_a_client_resets_nobody() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let (quick, slow) = (Unruly::new(&log, Live::Orderly), Unruly::new(&log, Live::Lost));
    let ahead = RunningEdge::start(quick.clone(), &settings).await;
    let behind = RunningEdge::start(slow.clone(), &settings).await;
    let mut client = ahead.connect("").await;
    slow.set_lag(1_000);
    let mut truth = log.publish_many("web-01", 10).await;
    client.read_rows(10).await;
    // In the silence edges ask whether they have missed something.
    quick.set_lag(5);
    asked(&quick, 3).await;
    quick.set_lag(0);
    truth.extend(log.publish_many("web-01", 10).await);
    client.read_rows(20).await;
    let answers = async {
        asked(&slow, 2).await;
        slow.set_lag(0);
    };
    let (mut client, ()) = tokio::join!(client.resume(&behind, ""), answers);
    truth.extend(log.publish_many("web-01", 5).await);
    client.read_rows(25).await;
    assert_eq!((client.rows, client.gaps), (truth, vec![]));
    ahead.stop().await;
    behind.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resumes_on_another_edge_without_a_gap_or_a_repetition() {
    for shards in ["1", "3"] {
        let settings = settings(&[("log.shards", shards)]);
        let log = Log::new(&settings);
        let mut edges = Vec::new();
        for seed in 0..2 {
            edges.push(RunningEdge::start(Unruly::new(&log, Live::Disordered(seed)), &settings).await);
        }
        let filters = ["", "?filter=*.cpu", "?filter=*.cpu{region=eu}&filter=db-01.mem"];
        let wanted = |which: usize, row: &Row| match which {
            0 => true,
            1 => row.1 == "cpu",
            _ => row.1 == "cpu" && row.2.is_multiple_of(2) || row.0 == "db-01" && row.1 == "mem",
        };
        let mut clients: Vec<Client> = Vec::new();
        for filter in filters {
            clients.push(edges[0].connect(filter).await);
        }
        let mut truth: Vec<Row> = Vec::new();
        let mut random = fastrand::Rng::with_seed(7);
        for turn in 0..20 {
            for _ in 0..random.usize(1..40) {
                let collector = ["web-01", "web-02", "db-01", "db-02"][random.usize(..4)];
                let measurement = ["cpu", "mem"][random.usize(..2)];
                truth.push(log.publish(collector, measurement).await);
            }
            let mut hopped = Vec::new();
            for (which, mut client) in clients.into_iter().enumerate() {
                let expected = truth.iter().filter(|row| wanted(which, row)).count();
                // Leave in the middle of what is coming.
                let leave_at = client.rows.len() + (expected - client.rows.len()) * random.usize(0..=4) / 4;
                client.read_rows(leave_at).await;
                hopped.push(client.resume(&edges[turn % 2], filters[which]).await);
            }
            clients = hopped;
        }
        for (which, client) in clients.iter_mut().enumerate() {
            let expected: Vec<Row> = truth.iter().filter(|row| wanted(which, row)).cloned().collect();
            client.read_rows(expected.len()).await;
            client.ping().await;
            assert_eq!(
                by_collector(&client.rows),
                by_collector(&expected),
                "{shards} shards, client {which}"
            );
            assert!(client.gaps.is_empty(), "{:?}", client.gaps);
        }
        for edge in edges {
            edge.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_older_than_the_ring_is_read_from_the_log_and_joins_without_a_seam() {
    let settings = tiny_ring(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let start = edge.connect("").await.offset;
    let mut truth = log.publish_many("web-01", 3_000).await;
    let mut old = edge.connect(&format!("?from={start}")).await;
    let mut earliest = edge.connect("?from=earliest").await;
    // They read all the time: a client that does not is too slow for this ring as soon as it is live.
    let (more, (), ()) = tokio::join!(
        log.publish_many("web-01", 500),
        old.read_rows(truth.len() + 500),
        earliest.read_rows(truth.len() + 500)
    );
    truth.extend(more);
    assert_eq!(old.rows, truth);
    assert_eq!(earliest.rows, truth);
    assert!(old.gaps.is_empty() && earliest.gaps.is_empty());
    truth.extend(log.publish_many("web-01", 10).await);
    old.read_rows(truth.len()).await;
    assert_eq!(old.rows, truth, "live after the replay");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_change_its_filter_and_go_back_without_missing_or_repeating() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("?filter=web-01.>").await;
    let start = client.offset.clone();
    let mut truth = log.publish_many("web-01", 5).await;
    let other = log.publish_many("web-02", 5).await;
    client.read_rows(5).await;
    edge.connect("?from=earliest").await.read_rows(10).await;
    client.send(serde_json::json!({"type": "subscribe", "id": 1, "filter": ["web-02.>"]})).await;
    assert_eq!(client.read_type("ack").await["id"], 1);
    client.ping().await;
    assert_eq!(client.rows, truth, "what lies behind is not sent again under another filter");
    truth.extend(log.publish_many("web-02", 1).await);
    client.read_rows(6).await;
    client.send(serde_json::json!({"type": "replay", "id": "again", "from": start})).await;
    assert_eq!(client.read_type("ack").await["id"], "again");
    client.read_rows(12).await;
    truth.extend(other);
    truth.push(truth[5].clone());
    assert_eq!(client.rows, truth);
    edge.stop().await;
}
