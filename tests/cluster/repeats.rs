//! What senders send again is stored once, and a value that returns is stored again, whatever lies between sender and log.

use crate::stage::Stage;
use crate::support::telecast::{self, Telecast};

const DOORS: &str = "/api/metrics/poll?from=earliest&timeout=1&format=influx&filter=door.door";

/// A flush of a collector whose clock has seconds.
fn flush(open: u8) -> String {
    format!("door,host=door open={open}i 1700000000\nlock,host=door open={open}i 1700000000")
}

async fn write(node: &Telecast, open: u8) {
    let answer = node.post("/write?precision=s", flush(open)).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
}

/// The values of `door.door` in the log, in order.
async fn log_of(edge: &Telecast) -> String {
    let text = edge.get(DOORS).await.body;
    let lines = text.lines().filter(|line| line.starts_with("door,"));
    lines.filter_map(|line| line.split(['=', 'i']).nth(2)).collect()
}

#[tokio::test]
async fn a_flush_sent_again_is_stored_once_and_a_state_that_returns_is_stored_again() {
    let stage = Stage::with(1, |launch| launch).await;
    let other = telecast::ingest(&stage.nats.url()).start().await;
    let ([one, other], edge) = ([&stage.ingest, &other], &stage.edges[0]);
    let shows = async |expected: &str| {
        let shown = async || (log_of(edge).await == expected).then_some(());
        crate::support::eventually(&format!("{expected} in the log"), shown).await;
    };
    for node in [one, other, one] {
        write(node, 1).await;
        write(node, 0).await;
    }
    shows("101010").await;
    // The answers were lost: the sender repeats itself, over the other node too.
    for node in [one, other, other, one] {
        write(node, 0).await;
    }
    write(other, 1).await;
    shows("1010101").await;

    // A node that dies has told nobody what it stored last.
    one.kill();
    let reborn = telecast::ingest(&stage.nats.url()).start().await;
    write(&reborn, 1).await;
    write(&reborn, 0).await;
    write(&reborn, 1).await;
    shows("101010101").await;

    // Neither has a server that was away: what was begun before is repeated under the same ids.
    stage.nats.kill();
    let repeated = reborn.post("/write?precision=s", flush(0));
    let restarted = async { stage.nats.restart() };
    assert_eq!(tokio::join!(repeated, restarted).0.status, 204);
    write(other, 0).await;
    shows("1010101010").await;
    let locks = edge.get("/api/metrics/poll?from=earliest&timeout=1&filter=door.lock").await.json;
    let stored = locks["messages"].as_array().unwrap().iter().filter(|message| message["type"] == "metrics");
    assert_eq!(stored.count(), 10, "the whole of each flush");
}
