//! Follows the log and pushes it to clients.
//!
//! In reading order:
//!
//! * The log: `warm` is the start, `sequencer` puts a shard in order, `follow` feeds it, `stall` knows why nothing comes, `clocks` whether those agree that
//!   stamp envelopes; `series` keeps last values, `ring`
//!   the newest part of the log.
//! * Frames: `wire` says of which form, `encode` makes them, `pieces` parts of them, `compress` smaller ones; `batch` is a run
//!   of them and `view` shares them, of which clients of one address have their `shares`. `hub` ties these together, `doorbell` tells writers which views have grown, `conflate`
//!   gives views newest values instead of all.
//! * The way in: `resolve` finds a client's place; `catch_up` leads it on its `way` to its view with what `replay` has of the
//!   log, through its `feed`; `snapshot` gives it last values first.
//! * Clients: `session`, with its `socket`, `inbound` and `outbox`, is what one is to its `writer`; `books` is the account of
//!   what it got, `door` how clients of every transport come in, `status` what operators are told.
//!
//! Nothing here knows ingest; the log comes through the broker's port only.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::config::EdgeSettings;
use crate::edge::clocks::{SourceClocks, StampAges};
use crate::edge::compress::Compressor;
use crate::edge::conflate::pace::Pacer;
use crate::edge::doorbell::Doorbell;
use crate::edge::encode::Said;
use crate::edge::follow::Follower;
use crate::edge::hub::{Hub, ViewLimits};
use crate::edge::replay::Replays;
use crate::edge::snapshot::Snapshots;
use crate::edge::stall::{Stalls, Stopped};
use crate::edge::warm::Warming;
use crate::edge::writer::{Command, Writer};
use crate::ops::clock::unix_ns;
use crate::ops::node::{Fault, Gate, Node};
use crate::proto::message::ServerMessage;
use crate::proto::offset::Shard;
use crate::sync::Locked;

mod batch;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod books;
mod catch_up;
mod clocks;
mod compress;
mod conflate;
mod door;
mod doorbell;
mod encode;
mod feed;
mod follow;
mod hub;
mod inbound;
mod outbox;
mod pieces;
mod replay;
mod resolve;
mod ring;
mod sequencer;
mod series;
mod session;
mod shares;
mod snapshot;
mod socket;
mod stall;
mod status;
mod view;
mod warm;
mod way;
mod wire;
mod writer;

/// Commands a writer may have waiting before those who send them wait too.
const COMMANDS_MAX: usize = 1024;
/// A NATS server that lags behind the others is given so long to show what this edge, or another, has got already. Only then has
/// the log gone back.
const LAG_PATIENCE: Duration = Duration::from_secs(2);
/// Tasks have so long to end once they are told to: none waits for anything then but work on a thread of its own, which is
/// milliseconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients are told that the log is silent, or takes nothing, after this time (they are promised ten seconds).
const STALE_AFTER: Duration = Duration::from_secs(6);

/// What all parts of an edge share.
pub(crate) struct Shared {
    node: Arc<Node>,
    broker: Arc<dyn Broker>,
    settings: EdgeSettings,
    compressor: Arc<Compressor>,
    snapshots: Snapshots,
    /// Old parts of the log, for sessions that catch up.
    replays: Arc<Replays>,
    tasks: TaskTracker,
    started: Instant,
    /// When each shard was heard of, in milliseconds since `started`.
    heard_ms: Box<[AtomicU64]>,
    /// When envelopes of each shard last arrived, in milliseconds since `started`.
    arrived_ms: Box<[AtomicU64]>,
    /// Since when nothing arrives, in milliseconds since `started`, if clients have been told so; else [`u64::MAX`].
    stale_since_ms: AtomicU64,
    lags: Locked<Vec<u64>>,
    stamp_ages: StampAges,
    collectors: status::Collectors,
}

impl Shared {
    /// A shard answered or sent something.
    fn note_heard(&self, shard: Shard) {
        if let Some(heard) = self.heard_ms.get(usize::from(shard.0)) {
            heard.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Envelopes of a shard arrived.
    fn note_arrived(&self, shard: Shard) {
        if let Some(arrived) = self.arrived_ms.get(usize::from(shard.0)) {
            arrived.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// For how long nothing of a shard has arrived, if there is such a shard.
    fn quiet(&self, shard: u16) -> Option<Duration> {
        self.arrived_ms.get(usize::from(shard)).map(|arrived| self.since(arrived))
    }

    /// How long the most silent shard has been silent.
    fn log_silence(&self) -> Duration {
        self.heard_ms.iter().map(|heard| self.since(heard)).max().unwrap_or_default()
    }

    fn since(&self, ms: &AtomicU64) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(ms.load(Ordering::Relaxed)))
    }

    /// For how many milliseconds nothing has arrived, if clients have been told so.
    fn stale(&self) -> Option<u64> {
        let is_told = self.stale_since_ms.load(Ordering::Relaxed) != u64::MAX;
        is_told.then(|| self.since(&self.stale_since_ms).as_millis() as u64)
    }

    /// How far a writer's slowest live session is behind; the gauge shows the worst of all writers.
    fn note_lag(&self, writer: usize, lag: u64) {
        // The gauge is set under the lock, so that the newest maximum stays.
        self.lags.with(|lags| {
            if lags.len() <= writer {
                lags.resize(writer + 1, 0);
            }
            lags[writer] = lag;
            self.node.meters.message_queue_size.set(lags.iter().copied().max().unwrap_or(0) as f64);
        });
    }
}

/// The edge of one process.
pub struct Edge {
    shared: Arc<Shared>,
    /// There is none until the log has been reached for the first time.
    hub: OnceLock<Arc<Hub>>,
    doorbells: Vec<Arc<Doorbell>>,
    writers: Vec<mpsc::Sender<Command>>,
    inboxes: Locked<Vec<mpsc::Receiver<Command>>>,
    gates: Vec<Arc<Gate>>,
    /// Last values from before the ring are known, or will be later.
    warm: Arc<Gate>,
    /// No new clients: those who are here are being sent away.
    draining: AtomicBool,
    /// For browsers that are being told why they are refused.
    refusals: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Edge {
    /// An edge with `writers` writer tasks; it begins to work with [`Edge::start`].
    pub fn new(
        node: Arc<Node>,
        broker: Arc<dyn Broker>,
        settings: EdgeSettings,
        writers: usize,
    ) -> Arc<Self> {
        let gates = (0..broker.shards()).map(|_| node.add_gate("log_followed")).collect();
        let warm = node.add_gate("last_values_read");
        let doorbells = (0..writers.max(1)).map(Doorbell::new).collect();
        let (writers, inboxes) = (0..writers.max(1)).map(|_| mpsc::channel(COMMANDS_MAX)).unzip();
        let compressor = Compressor::new(settings.compression.clone(), &node.meters);
        let replays = Replays::new(
            broker.clone(),
            compressor.clone(),
            &node.meters,
            settings.replay_concurrency_max,
            settings.replay_bytes_max,
        );
        let shared = Arc::new(Shared {
            node: node.clone(),
            heard_ms: (0..broker.shards()).map(|_| AtomicU64::new(0)).collect(),
            arrived_ms: (0..broker.shards()).map(|_| AtomicU64::new(0)).collect(),
            stale_since_ms: AtomicU64::new(u64::MAX),
            broker,
            snapshots: Snapshots::new(
                settings.snapshot.bytes_max,
                settings.slow_client_timeout,
                node.meters.snapshot_held_bytes.clone(),
            ),
            replays,
            compressor,
            settings,
            tasks: TaskTracker::new(),
            started: Instant::now(),
            lags: Locked::empty("lags of writers"),
            stamp_ages: StampAges::default(),
            collectors: status::Collectors::default(),
        });
        let edge = Arc::new(Self {
            shared,
            hub: OnceLock::new(),
            doorbells,
            writers,
            inboxes: Locked::leaf("inboxes of writers", inboxes),
            gates,
            warm,
            draining: AtomicBool::new(false),
            refusals: Arc::new(Semaphore::new(door::REFUSALS_MAX)),
            shutdown: CancellationToken::new(),
        });
        node.add_status(Arc::new(status::Section(edge.clone())));
        edge
    }

    /// Follows the log and serves sessions, in tasks of its own, until [`Edge::stop`].
    pub fn start(self: &Arc<Self>) {
        let edge = self.clone();
        self.spawn_until_stopped(async move { edge.open().await });
    }

    /// Has a task done that nobody waits for, unless the edge stops before.
    fn spawn_until_stopped(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Waits for the log, then starts followers, writers and the clock.
    async fn open(self: &Arc<Self>) {
        let mut bounds = Vec::new();
        for shard in (0..self.shared.broker.shards()).map(Shard) {
            bounds.push(warm::reach(&self.shared, shard).await);
        }
        let settings = &self.shared.settings;
        let hub = Hub::new(
            bounds.iter().map(|bounds| bounds.epoch).collect(),
            warm::last_values(&self.shared, &bounds),
            settings.ring_bytes_max,
            ViewLimits {
                bytes_max: settings.view_bytes_max,
                count_max: settings.views_max,
                per_address_max: settings.views_per_address_max,
            },
            self.doorbells.clone(),
            self.shared.compressor.clone(),
        );
        let inboxes = self.inboxes.with(std::mem::take);
        for (inbox, doorbell) in inboxes.into_iter().zip(&self.doorbells) {
            let writer = Writer::new(self.shared.clone(), hub.clone(), doorbell.clone());
            self.shared.tasks.spawn(writer.run(inbox, self.shutdown.clone()));
        }
        if let Some(new_groups) = hub.take_new_groups() {
            let pacer = Pacer::new(self.shared.clone(), hub.clone(), new_groups);
            self.shared.tasks.spawn(pacer.run(self.shutdown.clone()));
        }
        // Nobody else sets it. Followers come after it: once they have caught up, this node says that it is ready, and
        // then clients must not be turned away for want of a hub.
        let _ = self.hub.set(hub.clone());
        for (number, (bounds, gate)) in bounds.iter().zip(&self.gates).enumerate() {
            let shard = Shard(number as u16);
            let start = warm::ring_start(bounds);
            let follower =
                Follower::new(self.shared.clone(), hub.clone(), shard, start, *bounds, gate.clone());
            self.shared.tasks.spawn(follower.run(self.shutdown.clone()));
        }
        let warming = Warming::new(self.shared.clone(), hub, &bounds, &self.gates, self.warm.clone());
        self.shared.tasks.spawn(warming.run(self.shutdown.clone()));
        self.tick().await;
    }

    /// Once a second: tidies the hub, and tells clients when nothing arrives any more and when it does again.
    async fn tick(&self) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut told = self.shared.broker.stalls();
        let mut stalls = Stalls::default();
        let mut clocks = SourceClocks::new(Instant::now());
        loop {
            second.tick().await;
            let concern = clocks.look(&self.shared.stamp_ages, Instant::now());
            self.shared.node.set_concern("source_clock", concern);
            if let Some(hub) = self.hub.get() {
                let views = hub.tidy(&self.shared.node.meters);
                self.warn_of_views(views);
                self.shared.node.meters.replay_bytes.set(self.shared.replays.bytes() as f64);
                self.shared.snapshots.tidy(&self.shared.node.meters);
                let (hub, node) = (hub.clone(), self.shared.node.clone());
                // Whoever is copying many of the last values has their lock for milliseconds.
                let tidy = move || hub.tidy_series(unix_ns(), &node.meters);
                if let Ok(bitten) = self.shared.tasks.spawn_blocking(tidy).await {
                    self.shared.snapshots.warn(&self.shared.node, self.shared.settings.snapshot, bitten);
                }
            }
            while let Ok(stall) = told.try_recv() {
                stalls.note(stall, Instant::now());
            }
            let stopped = self.stopped(&mut stalls);
            self.tell_stopped(stopped).await;
        }
    }

    /// Whether and why nothing arrives: the log does not answer, or it takes nothing that could.
    fn stopped(&self, stalls: &mut Stalls) -> Option<Stopped> {
        let time = self.shared.log_silence();
        if time >= STALE_AFTER {
            let reason = format!("the log has not answered for {} s", time.as_secs());
            return Some(Stopped { time, reason });
        }
        let stopped = stalls.stopped(Instant::now(), |shard| self.shared.quiet(shard));
        stopped.filter(|stopped| stopped.time >= STALE_AFTER)
    }

    async fn tell_stopped(&self, stopped: Option<Stopped>) {
        let was_told = self.shared.stale().is_some();
        // Clients are still served with what there is, and no other edge would have more.
        let fault = stopped.as_ref().map(|stopped| Fault { reason: stopped.reason.clone(), is_ready: true });
        self.shared.node.set_fault("arrivals", fault);
        match stopped {
            Some(Stopped { time, reason }) if !was_told => {
                let since_ms = time.as_millis() as u64;
                let since = (self.shared.started.elapsed().as_millis() as u64).saturating_sub(since_ms);
                // Before the others are told: who joins between the two is told twice rather than never.
                self.shared.stale_since_ms.store(since, Ordering::Relaxed);
                tracing::warn!(event = "log_silent", silence_ms = since_ms, reason, "clients are told");
                self.broadcast(&ServerMessage::Stale { since_ms }).await;
            }
            None if was_told => {
                self.shared.stale_since_ms.store(u64::MAX, Ordering::Relaxed);
                tracing::info!(event = "log_back", "envelopes can arrive again");
                self.broadcast(&ServerMessage::Live).await;
            }
            _ => {}
        }
    }

    /// Has `/health` warn while nobody can be given a view that nobody else has.
    fn warn_of_views(&self, views: usize) {
        let most = self.shared.settings.views_max;
        let concern = (views >= most).then(|| {
            format!(
                "there are {views} distinct views, edge.views_max = {most}: clients that ask for others are refused"
            )
        });
        self.shared.node.set_concern("views", concern);
    }

    async fn broadcast(&self, message: &ServerMessage<'_>) {
        let said = Arc::new(Said::of(message));
        for writer in &self.writers {
            // A writer that is gone has no sessions to tell.
            let _ = writer.send(Command::Broadcast(said.clone())).await;
        }
    }

    /// Sends all clients away in waves and returns when they are gone, or after twice the time they were given.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let over = self.shared.settings.drain_waves;
        for writer in &self.writers {
            let _ = writer.send(Command::Drain(over)).await;
        }
        let gone = async {
            while self.shared.node.clients() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(over * 2 + Duration::from_secs(1), gone).await.is_err() {
            let left = self.shared.node.clients();
            tracing::warn!(event = "drain_incomplete", left, "clients that did not leave are disconnected");
        }
    }

    /// Ends all tasks and returns when they have ended, or after five seconds. How many are left then is said and returned.
    pub async fn stop(&self) -> usize {
        self.shutdown.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.shared.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.shared.tasks.len();
        tracing::error!(
            event = "stop_incomplete",
            left,
            "tasks of the edge did not end in time and are left to their fate"
        );
        left
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::broker::memory::MemoryBroker;
    use crate::config::{self, Inputs, Machine, Role};
    use crate::ops::meters::Meters;

    #[tokio::test(start_paused = true)]
    async fn an_edge_stops_in_time_even_if_a_task_does_not_and_says_so() {
        let inputs = Inputs {
            role: Role::Edge,
            folder: PathBuf::from("/nonexistent"),
            folder_required: false,
            file: None,
            variables: Vec::new(),
            listen: None,
            nats: None,
            node: None,
            machine: Machine { host_name: "test".to_owned(), cores: 1, descriptors: 4096 },
        };
        let settings = config::load(&inputs).unwrap().settings;
        let broker = MemoryBroker::new(&settings.log);
        let node = Node::new("edge-1".into(), Role::Edge, Meters::register(), broker.connection(), 10);
        let edge = Edge::new(node, broker, settings.edge, 1);
        edge.start();
        edge.shared.tasks.spawn(std::future::pending::<()>());
        let began = Instant::now();
        assert_eq!((edge.stop().await, began.elapsed() / 2 < STOP_TIMEOUT), (1, true));
    }
}
