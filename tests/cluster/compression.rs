//! permessage-deflate, from outside.

use std::fmt::Write as _;

use serde_json::json;

use crate::support::deflate::{Deflating, RSV1, Received, deflate};
use crate::support::telecast::{self, Telecast};
use crate::support::wire;

/// What browsers offer.
const BROWSER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Writes one envelope of some hundred bytes and one of some ten per round: the first is worth compressing.
async fn write(node: &Telecast, rounds: std::ops::Range<usize>) {
    let mut lines = String::new();
    for round in rounds {
        for core in 0..8 {
            let region = ["eu-1", "us-1"][core % 2];
            let _ = writeln!(
                lines,
                "cpu,host=web-01,cpu=cpu{core},region={region} n={round}i,usage_idle={}.25,usage_user={core}.5 {}",
                90 - core,
                round + 1
            );
        }
        let _ = writeln!(lines, "up,host=web-01 n={round}i {}", round + 1);
        assert_eq!(node.post("/api/v1/write", std::mem::take(&mut lines)).await.status, 204);
    }
}

/// A connected client that has read its welcome.
async fn connect(node: &Telecast, parameters: &str, offer: &str) -> Deflating {
    let mut client = Deflating::connect(node.address(), parameters, offer).await;
    let welcome = client.next().await;
    assert!(!welcome.compressed, "what is said to one client is not worth a window");
    assert_eq!(welcome.json()["type"], "welcome");
    client
}

async fn messages(client: &mut Deflating, count: usize) -> Vec<Received> {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.push(client.next().await);
    }
    messages
}

fn texts(messages: &[Received]) -> Vec<&str> {
    messages.iter().map(|message| &*message.text).collect()
}

#[tokio::test]
async fn all_get_the_same_messages_and_those_who_negotiated_the_same_compressed_bytes() {
    let node = telecast::standalone().start().await;
    let forms = ["", "format=influx", "filter=*.cpu{region=eu-*}&filter=*.up"];
    for (form, parameters) in forms.into_iter().enumerate() {
        let parameters = parameters.replace('{', "%7B").replace('}', "%7D");
        let mut plain = connect(&node, &parameters, "").await;
        let mut first = connect(&node, &parameters, BROWSER).await;
        let mut second = connect(&node, &parameters, "permessage-deflate").await;
        assert_eq!((plain.answer.as_deref(), first.answer.as_deref()), (None, Some(ANSWER)));
        // The same lines again would be a repetition, and stored once.
        write(&node, form * 10..form * 10 + 10).await;
        let wanted = messages(&mut plain, 20).await;
        let came = messages(&mut first, 20).await;
        let too = messages(&mut second, 20).await;
        assert_eq!(texts(&came), texts(&wanted), "{parameters}");
        for ((one, other), plain) in came.iter().zip(&too).zip(&wanted) {
            assert!(one.raw == other.raw && one.compressed == other.compressed, "a frame is made once");
            assert!(!plain.compressed);
            let large = plain.text.contains("cpu0");
            assert_eq!(one.compressed, large, "small messages are shared as they are: {}", plain.text);
            assert!(
                !large || one.raw.len() * 2 < plain.raw.len(),
                "{} of {}",
                one.raw.len(),
                plain.raw.len()
            );
        }
    }
    let (bytes_in, bytes_out) = (
        node.metric("ws_compressed_bytes_in_total").await,
        node.metric("ws_compressed_bytes_out_total").await,
    );
    assert!(0.0 < bytes_out && bytes_out * 2.0 < bytes_in, "{bytes_out} of {bytes_in}");
}

#[tokio::test]
async fn a_resume_from_ring_or_log_is_compressed_and_misses_nothing() {
    // The ring holds one MiB: of these rounds about the last two thirds.
    let node = telecast::standalone()
        .set("edge.ring_bytes_max", 1 << 20)
        .set("edge.view_bytes_max", 1 << 20)
        .set("collector.envelope_bytes_max", 64 << 10)
        .start()
        .await;
    let mut client = connect(&node, "", BROWSER).await;
    write(&node, 0..1).await;
    let place = messages(&mut client, 2).await[1].json()["offset"].as_str().expect("an offset").to_owned();
    drop(client);
    write(&node, 1..900).await;
    let all = messages(&mut connect(&node, &format!("from={place}"), "").await, 2 * 899).await;
    let mut resumed = connect(&node, &format!("from={place}"), BROWSER).await;
    let came = messages(&mut resumed, 2 * 899).await;
    assert_eq!(texts(&came), texts(&all));
    assert!(came.iter().zip(&all).all(|(came, plain)| came.compressed == plain.text.contains("cpu0")));
    // From the middle of the ring, with a predicate; then live.
    let near = all[2 * 890 - 1].json()["offset"].as_str().expect("an offset").to_owned();
    let mut near = connect(&node, &format!("from={near}&filter=*.cpu%7Bregion%3Deu-1%7D"), BROWSER).await;
    write(&node, 900..903).await;
    for (round, message) in (890..903).zip(messages(&mut near, 12).await) {
        assert!(message.compressed);
        let json = message.json();
        let rows = json["metrics"].as_array().expect("metrics");
        assert!(rows.len() == 4 && rows.iter().all(|row| row["fields"]["n"] == round + 1), "{json}");
    }
}

#[tokio::test]
async fn compressed_messages_of_clients_are_understood_and_compression_outlasts_a_subscription() {
    let node = telecast::standalone().start().await;
    let mut client = connect(&node, "filter=*.none", BROWSER).await;
    client.send(r#"{"type":"subscribe","id":"a","filter":"*.cpu","from":"latest"}"#).await;
    assert_eq!(client.next().await.json(), json!({"type": "ack", "id": "a", "matching": 0}));
    // In three fragments with a ping between; then one that is not compressed; then an empty one.
    let ping = deflate(br#"{"type":"ping","id":"b"}"#);
    let (one, rest) = ping.split_at(3);
    let mut begin = wire::masked(RSV1 | wire::TEXT, one);
    begin[0] &= 0x7f;
    let mut middle = wire::masked(0, b"");
    middle[0] &= 0x7f;
    client.send_bytes(&[begin, wire::masked(wire::PING, b"?"), middle, wire::masked(0, rest)].concat()).await;
    client.send_raw(wire::TEXT, br#"{"type":"ping","id":"c"}"#).await;
    client.send("").await;
    assert_eq!(client.next().await.json(), json!({"type": "pong", "id": "b"}));
    assert_eq!(client.next().await.json(), json!({"type": "pong", "id": "c"}));
    assert_eq!(client.next().await.json()["code"], "bad_message");
    write(&node, 0..2).await;
    for message in messages(&mut client, 2).await {
        assert!(message.compressed && message.text.contains("cpu7"), "{message:?}");
    }
    client.send(r#"{"type":"subscribe","id":"d","format":"influx"}"#).await;
    client.next_of("ack").await;
    write(&node, 2..3).await;
    let message = client.next().await;
    assert!(message.compressed && message.text.starts_with("# offset "), "{message:?}");
}

#[tokio::test]
async fn bombs_and_nonsense_end_the_connection_with_their_code_and_nothing_else() {
    let node = telecast::standalone().start().await;
    let bomb = deflate(&vec![b' '; 64 << 20]);
    let over = deflate(&vec![b' '; (16 << 10) + 1]);
    let wide = deflate(&[0xff; 100]);
    let cases: [(&str, u8, &[u8], u16); 6] = [
        ("64 MiB in a few kB", RSV1 | wire::TEXT, &bomb[..16 << 10], 1009),
        ("one byte too many", RSV1 | wire::TEXT, &over, 1009),
        ("not DEFLATE", RSV1 | wire::TEXT, b"{\"type\":\"ping\"}", 1007),
        ("not UTF-8", RSV1 | wire::TEXT, &wide, 1007),
        ("a compressed ping", RSV1 | wire::PING, b"", 1002),
        ("another reserved bit", 0x20 | wire::TEXT, b"", 1002),
    ];
    for (what, first, payload, code) in cases {
        let mut client = connect(&node, "", BROWSER).await;
        client.send_raw(first, payload).await;
        assert_eq!(client.closed().await, code, "{what}");
    }
    // Many of the largest messages in one read: each is answered before the next is taken, and those above the rate wait.
    let mut client = connect(&node, "", BROWSER).await;
    let full = deflate(&[b' '; 16 << 10]);
    let crowd = wire::masked(RSV1 | wire::TEXT, &full).repeat(70);
    client.send_bytes(&crowd).await;
    let mut codes = Vec::new();
    for _ in 0..70 {
        codes.push(client.next().await.json()["code"].as_str().unwrap().to_owned());
    }
    assert!(codes[..50].iter().all(|code| code == "bad_message"), "{codes:?}");
    let refused = codes.iter().filter(|code| *code == "rate_limited").count();
    assert!((1..=10).contains(&refused), "some are refused, the others wait and are read: {codes:?}");
}

#[tokio::test]
async fn what_was_not_agreed_on_is_neither_sent_nor_read() {
    let on = telecast::standalone().start().await;
    let off = telecast::standalone().set("edge.compression.mode", "off").start().await;
    let cases = [
        (&off, BROWSER),
        (&on, ""),
        (&on, "x-webkit-deflate-frame"),
        (&on, "permessage-deflate; server_max_window_bits=10"),
    ];
    for (round, (node, offer)) in cases.into_iter().enumerate() {
        let mut client = connect(node, "", offer).await;
        assert_eq!(client.answer, None, "{offer}");
        write(node, round..round + 1).await;
        assert!(messages(&mut client, 2).await.iter().all(|message| !message.compressed));
        client.send(r#"{"type":"ping"}"#).await;
        assert_eq!(client.closed().await, 1002);
    }
    let client = connect(&on, "", "permessage-deflate; server_max_window_bits=15").await;
    assert_eq!(client.answer, Some(format!("{ANSWER}; server_max_window_bits=15")));

    let request = reqwest::Client::new()
        .get(format!("http://{}/ws", on.address()))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-extensions", "permessage-deflate; =");
    let refusal = request.send().await.expect("an answer");
    assert_eq!(refusal.status(), 400);
    let refusal: serde_json::Value = refusal.json().await.expect("JSON");
    assert_eq!(refusal["error"]["code"], "bad_handshake");
    assert!(refusal["error"]["message"].as_str().is_some_and(|text| text.contains("leave the header out")));
}
