//! Connections on real sockets, with a few routes behind them.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Access, Listener, Policy, handshake, take_socket};
use crate::broker::Connection;
use crate::config::{Inputs, Machine, Role, load};
use crate::ops::meters::Meters;
use crate::ops::node::Node;
use crate::ops::reply::ApiError;

/// Far beyond what any step takes on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than the shortest time a head may be given.
const LONGER_THAN_A_HEAD: Duration = Duration::from_millis(500);
const SHORT_HEADS: (&str, &str) = ("HEADER_TIMEOUT_MS", "100");

struct Bench {
    address: SocketAddr,
    metrics: PrometheusHandle,
    _tasks: JoinSet<()>,
}

impl Bench {
    /// Listens on a free port, with these keys of `server`.
    async fn start(keys: &[(&str, &str)]) -> Self {
        let variables =
            keys.iter().map(|(key, value)| (format!("TELECAST__SERVER__{key}"), (*value).to_owned()));
        let inputs = Inputs {
            role: Role::Standalone,
            folder: "/nonexistent".into(),
            folder_required: false,
            file: None,
            variables: variables.collect(),
            listen: None,
            nats: None,
            node: Some("node-1".to_owned()),
            machine: Machine { host_name: "test".to_owned(), cores: 1, descriptors: 4096 },
        };
        let server = load(&inputs).unwrap().settings.server;
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        let meters = metrics::with_local_recorder(&recorder, Meters::register);
        let (_, log) = watch::channel(Connection::Connected);
        let node = Node::new("node-1".to_owned(), Role::Standalone, meters, log, 10);
        let policy = Policy::new(node, &server, Duration::from_secs(10));
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), policy.clone()).unwrap();
        let address = listener.address().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.serve(router(&policy), CancellationToken::new()));
        Self { address, metrics, _tasks: tasks }
    }

    async fn connect(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.unwrap())
    }

    /// What one request on a connection of its own is answered, until the end of the connection.
    async fn ask(&self, request: &str) -> String {
        let mut peer = self.connect().await;
        peer.send(request).await;
        peer.answer().await
    }

    fn refused(&self, reason: &str) -> f64 {
        let name = format!("ws_requests_refused_total{{reason=\"{reason}\"}} ");
        self.metrics.render().lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0.0)
    }
}

struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        tokio::time::timeout(PATIENCE, self.0.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    /// One answer whose length is announced.
    async fn answer(&mut self) -> String {
        let read = async {
            let mut text = Vec::new();
            while !is_whole(&text) {
                let mut piece = [0; 4096];
                let bytes = self.0.read(&mut piece).await.unwrap();
                assert!(bytes > 0, "the connection ended behind {:?}", String::from_utf8_lossy(&text));
                text.extend_from_slice(&piece[..bytes]);
            }
            String::from_utf8(text).unwrap()
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap()
    }

    /// Everything up to the end; a reset is a failure.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        tokio::time::timeout(PATIENCE, self.0.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }

    async fn is_alive(&mut self) -> bool {
        self.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
        self.answer().await.starts_with("HTTP/1.1 200 ")
    }
}

fn is_whole(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0_usize)
}

fn router(policy: &Policy) -> Router {
    let writes = Router::new()
        .route("/too-large", post(async || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "no")))
        .route("/read", post(async |body: axum::body::Bytes| format!("{} bytes", body.len())))
        .route("/ws", any(socket))
        .route("/ws/collector", any(socket));
    Router::new()
        .route("/livez", get(async || "alive"))
        .route("/later", get(async || tokio::time::sleep(Duration::from_millis(50)).await))
        .route("/uri", get(async |request: Request| request.uri().to_string()))
        .route("/remote", get(async |ConnectInfo(remote): ConnectInfo<SocketAddr>| remote.ip().to_string()))
        .route(
            "/stream",
            get(
                async || Body::from_stream(futures_util::stream::pending::<Result<String, std::io::Error>>()),
            ),
        )
        .merge(policy.origins().apply(Access::Write, writes))
}

/// Echoes what it reads, until the peer goes.
async fn socket(mut request: Request) -> Response {
    match handshake::check(request.method(), request.version(), request.headers(), "how") {
        Err(error) => handshake::refuse(error),
        Ok(key) => {
            let upgrade = request.extensions_mut().remove().unwrap();
            let tasks = tokio_util::task::TaskTracker::new();
            tasks.spawn(async move {
                let (mut socket, early, _held) = take_socket(upgrade).await.unwrap();
                socket.write_all(&early).await.unwrap();
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            key.accept(None).into_response()
        }
    }
}

fn upgrade(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: node.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

#[track_caller]
fn assert_status(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "not {status}: {answer}");
    assert!(answer.contains("x-content-type-options: nosniff\r\n") || status == 101, "{answer}");
}

#[tokio::test]
async fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let bench = Bench::start(&[SHORT_HEADS]).await;
    let (mut answered, mut in_advance) = (bench.connect().await, bench.connect().await);
    assert!(answered.is_alive().await);
    // A line end behind a body is no head.
    answered.send("\r\n").await;
    tokio::time::sleep(LONGER_THAN_A_HEAD).await;
    assert!(answered.is_alive().await && in_advance.is_alive().await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let bench = Bench::start(&[("IDLE_TIMEOUT_MS", "1000")]).await;
    let (mut answered, mut in_advance) = (bench.connect().await, bench.connect().await);
    assert!(answered.is_alive().await);
    assert_eq!((answered.rest().await, in_advance.rest().await), (String::new(), String::new()));
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte_and_is_told_when_it_is_up() {
    let bench = Bench::start(&[SHORT_HEADS]).await;
    for before in ["", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut peer = bench.connect().await;
        if !before.is_empty() {
            peer.send(before).await;
            peer.answer().await;
        }
        peer.send("GET /livez HTTP/1.1\r\nHost: a\r\n").await;
        let answer = peer.rest().await;
        assert_status(&answer, 408);
        assert!(answer.contains("server.header_timeout_ms"), "{answer}");
    }
    // One that comes behind another in the same packet, and not whole.
    let mut peer = bench.connect().await;
    peer.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /li").await;
    assert!(peer.rest().await.contains("alive"));
    assert_eq!(bench.refused("header_timeout"), 3.0);
}

#[tokio::test]
async fn a_crowd_of_unused_connections_of_one_address_is_sent_away() {
    let bench = Bench::start(&[SHORT_HEADS]).await;
    let mut crowd = Vec::new();
    for _ in 0..65 {
        crowd.push(bench.connect().await);
    }
    for peer in &mut crowd {
        assert_eq!(peer.rest().await, "");
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_sender_that_writes_its_whole_body_first() {
    let bench = Bench::start(&[]).await;
    let body = vec![b'x'; 5_000_000];
    for (head, status) in [
        ("POST /too-large HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n", 413),
        ("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n", 404),
        ("PUT /read HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n", 405),
        ("POST /read HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n", 400),
        (
            "POST /read HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\nContent-Length: 5000000\r\n\r\n",
            403,
        ),
        ("POST /too-large HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4C4B40\r\n", 413),
        ("POST /read HTTP/1.1\r\nHost: a\r\nBad header\r\n\r\n", 400),
    ] {
        let mut peer = bench.connect().await;
        peer.send(head).await;
        peer.send(&body).await;
        let answer = peer.rest().await;
        assert_status(&answer, status);
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.contains(r#"{"error":{"code":"#) || matches!(status, 404 | 405), "{answer}");
    }
}

#[tokio::test]
async fn a_small_rest_of_a_body_is_read_and_the_connection_kept() {
    let bench = Bench::start(&[]).await;
    let mut peer = bench.connect().await;
    peer.send("POST /too-large HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await;
    let answer = peer.answer().await;
    assert_status(&answer, 413);
    assert!(!answer.contains("connection: close"), "{answer}");
    peer.send(vec![b'x'; 100_000]).await;
    assert!(peer.is_alive().await);
}

#[tokio::test]
async fn a_sender_that_asks_first_sends_no_body_in_vain() {
    let bench = Bench::start(&[]).await;
    let ask = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    let mut peer = bench.connect().await;
    peer.send(ask("/too-large")).await;
    let answer = peer.rest().await;
    assert_status(&answer, 413);
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let mut peer = bench.connect().await;
    peer.send(ask("/read")).await;
    assert!(peer.answer().await.starts_with("HTTP/1.1 100 "));
    peer.send("hello").await;
    assert!(peer.answer().await.ends_with("5 bytes"));
}

#[tokio::test]
async fn a_target_is_read_as_it_is_meant() {
    let bench = Bench::start(&[]).await;
    let answer = bench.ask("GET /uri?filter=web-03.>&x={a=\"b|c\\^`<} HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.ends_with("/uri?filter=web-03.%3E&x=%7Ba=%22b%7Cc%5C%5E%60%3C%7D"), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_none_gets_an_error_that_helps_and_is_counted() {
    let bench = Bench::start(&[("HEADER_BYTES_MAX", "8192")]).await;
    let long = format!("GET /livez HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(9_000));
    for (head, status, words, reason) in [
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "%20", "bad_target"),
        ("GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "%01", "bad_target"),
        (&long, 431, "server.header_bytes_max", "head_too_large"),
        ("\x16\x03\x01\x02", 400, "TLS", "bad_head"),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: five\r\n\r\n", 400, "content-length", "bad_head"),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400, "header 2", "bad_head"),
        ("GET /livez HTTP/1.1\r\n\r\n", 400, "Host", "bad_host"),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "more than once", "bad_host"),
        ("GET /livez HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "no host", "bad_host"),
    ] {
        let before = bench.refused(reason);
        let answer = bench.ask(head).await;
        assert_status(&answer, status);
        assert!(answer.contains(r#"{"error":{"code":"#) && answer.contains(words), "{head:?}: {answer}");
        assert_eq!(bench.refused(reason), before + 1.0, "{head:?}");
    }
    assert!(bench.ask("GET /livez HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
}

#[tokio::test]
async fn an_address_has_its_share_of_connections_and_probes_have_more() {
    let bench = Bench::start(&[("CONNECTIONS_PER_ADDRESS_MAX", "2")]).await;
    let mut held = vec![bench.connect().await, bench.connect().await];
    held[0].send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    held[1].send(upgrade("/ws", "")).await;
    assert_status(&held[1].answer().await, 101);
    let refused = bench.ask("GET /uri HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_status(&refused, 429);
    for words in
        ["retry-after: ", "connection: close", "server.connections_per_address_max", "server.trusted_proxies"]
    {
        assert!(refused.contains(words), "{words} in {refused}");
    }
    assert!(bench.connect().await.is_alive().await, "a probe is answered");
    assert_eq!(bench.refused("address_connections"), 1.0);
    // An upgraded socket gives its place back when it ends.
    drop(held.pop());
    let again = async {
        while !bench.ask("GET /uri HTTP/1.1\r\nHost: a\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn what_a_trusted_proxy_forwards_counts_for_the_client_it_names() {
    let keys = [("CONNECTIONS_PER_ADDRESS_MAX", "1"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let bench = Bench::start(&keys).await;
    let from = |path: &str, client: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.9, {client}\r\n\r\n")
    };
    let mut stream = bench.connect().await;
    stream.send(from("/stream", "203.0.113.9")).await;
    let mut socket = bench.connect().await;
    socket.send(upgrade("/ws", "X-Forwarded-For: 203.0.113.10\r\n")).await;
    assert_status(&socket.answer().await, 101);
    let begun =
        async { while !bench.ask(&from("/remote", "203.0.113.9")).await.starts_with("HTTP/1.1 429 ") {} };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    assert_status(&bench.ask(&from("/remote", "203.0.113.10")).await, 429);
    assert!(bench.ask(&from("/remote", "203.0.113.11")).await.ends_with("203.0.113.11"));
    assert!(bench.ask("GET /remote HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("127.0.0.1"));
}

#[tokio::test]
async fn a_process_without_room_for_more_connections_still_answers_probes() {
    let bench = Bench::start(&[("CONNECTIONS_MAX", "16"), ("PENDING_CONNECTIONS_MAX", "16")]).await;
    let mut held: Vec<Peer> = Vec::new();
    for _ in 0..16 {
        let mut peer = bench.connect().await;
        peer.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // The head of the answer: from here on something is asked on it.
        assert!(peer.0.read_u8().await.is_ok());
        held.push(peer);
    }
    assert_status(&bench.ask("GET /uri HTTP/1.1\r\nHost: a\r\n\r\n").await, 503);
    assert!(bench.connect().await.is_alive().await, "a probe is answered");
    drop(held.pop());
    let again = async {
        while !bench.ask("GET /uri HTTP/1.1\r\nHost: a\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn the_oldest_connection_on_which_nothing_was_asked_makes_room() {
    let bench = Bench::start(&[("PENDING_CONNECTIONS_MAX", "16")]).await;
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..17 {
        peers.push(bench.connect().await);
    }
    assert_eq!(peers[0].rest().await, "");
    assert!(peers[1].is_alive().await && peers[16].is_alive().await);
    assert_eq!(bench.refused("pending"), 1.0);
}

#[tokio::test]
async fn pages_of_other_origins_neither_write_nor_open_sockets_unless_they_are_listed() {
    let keys = [("CORS_ORIGINS", "https://dash.example"), ("ALLOWED_ORIGINS", "https://admin.example")];
    let bench = Bench::start(&keys).await;
    let write =
        |more: &str| format!("POST /read HTTP/1.1\r\nHost: node.example\r\n{more}Content-Length: 1\r\n\r\nx");
    for (origin, reads, writes) in [
        ("https://evil.example", false, false),
        ("null", false, false),
        ("https://dash.example", true, false),
        ("https://admin.example", true, true),
        ("https://node.example", true, true),
    ] {
        let header = format!("Origin: {origin}\r\n");
        let wanted = |allowed, status| if allowed { status } else { 403 };
        assert_status(&bench.ask(&upgrade("/ws", &header)).await, wanted(reads, 101));
        assert_status(&bench.ask(&upgrade("/ws/collector", &header)).await, wanted(writes, 101));
        let answer = bench.ask(&write(&header)).await;
        assert_status(&answer, wanted(writes, 200));
        assert!(writes || answer.contains("server.allowed_origins"), "{answer}");
    }
    assert_status(&bench.ask(&write("")).await, 200);
    assert_status(&bench.ask(&write("Sec-Fetch-Site: cross-site\r\n")).await, 403);
    assert_eq!(bench.refused("origin"), 9.0);
}

#[tokio::test]
async fn a_node_that_knows_its_names_is_asked_by_no_other() {
    let bench = Bench::start(&[("ALLOWED_HOSTS", "node.example, 127.0.0.1")]).await;
    for (host, status) in
        [("Node.Example:9090", 200), ("127.0.0.1", 200), ("rebind.evil.example", 421), ("[::1]", 421)]
    {
        assert_status(&bench.ask(&format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n")).await, status);
    }
}

#[tokio::test]
async fn an_upgraded_socket_gets_what_was_sent_behind_the_handshake() {
    let bench = Bench::start(&[SHORT_HEADS]).await;
    let mut peer = bench.connect().await;
    peer.send(upgrade("/ws", "") + "early").await;
    let mut text = peer.answer().await;
    tokio::time::sleep(LONGER_THAN_A_HEAD).await;
    peer.send(" and late").await;
    let read = async {
        while !text.ends_with("early and late") {
            let mut piece = [0; 64];
            let bytes = peer.0.read(&mut piece).await.unwrap();
            assert!(bytes > 0, "{text}");
            text.push_str(std::str::from_utf8(&piece[..bytes]).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
}

#[tokio::test]
async fn a_sender_that_ends_its_side_behind_the_request_still_hears_the_answer() {
    let bench = Bench::start(&[]).await;
    for request in [
        "GET /later HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let mut peer = bench.connect().await;
        peer.send(request).await;
        peer.0.shutdown().await.unwrap();
        assert_status(&peer.rest().await, 200);
    }
    // What has no end is given up, though.
    let mut peer = bench.connect().await;
    peer.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    peer.0.shutdown().await.unwrap();
    peer.rest().await;
}
