//! A client that does not read.

use serde_json::Value;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::ledger;
use crate::support::telecast::{self, Telecast};

/// Its socket's buffers take some hundred kilobytes, then its cursor stands still until the ring overtakes it.
#[tokio::test]
async fn a_client_that_does_not_read_gets_exactly_what_its_gaps_leave_out_and_costs_others_nothing() {
    let stage = Stage::with(1, |launch| {
        launch.set("edge.ring_bytes_max", 1 << 20).set("collector.envelope_bytes_max", 1 << 16)
    })
    .await;
    let mut slow = Client::connect(stage.edge(0), "").await;
    let mut quick = Client::connect(stage.edge(0), "").await;
    let mut collector = stage.collector("web-01");
    for _ in 0..60 {
        for _ in 0..10 {
            collector.flush(50).await;
        }
        quick.all_of(&collector).await;
    }
    assert!(quick.ledger.gaps.is_empty());
    let end = quick.ledger.offset.clone();
    slow.until("the end", |ledger| ledger.offset == end).await;
    // It goes on with what is new.
    collector.flush(1).await;
    quick.all_of(&collector).await;
    slow.until("something new", |ledger| ledger.offset == quick.ledger.offset).await;
    assert_eq!(slow.ledger.numbers("web-01", "cpu").last(), collector.flushed().last());
    assert!(!slow.ledger.gaps.is_empty() && slow.ledger.gap_reasons().iter().all(|reason| *reason == "slow"));
    // Published = delivered + announced: each message the quick one has, the slow one has, or it lies in one of its gaps.
    let mut delivered = slow.ledger.data.iter().peekable();
    let mut missed = 0;
    for message in &quick.ledger.data {
        if delivered.peek() == Some(&message) {
            delivered.next();
            continue;
        }
        let message: Value = serde_json::from_str(message).expect("JSON");
        let offset = ledger::offset(&message, "offset");
        let announced = slow.ledger.gaps.iter().any(|gap| gap.leaves_out(&offset));
        assert!(announced, "not delivered and not announced: {message}");
        missed += 1;
    }
    assert!(missed > 0 && delivered.next().is_none());
}

/// Posts the next hundred lines of a kilobyte each, and waits until `quick` has them: at the pace of the edge, whatever that is.
async fn post_in_step(node: &Telecast, quick: &mut Client, next: &mut i64) {
    let pad = "x".repeat(960);
    let line =
        |number: i64| format!("cpu,host=web-01 n={number}i,pad=\"{pad}\" {}\n", 1_767_225_600_000 + number);
    let lines: String = (*next..*next + 100).map(line).collect();
    *next += 100;
    assert_eq!(node.post("/api/v1/write", lines).await.status, 204);
    let last = *next - 1;
    quick.until("what was posted", |ledger| ledger.numbers("web-01", "cpu").last() == Some(&last)).await;
}

#[tokio::test]
async fn a_client_that_is_sent_away_for_being_slow_is_told_so_with_an_offset_that_resumes() {
    let launch =
        telecast::standalone().set("edge.heartbeat_ms", 1_000).set("edge.slow_client.timeout_ms", 1_000);
    let node = launch.set("collector.envelope_bytes_max", 1 << 14).start().await;
    let mut slow = Client::connect(node.address(), "").await;
    let mut quick = Client::connect(node.address(), "").await;
    let mut next = 0;
    while node.metric("ws_slow_clients_disconnected_total").await == 0.0 {
        post_in_step(&node, &mut quick, &mut next).await;
    }
    let (code, reason) = slow.closed().await;
    assert_eq!((code, reason.as_str()), (4008, "nothing was read for too long"));
    let goodbye = slow.ledger.last("goodbye").clone();
    assert_eq!(slow.ledger.others.last(), Some(&goodbye), "the last message");
    assert_eq!(goodbye["reason"], "slow");
    let last: Value = serde_json::from_str(slow.ledger.data.last().expect("data")).expect("JSON");
    assert_eq!(goodbye["offset"], last["offset"]);
    let missed = slow.ledger.numbers("web-01", "cpu").len() as i64;
    assert!(missed < next, "it has read everything: nothing to resume");

    slow.resume(node.address()).await;
    post_in_step(&node, &mut quick, &mut next).await;
    slow.until("everything", |ledger| ledger.metrics() as i64 >= next).await;
    slow.channel_is("web-01", "cpu", &(0..next).collect::<Vec<_>>());
    assert!(slow.ledger.gaps.is_empty() && quick.ledger.gaps.is_empty());
}
