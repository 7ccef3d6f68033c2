//! What clients and servers say to each other, from outside: one node, with its log in its own memory.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::Client;
use crate::support::collector::{Collector, MEASUREMENTS};
use crate::support::event_source::EventSource;
use crate::support::telecast::{self, Telecast};
use crate::support::wire;

async fn write(node: &Telecast, lines: &str) {
    assert_eq!(node.post("/api/v1/write", lines.to_owned()).await.status, 204);
}

/// The names of an object's members, sorted.
fn members(value: &Value) -> Vec<&str> {
    let mut members: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    members.sort_unstable();
    members
}

#[tokio::test]
async fn a_session_begins_with_a_welcome_and_brings_metrics_as_documented() {
    let node = telecast::standalone().node("node-7").start().await;
    let mut client = Client::attempt(node.address(), "/ws/clients", "").await.expect("a session");
    let welcome = client.ledger.last("welcome").clone();
    assert_eq!(
        members(&welcome),
        ["heartbeat_ms", "matching", "node", "offset", "protocol", "session", "type"]
    );
    assert_eq!((&welcome["protocol"], &welcome["node"]), (&json!(1), &json!("node-7")));
    assert_eq!(welcome["heartbeat_ms"], 15_000);

    let lines = [
        r#"cpu,host=web-01,cpu=cpu0 n=1i,busy=0.5,ok=t,note="a \"b\"\nc",big=18446744073709551615u 1767225600123456789"#,
        "mem,host=web-01 n=2i",
    ];
    let before_ms = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis() as u64;
    write(&node, &lines.join("\n").replace("\\n", "\n")).await;
    client.until("the metrics", |ledger| ledger.metrics() == 2).await;
    let message: Value = serde_json::from_str(&client.ledger.data[0]).expect("JSON");
    assert_eq!(members(&message), ["collector", "metrics", "offset", "type"]);
    assert_eq!(message["collector"], "web-01");
    let fields = json!({"n": 1, "busy": 0.5, "ok": true, "note": "a \"b\"\nc", "big": u64::MAX});
    let tags = json!({"host": "web-01", "cpu": "cpu0"});
    let metric = json!({"name": "cpu", "tags": tags, "fields": fields, "timestamp": 1_767_225_600_123_i64});
    assert_eq!(message["metrics"], json!([metric]));
    // A line without a time gets that of its arrival.
    let message: Value = serde_json::from_str(&client.ledger.data[1]).expect("JSON");
    let arrived_ms = message["metrics"][0]["timestamp"].as_u64().expect("milliseconds");
    assert!((before_ms..before_ms + 60_000).contains(&arrived_ms), "{arrived_ms}");
}

#[tokio::test]
async fn filters_let_through_what_they_say_and_nothing_else() {
    let node = telecast::standalone().start().await;
    let cases: [(&str, &[i64]); 8] = [
        ("", &[1, 2, 3, 4, 5]),
        ("filter=%3E", &[1, 2, 3, 4, 5]),
        ("filter=web-01.*", &[1, 2, 3]),
        ("filter=*.cpu", &[1, 2, 4]),
        ("filter=*.cpu%7Bcpu%3Dcpu-total%7D", &[1, 4]),
        ("filter=*.cpu%7Bcpu%3Dcpu-total,region%3Deu-*%7D", &[1]),
        ("filter=web-01.mem&filter=web-02.example.org.disk", &[3, 5]),
        ("filter=*.cpu%7Bcpu!%3Dcpu-total%7D&filter=*.mem", &[2, 3]),
    ];
    let mut clients = Vec::new();
    for (parameters, _) in cases {
        clients.push(Client::connect(node.address(), parameters).await);
    }
    let lines = [
        "cpu,host=web-01,cpu=cpu-total,region=eu-1 n=1i 1767225600000000001",
        "cpu,host=web-01,cpu=cpu0,region=eu-1 n=2i 1767225600000000002",
        "mem,host=web-01,region=eu-1 n=3i 1767225600000000003",
        "cpu,host=web-02.example.org,cpu=cpu-total,region=us-1 n=4i 1767225600000000004",
        "disk,host=web-02.example.org n=5i 1767225600000000005",
    ];
    write(&node, &lines.join("\n")).await;
    // Behind everything else: whoever has got it has got all there was for it.
    for (mut client, (parameters, wanted)) in clients.into_iter().zip(cases) {
        let pong = client.ask(r#"{"type":"ping","id":"end"}"#, "pong").await;
        assert_eq!(pong, json!({"type": "pong", "id": "end"}));
        client.until(parameters, |ledger| ledger.metrics() >= wanted.len()).await;
        let channels = client.ledger.channels();
        let mut numbers: Vec<i64> = channels
            .iter()
            .flat_map(|(collector, name)| client.ledger.numbers(collector, name))
            .copied()
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, wanted, "{parameters}");
    }
}

/// So that braces which curl or a shell has eaten are seen, and names that are misspelled.
#[tokio::test]
async fn a_client_is_told_how_many_series_its_filters_have_on_every_transport() {
    let node = telecast::standalone().start().await;
    write(&node, "cpu,host=web-01,cpu=cpu-total n=1i\ncpu,host=web-01,cpu=cpu0 n=2i\nmem,host=web-01 n=3i")
        .await;
    for (filter, matching) in [
        ("", 3),
        ("filter=*.cpu", 2),
        ("filter=*.cpu%7Bcpu=cpu-total%7D", 1),
        ("filter=*.cpucpu=cpu-total", 0),
        ("filter=web-1.*", 0),
    ] {
        let client = Client::connect(node.address(), filter).await;
        assert_eq!(client.ledger.last("welcome")["matching"], matching, "{filter}");
        let poll = node.get(&format!("/api/metrics/poll?timeout=0&{filter}")).await;
        assert_eq!(poll.json["matching"], matching, "{filter}");
        let source = EventSource::connect(node.address(), filter).await;
        assert_eq!(source.ledger.last("welcome")["matching"], matching, "{filter}");
    }
    let mut client = Client::connect(node.address(), "").await;
    for (filter, matching) in [("*.cpu", 2), ("*.cpu{cpu=cpu-total}", 1), ("*.cpo", 0)] {
        let ack = client.ask(&json!({"type": "subscribe", "filter": filter}).to_string(), "ack").await;
        assert_eq!(ack["matching"], matching, "{filter}");
    }
}

#[tokio::test]
async fn messages_are_answered_with_their_ids_and_bad_ones_with_errors() {
    let node = telecast::standalone().start().await;
    let mut client = Client::connect(node.address(), "").await;
    assert_eq!(client.ask(r#"{"type":"ping"}"#, "pong").await, json!({"type": "pong"}));
    assert_eq!(client.ask(r#"{"type":"ping","id":17}"#, "pong").await, json!({"type": "pong", "id": 17}));
    let subscribe = r#"{"type":"subscribe","id":"s","filter":["*.mem","*.disk"],"from":"earliest"}"#;
    assert_eq!(client.ask(subscribe, "ack").await, json!({"type": "ack", "id": "s", "matching": 0}));

    let bad = [
        ("nonsense", "bad_message", json!(null)),
        ("[]", "bad_message", json!(null)),
        (r#"{"type":"dance","id":1}"#, "bad_message", json!(1)),
        (r#"{"type":"subscribe","id":2,"filter":"a.b.{"}"#, "bad_filter", json!(2)),
        (r#"{"type":"subscribe","id":3,"from":"yesterday"}"#, "bad_from", json!(3)),
        (r#"{"type":"subscribe","id":4,"format":"xml"}"#, "bad_format", json!(4)),
        (r#"{"type":"subscribe","id":5,"interval":"often"}"#, "bad_interval", json!(5)),
        (r#"{"type":"subscribe","id":6,"colour":"red"}"#, "bad_message", json!(6)),
        (r#"{"type":"replay","id":7}"#, "bad_from", json!(7)),
    ];
    for (message, code, id) in bad {
        let error = client.ask(message, "error").await;
        assert_eq!((&error["code"], &error["id"]), (&json!(code), &id), "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.len() > 20), "{error}");
    }
    let had = client.ledger.count("error");
    client.send_raw(Message::binary(vec![1, 2, 3])).await;
    client.until("an error", |ledger| ledger.count("error") > had).await;
    // After all that, the subscription is as it was.
    write(&node, "cpu,host=a n=1i 1\nmem,host=a n=2i 1\ndisk,host=a n=3i 1").await;
    client.until("two metrics", |ledger| ledger.metrics() == 2).await;
    assert_eq!(client.ledger.channels(), [("a", "disk"), ("a", "mem")]);
}

#[tokio::test]
async fn line_protocol_comes_as_it_was_written_behind_a_line_with_the_offset() {
    let node = telecast::standalone().start().await;
    let mut client = Client::connect(node.address(), "format=influx&filter=*.cpu").await;
    let mut collector = Collector::new("web-01", &[node.address()]);
    collector.flush(3).await;
    client.until("three metrics", |ledger| ledger.metrics() == 3).await;
    client.channel_is("web-01", "cpu", &[0, 1, 2]);
    let lines: Vec<&str> = client.ledger.data.iter().flat_map(|text| text.lines().skip(1)).collect();
    assert_eq!(lines[1], "cpu,cpu=cpu1,host=web-01,region=eu-1 n=1i,usage=12.5 1767225600001000000");
}

#[tokio::test]
async fn bad_requests_are_refused_before_the_upgrade_with_what_to_do() {
    let node = telecast::standalone().start().await;
    let cases = [
        ("filter=a.b.%7B", 400, "bad_filter"),
        ("from=yesterday", 400, "bad_from"),
        ("from=AAAA", 400, "bad_from"),
        ("from=ARjqRNIhIvrXAQiuCq7", 400, "bad_from"),
        ("from=ARjqRNIhIvrXAQiuCq8H", 400, "bad_from"),
        ("from=%00%ff%F0%9F%8E%B2", 400, "bad_from"),
        ("format=xml", 400, "bad_format"),
        ("interval=often", 400, "bad_interval"),
        ("snapshot=perhaps", 400, "bad_snapshot"),
        ("filters=*.cpu", 400, "bad_parameter"),
        ("from=latest&from=earliest", 400, "bad_parameter"),
    ];
    for (parameters, status, code) in cases {
        let refusal = Client::attempt(node.address(), "/ws", parameters).await.err().expect("a refusal");
        assert_eq!((refusal.status, &refusal.json["error"]["code"]), (status, &json!(code)), "{parameters}");
        assert!(refusal.json["error"]["message"].is_string());
    }
    for (path, status) in [("/ws", 426), ("/ws/clients", 426), ("/ws/collector", 426), ("/nowhere", 404)] {
        let answer = node.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(members(&answer.json["error"]), ["code", "message"], "{path}");
    }
    assert!(
        node.get("/ws/client").await.json["error"]["message"].as_str().expect("text").contains("/ws/clients")
    );
    let refusal = Client::attempt(node.address(), "/websocket", "").await.err().expect("a refusal");
    assert_eq!((refusal.status, &refusal.json["error"]["code"]), (404, &json!("unknown_path")));
}

#[tokio::test]
async fn frames_against_the_rules_end_the_connection_with_their_code() {
    let node = telecast::standalone().start().await;
    let mut client = Client::connect(node.address(), "").await;
    let message = format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(20_000));
    client.send(&message).await;
    assert_eq!(client.closed().await.0, 1009);

    let cases = [
        ("unmasked", wire::unmasked(wire::TEXT, br#"{"type":"ping"}"#), 1002),
        ("a reserved opcode", wire::masked(3, b"?"), 1002),
        ("a long ping", wire::masked(wire::PING, &[0; 126]), 1002),
        ("text that is none", wire::masked(wire::TEXT, &[0xff, 0xfe]), 1007),
    ];
    for (what, frame, code) in cases {
        let mut stream = wire::shake_hands(node.address(), "/ws").await.expect("a session");
        stream.write_all(&frame).await.expect("an open connection");
        assert_eq!(wire::read_close(&mut stream).await, code, "{what}");
        // The same in one piece with the handshake.
        let hasty = wire::shake_hands_hastily(node.address(), "/ws", &frame).await;
        assert_eq!(wire::read_close(&mut hasty.expect("a session")).await, code, "{what}, hastily");
    }
}

/// Each row is one envelope per measurement, in the order of `MEASUREMENTS`: so the first row of the new filter is the last of
/// the old one, or the next. A place in the middle of a row is rare, and has one row of neither: the envelope of the new
/// filter lies before it, that of the old one behind it.
#[tokio::test]
async fn a_change_of_filters_goes_on_at_the_same_place() {
    let node = telecast::standalone().start().await;
    let mut client = Client::connect(node.address(), "filter=*.cpu").await;
    let mut collector = Collector::new("web-01", &[node.address()]);
    // Messages are limited to ten a second, fifty at once: forty are fine.
    for round in 0..40 {
        for _ in 0..10 {
            collector.flush(1).await;
        }
        let (new, old) = [("cpu", "mem"), ("mem", "cpu")][(round + 1) % 2];
        let had = client.ledger.numbers("web-01", new).len();
        let place = client.ledger.count("ack");
        client.send(&json!({"type": "subscribe", "filter": format!("*.{new}")}).to_string()).await;
        client.until("an ack", |ledger| ledger.count("ack") > place).await;
        assert_eq!(client.ledger.numbers("web-01", new).len(), had, "nothing new comes before the ack");
        let numbers = client.ledger.numbers("web-01", old);
        let (count, last) = (numbers.len(), numbers.last().copied().unwrap_or(-1));
        collector.flush(1).await;
        client.until("the new filter", |ledger| ledger.numbers("web-01", new).len() > had).await;
        let first = client.ledger.numbers("web-01", new)[had];
        // Both filters saw the same place: no message of the one before it is missing, none of the other behind it.
        let (came, comes) = (place_of(old, last), place_of(new, first));
        assert!(came < comes, "round {round}: {new} {first} had passed when {old} {last} came");
        let (skipped, later) = (place_of(new, first - 1), place_of(old, last + 1));
        assert!(skipped < later, "round {round}: neither {new} {} nor {old} {} came", first - 1, last + 1);
        assert_eq!(client.ledger.numbers("web-01", old).len(), count, "nothing old comes after the ack");
    }
    assert!(client.ledger.gaps.is_empty());
}

/// Where the message with this number is in the log: a row of a collector is one message of each measurement, in their order.
fn place_of(measurement: &str, number: i64) -> i64 {
    let index = MEASUREMENTS.iter().position(|name| *name == measurement).expect("a measurement");
    number * MEASUREMENTS.len() as i64 + index as i64
}

/// While an edge takes a batch from the log, sessions get the first of its envelopes before the last is in its ring.
/// A session that is moved in between must not be put back behind what its client has.
#[tokio::test]
async fn a_session_that_is_moved_in_a_torrent_neither_repeats_nor_skips() {
    let node = telecast::standalone().start().await;
    let mut client = Client::connect(node.address(), "").await;
    let mut collecting = JoinSet::new();
    for number in 0..8 {
        let mut collector = Collector::new(&format!("web-{number}"), &[node.address()]);
        collecting.spawn(async move {
            for _ in 0..300 {
                collector.flush(1).await;
            }
            collector
        });
    }
    // As many changes as may come at once.
    for change in 1..=45 {
        client.until("some more", |ledger| ledger.metrics() >= change * 100).await;
        client.send(r#"{"type":"subscribe"}"#).await;
    }
    for collector in collecting.join_all().await {
        client.all_of(&collector).await;
    }
    assert_eq!((client.ledger.count("error"), client.ledger.gaps.len()), (0, 0));
}

#[tokio::test]
async fn names_of_all_kinds_arrive_as_they_are_and_can_be_asked_for() {
    let node = telecast::standalone().start().await;
    let cases = [
        (r"disk.io,host=web-01 n=1i 1", "web-01", "disk.io", "web-01.disk%252Eio"),
        (r"cpu,host=web\ 02 n=2i 1", "web 02", "cpu", "web%2520%252002.cpu"),
        (r"m\,x\ y,host=exämple.org n=3i 1", "exämple.org", "m,x y", "ex%C3%A4mple.org.m%252Cx%2520y"),
        (r"a*>b,host=*.> n=4i 1", "*.>", "a*>b", "%252A%252E%253E.a%252A%253Eb"),
    ];
    for (line, collector, measurement, filter) in cases {
        let filter = filter.replace("%2520%2520", "%2520");
        let mut client = Client::connect(node.address(), &format!("filter={filter}")).await;
        write(&node, &line.replace("\\\\", "\\")).await;
        client.until(line, |ledger| ledger.metrics() == 1).await;
        assert_eq!(client.ledger.channels(), [(collector, measurement)]);
    }
}

#[tokio::test]
async fn a_full_node_refuses_says_when_to_come_back_and_is_not_ready() {
    let node = telecast::standalone().set("edge.max_connections", 2).start().await;
    let first = Client::connect(node.address(), "").await;
    let mut second = Client::connect(node.address(), "").await;
    let refusal = Client::attempt(node.address(), "/ws", "").await.err().expect("a refusal");
    assert_eq!((refusal.status, &refusal.json["error"]["code"]), (503, &json!("capacity")));
    assert!(refusal.headers.contains_key("retry-after"));
    let ready = node.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json["reasons"], json!(["full: 2 of 2 clients"]));
    assert_eq!(node.metric(r#"ws_connections_failed_total{reason="capacity"}"#).await, 1.0);
    // Those whom it has are served: that is no illness, for whatever asks.
    let health = node.get("/health").await;
    assert_eq!(
        (health.status, &health.json["status"], &health.json["healthy"]),
        (200, &json!("degraded"), &json!(true))
    );
    assert!(
        health.json["warnings"][0].as_str().is_some_and(|text| text.contains("2 of 2")),
        "{}",
        health.json
    );
    let status = telecast::status(node.address()).await;
    assert_eq!((status.code, status.text.starts_with("degraded: ")), (Some(0), true), "{}", status.text);
    // A place that is left is free again.
    drop(first);
    node.ready().await;
    let third = Client::attempt(node.address(), "/ws", "").await;
    assert!(third.is_ok());
    assert_eq!(second.ask(r#"{"type":"ping"}"#, "pong").await, json!({"type": "pong"}));
}

#[tokio::test]
async fn a_second_connection_of_a_collector_is_refused_and_the_first_one_goes_on() {
    let node = telecast::standalone().start().await;
    let mut client = Client::connect(node.address(), "").await;
    let mut collector = Collector::new("web-01", &[node.address()]);
    collector.flush(5).await;
    client.all_of(&collector).await;
    // Named in the handshake: refused there.
    let refusal = Client::attempt(node.address(), "/ws/collector", "collector=web-01").await.err();
    let refusal = refusal.expect("a refusal");
    assert_eq!((refusal.status, &refusal.json["error"]["code"]), (409, &json!("collector_in_use")));
    // Named by its data: refused then.
    let mut stream = wire::shake_hands(node.address(), "/ws/collector").await.expect("a connection");
    let line = b"cpu,host=web-01 n=99i 1767225600000000000";
    stream.write_all(&wire::masked(wire::BINARY, line)).await.expect("an open connection");
    let frame = crate::support::patiently("a close frame", wire::read_frame(&mut stream)).await;
    let (code, reason) = frame.expect("a close frame").close();
    assert_eq!(code, 4009);
    assert!(reason.contains("web-01"), "{reason}");
    collector.flush(5).await;
    client.all_of(&collector).await;
}
