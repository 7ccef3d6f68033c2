//! What is lost is announced, and costs nobody else anything.

use std::time::Duration;

use telecast::config::Settings;
use telecast::proto::offset::{Epoch, Offset, Shard};

use crate::bench::{Log, RunningEdge, settings, tiny_ring};
use crate::unruly::{Live, Unruly};

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_announced_once_and_the_rest_follows() {
    let mut settings = tiny_ring(&[]);
    settings.log.max_bytes = 100_000;
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut witness = edge.connect("").await;
    let start = witness.offset.clone();
    let mut truth = Vec::new();
    for _ in 0..20 {
        // At the pace of the edge, or the log would let go of what the edge has not read yet.
        truth.extend(log.publish_many("web-01", 50).await);
        witness.read_rows(truth.len()).await;
    }
    assert_eq!(witness.rows, truth);
    let mut client = edge.connect(&format!("?from={start}")).await;
    assert_eq!(client.welcome["offset"], start, "the gap has not been told yet");
    let gap = client.next().await.unwrap();
    assert_eq!(
        (&gap["type"], &gap["from"], &gap["reason"]),
        (&"gap".into(), &start.into(), &"retention".into())
    );
    client.read_type("metrics").await;
    let lost = truth.iter().position(|row| *row == client.rows[0]).unwrap();
    assert!(lost > 0);
    client.read_rows(truth.len() - lost).await;
    assert_eq!(client.rows, truth[lost..]);
    assert_eq!(client.gaps.len(), 1);
    let mut earliest = edge.connect("?from=earliest").await;
    earliest.read_rows(client.rows.len()).await;
    assert!(earliest.gaps.is_empty(), "whoever asks for what there is has lost nothing");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_created_anew_is_announced_and_followed() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("").await;
    let away = log.publish_many("web-01", 10).await;
    client.read_rows(10).await;
    let before = client.offset.clone();
    log.broker.recreate(Shard(0)).unwrap();
    let mut truth = log.publish_many("web-01", 3).await;
    client.read_rows(13).await;
    assert_eq!(client.rows[10..], truth[..]);
    assert_eq!(client.gaps.len(), 1);
    assert_eq!((client.gaps[0].0.as_str(), client.gaps[0].2.as_str()), (before.as_str(), "reset"));

    // On an edge that has never seen the old log, its offset means a reset, then all of the new one.
    let other = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut returning = other.connect(&format!("?from={before}")).await;
    truth.extend(log.publish_many("web-01", 2).await);
    returning.read_rows(5).await;
    assert_eq!(returning.rows, truth);
    assert_eq!(returning.gaps.len(), 1);
    assert_eq!((returning.gaps[0].0.as_str(), returning.gaps[0].2.as_str()), (before.as_str(), "reset"));
    assert!(!returning.rows.contains(&away[0]));
    edge.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_gets_a_gap_and_costs_the_others_nothing() {
    let mut settings = tiny_ring(&[]);
    (settings.edge.ring_bytes_max, settings.edge.view_bytes_max) = (1 << 20, 1 << 20);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut slow = edge.connect("").await;
    let mut quick = edge.connect("").await;
    // 24 MB: more than the kernel keeps for the one that does not read. Much less than the ring at a time: who is overtaken by a
    // burst was not slow, and gets all that the log still has.
    let mut truth = Vec::new();
    for _ in 0..1_200 {
        for _ in 0..20 {
            truth.push(log.publish_padded("web-01", "cpu", 1_000).await);
        }
        quick.read_rows(truth.len()).await;
    }
    assert_eq!(quick.rows, truth);
    assert!(quick.gaps.is_empty());
    slow.read_type("gap").await;
    let last = log.publish("web-01", "cpu").await;
    while slow.rows.last() != Some(&last) {
        slow.next().await.unwrap();
    }
    assert!(slow.gaps.iter().all(|gap| gap.2 == "slow"), "{:?}", slow.gaps);
    assert!(slow.rows.len() < truth.len());
    assert!(slow.rows.is_sorted_by(|a, b| a.2 < b.2), "in order, nothing twice");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_for_too_long_is_disconnected() {
    let mut settings = settings(&[]);
    settings.edge.slow_client_timeout = Duration::from_secs(1);
    a_client_that_does_not_read_is_disconnected(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_slow_clients_are_disconnected_it_is_when_the_stream_overtakes_them() {
    let mut settings = tiny_ring(&[("edge.slow_client.policy", "disconnect")]);
    settings.edge.slow_client_timeout = Duration::from_secs(3600);
    a_client_that_does_not_read_is_disconnected(&settings).await;
}

/// What is published is in step with a client that reads, so that nobody but the one that does not read is ever behind.
async fn a_client_that_does_not_read_is_disconnected(settings: &Settings) {
    let log = Log::new(settings);
    let edge = RunningEdge::start(log.broker.clone(), settings).await;
    let slow = edge.connect("").await;
    let mut quick = edge.connect("").await;
    let mut published = 0;
    while edge.node.clients() > 1 {
        log.publish_padded("web-01", "cpu", 2_000).await;
        published += 1;
        quick.read_rows(published).await;
    }
    assert!(quick.gaps.is_empty());
    drop(slow);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_what_there_is_has_lost_nothing_on_any_shard() {
    let mut settings = tiny_ring(&[("log.shards", "2")]);
    settings.log.max_bytes = 50_000;
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut witness = edge.connect("").await;
    let mut published = 0;
    for _ in 0..20 {
        for collector in 0..6 {
            published += log.publish_many(&format!("web-{collector}"), 10).await.len();
        }
        witness.read_rows(published).await;
    }
    let mut earliest = edge.connect("?from=earliest").await;
    earliest.read_rows(300).await;
    assert!(earliest.gaps.is_empty(), "{:?}", earliest.gaps);
    edge.stop().await;
}

/// Tokens are opaque, not secret: whoever computes the checksum can claim to have been anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_the_log_never_had_is_a_reset_and_then_live() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut witness = edge.connect("").await;
    let mut published = log.publish_many("web-01", 5).await.len();
    witness.read_rows(published).await;
    let now: Offset = witness.offset.parse().unwrap();
    let beyond = |epoch, sequences: &[u64]| Offset { epoch, sequences: sequences.iter().copied().collect() };
    let places = [
        // (where it claims to be, how much of the log is new to it)
        (beyond(now.epoch, &[u64::MAX]), 0),
        (beyond(now.epoch, &[1_000_000]), 0),
        (beyond(Epoch(u64::MAX), &[u64::MAX]), usize::MAX),
        (beyond(now.epoch, &[u64::MAX; 64]), usize::MAX),
        (beyond(now.epoch, &[0, u64::MAX]), usize::MAX),
    ];
    for (place, old_max) in places {
        let mut client = edge.connect(&format!("?from={place}")).await;
        let old = published.min(old_max);
        published += log.publish_many("web-01", 1).await.len();
        client.read_rows(old + 1).await;
        assert_eq!(client.rows.last().unwrap().2 as usize, published);
        let gap = (place.token(), "reset".to_owned());
        assert_eq!(
            client.gaps.iter().map(|(from, _, why)| (from.clone(), why.clone())).collect::<Vec<_>>(),
            [gap]
        );
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_goes_back_while_a_client_stalls_is_a_reset_for_it_and_nothing_of_what_was_lost_comes_later()
 {
    const KEPT: usize = 1_500;
    const LOST: usize = 1_000;
    let mut settings = tiny_ring(&[("edge.send_buffer_bytes", "8192")]);
    (settings.edge.ring_bytes_max, settings.edge.view_bytes_max) = (1 << 20, 1 << 20);
    let mut log = Log::new(&settings);
    let forgetful = Unruly::new(&log, Live::Orderly);
    let edge = RunningEdge::start(forgetful.clone(), &settings).await;
    let mut stalled = edge.connect("").await;
    let mut quick = edge.connect("").await;
    // 25 MB: more than the kernel keeps for the one that does not read. Much less than the ring at a time: who is overtaken by a
    // burst was not slow, and gets all that the log still has.
    for published in (0..KEPT + LOST).step_by(10) {
        for _ in 0..10 {
            log.publish_padded("web-01", "cpu", 10_000).await;
        }
        quick.read_rows(published + 10).await;
    }
    log.broker = forgetful.forget(KEPT, &settings).await;
    let mut last = log.publish("web-01", "cpu").await;
    while !quick.gaps.iter().any(|gap| gap.2 == "reset") {
        quick.next().await.unwrap();
    }
    for _ in 0..10 {
        last = log.publish("web-01", "cpu").await;
    }
    while quick.rows.last() != Some(&last) {
        quick.next().await.unwrap();
    }
    let told = |gaps: &[(String, String, String)]| gaps.iter().any(|gap| gap.2 == "reset");
    while !told(&stalled.gaps) {
        stalled.next().await.unwrap();
    }
    let before = stalled.rows.len();
    let last = log.publish("web-01", "cpu").await;
    while stalled.rows.last() != Some(&last) {
        stalled.next().await.unwrap();
    }
    assert!(before < KEPT + LOST, "it has stalled");
    let lost = KEPT as u64 + 1..=(KEPT + LOST) as u64;
    assert!(stalled.rows[before..].iter().all(|row| !lost.contains(&row.2)), "{:?}", stalled.gaps);
    assert_eq!(stalled.gaps.iter().filter(|gap| gap.2 == "reset").count(), 1, "{:?}", stalled.gaps);
    edge.stop().await;
}
