use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::ingest::testing::{Bench, bench, settings};

/// Status and JSON of a refused upgrade.
async fn refused(bench: &mut Bench, query: &str) -> (u16, Value) {
    let address = bench.listen().await;
    match connect_async(format!("ws://{address}/ws/collector{query}")).await {
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), serde_json::from_slice(&body).unwrap())
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_plain_get_is_told_how_to_connect() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let response = reqwest::get(format!("http://{address}/ws/collector")).await.unwrap();
    assert_eq!(response.status(), 426);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let json: Value = response.json().await.unwrap();
    assert!(json["error"]["message"].as_str().unwrap().contains("ws://HOST:PORT/ws/collector"));
    let posted = reqwest::Client::new().post(format!("http://{address}/ws/collector")).send().await.unwrap();
    assert_eq!((posted.status().as_u16(), &posted.headers()["allow"]), (405, &"GET".parse().unwrap()));
    assert_eq!(bench.metric("ws_connections_failed_total{reason=\"not_websocket\"}"), 2.0);
}

/// The check is that of clients' sockets; this is that it is asked.
#[tokio::test]
async fn a_handshake_that_is_none_is_refused_as_on_clients_sockets() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    for (protocol, version, key, status) in [
        ("HTTP/1.1", version, key.to_owned(), 101),
        ("HTTP/1.0", version, key.to_owned(), 400),
        ("HTTP/1.1", version, "Sec-WebSocket-Key: c2hvcnQ=\r\n".to_owned(), 400),
        ("HTTP/1.1", version, key.repeat(2), 400),
        ("HTTP/1.1", version, String::new(), 400),
        ("HTTP/1.1", "Sec-WebSocket-Version: 8\r\n", key.to_owned(), 426),
        ("HTTP/1.1", "", key.to_owned(), 426),
    ] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /ws/collector {protocol}\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{version}{key}\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let bytes = socket.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..bytes]);
        assert!(answer.starts_with(&format!("{protocol} {status} ")), "{head}: {answer}");
        assert_eq!(answer.contains("sec-websocket-version: 13"), status != 101, "{answer}");
    }
}

#[tokio::test]
async fn bad_parameters_are_refused_before_the_upgrade() {
    let mut bench = bench(settings());
    let (status, json) = refused(&mut bench, "?precision=century").await;
    assert_eq!((status, &json["error"]["code"]), (400, &"bad_precision".into()));
    let (status, json) = refused(&mut bench, "?collector=").await;
    assert_eq!((status, &json["error"]["code"]), (400, &"bad_collector".into()));
    assert_eq!(bench.metric("ws_connections_failed_total{reason=\"bad_request\"}"), 2.0);
}

#[tokio::test]
async fn a_second_connection_with_an_id_is_told_who_has_it() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let mut request = format!("ws://{address}/ws/collector?collector=ignored").into_client_request().unwrap();
    request.headers_mut().insert("x-collector-id", "web-01".parse().unwrap());
    let (_first, _) = connect_async(request).await.unwrap();
    let (status, json) = refused(&mut bench, "?collector=web-01").await;
    assert_eq!((status, &json["error"]["code"]), (409, &"collector_in_use".into()));
    let message = json["error"]["message"].as_str().unwrap();
    for part in ["node ingest-1", "'web-01'", "since 20", "from 127.0.0.1:", "take_over"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(bench.metric("ws_connections_failed_total{reason=\"conflict\"}"), 1.0);
}

#[tokio::test]
async fn a_draining_node_takes_no_collectors() {
    let mut bench = bench(settings());
    bench.ingest.drain(std::time::Duration::from_secs(1)).await;
    let (status, json) = refused(&mut bench, "").await;
    assert_eq!((status, &json["error"]["code"]), (503, &"draining".into()));
}

/// A browser shows its page nothing of an answer that is none to a handshake.
#[tokio::test]
async fn a_page_is_told_by_a_close_frame_which_parameter_cannot_be_read() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let mut request =
        format!("ws://{address}/ws/collector?precision=fortnight").into_client_request().unwrap();
    request.headers_mut().insert("origin", format!("http://{address}").parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("no close frame") };
    assert_eq!(u16::from(close.code), 1008);
    assert!(
        close.reason.starts_with("bad_precision: precision=\"fortnight\" is not known"),
        "{}",
        close.reason
    );
    assert_eq!(bench.metric("ws_connections_failed_total{reason=\"bad_request\"}"), 1.0);
}
