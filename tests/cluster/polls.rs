//! `/api/metrics/poll`: the same stream for clients that can only ask.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::collector::MEASUREMENTS;
use crate::support::poller::{Poller, messages};
use crate::support::telecast::{self, Telecast};
use crate::support::{eventually, patiently};

async fn clients_are(node: &Telecast, wanted: u64) {
    let what = format!("{wanted} clients");
    let are = async || (node.get("/api/health").await.json["clients"] == wanted).then_some(());
    eventually(&what, are).await;
}

#[tokio::test]
async fn a_client_that_only_asks_gets_everything_once_and_in_order_from_any_edge() {
    let stage = Stage::new().await;
    let mut collector = stage.collector("web-01");
    collector.flush(10).await;
    let mut poller = Poller::new(stage.edge(0), "timeout=2").from("earliest");
    for round in 0..20 {
        poller.poll().await;
        poller.move_to(stage.edge(round % 2));
        collector.flush(3).await;
    }
    let flushed = collector.flushed();
    poller.until("all of it", |ledger| ledger.metrics() >= flushed.len() * 3).await;
    for measurement in MEASUREMENTS {
        assert_eq!(poller.ledger.numbers("web-01", measurement), flushed);
    }
    assert!(poller.ledger.gaps.is_empty());
}

#[tokio::test]
async fn an_answer_comes_with_the_first_metric_or_at_the_end_of_the_time() {
    let node = telecast::standalone().start().await;
    let write = async |line: &str| assert_eq!(node.post("/api/v1/write", line.to_owned()).await.status, 204);
    let mut poller = Poller::new(node.address(), "timeout=40&filter=*.cpu");
    let began = Instant::now();
    tokio::join!(poller.poll(), async {
        clients_are(&node, 1).await;
        // Not for it.
        write("mem,host=web-01 n=1i").await;
        write("cpu,host=web-01 n=2i").await;
    });
    assert_eq!(poller.ledger.numbers("web-01", "cpu"), [2]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    // Nothing comes for this one: its place moves on all the same.
    let mut quiet = Poller::new(node.address(), "timeout=3&filter=*.disk");
    let begin = node.get("/api/metrics/poll?timeout=0").await.json["next"].clone();
    let began = Instant::now();
    tokio::join!(quiet.poll(), async {
        clients_are(&node, 1).await;
        write("cpu,host=web-01 n=3i").await;
    });
    assert!((3..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_ne!(begin, quiet.next.as_str());
    assert_eq!(node.metric("ws_sessions_total{transport=\"poll\"}").await, 3.0);

    // Without a time to wait it is what there is.
    let answer = node.get("/api/metrics/poll?from=earliest&timeout=0").await;
    assert_eq!(messages(&answer).len(), 3);
    let answer = node
        .get(&format!("/api/metrics/poll?timeout=0&from={}", answer.json["next"].as_str().unwrap()))
        .await;
    assert_eq!(answer.json["messages"], json!([]));
    // From long ago, with nothing on the way: it gets to the end all the same.
    let path = format!("/api/metrics/poll?timeout=0&filter=*.disk&from={}", begin.as_str().unwrap());
    let nothing = node.get(&path).await;
    assert_eq!((&nothing.json["messages"], &nothing.json["next"]), (&json!([]), &answer.json["next"]));
    clients_are(&node, 0).await;
}

#[tokio::test]
async fn line_protocol_comes_as_text_with_the_place_in_the_header() {
    let node = telecast::standalone().start().await;
    assert_eq!(
        node.post("/api/v1/write", "cpu,host=web-01 n=1i 17\nmem,host=web-01 n=2i 18").await.status,
        204
    );
    let answer = node.get("/api/metrics/poll?from=earliest&format=influx&timeout=0").await;
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let lines: Vec<&str> = answer.body.lines().collect();
    assert_eq!((lines.len(), lines[1], lines[3]), (4, "cpu,host=web-01 n=1i 17", "mem,host=web-01 n=2i 18"));
    assert_eq!(lines[2], format!("# offset {}", answer.headers["x-next-offset"].to_str().unwrap()));
}

/// What would pass for a place or for a metric to a client that reads an answer line by line.
#[tokio::test]
async fn no_value_forges_an_offset_or_a_metric_for_a_client_that_reads_line_by_line() {
    let node = telecast::standalone().start().await;
    let forged = "# offset FORGED\nmem,host=db-01 used=0 1\n# snapshot 1/1";
    let ends = ["\n", "\r\n", "\r", "\u{b}", "\u{c}", "\u{1c}", "\u{85}", "\u{2028}", "\u{2029}"];
    let lines: Vec<String> = ends
        .iter()
        .enumerate()
        .map(|(number, end)| {
            format!("log,n={number} text=\"C:\\users{end}{}\" {number}", forged.replace('\n', end))
        })
        .collect();
    let body = lines.join("\n");
    assert_eq!(node.post("/write?collector=web-01", body).await.status, 204);
    let poll = "/api/metrics/poll?from=earliest&timeout=0";
    for path in [poll, "/api/metrics/latest?filter=*.*"] {
        let mut answers = Vec::new();
        for format in ["influx", "influx-escaped"] {
            let answer = node.get(&format!("{path}&format={format}")).await;
            // Python's `str.splitlines`, Node's `readline` and others take all of these for the end of a line.
            let is_end = |c: char| c == '\r' || ends.iter().any(|end| end.starts_with(c));
            let read: Vec<&str> = answer.body.split(is_end).filter(|line| !line.is_empty()).collect();
            let (comments, metrics): (Vec<&str>, Vec<&str>) =
                read.iter().partition(|line| line.starts_with('#'));
            assert_eq!(comments.len(), 1, "{comments:?}");
            assert!(!comments[0].contains("FORGED"), "{comments:?}");
            let raw: Vec<_> =
                metrics.iter().map(|line| ::telecast::proto::line::read_physical(line)).collect();
            assert_eq!(raw, lines, "{path}: what was written, to the byte");
            answers.push(answer.body);
        }
        assert_eq!(answers[0], answers[1], "the escaped form is what these answers have by themselves");
        // By its name, what was written comes as it is: for parsers of line protocol.
        let raw = node.get(&format!("{path}&format=influx-raw")).await.body;
        assert!(raw.contains("\n# offset FORGED\n"), "{raw}");
    }
    for (format, is_raw) in [("influx-escaped", false), ("influx", true)] {
        let url = format!("ws://{}/ws?from=earliest&format={format}", node.address());
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a session");
        let _welcome = socket.next().await;
        let frame = patiently("a frame", socket.next()).await.expect("a session").expect("a frame");
        let frame = frame.into_text().expect("text");
        assert_eq!(
            frame.contains("\n# offset FORGED"),
            is_raw,
            "a frame has a beginning of its own: {frame}"
        );
    }
}

#[tokio::test]
async fn a_long_past_comes_in_answers_of_bounded_size() {
    let stage = Stage::with(1, |launch| launch.set("collector.envelope_bytes_max", 1 << 16)).await;
    let mut collector = stage.collector("web-01");
    for _ in 0..40 {
        collector.flush(200).await;
    }
    let mut poller = Poller::new(stage.edge(0), "timeout=5").from("earliest");
    let mut answers = 0;
    while poller.ledger.metrics() < collector.flushed().len() * 3 {
        let answer = poller.try_poll().await;
        assert!(answer.body.len() < 2 << 20, "{} bytes at once", answer.body.len());
        poller.poll().await;
        answers += 1;
    }
    assert!((2..60).contains(&answers), "{answers} answers for what is some megabytes");
    assert_eq!(poller.ledger.numbers("web-01", "cpu"), collector.flushed());
}

#[tokio::test]
async fn who_hangs_up_leaves_at_once_and_many_who_wait_are_clients_like_others() {
    let node = telecast::standalone().start().await;
    let request = format!("GET /api/metrics/poll?timeout=60 HTTP/1.1\r\nHost: {}\r\n\r\n", node.address());
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(node.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    clients_are(&node, 200).await;
    waiting.truncate(50);
    clients_are(&node, 50).await;
    drop(waiting);
    clients_are(&node, 0).await;
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let node = telecast::standalone().start().await;
    for (parameters, code) in [
        ("timeout=soon", "bad_parameter"),
        ("timeout=61", "bad_parameter"),
        ("timeout=1&timeout=2", "bad_parameter"),
        ("from=x", "bad_from"),
        ("filter=x", "bad_filter"),
    ] {
        let answer = node.get(&format!("/api/metrics/poll?{parameters}")).await;
        assert_eq!((answer.status, &answer.json["error"]["code"]), (400, &json!(code)), "{parameters}");
    }
}

#[tokio::test]
async fn a_drain_answers_who_waits_with_a_goodbye() {
    let node =
        telecast::standalone().set("edge.drain_grace_ms", 0).set("edge.drain_waves_ms", 0).start().await;
    let mut polls = JoinSet::new();
    for _ in 0..5 {
        let mut poller = Poller::new(node.address(), "timeout=60");
        polls.spawn(async move {
            poller.poll().await;
            poller
        });
    }
    clients_are(&node, 5).await;
    node.terminate();
    while let Some(poller) = polls.join_next().await {
        let poller = poller.expect("an answer");
        assert_eq!(poller.ledger.last("goodbye")["offset"], *poller.next);
    }
    assert_eq!(node.ended().await, Some(0));
}

/// An answer that ended inside a flush would begin it anew with the next poll, and so on for ever.
#[tokio::test]
async fn newest_values_come_whole_however_many_they_are() {
    let node = telecast::standalone().start().await;
    let mut next = node.get("/api/metrics/poll?timeout=0&interval=300").await.json["next"].clone();
    let padding = "x".repeat(300);
    for round in 1..=2 {
        let lines: Vec<String> =
            (0..4_000).map(|n| format!("cpu,host=web-01,core={n} n={round}i,note=\"{padding}\"")).collect();
        assert_eq!(node.post("/api/v1/write", lines.join("\n")).await.status, 204);
        let mut values = std::collections::BTreeMap::new();
        let (mut answers, mut times) = (0, 0);
        while values.values().filter(|value| **value == round).count() < 4_000 {
            let path = format!("/api/metrics/poll?interval=300&from={}", next.as_str().expect("a place"));
            let answer = node.get(&path).await;
            let metrics =
                messages(&answer).iter().flat_map(|message| message["metrics"].as_array().expect("metrics"));
            for metric in metrics {
                times += 1;
                values.insert(metric["tags"]["core"].to_string(), metric["fields"]["n"].as_i64().expect("n"));
            }
            assert_ne!(answer.json["next"], next, "an answer that leads back to where it began");
            next = answer.json["next"].clone();
            answers += 1;
        }
        assert!(answers <= 12 && times <= 8_000, "{answers} answers with {times} values");
    }
}
