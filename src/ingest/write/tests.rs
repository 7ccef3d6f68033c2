//! Writes over HTTP; what senders got wrong is in `mistakes`.

mod mistakes;

use std::io::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures_util::StreamExt as _;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::config::{ChannelLimits, CollectorSettings};
use crate::ingest::budget::BLOCK_BYTES;
use crate::ingest::testing::{Bench, Mood, bench, settings};

/// What came back: status, headers and (if there is one) the JSON body.
struct Reply {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    json: Value,
}

async fn send(bench: &Bench, request: Request<Body>) -> Reply {
    let response: Response<Body> = bench.ingest.clone().router().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Reply { status: parts.status, headers: parts.headers, json }
}

async fn post(bench: &Bench, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
    let mut request = Request::post(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(bench, request.body(body.into()).unwrap()).await
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_write_is_answered_when_the_log_has_it_on_every_path() {
    let bench = bench(settings());
    for (at, uri) in ["/api/v1/write", "/api/v2/write?org=o&bucket=b&precision=ns", "/write?db=d&u=me&p=x"]
        .iter()
        .enumerate()
    {
        let line = format!("cpu,host=a u=1 {at}");
        let reply = post(&bench, uri, &[], line.clone()).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{uri}: {}", reply.json);
        assert_eq!(bench.broker.lines().await[at], line);
    }
    let collector = &bench.status()["collectors"][0];
    assert_eq!((&collector["id"], &collector["transport"]), (&"a".into(), &"http".into()));
    assert_eq!(collector["lines_accepted"], 3);
    assert_eq!((&collector["connected"], &collector["connected_since"]), (&true.into(), &Value::Null));
    assert_eq!(bench.status()["collector_connected"], true, "for a while after each write");
}

#[tokio::test]
async fn gzip_is_undone_and_other_encodings_are_refused() {
    let bench = bench(settings());
    let body = gzip(b"cpu u=1 1");
    assert_eq!(post(&bench, "/write", &[("content-encoding", "gzip")], body.clone()).await.status, 204);
    assert_eq!(bench.broker.lines().await, ["cpu u=1 1"]);
    let cut = post(&bench, "/write", &[("content-encoding", "gzip")], body[..12].to_vec()).await;
    assert_eq!((cut.status.as_u16(), &cut.json["error"]["code"]), (400, &"bad_gzip".into()));
    let zstd = post(&bench, "/write", &[("content-encoding", "zstd")], body).await;
    assert_eq!((zstd.status.as_u16(), &zstd.headers["accept-encoding"]), (415, &"gzip".parse().unwrap()));
}

#[tokio::test]
async fn what_is_too_large_is_refused_plain_chunked_or_inflated() {
    let bench = bench(settings());
    let large = vec![b'#'; 64 * 1024 + 1];
    assert_eq!(post(&bench, "/write", &[], large.clone()).await.status, 413);
    let chunks = futures_util::stream::iter(
        large.chunks(1000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    let chunked = post(&bench, "/write", &[], Body::from_stream(chunks)).await;
    assert_eq!(chunked.status, 413);
    let bomb = post(&bench, "/write", &[("content-encoding", "gzip")], gzip(&vec![b'\n'; 4 << 20])).await;
    assert_eq!(bomb.status, 413);
    assert_eq!(bomb.json["code"], "request too large");
    assert_eq!(bench.metric("ws_writes_failed_total{reason=\"too_large\"}"), 3.0);
}

#[tokio::test]
async fn a_partly_bad_batch_is_stored_and_reported_and_an_entirely_bad_one_refused() {
    let bench = bench(settings());
    let partly = post(&bench, "/write", &[], "cpu,host=a u=1 1\nnonsense\ncpu,host=a u=2 2").await;
    assert_eq!(partly.status, 204);
    assert_eq!(bench.broker.lines().await, ["cpu,host=a u=1 1\ncpu,host=a u=2 2"]);
    assert_eq!(bench.metric("ws_lines_rejected_total{kind=\"syntax\"}"), 1.0);
    let collector = &bench.status()["collectors"][0];
    assert_eq!(
        (&collector["lines_rejected"], &collector["recent_errors"][0]["line"]),
        (&1.into(), &2.into())
    );

    let entirely = post(&bench, "/write", &[], "nonsense\nmore nonsense").await;
    assert_eq!(entirely.status, 400);
    assert_eq!(entirely.json["code"], "invalid");
    assert_eq!(entirely.json["error"]["code"], "bad_lines");
    assert!(entirely.json["message"].as_str().unwrap().contains("line 1, column "), "{}", entirely.json);
    assert_eq!(entirely.json["message"], entirely.json["error"]["message"]);
}

#[tokio::test]
async fn an_empty_write_is_fine() {
    let bench = bench(settings());
    assert_eq!(post(&bench, "/api/v2/write", &[], "").await.status, 204);
    assert_eq!(post(&bench, "/api/v2/write", &[], "# nothing\n\n").await.status, 204);
}

#[tokio::test]
async fn bad_parameters_and_methods_say_what_to_do() {
    let bench = bench(settings());
    let precision = post(&bench, "/write?precision=x", &[], "cpu u=1").await;
    assert_eq!((precision.status.as_u16(), &precision.json["error"]["code"]), (400, &"bad_precision".into()));
    let key = post(&bench, "/write", &[("idempotency-key", "")], "cpu u=1").await;
    assert_eq!((key.status.as_u16(), &key.json["error"]["code"]), (400, &"bad_idempotency_key".into()));
    let get = send(&bench, Request::get("/write").body(Body::empty()).unwrap()).await;
    assert_eq!((get.status.as_u16(), &get.headers["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(get.json["error"]["code"], "method_not_allowed");
}

#[tokio::test]
async fn minutes_of_influxdb_1_are_a_precision() {
    let bench = bench(settings());
    assert_eq!(post(&bench, "/write?db=x&precision=m", &[], "cpu u=1 2").await.status, 204);
    assert_eq!(bench.broker.lines().await, ["cpu u=1 120000000000"]);
}

#[tokio::test]
async fn a_repeated_write_is_stored_once_if_it_can_be_recognised() {
    let bench = bench(settings());
    for _ in 0..2 {
        post(&bench, "/write", &[], "cpu u=1 1").await;
    }
    for _ in 0..2 {
        post(&bench, "/write", &[("idempotency-key", "flush-17")], "mem u=2").await;
        post(&bench, "/write", &[], "disk u=3").await;
    }
    let stored = bench.broker.stored().await;
    let names: Vec<&str> = stored.iter().map(|one| &*one.envelope.channel.measurement).collect();
    assert_eq!(names, ["cpu", "mem", "disk", "disk"], "lines without time and key are new measurements");
    assert_eq!(bench.metric("ws_envelopes_duplicate_total"), 2.0);
}

/// A door that opens, closes and opens again within a second, told by a clock of seconds.
#[tokio::test]
async fn a_value_that_returns_is_stored_however_soon() {
    let nodes = [bench(settings())];
    let nodes = [nodes[0].peer(), nodes.into_iter().next().unwrap()];
    let write = async |node: usize, headers: &[(&str, &str)], open: u8| {
        let body = format!("door,host=a open={open}i 1700000000");
        assert_eq!(post(&nodes[node], "/write?precision=s", headers, body).await.status, 204);
    };
    for node in [0, 1, 0, 1] {
        write(node, &[], 1).await;
        write(node, &[], 0).await;
    }
    write(0, &[], 1).await;
    write(1, &[], 1).await;
    let values = async || {
        let lines = nodes[0].broker.lines().await;
        lines.iter().map(|line| line.split(['=', 'i']).nth(2).unwrap().to_owned()).collect::<String>()
    };
    assert_eq!(values().await, "101010101", "the last was a repeat of the newest, over another node");
    for key in ["k1", "k2", "k3", "k3", "k1"] {
        write(0, &[("idempotency-key", key)], 1).await;
    }
    assert_eq!(values().await, "101010101111", "a key of its own is a batch of its own, equal or not");
}

/// The collector stands with the first measurement of many: what came in between need not be of the same one.
#[tokio::test]
async fn a_batch_equal_to_an_older_one_with_others_in_between_is_new() {
    let bench = bench(settings());
    let door = "door,host=a open=1 1\nlock,host=a open=1 1";
    for body in [door, door, "window,host=a open=1 1", door, "door,host=b open=1 1", door] {
        assert_eq!(post(&bench, "/write", &[], body).await.status, 204);
    }
    let stored = bench.broker.stored().await;
    let names: Vec<String> = stored
        .iter()
        .map(|one| format!("{}.{}", one.envelope.channel.collector, one.envelope.channel.measurement))
        .collect();
    assert_eq!(names, ["a.door", "a.lock", "a.window", "a.door", "a.lock", "b.door"]);
}

#[tokio::test]
async fn no_room_is_503_at_once_and_there_is_room_again_when_the_log_answers() {
    let bench = bench(CollectorSettings { buffer_bytes_max: 4 * BLOCK_BYTES, ..settings() });
    bench.broker.set(Mood::Silent);
    let large = format!("cpu s=\"{}\" 1", "x".repeat(4 * BLOCK_BYTES - 60));
    let (first, ()) = tokio::join!(post(&bench, "/write?collector=a", &[], large), async {
        bench.broker.begun(1).await;
        let refused = post(&bench, "/write?collector=b", &[], "cpu u=1 1").await;
        assert_eq!((refused.status.as_u16(), &refused.json["error"]["code"]), (503, &"buffer_full".into()));
        assert!(refused.headers.contains_key("retry-after"));
        assert_eq!(bench.metric("ws_collector_buffered_bytes"), (4 * BLOCK_BYTES) as f64);
        bench.broker.set(Mood::Well);
    });
    assert_eq!(first.status, 204);
    assert_eq!(post(&bench, "/write?collector=b", &[], "cpu u=1 1").await.status, 204);
    assert_eq!(bench.metric("ws_collector_buffered_bytes"), 0.0);
    assert_eq!(bench.metric("ws_writes_failed_total{reason=\"buffer\"}"), 1.0);
}

/// A body of these bytes, whose end never comes.
fn unfinished(bytes: usize) -> Body {
    let begun = futures_util::stream::once(async move { Ok::<_, std::io::Error>(vec![b'#'; bytes]) });
    Body::from_stream(begun.chain(futures_util::stream::pending()))
}

/// What they announce, or leave open, costs nobody anything: Telegraf's compressed bodies have no length.
#[tokio::test(start_paused = true)]
async fn a_write_is_stored_at_once_beside_any_number_of_bodies_that_stall() {
    let bench = bench(settings());
    let mut stalled = futures_util::future::join_all((0..100).map(|n| {
        let length = (64 * 1024).to_string();
        let headers = if n % 2 == 0 { vec![("content-length", length)] } else { Vec::new() };
        let bench = &bench;
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            post(bench, "/write", &headers, unfinished(1)).await
        }
    }));
    assert!(futures_util::poll!(&mut stalled).is_pending());
    let began = Instant::now();
    assert_eq!(post(&bench, "/write", &[], "cpu u=1 1").await.status, 204);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    for reply in stalled.await {
        assert_eq!((reply.status.as_u16(), &reply.json["error"]["code"]), (503, &"too_slow".into()));
        assert!(reply.headers.contains_key("retry-after"));
    }
    assert_eq!(bench.metric("ws_receives_cut_total{reason=\"too_slow\"}"), 100.0);
    assert_eq!(bench.metric("ws_writes_failed_total{reason=\"slow\"}"), 100.0);
    assert_eq!(bench.metric("ws_receive_bytes"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn where_bodies_leave_no_room_the_slowest_gives_way_to_others() {
    let bench = bench(settings());
    let mut stalled = Box::pin(post(&bench, "/write", &[], unfinished(60 * 1024)));
    assert!(futures_util::poll!(&mut stalled).is_pending());
    let line = format!("cpu s=\"{}\" 1", "x".repeat(15 * 1024));
    let (given_up, stored) = tokio::join!(stalled, post(&bench, "/write", &[], line));
    assert_eq!(stored.status, 204);
    assert_eq!((given_up.status.as_u16(), &given_up.json["error"]["code"]), (503, &"gave_way".into()));
    assert_eq!(bench.metric("ws_receives_cut_total{reason=\"gave_way\"}"), 1.0);
}

/// A body that is sent steadily has all its time; with the last of it, it is too late.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_complete_in_time_is_503_so_that_no_agent_drops_it() {
    let bench = bench(settings());
    let steps = futures_util::stream::unfold((), async |()| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some((Ok::<_, std::io::Error>(vec![b'#'; 1_000]), ()))
    });
    let began = Instant::now();
    let late = post(&bench, "/write", &[], Body::from_stream(steps)).await;
    assert_eq!((late.status.as_u16(), &late.json["error"]["code"]), (503, &"timed_out".into()));
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn what_gzip_inflates_to_is_charged_like_what_is_sent() {
    let bench = bench(settings());
    let body = gzip(&vec![b'\n'; 60 * 1024]);
    assert_eq!(post(&bench, "/write", &[("content-encoding", "gzip")], body.clone()).await.status, 204);
    let mut waits_for_the_log = bench.ingest.receiving.open(None, None);
    waits_for_the_log.pin(40 * 1024).unwrap();
    let refused = post(&bench, "/write", &[("content-encoding", "gzip")], body).await;
    assert_eq!((refused.status.as_u16(), &refused.json["error"]["code"]), (503, &"buffer_full".into()));
    assert_eq!(post(&bench, "/write", &[], "cpu u=1 1").await.status, 204, "what is small has room");
}

/// Without the withdrawal, an agent that repeats its write would fill the buffer with its own abandoned attempts.
#[tokio::test(start_paused = true)]
async fn a_write_out_of_time_is_503_and_leaves_nothing_behind_but_what_was_begun() {
    let bench = bench(settings());
    bench.broker.set(Mood::Away);
    for attempt in 0..5 {
        let reply = post(&bench, "/write?collector=a", &[], "cpu u=1").await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json["error"]["code"]),
            (503, &"log_unavailable".into()),
            "{attempt}"
        );
    }
    assert_eq!(bench.metric("ws_collector_buffered_bytes"), BLOCK_BYTES as f64);
    bench.broker.set(Mood::Well);
    assert_eq!(post(&bench, "/write?collector=a", &[], "mem u=2").await.status, 204);
    let stored = bench.broker.stored().await;
    let names: Vec<&str> = stored.iter().map(|one| &*one.envelope.channel.measurement).collect();
    assert_eq!(names, ["cpu", "mem"]);
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_nothing_behind_but_what_was_begun() {
    let bench = bench(settings());
    bench.broker.set(Mood::Silent);
    let mut begun = Box::pin(post(&bench, "/write?collector=a", &[], "cpu u=1"));
    tokio::select! {
        _ = &mut begun => panic!("the log is silent"),
        () = bench.broker.begun(1) => {}
    }
    {
        let mut waiting = Box::pin(post(&bench, "/write?collector=a", &[], "mem u=2"));
        while bench.metric("ws_collector_buffered_bytes") < (2 * BLOCK_BYTES) as f64 {
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
    }
    assert_eq!(bench.metric("ws_collector_buffered_bytes"), BLOCK_BYTES as f64);
    bench.broker.set(Mood::Well);
    assert_eq!(begun.await.status, 204);
    assert_eq!(bench.broker.stored().await.len(), 1);
}

#[tokio::test]
async fn what_the_log_refuses_is_the_callers_to_know() {
    let bench = bench(settings());
    bench.broker.set(Mood::Refuses("bad"));
    let reply = post(&bench, "/write", &[], "bad u=1 1\ngood u=1 1").await;
    assert_eq!((reply.status.as_u16(), &reply.json["error"]["code"]), (422, &"refused".into()));
    assert_eq!(bench.broker.lines().await, ["good u=1 1"]);
}

#[tokio::test]
async fn a_draining_node_takes_no_writes() {
    let bench = bench(settings());
    bench.ingest.drain(Duration::from_secs(1)).await;
    let reply = post(&bench, "/write", &[], "cpu u=1").await;
    assert_eq!((reply.status.as_u16(), &reply.json["error"]["code"]), (503, &"draining".into()));
    assert!(reply.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn an_empty_body_said_to_be_gzip_is_empty_and_padding_is_no_error() {
    let bench = bench(settings());
    assert_eq!(post(&bench, "/write", &[("content-encoding", "gzip")], "").await.status, 204);
    let mut padded = gzip(b"cpu u=1 1");
    padded.extend([0; 512]);
    assert_eq!(post(&bench, "/write", &[("content-encoding", "gzip")], padded).await.status, 204);
    assert_eq!(bench.broker.lines().await, ["cpu u=1 1"]);
}

#[tokio::test]
async fn a_ping_that_asks_for_words_gets_a_version() {
    let bench = bench(settings());
    let ping = async |method: &str, query: &str| {
        let request =
            Request::builder().method(method).uri(format!("/ping{query}")).body(Body::empty()).unwrap();
        send(&bench, request).await
    };
    for query in ["?verbose=true", "?verbose=1", "?u=me&verbose=yes"] {
        let reply = ping("GET", query).await;
        assert_eq!(reply.status, 200, "{query}");
        assert!(reply.json["version"].as_str().unwrap().starts_with("telecast-"));
        assert_eq!(reply.headers["x-influxdb-version"], *reply.json["version"].as_str().unwrap());
        assert_eq!(ping("HEAD", query).await.status, 200);
    }
    for query in ["", "?verbose=", "?verbose=false", "?verbose=0"] {
        assert_eq!(ping("GET", query).await.status, 204, "{query}");
    }
}

#[tokio::test]
async fn influxdb_clients_find_a_ping() {
    let bench = bench(settings());
    for method in ["GET", "HEAD"] {
        let request = Request::builder().method(method).uri("/ping").body(Body::empty()).unwrap();
        let reply = send(&bench, request).await;
        assert_eq!(reply.status, 204);
        assert!(reply.headers["x-influxdb-version"].to_str().unwrap().starts_with("telecast-"));
    }
}

#[tokio::test]
async fn new_channels_beyond_a_limit_are_refused_and_known_ones_go_on() {
    let channels = ChannelLimits { channels_max: 2, ..settings().channels };
    let bench = bench(CollectorSettings { channels, ..settings() });
    assert_eq!(
        post(&bench, "/write", &[], "cpu,host=a v=1\nmem,host=a v=1").await.status,
        StatusCode::NO_CONTENT
    );
    let refused = post(&bench, "/write", &[], "disk,host=a v=1\ncpu,host=b v=1").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.json["error"]["code"], "too_many_channels");
    let message = refused.json["message"].as_str().unwrap();
    assert!(message.contains("\"a.disk\"") && message.contains("collector.channels_max"), "{message}");
    assert_eq!(
        post(&bench, "/write", &[], "cpu,host=a v=2\ndisk,host=a v=2").await.status,
        StatusCode::NO_CONTENT,
        "a known channel is stored, whatever stands beside it"
    );
    assert_eq!(bench.broker.stored().await.len(), 3);
    assert_eq!(bench.metric("ws_lines_rejected_total{kind=\"too_many_channels\"}"), 3.0);
    assert_eq!(bench.metric("ws_writes_failed_total{reason=\"too_many\"}"), 1.0);
    assert!(bench.node.concerns()[0].contains("collector.channels_max = 2"), "{:?}", bench.node.concerns());
}

#[tokio::test]
async fn a_request_brings_metrics_of_so_many_hosts_and_those_of_more_are_refused() {
    let bench = bench(CollectorSettings { ids_per_connection_max: 3, ..settings() });
    let lines = |range: std::ops::Range<u32>| range.map(|n| format!("m,host=h{n} v=1\n")).collect::<String>();
    let reply = post(&bench, "/write", &[], lines(0..5) + "m,host=h0 v=2").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert_eq!(bench.broker.lines().await.len(), 3);
    assert_eq!(bench.metric("ws_lines_rejected_total{kind=\"too_many_collectors\"}"), 2.0);
    let error = &bench.status()["collectors"][0]["recent_errors"][0];
    assert!(error["message"].as_str().unwrap().contains("collector.ids_per_connection_max"), "{error}");
    assert_eq!(
        post(&bench, "/write", &[], lines(3..6)).await.status,
        StatusCode::NO_CONTENT,
        "another request"
    );
}

#[tokio::test]
async fn chunks_that_are_none_are_a_bad_request_and_a_body_that_breaks_off_is_incomplete() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    for (body, status, code) in [
        ("zz\r\nm v=1\r\n0\r\n\r\n", 400, "bad_chunks"),
        ("5\r\nm v=1m v=2\r\n0\r\n\r\n", 400, "bad_chunks"),
        ("FFFFFFFFFFFFFFFFF\r\n", 400, "bad_chunks"),
        ("5\r\nm v=1\r\n0\r\n\r\n", 204, ""),
    ] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = "POST /write?collector=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let bytes = socket.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..bytes]);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(code),
            "{body:?}: {answer}"
        );
    }
}
