//! Who asks for a snapshot gets the state at a place, and everything after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use telecast::broker::Broker as _;
use telecast::config::Settings;
use telecast::proto::offset::{Offset, Shard};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::bench::{Log, PATIENCE, RunningEdge, settings, tiny_ring, until};
use crate::state::{State, Truth, assert_follows, offset};
use crate::unruly::{Live, Unruly};

/// A client that knows the last values of what it gets.
struct Joiner {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    state: State,
    /// Where it would resume.
    at: Option<Offset>,
    /// Messages of data since the snapshot.
    live: usize,
    snapshots: usize,
    gaps: Vec<Value>,
    welcome: Value,
}

impl Joiner {
    async fn connect(edge: &RunningEdge, query: &str) -> Self {
        let url = format!("ws://{}/ws?{query}", edge.address);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut joiner = Self {
            socket,
            state: State::default(),
            at: None,
            live: 0,
            snapshots: 0,
            gaps: Vec::new(),
            welcome: Value::Null,
        };
        joiner.welcome = joiner.next().await;
        assert_eq!(joiner.welcome["type"], "welcome");
        joiner.at = joiner.welcome.get("offset").map(|_| offset(&joiner.welcome));
        joiner
    }

    async fn next(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("something");
            let Message::Text(text) = message.expect("no end").expect("no error") else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            match message["type"].as_str().unwrap() {
                "metrics" => {
                    let next = offset(&message);
                    // Without a place only where nothing matched, of which nothing is said.
                    if message.get("from").is_none() {
                        self.at.iter().for_each(|at| assert_follows(at, &next));
                    }
                    self.state.take(&message);
                    self.at = Some(next);
                    self.live += 1;
                }
                "snapshot" => {
                    if message["part"] == 1 {
                        self.state = State::default();
                    }
                    self.state.take(&message);
                    if message["part"] == message["parts"] {
                        (self.at, self.live) = (Some(offset(&message)), 0);
                        self.snapshots += 1;
                    }
                }
                "gap" => self.gaps.push(message.clone()),
                _ => {}
            }
            return message;
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            self.next().await;
        }
    }

    async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }
}

/// Everything from the beginning.
async fn witness(edge: &RunningEdge, settings: &Settings, messages: usize) -> Truth {
    let mut witness = Joiner::connect(edge, "from=earliest").await;
    let mut truth = Truth::new(settings.log.shards);
    while witness.live < messages {
        let message = witness.next().await;
        if message["type"] == "metrics" {
            truth.take(&message);
        }
    }
    truth
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_joins_under_load_knows_what_one_knows_that_was_there_from_the_beginning() {
    for shards in ["1", "3"] {
        let settings = settings(&[("log.shards", shards)]);
        let log = Log::new(&settings);
        let edge = RunningEdge::start(log.broker.clone(), &settings).await;
        let over = AtomicBool::new(false);
        let publish = async {
            let mut published = 0;
            while !over.load(Ordering::Relaxed) {
                for collector in 0..7 {
                    log.publish(&format!("web-{collector}"), ["cpu", "mem"][published % 2]).await;
                    published += 1;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            published
        };
        let join = async {
            let mut joined = Vec::new();
            for number in 0..60 {
                let mut joiner = Joiner::connect(&edge, "snapshot=true").await;
                joiner.until(|joiner| joiner.live > number % 5 && joiner.at.is_some()).await;
                joined.push((joiner.at.unwrap(), joiner.state));
            }
            over.store(true, Ordering::Relaxed);
            joined
        };
        let (published, joined) = tokio::join!(publish, join);
        let truth = witness(&edge, &settings, published).await;
        for (at, state) in joined {
            assert_eq!(state, truth.at(&at));
        }
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_comes_in_parts_and_leaves_the_client_without_a_place_until_the_last() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut early = Joiner::connect(&edge, "").await;
    for collector in 0..20 {
        log.publish_padded(&format!("web-{collector}"), "cpu", 30_000).await;
    }
    early.until(|early| early.live == 20).await;
    let mut joiner = Joiner::connect(&edge, "snapshot=true").await;
    assert_eq!(joiner.welcome.get("offset"), None);
    for part in 1..=20 {
        let message = joiner.next().await;
        assert_eq!(
            (&message["type"], &message["part"], &message["parts"]),
            (&json!("snapshot"), &json!(part), &json!(20))
        );
        assert_eq!(Some(offset(&message)), early.at);
    }
    assert_eq!(joiner.state, early.state);
    // Nothing matches: nothing is said. What comes next comes all the same.
    let mut other = Joiner::connect(&edge, "snapshot=true&filter=*.mem").await;
    log.publish("web-1", "mem").await;
    other.until(|other| other.state.len() == 1).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_replayed_is_replayed_and_no_snapshot_comes() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut first = Joiner::connect(&edge, "").await;
    log.publish_many("web-1", 5).await;
    first.until(|first| first.live == 2).await;
    let token = first.at.clone().unwrap().token();
    let mut back = Joiner::connect(&edge, &format!("snapshot=true&from={token}")).await;
    back.until(|back| back.live == 3).await;
    assert_eq!((back.snapshots, back.gaps.len()), (0, 0));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_a_gap_up_to_a_snapshot() {
    let mut settings = tiny_ring(&[]);
    settings.log.max_bytes = 100_000;
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut early = Joiner::connect(&edge, "").await;
    let start = early.at.clone().unwrap();
    for round in 1..=20 {
        // At the pace of the edge, or the log would let go of what the edge has not read yet.
        log.publish_many("web-1", 50).await;
        early.until(|early| early.live == round * 50).await;
    }
    let mut back = Joiner::connect(&edge, &format!("snapshot=true&from={start}")).await;
    assert_eq!(back.at, Some(start.clone()));
    back.until(|back| back.snapshots == 1).await;
    let gap = &back.gaps[0];
    assert_eq!((&gap["reason"], &gap["snapshot"]), (&json!("retention"), &json!(true)));
    assert_eq!(
        (gap["from"].as_str(), gap["to"].as_str()),
        (Some(&*start.token()), Some(&*back.at.clone().unwrap().token()))
    );
    log.publish_many("web-1", 1).await;
    back.until(|back| back.live == 1).await;
    early.until(|early| early.live == 1_001).await;
    assert_eq!((&back.state, &back.at), (&early.state, &early.at));
    // The same for an offset of another log.
    let foreign = Offset { epoch: telecast::proto::offset::Epoch(7), ..start };
    let mut foreigner = Joiner::connect(&edge, &format!("snapshot=true&from={foreign}")).await;
    foreigner.until(|foreigner| foreigner.snapshots == 1 && foreigner.at == early.at).await;
    assert_eq!((&foreigner.gaps[0]["reason"], &foreigner.state), (&json!("reset"), &early.state));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_too_slow_goes_on_from_a_snapshot() {
    let mut settings = tiny_ring(&[]);
    (settings.edge.ring_bytes_max, settings.edge.view_bytes_max) = (1 << 20, 1 << 20);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut quick = Joiner::connect(&edge, "").await;
    log.publish("web-1", "cpu").await;
    quick.until(|quick| quick.live == 1).await;
    let mut slow = Joiner::connect(&edge, "snapshot=true").await;
    slow.until(|slow| slow.snapshots == 1).await;
    // 24 MB: more than the kernel keeps for the one that does not read. Much less than the ring at a time: who is overtaken by a
    // burst was not slow, and gets all of it from the log.
    let mut published = 1;
    for _ in 0..480 {
        for collector in 0..10 {
            log.publish_padded(&format!("web-{}", collector % 3), "cpu", 5_000).await;
            published += 1;
        }
        quick.until(|quick| quick.live == published).await;
    }
    slow.until(|slow| slow.snapshots == 2).await;
    log.publish("web-1", "cpu").await;
    quick.until(|quick| quick.live == published + 1).await;
    let end = quick.at.clone();
    slow.until(|slow| slow.at == end).await;
    assert_eq!(slow.state, quick.state);
    assert_eq!((&slow.gaps[0]["reason"], &slow.gaps[0]["snapshot"]), (&json!("slow"), &json!(true)));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_asks_for_a_snapshot_of_something_else() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    for measurement in ["cpu", "mem"] {
        log.publish("web-1", measurement).await;
    }
    let mut witness = Joiner::connect(&edge, "from=earliest").await;
    witness.until(|witness| witness.live == 2).await;
    let mut client = Joiner::connect(&edge, "filter=*.disk").await;
    client.send(json!({"type": "subscribe", "filter": "*.cpu", "snapshot": true})).await;
    client.until(|client| client.snapshots == 1).await;
    assert_eq!((client.state.len(), &client.at), (1, &witness.at));
    // What is left out stays as it was.
    client.send(json!({"type": "subscribe", "filter": "*.mem"})).await;
    client.until(|client| client.snapshots == 2).await;
    assert_eq!(client.state.len(), 1);
    client.send(json!({"type": "replay", "from": "earliest", "snapshot": true})).await;
    let error = loop {
        let message = client.next().await;
        if message["type"] == "error" {
            break message;
        }
    };
    assert_eq!(error["code"], "bad_snapshot");
    edge.stop().await;
}

/// A client that were told of the gap alone, and lost its connection before the state came, would go on behind it with values that
/// are wrong.
#[tokio::test(flavor = "multi_thread")]
async fn every_gap_of_who_wants_snapshots_is_followed_by_the_state() {
    for interval in ["", "&interval=100"] {
        let mut settings = settings(&[]);
        settings.log.max_bytes = 100_000;
        let log = Log::new(&settings);
        // The live flow has nothing, so the edge reads what is left when it finds out.
        let edge = RunningEdge::start(Unruly::new(&log, Live::Lost), &settings).await;
        let mut client = Joiner::connect(&edge, &format!("snapshot=true{interval}")).await;
        let mut other = edge.connect(&format!("?from=latest{interval}")).await;
        log.publish("web-1", "cpu").await;
        client.until(|client| client.state.len() == 1).await;
        other.read_rows(1).await;
        let (before, snapshots) = (client.at.clone().unwrap(), client.snapshots);
        for _ in 0..100 {
            log.publish_padded("web-2", "cpu", 3_000).await;
        }
        let recovered = |client: &Joiner| client.gaps.len() == 1 && client.state.len() == 3;
        client.until(|client| client.snapshots > snapshots && recovered(client)).await;
        other.read_type("gap").await;
        let mut back = Joiner::connect(&edge, &format!("snapshot=true&from={before}{interval}")).await;
        back.until(|back| back.snapshots == 1 && recovered(back)).await;
        // By way of the log, as nobody else has this wish.
        let alone = format!("snapshot=true&from={before}{interval}&filter=*.cpu");
        let mut alone = Joiner::connect(&edge, &alone).await;
        alone.until(|alone| alone.snapshots == 1 && recovered(alone)).await;
        let mut fresh = Joiner::connect(&edge, "snapshot=true").await;
        let end = log.broker.bounds(Shard(0)).await.unwrap().last;
        let is_there = |fresh: &Joiner| fresh.at.as_ref().is_some_and(|at| at.sequence(Shard(0)) == end);
        fresh.until(is_there).await;
        for told in [&mut client, &mut back, &mut alone] {
            told.until(|told| told.at == fresh.at).await;
            assert_eq!(told.state, fresh.state);
            let gap = &told.gaps[0];
            assert_eq!((&gap["reason"], &gap["snapshot"]), (&json!("retention"), &json!(true)));
        }
        // Another log takes its place, which has less in it.
        log.broker.recreate(Shard(0)).unwrap();
        log.publish("web-1", "cpu").await;
        client.until(|client| client.gaps.len() == 2 && client.state.len() == 1).await;
        let gap = &client.gaps[1];
        assert_eq!((&gap["reason"], &gap["snapshot"]), (&json!("reset"), &json!(true)));
        log.publish("web-3", "cpu").await;
        client.until(|client| client.state.len() == 2).await;
        back.until(|back| back.gaps.len() == 2 && back.state.len() == 2).await;
        alone.until(|alone| alone.gaps.len() == 2 && alone.state.len() == 2).await;
        while other.rows.last().is_none_or(|row| row.0 != "web-3") {
            other.next().await.unwrap();
        }
        let metrics = edge.metrics();
        edge.stop().await;
        let told = |reason: &str, with_snapshots: usize| {
            let of_others = other.gaps.iter().filter(|gap| gap.2 == reason).count();
            format!("ws_gaps_total{{reason=\"{reason}\"}} {}", of_others + with_snapshots)
        };
        // One has come between the two.
        for counted in [told("retention", 3), told("reset", 4)] {
            assert!(metrics.render().contains(&counted), "{counted}: {}", metrics.render());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_the_state_it_asked_for_costs_nobody_else_anything() {
    let settings = settings(&[("edge.send_buffer_bytes", "8192")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut live = Joiner::connect(&edge, "").await;
    for collector in 0..80 {
        log.publish_padded(&format!("web-{collector}"), "cpu", 60_000).await;
    }
    live.until(|live| live.live == 80).await;
    let mut unread = Vec::new();
    for path in
        ["/ws?snapshot=true", "/sse?snapshot=true", "/api/metrics/latest", "/ws?snapshot=true&interval=100"]
    {
        for _ in 0..5 {
            let mut socket = TcpStream::connect(edge.address).await.unwrap();
            let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            let upgrade = if path.starts_with("/ws") { upgrade } else { "" };
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{upgrade}\r\n", edge.address);
            socket.write_all(request.as_bytes()).await.unwrap();
            unread.push(socket);
        }
    }
    until(|| edge.node.clients() > 15).await;
    for round in 1..=20 {
        log.publish("web-1", "cpu").await;
        live.until(|live| live.live == 80 + round).await;
    }
    for query in ["snapshot=true", "snapshot=true&interval=100"] {
        let mut joiner = Joiner::connect(&edge, query).await;
        joiner.until(|joiner| joiner.snapshots == 1 && joiner.at == live.at).await;
        assert!(joiner.state == live.state, "the state, which is too long to be shown");
        joiner.socket.close(None).await.unwrap();
    }
    assert!(live.gaps.is_empty() && unread.len() == 20);
    drop(unread);
    edge.stop().await;
}

/// Its session keeps nothing of what others hold, and what others hold may go. Then it is told so: a part that is left out would
/// be a state that is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_given_up_in_the_middle_is_never_completed_without_what_is_missing() {
    let settings = settings(&[("edge.snapshot.bytes_max", "4194304"), ("edge.send_buffer_bytes", "8192")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut live = Joiner::connect(&edge, "").await;
    // Many messages to a part, so that a session has a part in its hand while it waits.
    for collector in 0..3_000 {
        log.publish_padded(&format!("web-{collector}"), "cpu", 1_500).await;
    }
    live.until(|live| live.live == 3_000).await;
    let mut slow = Vec::new();
    for n in 0..4 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = socket.connect(edge.address).await.unwrap();
        let url = format!("ws://{}/ws?snapshot=true&filter=*.cpu&filter=nobody-{n}.x", edge.address);
        slow.push(tokio_tungstenite::client_async(url, stream).await.unwrap().0);
    }
    until(|| !edge.metrics().render().contains("ws_snapshots_cut_total{reason=\"gave_way\"} 0")).await;
    let mut cut_off = 0;
    for mut socket in slow {
        let (mut parts, mut of) = (0, u64::MAX);
        while parts < of {
            let Ok(message) =
                tokio::time::timeout(PATIENCE, socket.next()).await.expect("something").unwrap()
            else {
                break;
            };
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["type"] == "snapshot" {
                parts += 1;
                of = message["parts"].as_u64().unwrap();
                assert_eq!(message["part"], parts, "none is left out");
            } else if message["type"] == "goodbye" || message["type"] == "error" {
                break;
            }
        }
        cut_off += usize::from(parts < of);
    }
    assert!(cut_off > 0, "what was given up was sent nevertheless");
    edge.stop().await;
}

/// What they ask for is twice what may be held together, and none of them takes it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_does_not_read_keeps_others_from_last_values() {
    let settings = settings(&[("edge.snapshot.bytes_max", "16777216")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut live = Joiner::connect(&edge, "").await;
    for collector in 0..160 {
        log.publish_padded(&format!("web-{collector}"), "cpu", 60_000).await;
    }
    live.until(|live| live.live == 160).await;
    let mut unread = Vec::new();
    let ask = async |path: &str, upgrade: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(edge.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{upgrade}\r\n", edge.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    for _ in 0..3 {
        unread.push(ask("/api/metrics/latest", "").await);
        unread.push(ask("/api/metrics/latest?format=influx", "").await);
        unread.push(ask("/sse?snapshot=true", "").await);
    }
    until(|| edge.node.clients() >= 4).await;
    let began = std::time::Instant::now();
    let answer =
        reqwest::get(format!("http://{}/api/metrics/latest?filter=web-1.*", edge.address)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.unwrap().len() > 60_000);
    let mut joiner = Joiner::connect(&edge, "snapshot=true&filter=web-2.*").await;
    joiner.until(|joiner| joiner.snapshots == 1).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(!edge.metrics().render().contains("ws_snapshots_cut_total{reason=\"gave_way\"} 0"));
    drop(unread);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_values_after_a_snapshot_are_those_behind_it() {
    let settings = settings(&[("log.shards", "2")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut witness = Joiner::connect(&edge, "").await;
    for round in 0..40 {
        log.publish(&format!("web-{}", round % 4), "cpu").await;
    }
    witness.until(|witness| witness.live == 40).await;
    let mut client = Joiner::connect(&edge, "snapshot=true&interval=100").await;
    client.until(|client| client.snapshots == 1).await;
    assert_eq!(client.state, witness.state);
    for round in 0..200 {
        log.publish(&format!("web-{}", round % 3), "cpu").await;
        if round % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    witness.until(|witness| witness.live == 240).await;
    let end = witness.at.clone();
    client.until(|client| client.at == end).await;
    assert_eq!((client.state.clone(), client.gaps.len()), (witness.state, 0));
    assert!(client.live < 100, "and not every value: {}", client.live);
    edge.stop().await;
}

/// What a slow socket does not take at once is given back and made again, smaller. One that began with the same again would never
/// come to its end; one that took what was given for taken would miss it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_all_that_has_changed_whatever_it_gives_back() {
    const COLLECTORS: usize = 150;
    let settings = settings(&[("edge.send_buffer_bytes", "8192")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut witness = Joiner::connect(&edge, "").await;
    let begin = witness.at.clone().unwrap();
    for collector in 0..COLLECTORS {
        log.publish_padded(&format!("web-{collector}"), "cpu", 5_000).await;
    }
    witness.until(|witness| witness.live == COLLECTORS).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let stream = socket.connect(edge.address).await.unwrap();
    let url = format!("ws://{}/ws?interval=100&from={begin}", edge.address);
    let (mut slow, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let (mut known, mut at) = (State::default(), begin);
    while known.len() < COLLECTORS || !witness.at.as_ref().unwrap().is_at_or_before(&at) {
        // With each flush its view forgets what it has made for those who come to it.
        if known.len() < COLLECTORS {
            log.publish("web-0", "mem").await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let message = tokio::time::timeout(PATIENCE, slow.next()).await.expect("something").unwrap().unwrap();
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        assert_ne!(message["type"], "gap");
        if message["type"] == "metrics" {
            let next = offset(&message);
            assert!(at.is_at_or_before(&next));
            known.take(&message);
            at = next;
        }
    }
    assert!(known.len() >= COLLECTORS);
    edge.stop().await;
}
