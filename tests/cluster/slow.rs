//! A client that does not read.

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

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

/// A client that asks for something and never reads.
async fn deaf(node: &Telecast, query: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 * 1024).expect("a small buffer");
    let mut socket = socket.connect(node.address()).await.expect("a connection");
    let request = format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
         13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.address()
    );
    socket.write_all(request.as_bytes()).await.expect("a request");
    socket
}

/// Each wants something of its own, so that nobody shares anything: a batch of a snapshot each, or a part of what has changed,
/// would be some hundred megabytes.
#[tokio::test]
async fn what_clients_hold_that_catch_up_and_do_not_read_is_bounded_and_costs_others_nothing() {
    const OF_EACH_KIND: usize = 250;
    const SERIES: usize = 4_000;
    let launch = telecast::standalone()
        .set("edge.replay_bytes_max", 1 << 20)
        .set("edge.snapshot.bytes_max", 8 << 20)
        .set("edge.send_buffer_bytes", 8 << 10)
        .set("edge.slow_client.timeout_ms", 600_000);
    let node = launch.start().await;
    let begin = Client::connect(node.address(), "").await.ledger.offset.clone().expect("a place");
    let line = |n: usize| format!("cpu,host=web-01,n={n} n={n}i,pad=\"{}\" 1767225600000\n", "x".repeat(80));
    for first in (0..SERIES).step_by(100) {
        let lines: String = (first..first + 100).map(line).collect();
        assert_eq!(node.post("/api/v1/write", lines).await.status, 204);
    }
    let resident = async || node.metric("process_resident_memory_bytes").await;
    let before = resident().await;
    let mut deaf_ones = Vec::new();
    for n in 0..OF_EACH_KIND {
        for kind in [format!("from={begin}"), format!("from={begin}&interval=1000"), "snapshot=true".into()] {
            deaf_ones.push(deaf(&node, &format!("filter=*.cpu&filter=nobody-{n}.x&{kind}")).await);
        }
    }
    // All of them have been given what they take, when those who come after them have everything.
    for query in [format!("from={begin}"), format!("from={begin}&interval=1000")] {
        let mut quick = Client::connect(node.address(), &format!("filter=*.cpu&{query}")).await;
        quick.until("everything", |ledger| ledger.metrics() >= SERIES).await;
        assert!(quick.ledger.gaps.is_empty());
    }
    let held = resident().await - before;
    println!("{} clients that do not read: {:.1} MB", deaf_ones.len(), held / 1e6);
    assert!(held < 64e6, "{held} bytes");
}

/// What flows goes into the ring while what is older is read for those who catch up, over the same connection: neither may
/// keep more of the other, or of itself, than is counted.
#[tokio::test]
async fn what_an_edge_holds_while_clients_catch_up_is_what_it_says() {
    const RING: usize = 32 << 20;
    const REPLAY: usize = 4 << 20;
    /// The program's own pages, allocated memory between what is used, and what is read and written right now: 20 MB were seen.
    const MARGIN: usize = 32 << 20;
    let stage =
        Stage::with(1, |launch| launch.set("edge.ring_bytes_max", RING).set("edge.replay_bytes_max", REPLAY))
            .await;
    let edge = &stage.edges[0];
    let mut live = Client::connect(edge.address(), "").await;
    let begin = live.ledger.offset.clone().expect("a place");
    let before = edge.metric("process_resident_memory_bytes").await;
    let pad = "x".repeat(4_000);
    let mut catching_up = tokio::task::JoinSet::new();
    for round in 0..120 {
        let line = |n: usize| format!("m{n},host=web-01 n={round}i,pad=\"{pad}\" 1767225600000\n");
        let lines: String = (0..100).map(line).collect();
        assert_eq!(stage.ingest.post("/api/v1/write", lines).await.status, 204);
        live.until("what was posted", |ledger| ledger.metrics() >= (round + 1) * 100).await;
        // From now on the ring does not reach back to the beginning. Filters of their own: no portion is shared.
        if round >= 60 && round % 4 == 0 {
            let (address, from, few) = (edge.address(), begin.clone(), round % 10);
            catching_up.spawn(async move {
                let query = format!("from={from}&filter=*.m{few}&filter=nobody-{round}.x");
                let mut client = Client::connect(address, &query).await;
                client.until("what it missed", |ledger| ledger.metrics() >= round).await;
            });
        }
    }
    catching_up.join_all().await;
    let ring = edge.metric("ws_ring_bytes").await;
    let held = edge.metric("process_resident_memory_bytes").await - before;
    println!("ring {:.1} MB, held {:.1} MB", ring / 1e6, held / 1e6);
    assert!(ring > 0.9 * RING as f64 && edge.metric("ws_replay_reads_total").await > 0.0);
    assert!(held < (RING + REPLAY + MARGIN) as f64, "{held} bytes");
}
