//! `/sse`: the same stream, offsets and parameters as server-sent events.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::event_source::EventSource;
use crate::support::telecast::{self, Telecast};
use crate::support::{eventually, patiently};

async fn clients_are(node: &Telecast, wanted: u64) {
    let what = format!("{wanted} clients");
    let are = async || (node.get("/api/health").await.json["clients"] == wanted).then_some(());
    eventually(&what, are).await;
}

#[tokio::test]
async fn events_are_the_messages_of_a_websocket_with_their_offsets_as_ids() {
    let stage = Stage::new().await;
    let filters = "filter=web-01.*&filter=*.cpu%7Bcpu=cpu1%7D";
    let mut sockets = Vec::new();
    let mut sources = Vec::new();
    for parameters in ["", filters, "format=influx"] {
        sockets.push(Client::connect(stage.edge(0), parameters).await);
        sources.push(EventSource::connect(stage.edge(1), parameters).await);
    }
    let headers = sources[0].headers();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(
        (&headers["cache-control"], &headers["x-accel-buffering"]),
        (&"no-store".parse().unwrap(), &"no".parse().unwrap())
    );
    assert!(sources.iter().all(|source| source.stream.retry.is_some()));
    let (mut first, mut second) = (stage.collector("web-01"), stage.collector("web-02"));
    for _ in 0..30 {
        first.flush(2).await;
        second.flush(3).await;
    }
    sockets[0].all_of(&first).await;
    sockets[0].all_of(&second).await;
    for number in [1, 2] {
        let end = if number == 1 { 60 * 3 + 23 } else { 60 * 3 + 90 * 3 };
        sockets[number].until("its part", |ledger| ledger.metrics() >= end).await;
    }
    for (socket, source) in sockets.iter().zip(&mut sources) {
        source.until("as much", |ledger| ledger.metrics() >= socket.ledger.metrics()).await;
        let same = socket.ledger.data.iter().map(|message| message.trim_end_matches('\n'));
        assert!(same.eq(source.ledger.data.iter().map(String::as_str)), "the same messages, to the byte");
        let offset = source.ledger.offset.as_ref().map(|offset| offset.token());
        assert_eq!(Some(&source.stream.last_id), offset.as_ref());
    }
    let sessions = stage.edges[1].metric("ws_sessions_total{transport=\"sse\"}").await;
    assert_eq!(sessions, 3.0);
}

#[tokio::test]
async fn a_reader_comes_back_on_another_edge_with_the_id_of_its_last_event_and_misses_nothing() {
    let stage = Stage::new().await;
    let mut collector = stage.collector("web-01");
    collector.flush(20).await;
    // The URL still says where it began: the header wins, unless it is empty.
    let mut source = EventSource::attempt(stage.edge(0), "from=earliest", "").await.ok().expect("a stream");
    for number in [1, 0, 1] {
        collector.flush(10).await;
        let last = collector.flushed().last().copied();
        let came = |ledger: &crate::support::ledger::Ledger| {
            ledger.numbers("web-01", "disk").last().copied() == last
        };
        source.until("what there is", came).await;
        collector.flush(10).await;
        source.come_back(stage.edge(number)).await;
    }
    let flushed = collector.flushed();
    source.until("the rest", |ledger| ledger.metrics() >= flushed.len() * 3).await;
    for measurement in crate::support::collector::MEASUREMENTS {
        assert_eq!(source.ledger.numbers("web-01", measurement), flushed);
    }
    assert!(source.ledger.gaps.is_empty());
}

/// Polyfills that may send no headers, or send them too late; some of them make each URL another one for caches.
#[tokio::test]
async fn an_event_source_without_headers_goes_on_with_the_id_in_its_url_and_misses_nothing() {
    let stage = Stage::new().await;
    let mut collector = stage.collector("web-01");
    collector.flush(20).await;
    let begun = "from=earliest&filter=web-01.cpu&_=1732800000000";
    let mut source = EventSource::connect(stage.edge(0), begun).await;
    let mut came = Vec::new();
    for (number, spelling) in
        ["lastEventId", "Last-Event-ID", "lastEventID", "last-event-id", "Last-Event-Id", "evs_last_event_id"]
            .into_iter()
            .enumerate()
    {
        collector.flush(10).await;
        let last = collector.flushed().last().copied();
        source.until("what there is", |ledger| ledger.numbers("web-01", "cpu").last().copied() == last).await;
        came.extend_from_slice(source.ledger.numbers("web-01", "cpu"));
        collector.flush(10).await;
        let id = source.stream.last_id.clone();
        let url = format!("{begun}&{spelling}={id}&r=8421{number}&cacheBuster=0.{number}");
        source = EventSource::connect(stage.edge(number % 2), &url).await;
        assert_eq!(source.ledger.last("welcome")["offset"], *id, "{url}");
    }
    let rest = collector.flushed().len() - came.len();
    source.until("the rest", |ledger| ledger.metrics() >= rest).await;
    came.extend_from_slice(source.ledger.numbers("web-01", "cpu"));
    assert_eq!(came, collector.flushed());
    // The header is what a browser knows best: it adds it to the URL with which the page once began.
    let header = source.stream.last_id.clone();
    let both = EventSource::attempt(stage.edge(0), "from=earliest&lastEventId=yesterday", &header).await;
    assert_eq!(both.ok().expect("a stream").ledger.last("welcome")["offset"], *header);
}

#[tokio::test]
async fn a_cache_buster_is_no_reason_to_refuse_on_any_transport() {
    let node = telecast::standalone().start().await;
    for buster in
        ["_=17", "_=", "_t=0.5", "cb=x", "nocache=1&nocache=2", "r=84216", "no-cache=1", "evs_preamble=2056"]
    {
        for path in ["/sse", "/api/metrics/poll", "/api/metrics/latest"] {
            let answer = node.request("HEAD", &format!("{path}?{buster}"), &[]).await;
            assert_eq!(answer.status, 200, "{path}?{buster}");
        }
        let _session = crate::support::client::Client::connect(node.address(), buster).await;
    }
    for path in ["/sse", "/api/metrics/poll", "/api/metrics/latest"] {
        let answer = node.get(&format!("{path}?filtr=*.cpu")).await;
        let message = answer.json["error"]["message"].as_str().expect("text");
        assert!(message.contains("(did you mean `filter`?)"), "{path}: {message}");
    }
}

#[tokio::test]
async fn a_refusal_comes_before_the_stream_with_a_status_a_reason_and_a_count() {
    let node = telecast::standalone().set("edge.max_connections", 1).start().await;
    for (parameters, last_id, code) in [
        ("filter=cpu", "", "bad_filter"),
        ("from=yesterday", "", "bad_from"),
        ("from=earliest", "nonsense", "bad_from"),
        ("colour=red", "", "bad_parameter"),
        ("format=xml", "", "bad_format"),
    ] {
        let answer = EventSource::attempt(node.address(), parameters, last_id).await.err().expect(code);
        assert_eq!(
            (answer.status, answer.headers["content-type"].to_str().unwrap()),
            (400, "application/json")
        );
        assert_eq!(answer.json["error"]["code"], code, "{}", answer.json);
    }
    assert_eq!(node.metric("ws_connections_failed_total{reason=\"bad_request\"}").await, 5.0);

    let source = EventSource::connect(node.address(), "").await;
    for path in ["/sse", "/api/metrics/poll"] {
        let answer = node.get(path).await;
        assert_eq!((answer.status, &answer.json["error"]["code"]), (503, &"capacity".into()));
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(node.metric("ws_connections_failed_total{reason=\"capacity\"}").await, 2.0);
    // Who hangs up has left at once.
    drop(source);
    clients_are(&node, 0).await;
    let mut again = EventSource::connect(node.address(), "").await;
    assert_eq!(node.post("/api/v1/write", "cpu,host=a n=1i").await.status, 204);
    again.until("a metric", |ledger| ledger.metrics() == 1).await;

    let answer = node.request("POST", "/sse", &[]).await;
    assert_eq!((answer.status, answer.headers["allow"].to_str().unwrap()), (405, "GET,HEAD"));
}

#[tokio::test]
async fn head_tells_what_get_would_begin_with_and_begins_nothing() {
    let node = telecast::standalone().start().await;
    for (path, content_type) in [("/sse", "text/event-stream"), ("/api/metrics/poll", "application/json")] {
        let answer = node.request("HEAD", path, &[]).await;
        assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, content_type));
        assert_eq!(node.request("HEAD", &format!("{path}?filter=x"), &[]).await.status, 400);
    }
    assert_eq!(node.metric("ws_sessions_total{transport=\"sse\"}").await, 0.0);
    clients_are(&node, 0).await;
}

#[tokio::test]
async fn a_quiet_reader_hears_its_place_and_sees_that_the_server_is_there() {
    let node = telecast::standalone().set("edge.heartbeat_ms", 1_000).start().await;
    let mut source = EventSource::connect(node.address(), "filter=nobody.cpu").await;
    assert_eq!(node.post("/api/v1/write", "cpu,host=web-01 n=1i").await.status, 204);
    source.until("heartbeats", |ledger| ledger.count("heartbeat") >= 3).await;
    let heartbeat = source.ledger.last("heartbeat");
    assert_ne!(
        heartbeat["offset"],
        source.ledger.last("welcome")["offset"],
        "it has moved past what was not for it"
    );
    assert_eq!(heartbeat["offset"].as_str(), Some(&*source.stream.last_id));
    assert!(source.stream.comments.iter().any(|comment| comment == "ping"), "{:?}", source.stream.comments);
}

#[tokio::test]
async fn a_drain_says_goodbye_when_to_come_back_and_ends_the_stream() {
    let stage =
        Stage::with(2, |launch| launch.set("edge.drain_grace_ms", 0).set("edge.drain_waves_ms", 200)).await;
    let mut source = EventSource::connect(stage.edge(0), "").await;
    let mut collector = stage.collector("web-01");
    collector.flush(5).await;
    source.until("the beginning", |ledger| ledger.metrics() == 15).await;
    stage.edges[0].terminate();
    source.ended().await;
    let goodbye = source.ledger.last("goodbye");
    assert_eq!(goodbye["reason"], "draining");
    assert_eq!(goodbye["reconnect_after_ms"].as_u64(), source.stream.retry);
    assert_eq!(goodbye["offset"].as_str(), Some(&*source.stream.last_id));
    let last = source.stream.comments.last().map(String::as_str);
    assert_eq!(last, Some("closed, 1012: the node is draining"));
    collector.flush(5).await;
    source.come_back(stage.edge(1)).await;
    source.until("the rest", |ledger| ledger.metrics() == 30).await;
    assert_eq!(stage.edges[0].ended().await, Some(0));
}

#[tokio::test]
async fn a_reader_of_http_1_0_gets_the_bare_stream_until_the_connection_ends() {
    let node =
        telecast::standalone().set("edge.drain_grace_ms", 0).set("edge.drain_waves_ms", 0).start().await;
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(b"GET /sse HTTP/1.0\r\n\r\n").await.unwrap();
    clients_are(&node, 1).await;
    assert_eq!(node.post("/api/v1/write", "cpu,host=web-01 n=1i").await.status, 204);
    node.terminate();
    let mut all = String::new();
    patiently("the end", stream.read_to_string(&mut all)).await.unwrap();
    let (head, body) = all.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 200 ") && !head.contains("transfer-encoding"), "{head}");
    assert!(body.starts_with("retry: ") && body.contains("\ndata: {\"type\":\"metrics\""), "{body}");
    assert!(body.ends_with(": closed, 1012: the node is draining\n\n"), "{body}");
}

/// What it does not read is in a few buffers of bounded size; then it is skipped ahead, and sent away in the end. A reader
/// that never takes a byte would otherwise hold its place for ever.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_sent_away_and_costs_others_nothing() {
    let stage = Stage::with(1, |launch| {
        let launch = launch.set("edge.ring_bytes_max", 1 << 20).set("collector.envelope_bytes_max", 1 << 16);
        launch.set("edge.slow_client.timeout_ms", 2_000).set("edge.heartbeat_ms", 1_000)
    })
    .await;
    let edge = &stage.edges[0];
    let descriptors = edge.metric("process_open_fds").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut stuck = socket.connect(stage.edge(0)).await.unwrap();
    stuck.write_all(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    clients_are(edge, 1).await;
    let mut quick = EventSource::connect(stage.edge(0), "").await;
    let mut collector = stage.collector("web-01");
    for _ in 0..60 {
        for _ in 0..5 {
            collector.flush(100).await;
        }
        let enough = collector.flushed().len() * 3;
        quick.until("all of it", |ledger| ledger.metrics() >= enough).await;
    }
    assert!(quick.ledger.gaps.is_empty());
    clients_are(edge, 1).await;
    assert_eq!(edge.metric("ws_slow_clients_disconnected_total").await, 1.0);
    // The connection goes too, and with it what it held: the kernel gives up what is never taken.
    let gone = async || (edge.metric("process_open_fds").await <= descriptors + 1.0).then_some(());
    eventually("its descriptor", gone).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stuck.read_to_end(&mut rest)).await;
    assert!(rest.len() < 3 << 20, "{} bytes were kept for it", rest.len());
}
