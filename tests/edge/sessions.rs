//! Liveness, heartbeats, limits, and the end of a session.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::bench::{End, Log, PATIENCE, RunningEdge, settings, until};

const SHORT_HEARTBEAT: (&str, &str) = ("edge.heartbeat_ms", "1000");

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_moves_the_offset_of_a_client_whose_filter_matches_nothing() {
    let settings = settings(&[SHORT_HEARTBEAT]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("?filter=nobody.>").await;
    let before = client.offset.clone();
    log.publish_many("web-01", 20).await;
    while client.offset == before {
        client.read_type("heartbeat").await;
    }
    let mut resumed = client.resume(&edge, "").await;
    let next = log.publish("web-01", "cpu").await;
    resumed.read_rows(1).await;
    assert_eq!(resumed.rows, [next], "the offset has seen the twenty");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_answer_pings_is_reaped_and_one_that_does_is_not() {
    let settings = settings(&[SHORT_HEARTBEAT]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut alive = edge.connect("").await;
    // Never read from again: tungstenite answers pings only when it is read.
    let silent = edge.connect("").await;
    assert_eq!(edge.node.clients(), 2);
    let gone = until(|| edge.node.clients() == 1);
    tokio::select! {
        () = gone => {}
        end = alive.read_end() => panic!("{end:?}"),
    }
    alive.ping().await;
    drop(silent);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_messages_are_refused_and_the_stream_goes_on() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("").await;
    for id in 0..80 {
        client.send(json!({"type": "ping", "id": id})).await;
    }
    let error = client.read_type("error").await;
    assert_eq!(error["code"], "rate_limited", "{error}");
    assert!(error["id"].as_u64().unwrap() >= 50);
    log.publish_many("web-01", 3).await;
    client.read_rows(3).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_no_use_have_the_same_rate_and_what_comes_too_fast_waits() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("").await;
    let started = std::time::Instant::now();
    for _ in 0..65 {
        client.socket.send(Message::Binary(Default::default())).await.unwrap();
    }
    client.send(json!({"type": "ping", "id": "last"})).await;
    for _ in 0..65 {
        assert_eq!(client.read_type("error").await["code"], "bad_message");
    }
    // Fifty at once, then ten in a second: the last of 66 is not read in the first one.
    assert_eq!(client.read_type("pong").await["id"], "last");
    assert!(started.elapsed() >= std::time::Duration::from_secs(1), "{:?}", started.elapsed());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered_and_frees_the_place() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("").await;
    client.socket.close(None).await.unwrap();
    loop {
        match tokio::time::timeout(PATIENCE, client.socket.next()).await.unwrap() {
            Some(Ok(Message::Close(frame))) => assert_eq!(u16::from(frame.unwrap().code), 1000),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    until(|| edge.node.clients() == 0).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_allowed_ends_the_session_with_1009() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("").await;
    // The peer may cut the connection before all of it is written.
    let _ = client.socket.send(Message::text("x".repeat(64 * 1024))).await;
    match client.read_end().await {
        End::Close(code, reason) => assert_eq!(code, 1009, "{reason}"),
        End::Cut => panic!("cut without a close frame"),
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_goodbye_with_an_offset_that_resumes_elsewhere() {
    let settings = settings(&[("edge.drain_waves_ms", "300")]);
    let log = Log::new(&settings);
    let leaving = RunningEdge::start(log.broker.clone(), &settings).await;
    let staying = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = leaving.connect("").await;
    let mut truth = log.publish_many("web-01", 10).await;
    client.read_rows(10).await;
    let (end, ()) = tokio::join!(client.read_end(), leaving.edge.drain());
    assert!(matches!(end, End::Close(1012, _)), "{end:?}");
    truth.extend(log.publish_many("web-01", 10).await);
    let mut client = client.resume(&staying, "").await;
    client.read_rows(20).await;
    assert_eq!(client.rows, truth);
    assert!(client.gaps.is_empty());
    assert_eq!(leaving.node.clients(), 0);
    tokio::time::timeout(Duration::from_secs(10), leaving.stop()).await.unwrap();
    staying.stop().await;
}

/// Enough to block a socket in the middle of a frame: more than the kernel takes for a client that does not read.
async fn publish_more_than_a_socket_takes(log: &Log) {
    for _ in 0..60 {
        log.publish_padded("web-01", "cpu", 250_000).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_never_takes_a_client_back_behind_a_frame_that_was_begun() {
    let settings = settings(&[SHORT_HEARTBEAT]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("").await;
    publish_more_than_a_socket_takes(&log).await;
    // The client does not read while two heartbeats would be due; the ledger checks each offset it then gets.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    client.read_rows(60).await;
    client.ping().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_holds_when_another_wish_follows_while_a_frame_is_half_written() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut client = edge.connect("").await;
    let start = client.offset.clone();
    publish_more_than_a_socket_takes(&log).await;
    client.send(json!({"type": "replay", "from": start.as_str(), "id": 1})).await;
    client.send(json!({"type": "subscribe", "filter": "web-01.>", "id": 2})).await;
    assert_eq!(client.read_type("ack").await["id"], 1);
    let before = client.rows.len();
    // From here on the client gets again what it may have got already.
    client.offset = start;
    assert_eq!(client.read_type("ack").await["id"], 2);
    client.read_rows(before + 60).await;
    let counts: Vec<u64> = client.rows[before..].iter().map(|row| row.2).collect();
    assert_eq!(counts, (1..=60).collect::<Vec<_>>());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_a_client_begins_and_does_not_end_is_closed_with_4008() {
    let settings = settings(&[("edge.client_message_timeout_ms", "200")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    // The beginning of a frame, and that of a message with a ping behind it.
    for begun in [&[0x81, 0xfe][..], &[0x01, 0x81, 0, 0, 0, 0, b'{', 0x89, 0x80, 0, 0, 0, 0]] {
        let mut client = edge.connect("").await;
        let tokio_tungstenite::MaybeTlsStream::Plain(stream) = client.socket.get_mut() else {
            panic!("no TLS")
        };
        tokio::io::AsyncWriteExt::write_all(stream, begun).await.unwrap();
        let End::Close(code, reason) = client.read_end().await else { panic!("no close frame") };
        assert_eq!((code, reason.as_str()), (4008, "a message was not complete within 0.2 s"), "{begun:?}");
    }
    edge.stop().await;
}
