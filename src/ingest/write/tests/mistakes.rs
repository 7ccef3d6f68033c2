//! What a sender got wrong, it is told.

use super::{bench, post, settings};

/// `$(date +%s)` without `precision=s`, and other times that nobody means.
#[tokio::test]
async fn times_that_cannot_be_meant_are_stored_and_told_with_the_precision_that_fits() {
    let bench = bench(settings());
    let now_s = crate::ops::clock::unix_ns() / 1_000_000_000;
    let seconds = format!("cpu,host=a u=1 {now_s}\ncpu,host=a u=2 {now_s}\ncpu,host=a u=3");
    let reply = post(&bench, "/write", &[], seconds).await;
    assert_eq!(reply.status, 204);
    let warning = reply.headers["x-telecast-warning"].to_str().unwrap();
    assert!(warning.contains("line 1, ") && warning.contains("1970-01-01T00:00:01."), "{warning}");
    assert!(warning.contains("precision=s would fit") && warning.contains("(2 lines"), "{warning}");
    let errors = &bench.status()["collectors"][0]["recent_errors"];
    assert_eq!((errors.as_array().unwrap().len(), &errors[0]["line"]), (1, &1.into()));
    assert!(errors[0]["message"].as_str().unwrap().contains("precision=s would fit"), "{errors}");

    for (query, time, word) in [
        ("?precision=ms", now_s, "precision=s would fit"),
        ("", now_s * 1_000, "precision=ms would fit"),
        ("?precision=us", now_s * 1_000, "precision=ms would fit"),
        ("?precision=s", now_s + 3 * 86_400, "more than a day ahead"),
        ("", 0, "check the clock"),
        ("?precision=s", 946_684_800, "check the clock"),
    ] {
        let reply = post(&bench, &format!("/write{query}"), &[], format!("cpu,host=b u=1 {time}")).await;
        let warning = reply.headers["x-telecast-warning"].to_str().unwrap();
        assert!(reply.status == 204 && warning.contains(word), "{query} {time}: {warning}");
    }
    let json = format!(r#"{{"name":"m","fields":{{"v":1}},"timestamp":{now_s}}}"#);
    let reply = post(&bench, "/write?precision=ms", &[], json).await;
    assert!(reply.headers["x-telecast-warning"].to_str().unwrap().contains("precision=s would fit"));
    assert_eq!(bench.metric("ws_lines_suspicious_total{kind=\"precision\"}"), 6.0);
    assert_eq!(bench.metric("ws_lines_suspicious_total{kind=\"future\"}"), 1.0);
    assert_eq!(bench.metric("ws_lines_suspicious_total{kind=\"past\"}"), 2.0);
    assert_eq!(bench.metric("ws_lines_rejected_total{kind=\"range\"}"), 0.0);

    let out_of_range = post(&bench, "/write?precision=s", &[], format!("cpu u=1 {now_s}000")).await;
    assert!(
        out_of_range.json["message"].as_str().unwrap().contains("precision=ms would fit"),
        "{}",
        out_of_range.json
    );
    for (query, time) in
        [("?precision=s", now_s), ("?precision=s", now_s - 86_400 * 365), ("?precision=s", now_s + 3_600)]
    {
        let reply = post(&bench, &format!("/write{query}"), &[], format!("cpu,host=c u=1 {time}")).await;
        assert!(reply.status == 204 && !reply.headers.contains_key("x-telecast-warning"), "{query} {time}");
    }
}

/// 204 is the answer to a partly bad batch, so that agents do not repeat it for ever; a person sees what was left out.
#[tokio::test]
async fn a_partly_bad_batch_says_so_in_a_header() {
    let bench = bench(settings());
    let reply = post(&bench, "/write", &[], "cpu,host=a u=1\nnönsense").await;
    let warning = reply.headers["x-telecast-warning"].to_str().unwrap();
    assert!(reply.status == 204 && warning.starts_with("not accepted: 1 (line 2, column "), "{warning}");
    let many = "nonsense\n".repeat(1000) + "cpu,host=a u=1";
    let reply = post(&bench, "/write", &[], many).await;
    assert!(reply.status == 204 && reply.headers["x-telecast-warning"].len() <= 1024);
}

#[tokio::test]
async fn data_of_other_protocols_is_named_with_what_takes_it() {
    let bench = bench(settings());
    let protobuf = ("content-type", "application/x-protobuf");
    let remote_write =
        [protobuf, ("content-encoding", "snappy"), ("x-prometheus-remote-write-version", "0.1.0")];
    for (headers, body, word) in [
        (&remote_write[..], &b"\x18\x44\x0a\x16"[..], "Prometheus remote write"),
        (&[protobuf], b"\x0a\x02\x0a\x00", "OTLP"),
        (&[], b"# TYPE up gauge\nup{job=\"x\"} 1\n", "Prometheus text exposition"),
        (&[("content-type", "application/json")], b"{\"resourceMetrics\":[]}", "OTLP"),
        (&[], b"page.views:1|c", "statsd"),
        (&[], b"servers.a.cpu 42 1700000000", "Graphite"),
    ] {
        let reply = post(&bench, "/api/v1/write", headers, body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json["error"]["code"]),
            (415, &"foreign_format".into()),
            "{word}"
        );
        let message = reply.json["message"].as_str().unwrap();
        assert!(message.contains(word) && message.contains("Telegraf"), "{message}");
    }
    let errors = bench.status()["collectors"][0]["recent_errors"].to_string();
    assert!(errors.contains("this looks like"), "{errors}");
    assert_eq!(bench.metric("ws_writes_failed_total{reason=\"foreign\"}"), 6.0);
}
