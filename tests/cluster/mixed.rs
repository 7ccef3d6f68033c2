//! Everything at once, at random: what each client has got must be what was published for it, whatever happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch::{self, Receiver};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::client::{Client, Event};
use crate::support::collector::{CPUS, Collector, MEASUREMENTS};
use crate::support::telecast;

const COLLECTORS: usize = 5;
const CLIENTS: usize = 30;
/// How long metrics flow.
const FLOW: Duration = Duration::from_secs(15);
/// A client stays at an edge for at most so many messages.
const STAY_MESSAGES_MAX: usize = 400;

/// Between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What a client asks for, and which rows of which measurement that is.
const WISHES: [(&str, fn(usize, &str, i64) -> bool); 6] = [
    ("", |_, _, _| true),
    ("filter=*.cpu", |_, measurement, _| measurement == "cpu"),
    ("filter=web-2.*", |collector, _, _| collector == 2),
    ("filter=web-1.mem&filter=web-3.disk", |collector, measurement, _| {
        (collector, measurement) == (1, "mem") || (collector, measurement) == (3, "disk")
    }),
    ("filter=*.*%7Bcpu=cpu1%7D", |_, _, number| number % CPUS == 1),
    ("filter=*.mem%7Bcpu=cpu2%7D&format=influx", |_, measurement, number| {
        measurement == "mem" && number % CPUS == 2
    }),
];

/// The seed of this run: `TELECAST_TEST_SEED`, to repeat one.
fn seed() -> u64 {
    let seed = std::env::var("TELECAST_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("TELECAST_TEST_SEED={seed}");
    seed
}

/// Where edges listen now; a restarted one is elsewhere.
struct Edges(Mutex<[SocketAddr; 2]>);

impl Edges {
    fn any(&self, rng: &mut Rng) -> SocketAddr {
        self.0.lock().expect("no panic while held")[rng.usize(..2)]
    }

    fn moved(&self, number: usize, address: SocketAddr) {
        self.0.lock().expect("no panic while held")[number] = address;
    }
}

/// Flushes at random until the end.
async fn collect(mut collector: Collector, mut rng: Rng) -> Collector {
    let end = Instant::now() + FLOW;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while Instant::now() < end {
        pace.tick().await;
        if rng.u8(..4) > 0 {
            collector.flush(rng.usize(1..6)).await;
        }
    }
    collector
}

/// Follows with one wish, hopping between edges, until everything has come.
async fn follow(edges: Arc<Edges>, wish: usize, mut rng: Rng, mut wanted: Receiver<Option<Truth>>) -> Client {
    let parameters = format!("from=earliest&{}", WISHES[wish].0);
    let mut client = Client::connect(edges.any(&mut rng), &parameters).await;
    loop {
        for _ in 0..rng.usize(1..STAY_MESSAGES_MAX) {
            let complete = |truth: &Option<Truth>| {
                truth.as_ref().is_some_and(|all| client.ledger.metrics() >= all.metrics(wish))
            };
            if complete(&wanted.borrow_and_update()) {
                return client;
            }
            let event = tokio::select! {
                event = client.next() => event,
                _ = wanted.changed() => continue,
            };
            if !matches!(event, Event::Message(_)) {
                break;
            }
        }
        // Anywhere, the same edge included; a dead one does not answer.
        while !client.try_resume(edges.any(&mut rng)).await {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

/// What was flushed: rows per collector.
#[derive(Clone, Default)]
struct Truth(BTreeMap<usize, i64>);

impl Truth {
    fn numbers(&self, wish: usize, collector: usize, measurement: &str) -> Vec<i64> {
        let wants = WISHES[wish].1;
        (0..self.0[&collector]).filter(|number| wants(collector, measurement, *number)).collect()
    }

    fn channels(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.0.keys().flat_map(|collector| MEASUREMENTS.map(|measurement| (*collector, measurement)))
    }

    fn metrics(&self, wish: usize) -> usize {
        self.channels().map(|(collector, measurement)| self.numbers(wish, collector, measurement).len()).sum()
    }
}

#[tokio::test]
async fn thirty_hopping_clients_end_with_exactly_what_was_published_for_them() {
    let mut rng = Rng::with_seed(seed());
    let configure = |launch: telecast::Launch| {
        launch
            .set("edge.ring_bytes_max", 1 << 20)
            .set("collector.envelope_bytes_max", 1 << 16)
            .set("log.shards", 2)
    };
    let Stage { ingest, edges, nats } = Stage::with(2, configure).await;
    let mut edges: [telecast::Telecast; 2] = edges.try_into().ok().expect("two edges");
    let addresses = [edges[0].address(), edges[1].address()];
    let places = Arc::new(Edges(Mutex::new(addresses)));

    let mut collecting = JoinSet::new();
    for number in 0..COLLECTORS {
        let collector = Collector::new(&format!("web-{number}"), &[ingest.address()]);
        collecting.spawn(collect(collector, rng.fork()));
    }
    let (tell, wanted) = watch::channel(None);
    let mut following = JoinSet::new();
    for number in 0..CLIENTS {
        let wish = number % WISHES.len();
        let follow = follow(places.clone(), wish, rng.fork(), wanted.clone());
        following.spawn(async move { (wish, follow.await) });
    }
    // Twice an edge dies and comes back elsewhere, and once the server is killed and started again.
    for victim in [0, 1] {
        tokio::time::sleep(FLOW / 5).await;
        edges[victim].kill();
        tokio::time::sleep(FLOW / 10).await;
        edges[victim] = configure(telecast::edge(&nats.url())).start().await;
        places.moved(victim, edges[victim].address());
    }
    nats.restart();
    let mut truth = Truth::default();
    for collector in collecting.join_all().await {
        let number = collector.id().trim_start_matches("web-").parse().expect("a number");
        truth.0.insert(number, collector.flushed().len() as i64);
    }
    tell.send_replace(Some(truth.clone()));

    let clients = crate::support::patiently("all clients", following.join_all()).await;
    for (wish, client) in &clients {
        assert!(client.ledger.gaps.is_empty(), "{:?}", client.ledger.gaps);
        for (collector, measurement) in truth.channels() {
            let numbers = truth.numbers(*wish, collector, measurement);
            client.channel_is(&format!("web-{collector}"), measurement, &numbers);
        }
    }
    assert!(truth.metrics(0) > 1_000, "something flowed: {:?}", truth.0);
}
