//! A client that does not read.

use serde_json::Value;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::ledger;

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
