//! The examples of docs/asyncapi.yaml: those of peers are sent to a server, those of servers are compared with what comes.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::alike::{Compare, compare};
use crate::documents::{self, ASYNCAPI, members, text_of};
use crate::nodes::{LINES, Stage};
use crate::standards::{check, holds_to};
use crate::support::nats::NatsServer;
use crate::support::telecast::Telecast;
use crate::support::{self, telecast};

/// A WebSocket that takes whatever comes.
pub struct Connection(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Connection {
    /// Shakes hands.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        let opened = support::patiently("a handshake", connect_async(format!("ws://{address}{path}"))).await;
        Self(opened.unwrap_or_else(|error| panic!("{path}: {error}")).0)
    }

    /// Sends a text.
    pub async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("an open connection");
    }

    /// The next message; none when the connection has ended.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Takes messages until one has this type (`lines` for line protocol); it is the last of what is returned.
    pub async fn until(&mut self, kind: &str) -> Vec<Value> {
        // Heartbeats come for ever: the patience is for all of them.
        support::patiently(kind, async {
            let mut came = Vec::new();
            while came.last().is_none_or(|message| kind_of(message) != kind) {
                let next = self.next().await;
                came.push(parse(
                    &next.unwrap_or_else(|| panic!("the connection ended before {kind}: {came:?}")),
                ));
            }
            came
        })
        .await
    }
}

/// A message as its example has it: an object, or the text of lines.
pub fn parse(text: &str) -> Value {
    if text.starts_with('#') {
        text.into()
    } else {
        serde_json::from_str(text).unwrap_or_else(|_| text.into())
    }
}

/// The name of a message among the messages of the document.
fn kind_of(message: &Value) -> &str {
    if message.is_string() { "lines" } else { text_of(message, "type") }
}

/// What docs/asyncapi.yaml has on messages.
pub struct Messages(Value);

impl Messages {
    /// Of the document.
    pub fn load() -> Self {
        Self(documents::whole(ASYNCAPI)["components"]["messages"].take())
    }

    /// The schema of a server's message.
    pub fn check(&self, message: &Value) -> Result<(), String> {
        check(&self.0[kind_of(message)]["payload"], message)
    }

    /// Name and payload of the examples of a message.
    fn examples(&self, message: &str) -> impl Iterator<Item = (&str, &Value)> {
        let examples = self.0[message]["examples"].as_array().map(Vec::as_slice).unwrap_or_default();
        examples.iter().map(|example| (text_of(example, "name"), &example["payload"]))
    }
}

/// Messages that servers have sent, some of every kind that can be brought about at will.
pub async fn captured() -> Vec<Value> {
    let (mut from_one, from_cluster) = tokio::join!(from_a_node(), from_a_cluster());
    from_one.extend(from_cluster);
    from_one
}

async fn from_a_node() -> Vec<Value> {
    let launch = telecast::standalone().set("edge.heartbeat_ms", 1_000).set("edge.drain_grace_ms", 0);
    let node = launch.set("edge.drain_waves_ms", 0).start().await;
    let other = telecast::standalone().start().await;
    assert_eq!(node.post("/api/v1/write", LINES).await.status, 204);
    let mut connection = Connection::open(node.address(), "/ws?from=earliest").await;
    let mut came = connection.until("heartbeat").await;
    let lines =
        Connection::open(node.address(), "/ws?from=earliest&format=influx").await.until("lines").await;
    came.extend(lines);
    let elsewhere = Connection::open(other.address(), "/ws").await.until("welcome").await;
    let path = format!("/ws?from={}", text_of(&elsewhere[0], "offset"));
    came.extend(Connection::open(node.address(), &path).await.until("gap").await);
    let path = format!("{path}&snapshot=true");
    came.extend(Connection::open(node.address(), &path).await.until("snapshot").await);
    for (format, kind) in [("json", "snapshot"), ("influx", "lines")] {
        let path = format!("/ws?snapshot=true&format={format}");
        came.extend(Connection::open(node.address(), &path).await.until(kind).await);
    }
    for (format, kind) in [("json", "metrics"), ("influx", "lines")] {
        came.extend(newest_values(&node, format, kind).await);
    }
    connection.send(r#"{"type":"ping","id":17}"#).await;
    came.extend(connection.until("pong").await);
    connection.send(r#"{"type":"subscribe","id":1}"#).await;
    came.extend(connection.until("ack").await);
    connection.send("hello").await;
    came.extend(connection.until("error").await);
    node.terminate();
    came.extend(connection.until("goodbye").await);
    came
}

/// What a session with an interval gets.
async fn newest_values(node: &Telecast, format: &str, kind: &str) -> Vec<Value> {
    let path = format!("/ws?filter=*.mem&interval=100&format={format}");
    let mut connection = Connection::open(node.address(), &path).await;
    // From here on the session is at its place, so that what is written is behind it.
    connection.until("welcome").await;
    assert_eq!(node.post("/api/v1/write", "mem,host=web-01 used_percent=3.17").await.status, 204);
    connection.until(kind).await
}

async fn from_a_cluster() -> Vec<Value> {
    let nats = NatsServer::start();
    let edge = telecast::edge(&nats.url()).start().await;
    let mut connection = Connection::open(edge.address(), "/ws").await;
    nats.kill();
    let mut came = connection.until("stale").await;
    nats.restart();
    came.extend(connection.until("live").await);
    came
}

#[tokio::test]
async fn a_servers_messages_follow_their_schemas_and_are_as_the_examples_show() {
    let messages = Messages::load();
    let captured = Box::pin(captured()).await;
    for message in &captured {
        messages
            .check(message)
            .unwrap_or_else(|errors| panic!("{message} is not as its schema says: {errors}"));
    }
    for (kind, description) in members(&messages.0) {
        let is_of_a_server =
            kind == "lines" || !description["payload"]["properties"]["type"]["const"].is_null();
        // Answers are compared with their messages, by value: see below.
        if !is_of_a_server || ["subscribe", "replay", "ping", "ack", "pong", "error"].contains(&kind) {
            continue;
        }
        for (name, example) in messages.examples(kind) {
            let is_alike = |message| compare(Compare::Shape, example, message).is_ok();
            let of_kind: Vec<_> = captured.iter().filter(|message| kind_of(message) == kind).collect();
            assert!(
                of_kind.iter().any(|message| is_alike(message)),
                "no server sends what the example {name} of {kind} shows: {example}\nbut {of_kind:?}"
            );
        }
    }
    crate::markdown::shows_what_servers_send(&messages, &captured);
}

/// Sends a client's message, and compares the answer.
async fn answered(address: SocketAddr, messages: &Messages, sent: &str, kind: &str, wanted: &Value) {
    let mut connection = Connection::open(address, "/ws?filter=nobody.nothing").await;
    connection.send(sent).await;
    // An error instead of an acknowledgement would be waited for in vain.
    let answer = support::patiently(sent, async {
        loop {
            let next = connection.next().await;
            let message = parse(&next.unwrap_or_else(|| panic!("no answer to {sent}")));
            if ["ack", "pong", "error"].contains(&kind_of(&message)) {
                return message;
            }
        }
    });
    let answer = answer.await;
    messages.check(&answer).unwrap_or_else(|errors| panic!("{sent}: {errors}"));
    assert_eq!(kind_of(&answer), kind, "{sent} is answered with {answer}");
    compare(Compare::Values, wanted, &answer).unwrap_or_else(|difference| panic!("{sent}: {difference}"));
}

#[tokio::test]
async fn each_example_of_a_clients_message_is_answered_as_the_example_of_the_same_name_shows() {
    let messages = Messages::load();
    let stage = Stage::when(None).await;
    let mut answers = 0;
    for (sent, kind) in [("subscribe", "ack"), ("replay", "ack"), ("ping", "pong")] {
        for (name, example) in messages.examples(sent) {
            let wanted = messages.examples(kind).find(|(other, _)| *other == name);
            let (_, wanted) = wanted.unwrap_or_else(|| panic!("no {kind} has the name of {sent} {name}"));
            answered(stage.address(), &messages, &example.to_string(), kind, wanted).await;
            answers += 1;
        }
    }
    let known = messages.examples("ack").chain(messages.examples("pong")).count();
    assert_eq!(answers, known, "examples of answers that belong to no message of a client");
}

#[tokio::test]
async fn each_example_of_an_error_is_what_its_provocation_gets() {
    let messages = Messages::load();
    let stage = Stage::when(None).await;
    let provoked = &messages.0["error"]["x-provoked-by"];
    for (name, example) in messages.examples("error") {
        answered(stage.address(), &messages, text_of(provoked, name), "error", example).await;
    }
    assert_eq!(members(provoked).count(), messages.examples("error").count());
}

#[tokio::test]
async fn each_example_of_a_collectors_message_reaches_clients_as_text_and_as_binary() {
    let messages = Messages::load();
    let node = telecast::standalone().start().await;
    let mut client = Connection::open(node.address(), "/ws?filter=web-02.mem").await;
    client.until("welcome").await;
    let mut collector = Connection::open(node.address(), "/ws/collector").await;
    for kind in ["batchOfLines", "batchOfJson"] {
        for (name, example) in messages.examples(kind) {
            holds_to(&messages.0[kind]["payload"], example, name);
            let batch = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            // The same twice within two minutes is stored once: so there is a field of its own in the second.
            let again = batch.replace("used_percent", "free_percent");
            for message in [Message::text(batch), Message::binary(again.into_bytes())] {
                collector.0.send(message).await.expect("an open connection");
                let came = client.until("metrics").await;
                let metrics = came.last().expect("the metrics");
                assert_eq!(metrics["collector"], json!("web-02"), "{kind} {name}: {metrics}");
            }
        }
    }
}
