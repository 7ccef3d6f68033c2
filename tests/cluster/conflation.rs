//! Clients that want each series' newest value now and then, and not every value.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::collector::{CPUS, Collector, MEASUREMENTS};
use crate::support::ledger::Ledger;

/// Between two flushes of the clients' views.
const INTERVAL: Duration = Duration::from_millis(200);

/// The newest number of each series.
type State = BTreeMap<(String, String), i64>;

/// What was published last of these measurements.
fn published(collectors: &[&Collector], measurements: &[&str]) -> State {
    collectors.iter().flat_map(|collector| collector.state(measurements)).collect()
}

async fn comes_to(client: &mut Client, state: &State) {
    client.until("the newest values", |ledger| ledger.state == *state).await;
}

#[tokio::test]
async fn each_series_comes_once_per_interval_with_its_newest_value_and_the_count_of_the_others() {
    let stage = Stage::with(1, |launch| launch).await;
    let mut json = Client::connect(stage.edge(0), "interval=200").await;
    let mut influx = Client::connect(stage.edge(0), "interval=200&format=influx").await;
    let filters = "filter=*.cpu%7Bcpu%3Dcpu1%7D&filter=*.mem";
    let mut some = Client::connect(stage.edge(0), &format!("interval=200&{filters}")).await;
    let (mut first, mut second) = (stage.collector("web-01"), stage.collector("web-02"));
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..150 {
        pace.tick().await;
        first.flush(CPUS as usize).await;
        second.flush(1).await;
    }
    let all = [&first, &second];
    comes_to(&mut json, &published(&all, &MEASUREMENTS)).await;
    comes_to(&mut influx, &published(&all, &MEASUREMENTS)).await;
    let mut wanted = published(&all, &["cpu"]);
    wanted.retain(|(_, series), _| series.contains("cpu=cpu1,"));
    wanted.extend(published(&all, &["mem"]));
    comes_to(&mut some, &wanted).await;
    let flushes = (began.elapsed().as_millis() / INTERVAL.as_millis()) as usize + 2;
    let numbers = || all.iter().flat_map(|collector| collector.flushed());
    let (rows, of_cpu1) = (numbers().count(), numbers().filter(|number| number % CPUS == 1).count());
    for (client, matched) in [(&json, rows * 3), (&influx, rows * 3), (&some, rows + of_cpu1)] {
        let ledger = &client.ledger;
        assert!(ledger.gaps.is_empty());
        let came = ledger.metrics();
        assert!(came <= ledger.state.len() * flushes, "{came} values of {} series", ledger.state.len());
        assert!(ledger.conflated > 0);
        assert_eq!(came + ledger.conflated as usize, matched, "what matched was sent or overwritten");
    }
    let told: u64 = [&json, &influx, &some].iter().map(|client| client.ledger.conflated).sum();
    assert_eq!(stage.edges[0].metric("ws_conflated_metrics_total").await, told as f64);
}

#[tokio::test]
async fn a_client_whose_edge_is_killed_gets_what_has_changed_since_from_another_one() {
    let mut stage = Stage::new().await;
    let mut client = Client::connect(stage.edge(0), "interval=200").await;
    let mut filtered = Client::connect(stage.edge(0), "interval=1000&filter=*.mem").await;
    let (mut busy, mut quiet) = (stage.collector("web-01"), stage.collector("web-02"));
    quiet.flush(CPUS as usize).await;
    busy.flush(CPUS as usize).await;
    comes_to(&mut client, &published(&[&busy, &quiet], &MEASUREMENTS)).await;
    comes_to(&mut filtered, &published(&[&busy, &quiet], &["mem"])).await;
    stage.edges[0].kill();
    for _ in 0..100 {
        busy.flush(1).await;
    }
    let before = client.ledger.metrics();
    client.resume(stage.edge(1)).await;
    filtered.resume(stage.edge(1)).await;
    let (all, mem) = (published(&[&busy, &quiet], &MEASUREMENTS), published(&[&busy, &quiet], &["mem"]));
    comes_to(&mut client, &all).await;
    comes_to(&mut filtered, &mem).await;
    let resumed = client.ledger.metrics() - before;
    assert!(resumed <= 3 * 3 * CPUS as usize, "{resumed} values for {} series that have changed", 3 * CPUS);
    // To and fro while everything changes: each edge flushes at its own moments.
    stage.edges[0] = crate::support::telecast::edge(&stage.nats.url()).start().await;
    for turn in 0..20 {
        busy.flush(7).await;
        client.resume(stage.edge(turn % 2)).await;
        filtered.resume(stage.edge(turn % 2)).await;
        busy.flush(7).await;
    }
    let (all, mem) = (published(&[&busy, &quiet], &MEASUREMENTS), published(&[&busy, &quiet], &["mem"]));
    comes_to(&mut client, &all).await;
    comes_to(&mut filtered, &mem).await;
    assert!(client.ledger.gaps.is_empty() && filtered.ledger.gaps.is_empty());
}

/// Its socket takes some hundred kilobytes; what does not fit is not kept for it, but made anew when it reads.
#[tokio::test]
async fn a_client_that_reads_slowly_gets_fresh_values_instead_of_an_old_queue() {
    let stage = Stage::with(1, |launch| launch).await;
    let mut slow = Client::connect(stage.edge(0), "interval=100").await;
    let mut quick = Client::connect(stage.edge(0), "interval=100").await;
    let hosts: Vec<String> = (0..40).map(|host| format!("web-{host}")).collect();
    let mut collectors: Vec<Collector> = hosts.iter().map(|host| stage.collector(host)).collect();
    let flushes = |client: &Client| {
        let offset = |text: &String| serde_json::from_str::<Value>(text).expect("JSON")["offset"].to_string();
        client.ledger.data.iter().map(offset).collect::<std::collections::HashSet<_>>().len()
    };
    // Some 70 KB of JSON per flush: megabytes, until this is over.
    while flushes(&quick) < 60 {
        for collector in &mut collectors {
            collector.flush(CPUS as usize).await;
        }
        let all: Vec<&Collector> = collectors.iter().collect();
        comes_to(&mut quick, &published(&all, &MEASUREMENTS)).await;
    }
    let all: Vec<&Collector> = collectors.iter().collect();
    comes_to(&mut slow, &published(&all, &MEASUREMENTS)).await;
    assert!(slow.ledger.gaps.is_empty() && quick.ledger.gaps.is_empty());
    let (few, many) = (slow.ledger.metrics(), quick.ledger.metrics());
    assert!(few < many / 2, "{few} of {many} values");
    assert_eq!(stage.edges[0].metric("ws_gaps_total{reason=\"slow\"}").await, 0.0);
}

#[tokio::test]
async fn a_session_changes_between_every_value_and_the_newest_ones_as_it_likes() {
    let stage = Stage::with(1, |launch| launch).await;
    let mut client = Client::connect(stage.edge(0), "").await;
    let mut collector = stage.collector("web-01");
    for turn in 0..6 {
        let interval = if turn % 2 == 0 { 100 } else { 0 };
        collector.flush(3).await;
        let subscribe = json!({"type": "subscribe", "id": turn, "interval": interval});
        client.ask(&subscribe.to_string(), "ack").await;
        collector.flush(3).await;
        comes_to(&mut client, &published(&[&collector], &MEASUREMENTS)).await;
    }
    assert!(client.ledger.gaps.is_empty());
    let refused = client.ask(r#"{"type":"subscribe","id":"x","interval":99}"#, "error").await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("bad_interval"), &json!("x")));
}

#[tokio::test]
async fn a_log_that_was_created_anew_is_a_reset_with_an_interval_too() {
    let stage = Stage::new().await;
    let mut stayed = Client::connect(stage.edge(0), "interval=100").await;
    let mut left = Client::connect(stage.edge(1), "interval=100&filter=*.mem").await;
    let mut collector = stage.collector("web-01");
    collector.flush(50).await;
    comes_to(&mut stayed, &published(&[&collector], &MEASUREMENTS)).await;
    comes_to(&mut left, &published(&[&collector], &["mem"])).await;
    crate::resume::recreate(&stage, "telecast-0").await;
    stayed.until("a reset", |ledger| ledger.gaps.len() == 1).await;
    collector.flush(5).await;
    comes_to(&mut stayed, &published(&[&collector], &MEASUREMENTS)).await;
    left.resume(stage.edge(0)).await;
    comes_to(&mut left, &published(&[&collector], &["mem"])).await;
    for client in [&stayed, &left] {
        assert_eq!(client.ledger.gap_reasons(), ["reset"]);
    }
}

#[tokio::test]
async fn a_poll_with_an_interval_gets_the_newest_values_since() {
    let stage = Stage::with(1, |launch| launch).await;
    let edge = &stage.edges[0];
    let mut collector = stage.collector("web-01");
    let begin = edge.get("/api/metrics/poll?interval=100&timeout=0").await.json["next"].clone();
    let mut from = begin.as_str().expect("an offset").to_owned();
    let mut ledger = Ledger::default();
    collector.flush(40).await;
    let wanted = published(&[&collector], &MEASUREMENTS);
    let (_, _) = crate::support::eventually("the newest values", async || {
        let answer = edge.get(&format!("/api/metrics/poll?interval=100&timeout=1&from={from}")).await;
        for message in answer.json["messages"].as_array().expect("messages") {
            ledger.take(&message.to_string());
        }
        from = answer.json["next"].as_str().expect("an offset").to_owned();
        (ledger.state == wanted).then_some(())
    })
    .await;
    assert!(ledger.metrics() < 40 * 3, "{}", ledger.metrics());
}
