//! Every position of the log that a session passes has exactly one fate, whatever happens.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use futures_util::{SinkExt as _, StreamExt as _};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use telecast::config::Settings;
use telecast::proto::offset::Offset;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::bench::{Log, PATIENCE, RunningEdge, tiny_ring, until};
use crate::walk::{Account, Truth, WISHES, Walk};

const CLIENTS: usize = 8;
const STEPS: usize = 250;
const SCHEDULES: u64 = 3;
/// A client takes what comes until nothing has for so long.
const QUIET: Duration = Duration::from_millis(5);
/// Of clients that want the newest values only: the shortest there is.
const INTERVAL_MS: u32 = 100;
/// Small, so that a few rows are more than a client's kernel takes while it does not read.
const RECEIVE_BUFFER_BYTES: u32 = 4 * 1024;

/// Accounts of sessions that have ended, as edges log them.
static ENDED: Mutex<Option<HashMap<String, Account>>> = Mutex::new(None);

struct SessionEnds;

#[derive(Default)]
struct Fields(HashMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for SessionEnds {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("telecast::edge::writer")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.0.get("event").is_none_or(|event| event != "session_ended") {
            return;
        }
        let number = |name: &str| fields.0[name].parse().unwrap();
        let account = Account {
            published: number("published"),
            delivered: number("delivered"),
            filtered: number("filtered"),
            conflated: number("conflated"),
            gap: number("gap"),
        };
        ended(|all| all.insert(fields.0["session"].clone(), account));
    }
}

fn ended<T>(with: impl FnOnce(&mut HashMap<String, Account>) -> T) -> T {
    with(ENDED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

fn listen_to_session_ends() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(SessionEnds)).unwrap();
    });
}

/// A client, connected or not.
struct Client {
    wish: usize,
    /// Where it would resume.
    last: Option<Offset>,
    session: Option<(WebSocketStream<TcpStream>, Walk)>,
    /// What is asked for and not yet acknowledged.
    asked: Option<Asked>,
    /// Sessions that are over, and whether they ended in order: with everything read up to the goodbye.
    over: Vec<(Walk, bool)>,
}

#[derive(Clone)]
enum Asked {
    Wish(usize),
    Replay(Offset),
}

impl Client {
    async fn connect(&mut self, edge: &RunningEdge, from: &str, interval: u32, snapshots: bool) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
        let stream = socket.connect(edge.address).await.unwrap();
        let url = format!("ws://{}/ws?{}&from={from}&interval={interval}", edge.address, WISHES[self.wish].0);
        let url = if snapshots { format!("{url}&snapshot=true") } else { url };
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let welcome = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        let welcome: Value = serde_json::from_str(welcome.to_text().unwrap()).unwrap();
        let mut walk = Walk::begin(&welcome, self.wish, from == "earliest", interval > 0);
        walk.snapshots = snapshots;
        if self.last.as_ref().is_some_and(|last| last.token() == from) {
            assert_eq!(Some(&walk.at), self.last.as_ref(), "a resume begins where the client was");
        }
        self.last = Some(walk.at.clone());
        self.session = Some((socket, walk));
    }

    /// Takes up to `messages`, as long as some come. False when the connection is over.
    async fn read(&mut self, truth: &Truth, messages: usize, patience: Duration) -> bool {
        for _ in 0..messages {
            let Some((socket, walk)) = &mut self.session else { return false };
            let Ok(next) = tokio::time::timeout(patience, socket.next()).await else { return true };
            let message: Value = match next {
                Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                _ => {
                    self.leave(false);
                    return false;
                }
            };
            walk.take(truth, &message).await;
            if message["type"] == "ack" {
                match self.asked.take().unwrap() {
                    Asked::Wish(wish) => {
                        walk.wish(wish);
                        self.wish = wish;
                    }
                    Asked::Replay(from) => walk.replay(from),
                }
            }
            self.last = Some(walk.at.clone());
            if message["type"] == "goodbye" {
                self.leave(true);
                return false;
            }
        }
        true
    }

    fn leave(&mut self, in_order: bool) {
        self.asked = None;
        if let Some((_, walk)) = self.session.take() {
            self.over.push((walk, in_order));
        }
    }

    async fn ask(&mut self, asked: Asked) {
        let message = match &asked {
            Asked::Wish(wish) => {
                let filters = WISHES[*wish].0.split('&').map(|filter| filter.trim_start_matches("filter="));
                let plain = filters.map(|f| f.replace("%3E", ">").replace("%7B", "{").replace("%7D", "}"));
                json!({"type": "subscribe", "filter": plain.collect::<Vec<_>>()})
            }
            Asked::Replay(from) => json!({"type": "replay", "from": from.token()}),
        };
        let Some((socket, walk)) = &mut self.session else { return };
        // Another wish would come with a state of its own, of no place that is told before.
        if self.asked.is_none()
            && !walk.snapshots
            && socket.send(Message::text(message.to_string())).await.is_ok()
        {
            self.asked = Some(asked);
        }
    }
}

/// Everything, and chance.
struct World {
    settings: Settings,
    truth: Truth,
    edges: Vec<RunningEdge>,
    /// Of all edges there were.
    metrics: Vec<PrometheusHandle>,
    clients: Vec<Client>,
    random: Rng,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let shards = ["1", "2", "3"][random.usize(..3)];
        let mut settings = tiny_ring(&[
            ("log.shards", shards),
            ("edge.heartbeat_ms", "1000"),
            ("edge.drain_waves_ms", "100"),
            ("edge.send_buffer_bytes", "8192"),
        ]);
        settings.log.max_bytes = random.u64(100_000..400_000);
        let truth = Truth::new(Log::new(&settings)).await;
        let new = |_| Client { wish: 0, last: None, session: None, asked: None, over: Vec::new() };
        let clients = (0..CLIENTS).map(new).collect();
        let mut world = Self { settings, truth, edges: Vec::new(), metrics: Vec::new(), clients, random };
        world.start_edge().await;
        world.start_edge().await;
        world
    }

    async fn start_edge(&mut self) {
        let edge = RunningEdge::start(self.truth.log.broker.clone(), &self.settings).await;
        self.metrics.push(edge.metrics());
        self.edges.push(edge);
    }

    async fn step(&mut self) {
        let which = self.random.usize(..CLIENTS);
        match self.random.u8(..101) {
            0..30 => self.publish().await,
            30..58 => self.connect(which).await,
            58..78 => {
                let messages = [1, 10, 1_000][self.random.usize(..3)];
                self.clients[which].read(&self.truth, messages, QUIET).await;
            }
            78..90 => self.clients[which].leave(false),
            90..94 => {
                let wish = self.random.usize(..WISHES.len());
                self.clients[which].ask(Asked::Wish(wish)).await;
            }
            94..97 => {
                let client = &mut self.clients[which];
                let passed = client.over.iter().map(|(walk, _)| walk.at.clone()).collect::<Vec<_>>();
                if let Some(from) = self.random.choice(passed) {
                    client.ask(Asked::Replay(from)).await;
                }
            }
            97 => self.recreate().await,
            end => {
                let edge = self.edges.remove(self.random.usize(..2));
                if end > 98 {
                    edge.edge.drain().await;
                }
                edge.stop().await;
                self.start_edge().await;
            }
        }
    }

    /// Replaces a shard, and waits until edges have seen it: until then they may take what is stored anew for a part of the
    /// old log, if that was no longer than the new one is by then.
    async fn recreate(&mut self) {
        let shards: Vec<_> = self.truth.shards().collect();
        self.truth.recreate(shards[self.random.usize(..shards.len())]).await;
        let head = self.truth.head().await;
        let at = |edge: &RunningEdge| edge.node.status()["offset"].as_str()?.parse::<Offset>().ok();
        until(|| self.edges.iter().all(|edge| at(edge).is_some_and(|at| at.epoch == head.epoch))).await;
    }

    async fn publish(&mut self) {
        let padding = if self.random.u8(..4) == 0 { 2_000 } else { 1 };
        for _ in 0..self.random.usize(1..80) {
            let collector = ["web-01", "web-02", "db-01", "db-02"][self.random.usize(..4)];
            let measurement = ["cpu", "mem"][self.random.usize(..2)];
            self.truth.log.publish_padded(collector, measurement, padding).await;
        }
    }

    async fn connect(&mut self, which: usize) {
        let (edge, client) = (&self.edges[self.random.usize(..2)], &mut self.clients[which]);
        if client.session.is_some() {
            return;
        }
        if self.random.u8(..4) == 0 {
            client.wish = self.random.usize(..WISHES.len());
        }
        let from = match (&client.last, self.random.u8(..10)) {
            (_, 0) | (None, _) => "latest".to_owned(),
            (_, 1) => "earliest".to_owned(),
            (Some(last), _) => last.token(),
        };
        let interval = if self.random.u8(..4) == 0 { INTERVAL_MS } else { 0 };
        // With an offset only: what else goes with a snapshot has no place before it.
        let resumes = client.last.as_ref().is_some_and(|last| last.token() == from);
        client.connect(edge, &from, interval, resumes && self.random.u8(..3) == 0).await;
    }

    /// Brings every client to the end of the log, then sends everybody away in order.
    async fn finish(&mut self) {
        let count = self.truth.shards().count() as u16;
        let id = |number: u32| telecast::proto::channel::CollectorId::new(&format!("end-{number}")).unwrap();
        for shard in self.truth.shards() {
            let number = (0..).find(|number| id(*number).shard(count) == shard).unwrap();
            self.truth.log.publish(id(number).as_str(), "end").await;
        }
        let head = self.truth.head().await;
        for which in 0..CLIENTS {
            let done = |client: &Client| client.last.as_ref().is_some_and(|last| head.is_at_or_before(last));
            let client = &mut self.clients[which];
            let wait = async {
                while !done(client) || client.session.is_none() {
                    if !client.read(&self.truth, 1, PATIENCE).await {
                        let from = client.last.as_ref().map_or("latest".to_owned(), Offset::token);
                        client.connect(&self.edges[0], &from, 0, false).await;
                    }
                }
            };
            let waited = tokio::time::timeout(PATIENCE, wait).await;
            assert!(
                waited.is_ok(),
                "client {which} does not get to {head:?}: {:?}",
                self.clients[which].session
            );
        }
        let Self { edges, clients, truth, .. } = self;
        for edge in &*edges {
            let leave = async {
                for client in &mut *clients {
                    if client.session.as_ref().is_some_and(|(socket, _)| is_at(socket, edge)) {
                        while client.read(truth, 1, PATIENCE).await {}
                    }
                }
            };
            tokio::join!(leave, edge.edge.drain());
        }
        for edge in self.edges.drain(..) {
            edge.stop().await;
        }
    }

    /// Compares what sessions say of themselves with what their clients know.
    fn compare(&self) -> Account {
        let mut sum = Account::default();
        for (walk, in_order) in self.clients.iter().flat_map(|client| &client.over) {
            let server = ended(|all| all[&walk.id]);
            let fates = server.delivered + server.filtered + server.conflated + server.gap;
            assert_eq!(
                server.published, fates,
                "{}: published = delivered + filtered + conflated + gaps",
                walk.id
            );
            let client = walk.account;
            if *in_order && walk.exact {
                assert_eq!(server, client, "{walk:?}");
            } else {
                // The client has not read everything, or was not told how far it had got.
                assert!(server.delivered >= client.delivered, "{server:?} {walk:?}");
                assert!(server.gap >= client.gap, "{server:?} {walk:?}");
            }
            sum += server;
        }
        let exported = |name: &str| -> u64 {
            let value = |text: String| -> u64 {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
            };
            self.metrics.iter().map(|metrics| value(metrics.render())).sum()
        };
        let fate = |name: &str| exported(&format!("ws_session_envelopes_total{{fate=\"{name}\"}}"));
        let exported = Account {
            published: exported("ws_session_envelopes_published_total"),
            delivered: fate("delivered"),
            filtered: fate("filtered"),
            conflated: fate("conflated"),
            gap: fate("gap"),
        };
        assert_eq!(exported, sum, "in sum as of each session");
        sum
    }
}

fn is_at(socket: &WebSocketStream<TcpStream>, edge: &RunningEdge) -> bool {
    socket.get_ref().peer_addr().is_ok_and(|address| address == edge.address)
}

/// Runs one schedule to its end. What became of everything, and the reasons of all gaps.
async fn run(seed: u64) -> (Account, Vec<String>) {
    let mut world = World::new(seed).await;
    for _ in 0..STEPS {
        world.step().await;
    }
    world.finish().await;
    let over = || world.clients.iter().flat_map(|client| &client.over);
    until(|| over().all(|(walk, _)| ended(|all| all.contains_key(&walk.id)))).await;
    let sum = world.compare();
    println!("seed {seed}: {} sessions on {} shards: {sum:?}", over().count(), world.truth.shards().count());
    (sum, over().flat_map(|(walk, _)| walk.reasons.clone()).collect())
}

/// `TELECAST_TEST_SEED` repeats one schedule.
#[tokio::test(flavor = "multi_thread")]
async fn published_is_delivered_and_filtered_and_conflated_and_announced_gaps_whatever_happens() {
    listen_to_session_ends();
    let given = std::env::var("TELECAST_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let first: u64 = given.unwrap_or_else(|| fastrand::u64(..));
    let seeds = (0..if given.is_some() { 1 } else { SCHEDULES }).map(|more| first.wrapping_add(more));
    // All at once: they mostly wait for edges that start and end.
    let mut running = JoinSet::new();
    let mut seed_of = HashMap::new();
    for seed in seeds {
        seed_of.insert(running.spawn(run(seed)).id(), seed);
    }
    let (mut all, mut reasons) = (Account::default(), HashMap::<String, usize>::new());
    while let Some(ended) = running.join_next_with_id().await {
        let (sum, found) =
            ended.unwrap_or_else(|error| panic!("TELECAST_TEST_SEED={}: {error}", seed_of[&error.id()])).1;
        all += sum;
        found.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
    }
    println!("gaps: {reasons:?}");
    assert!(all.delivered > 0 && all.filtered > 0 && all.conflated > 0 && all.gap > 0, "{all:?}");
}
