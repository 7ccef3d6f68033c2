//! What is refused for good, as browsers and others see it.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use ::telecast::proto::printable::is_unprintable;

use crate::support::client::Client;
use crate::support::telecast::{self, Telecast};
use crate::support::{eventually, patiently};

/// What the page of a browser sees of an attempt: the messages, and code and reason of the close.
async fn seen_by_a_page(node: &Telecast, parameters: &str) -> Result<(Vec<Value>, u16, String), Error> {
    let mut request =
        format!("ws://{}/ws?{parameters}", node.address()).into_client_request().expect("an address");
    let own = format!("http://{}", node.address());
    request.headers_mut().insert("origin", own.parse().expect("a header"));
    let (mut socket, _) = patiently("a handshake", tokio_tungstenite::connect_async(request)).await?;
    let mut messages = Vec::new();
    patiently("a close", async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => messages.push(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(frame))) => {
                    let frame = frame.expect("a code");
                    // The answer to a close, which the library has queued.
                    let _ = socket.flush().await;
                    return Ok((messages, frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("{parameters}: {error} after {messages:?}"),
                None => panic!("{parameters}: the connection ended after {messages:?}"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_page_reads_why_it_is_refused_for_good_and_others_get_the_status() {
    let node = telecast::standalone().start().await;
    for (parameters, code) in [
        ("filter=cpu", "bad_filter"),
        ("filter=", "bad_filter"),
        ("filter=%20", "bad_filter"),
        ("from=yesterday", "bad_from"),
        ("lastEventId=yesterday", "bad_from"),
        ("format=xml", "bad_format"),
        ("interval=often", "bad_interval"),
        ("snapshot=perhaps", "bad_snapshot"),
        ("snapshot=true&from=earliest", "bad_snapshot"),
        ("filters=*.cpu", "bad_parameter"),
        ("from=latest&from=latest", "bad_parameter"),
    ] {
        let refusal = Client::attempt(node.address(), "/ws", parameters).await.err().expect("a refusal");
        assert_eq!((refusal.status, &refusal.json["error"]["code"]), (400, &json!(code)), "{parameters}");
        let (messages, close, reason) = seen_by_a_page(&node, parameters).await.expect("a handshake");
        let error = json!({"type": "error", "code": code, "message": refusal.json["error"]["message"]});
        assert_eq!((messages, close), (vec![error], 1008), "{parameters}");
        assert!(reason.starts_with(&format!("{code}: ")), "{reason}");
    }
    assert_eq!(node.metric("ws_connections_failed_total{reason=\"bad_request\"}").await, 22.0);
    assert_eq!(node.metric("ws_connections_total").await, 0.0, "none of them was a session");
    assert_eq!(node.metric("ws_sessions_total{transport=\"websocket\"}").await, 0.0);
}

#[tokio::test]
async fn a_full_node_refuses_pages_before_the_handshake_like_everybody() {
    let node = telecast::standalone().set("edge.max_connections", 1).start().await;
    let _first = Client::connect(node.address(), "").await;
    match seen_by_a_page(&node, "").await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 503),
        other => panic!("{other:?}"),
    }
}

/// A page that ignores the close keeps nothing of the node.
#[tokio::test]
async fn a_refused_page_that_stays_is_hung_up() {
    let node = telecast::standalone().start().await;
    let descriptors = node.metric("process_open_fds").await;
    let address = node.address();
    let request = format!(
        "GET /ws?filter=cpu HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut staying = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        patiently("an answer", stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        staying.push(stream);
    }
    assert_eq!(node.get("/api/health").await.json["clients"], 0);
    let gone = async || (node.metric("process_open_fds").await <= descriptors + 5.0).then_some(());
    eventually("their descriptors", gone).await;
    drop(staying);
}

/// Ids and filters are whatever a peer sends; who looks at a node with curl or at its log has a terminal.
#[tokio::test]
async fn no_id_and_no_filter_reaches_a_terminal_as_it_was_sent() {
    let node = telecast::standalone().start().await;
    let (id, encoded) = ("web\u{202e}10-\u{2066}", "web%E2%80%AE10-%E2%81%A6");
    let lines = "cpu n=1i 1\ncpu,x=\u{202e} broken";
    assert_eq!(node.post(&format!("/write?collector={encoded}"), lines).await.status, 204);
    let raw = |text: &str| text.contains(|c| !matches!(c, '\n' | '\r') && is_unprintable(c));
    for path in [
        "/api/metrics/status",
        "/api/metrics/latest",
        "/api/metrics/poll?from=earliest&timeout=0",
        "/metrics",
        "/health/detailed",
        &format!("/ws/{encoded}"),
        &format!("/sse?filter={encoded}"),
        &format!("/sse?from={encoded}"),
        &format!("/sse?{encoded}=1"),
        &format!("/sse?format={encoded}"),
        &format!("/api/metrics/poll?timeout={encoded}"),
        "/sse?filter=a%1B%5B2Jb",
        "/sse?a%1B%5B2Jb=1",
    ] {
        let answer = node.get(path).await;
        assert!(!raw(&answer.body), "{path}: {:?}", answer.body);
    }
    // It means the same to a program.
    let latest = node.get("/api/metrics/latest").await;
    assert_eq!(latest.json["metrics"][0]["collector"], id);
    for path in ["/write?collector=a%1Bb", "/write?collector=a%C2%9Bb", "/write?precision=%E2%80%AE"] {
        let answer = node.post(path, "cpu n=1i").await;
        assert!(answer.status == 400 && !raw(&answer.body), "{path}: {} {:?}", answer.status, answer.body);
    }
    let mut client = Client::connect(node.address(), "from=earliest").await;
    client.until("the metric", |ledger| ledger.metrics() == 1).await;
    assert!(!raw(&client.ledger.data[0]) && client.ledger.channels() == [(id, "cpu")]);
    let error = client.ask(&json!({"type": "subscribe", "filter": id}).to_string(), "error").await;
    assert!(!raw(error["message"].as_str().expect("text")), "{error}");
}
