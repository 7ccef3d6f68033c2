//! A node around the embedded log, whose answers a test can hold back, lose or refuse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::broker::memory::MemoryBroker;
use crate::broker::{
    Bounds, Broker, BrokerError, Cause, Connection, LogChannel, Newest, Outgoing, Published, ReadLimits,
    StateStore, Stored,
};
use crate::config::{ChannelLimits, CollectorSettings, LogSettings, OnConflict, Role, Storage};
use crate::ingest::Ingest;
use crate::ops::listing::Listing;
use crate::ops::meters::Meters;
use crate::ops::node::Node;
use crate::proto::channel::CollectorId;
use crate::proto::offset::{Sequence, Shard};

/// How the log answers publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// At once.
    Well,
    /// Not until the mood changes.
    Silent,
    /// With an error, nothing stored.
    Away,
    /// With an error, everything stored.
    Forgetful,
    /// With an error, the first envelope of each batch stored.
    Partial,
    /// Refuses batches that hold this measurement.
    Refuses(&'static str),
}

/// The embedded log, with moods.
pub(super) struct MoodyBroker {
    inner: Arc<MemoryBroker>,
    mood: watch::Sender<Mood>,
    in_flight: AtomicUsize,
    in_flight_most: AtomicUsize,
    calls: watch::Sender<usize>,
}

/// A node under test.
pub(super) struct Bench {
    pub(super) broker: Arc<MoodyBroker>,
    pub(super) node: Arc<Node>,
    pub(super) ingest: Arc<Ingest>,
    metrics: PrometheusHandle,
    tasks: JoinSet<()>,
}

impl MoodyBroker {
    pub(super) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// The most publishes that were under way at once.
    pub(super) fn in_flight_most(&self) -> usize {
        self.in_flight_most.load(Ordering::SeqCst)
    }

    /// How many publishes have begun.
    pub(super) fn published(&self) -> usize {
        *self.calls.borrow()
    }

    /// Returns when at least `count` publishes have begun.
    pub(super) async fn begun(&self, count: usize) {
        self.calls.subscribe().wait_for(|calls| *calls >= count).await.unwrap();
    }

    /// Everything in the log.
    pub(super) async fn stored(&self) -> Vec<Stored> {
        let all = ReadLimits { envelopes_max: usize::MAX, bytes_max: usize::MAX };
        self.inner.read(Shard(0), 1, all).await.unwrap()
    }

    /// The lines in the log, envelope by envelope.
    pub(super) async fn lines(&self) -> Vec<String> {
        let stored = self.stored().await;
        stored.iter().map(|one| String::from_utf8(one.envelope.lines.to_vec()).unwrap()).collect()
    }
}

#[async_trait]
impl Broker for MoodyBroker {
    fn shards(&self) -> u16 {
        1
    }

    async fn publish(&self, shard: Shard, batch: &[Outgoing]) -> Result<Vec<Published>, BrokerError> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.in_flight_most.fetch_max(now, Ordering::SeqCst);
        self.calls.send_modify(|calls| *calls += 1);
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Silent).await.unwrap();
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        match mood {
            Mood::Away => Err(BrokerError::retryable(Cause::NoAnswer, "away")),
            Mood::Refuses(name) if batch.iter().any(|one| &*one.envelope.channel.measurement == name) => {
                Err(BrokerError::Refused("not this one".into()))
            }
            Mood::Forgetful => {
                self.inner.publish(shard, batch).await?;
                Err(BrokerError::retryable(Cause::NoAnswer, "no answer"))
            }
            Mood::Partial => {
                self.inner.publish(shard, &batch[..1]).await?;
                Err(BrokerError::retryable(Cause::NoAnswer, "cut off"))
            }
            Mood::Well | Mood::Silent | Mood::Refuses(_) => self.inner.publish(shard, batch).await,
        }
    }

    async fn tail(&self, shard: Shard) -> Result<mpsc::Receiver<Stored>, BrokerError> {
        self.inner.tail(shard).await
    }

    async fn read(
        &self,
        shard: Shard,
        from: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.inner.read(shard, from, limits).await
    }

    async fn read_back(
        &self,
        shard: Shard,
        until: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.inner.read_back(shard, until, limits).await
    }

    async fn channels(
        &self,
        shard: Shard,
        channels_max: usize,
    ) -> Result<Option<Vec<LogChannel>>, BrokerError> {
        self.inner.channels(shard, channels_max).await
    }

    async fn last(
        &self,
        shard: Shard,
        channels: &[LogChannel],
        up_to: Sequence,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.inner.last(shard, channels, up_to).await
    }

    async fn newest(&self, shard: Shard, collector: &CollectorId) -> Result<Option<Newest>, BrokerError> {
        let away = *self.mood.borrow() == Mood::Away;
        if away {
            return Err(BrokerError::retryable(Cause::NoAnswer, "away"));
        }
        self.inner.newest(shard, collector).await
    }

    async fn bounds(&self, shard: Shard) -> Result<Bounds, BrokerError> {
        self.inner.bounds(shard).await
    }

    fn state(&self) -> Arc<dyn StateStore> {
        self.inner.state()
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.inner.connection()
    }
}

/// Small bounds, so that tests reach them.
pub(super) fn settings() -> CollectorSettings {
    CollectorSettings {
        on_conflict: OnConflict::Refuse,
        message_bytes_max: 64 * 1024,
        envelope_bytes_max: 16 * 1024,
        buffer_bytes_max: 64 * 1024,
        ping_interval: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(10),
        ids_per_connection_max: 1_000,
        channels: ChannelLimits {
            channels_max: 100_000,
            per_collector_max: 100_000,
            new_per_second_max: 100_000,
            age_max: Duration::from_secs(3_600),
        },
        message_timeout: Duration::from_secs(20),
        receive_bytes_per_second_min: 1_024,
        receive_window: Duration::from_secs(5),
    }
}

/// A node with these settings and a log that is well.
pub(super) fn bench(settings: CollectorSettings) -> Bench {
    let inner = MemoryBroker::new(&LogSettings {
        name: "telecast".into(),
        shards: 1,
        replicas: 1,
        storage: Storage::Memory,
        max_age: Duration::from_secs(3600),
        max_bytes: 64 << 20,
        duplicate_window: Duration::from_secs(120),
    });
    node_on(inner, settings)
}

fn node_on(inner: Arc<MemoryBroker>, settings: CollectorSettings) -> Bench {
    let broker = Arc::new(MoodyBroker {
        inner,
        mood: watch::Sender::new(Mood::Well),
        in_flight: AtomicUsize::new(0),
        in_flight_most: AtomicUsize::new(0),
        calls: watch::Sender::new(0),
    });
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let meters = metrics::with_local_recorder(&recorder, Meters::register);
    let node = Node::new("ingest-1".into(), Role::Ingest, meters, broker.connection(), 10);
    let ingest = Ingest::new(node.clone(), broker.clone(), settings);
    Bench { broker, node, ingest, metrics, tasks: JoinSet::new() }
}

impl Bench {
    /// Another node on the same log, with a connection of its own to it.
    pub(super) fn peer(&self) -> Self {
        node_on(self.broker.inner.clone(), settings())
    }

    /// Listens on a free port of this host.
    pub(super) async fn listen(&mut self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = self.ingest.clone().router().into_make_service_with_connect_info::<SocketAddr>();
        self.tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
        address
    }

    /// The value of a metric, written as in its exposition: `name` or `name{label="value"}`.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(key, _)| key == name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// The node's status.
    pub(super) fn status(&self) -> serde_json::Value {
        Listing::of(self.node.collectors()).beside(self.node.status())
    }
}
