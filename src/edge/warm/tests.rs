use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::broker::memory::MemoryBroker;
use crate::broker::{self, Broker, Connection, Outgoing, Published, StateStore};
use crate::config::{self, EdgeSettings, Inputs, Machine, Role};
use crate::edge::Edge;
use crate::edge::series::Extract;
use crate::ops::meters::Meters;
use crate::ops::node::Node;
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::envelope::Envelope;
use crate::proto::filter::FilterSet;
use crate::proto::message::Incomplete;

/// Far beyond what any step takes on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// An embedded log that answers nothing from before the ring until it is let go.
struct Held {
    log: Arc<MemoryBroker>,
    held: watch::Sender<bool>,
}

impl Held {
    async fn wait(&self) {
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
    }
}

#[async_trait]
impl Broker for Held {
    fn shards(&self) -> u16 {
        self.log.shards()
    }

    async fn publish(&self, shard: Shard, batch: &[Outgoing]) -> Result<Vec<Published>, BrokerError> {
        self.log.publish(shard, batch).await
    }

    async fn tail(&self, shard: Shard) -> Result<mpsc::Receiver<Stored>, BrokerError> {
        self.log.tail(shard).await
    }

    async fn read(
        &self,
        shard: Shard,
        from: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.log.read(shard, from, limits).await
    }

    async fn read_back(
        &self,
        shard: Shard,
        until: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.wait().await;
        // One at a time, or a test would have all of it with one.
        self.log.read_back(shard, until, ReadLimits { envelopes_max: 10, ..limits }).await
    }

    async fn channels(
        &self,
        shard: Shard,
        channels_max: usize,
    ) -> Result<Option<Vec<LogChannel>>, BrokerError> {
        self.log.channels(shard, channels_max).await
    }

    async fn last(
        &self,
        shard: Shard,
        channels: &[LogChannel],
        up_to: Sequence,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.wait().await;
        self.log.last(shard, channels, up_to).await
    }

    async fn newest(
        &self,
        shard: Shard,
        collector: &CollectorId,
    ) -> Result<Option<broker::Newest>, BrokerError> {
        self.log.newest(shard, collector).await
    }

    async fn bounds(&self, shard: Shard) -> Result<Bounds, BrokerError> {
        self.log.bounds(shard).await
    }

    fn state(&self) -> Arc<dyn StateStore> {
        self.log.state()
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.log.connection()
    }
}

/// An edge on a log in which collectors from 0 on have written once each, in this order.
struct Stage {
    held: Arc<Held>,
    edge: Arc<Edge>,
    node: Arc<Node>,
}

impl Stage {
    async fn begin(shards: u16, collectors: usize, held: bool, change: impl Fn(&mut EdgeSettings)) -> Self {
        let inputs = Inputs {
            role: Role::Edge,
            folder: PathBuf::from("/nonexistent"),
            folder_required: false,
            file: None,
            variables: vec![("TELECAST__LOG__SHARDS".to_owned(), shards.to_string())],
            listen: None,
            nats: None,
            node: None,
            machine: Machine { host_name: "test".to_owned(), cores: 1, descriptors: 4096 },
        };
        let mut settings = config::load(&inputs).unwrap().settings;
        change(&mut settings.edge);
        let log = MemoryBroker::new(&settings.log);
        for collector in 0..collectors {
            let outgoing = outgoing(collector);
            let shard = outgoing.envelope.channel.collector.shard(shards);
            log.publish(shard, &[outgoing]).await.unwrap();
        }
        let held = Arc::new(Held { log, held: watch::Sender::new(held) });
        let node = Node::new("edge-1".into(), Role::Edge, Meters::register(), held.connection(), 10);
        let edge = Edge::new(node.clone(), held.clone(), settings.edge, 1);
        edge.start();
        Self { held, edge, node }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
    }

    async fn until_ready(&self) {
        self.until("ready", |stage| stage.node.closed_gates().is_empty()).await;
    }

    fn last_values(&self) -> Extract {
        let hub = self.edge.hub.get().unwrap();
        hub.with_series(|series| series.matching(&FilterSet::default()))
    }

    /// The collectors that have last values, as numbers.
    fn known(&self) -> Vec<usize> {
        let groups = self.last_values().groups;
        let mut known: Vec<usize> =
            groups.iter().map(|group| group.collector.as_str()[1..].parse().unwrap()).collect();
        known.sort_unstable();
        known
    }
}

fn outgoing(collector: usize) -> Outgoing {
    let channel = Channel::new(CollectorId::new(&format!("c{collector}")).unwrap(), "m");
    let envelope = Envelope { channel, stamp: None, lines: Bytes::from_static(b"m v=1 1") };
    Outgoing { envelope, message_id: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_many_channels_is_read_from_the_newest_back_to_the_bound_of_the_last_values() {
    for shards in [1, 3] {
        let stage = Stage::begin(shards, 1_000, false, |edge| edge.snapshot.series_max = 600).await;
        stage.until_ready().await;
        assert_eq!(stage.known(), (400..1_000).collect::<Vec<_>>(), "{shards} shards");
        assert_eq!(stage.last_values().incomplete, Some(Incomplete::Bounds));
        stage.edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_known_where_the_bounds_hold_it_whether_channels_are_few_or_many() {
    for (shards, collectors) in [(1, 90), (3, 90), (1, 700), (3, 700)] {
        let stage = Stage::begin(shards, collectors, false, |_| {}).await;
        stage.until_ready().await;
        assert_eq!(stage.known(), (0..collectors).collect::<Vec<_>>());
        assert_eq!(stage.last_values().incomplete, None);
        stage.edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_takes_too_long_serves_clients_says_that_snapshots_are_incomplete_and_goes_on_behind() {
    for collectors in [90, 700] {
        let change = |edge: &mut EdgeSettings| edge.warm_timeout = Duration::from_millis(200);
        let stage = Stage::begin(1, collectors, true, change).await;
        stage.until_ready().await;
        let ring = collectors - WARM_ENVELOPES_MAX as usize..collectors;
        assert_eq!(stage.known(), ring.collect::<Vec<_>>(), "what the ring has");
        assert_eq!(stage.last_values().incomplete, Some(Incomplete::Starting));
        let concerns = stage.node.concerns();
        assert!(
            concerns.iter().any(|text| text.contains("edge.snapshot.warm_timeout_ms = 200")),
            "{concerns:?}"
        );
        // Life goes on meanwhile, and what comes is newer than what is read.
        stage.held.publish(Shard(0), &[outgoing(0)]).await.unwrap();
        stage.until("what comes next", |stage| stage.known().first() == Some(&0)).await;
        stage.held.held.send_replace(false);
        stage.until("the rest", |stage| stage.last_values().incomplete.is_none()).await;
        assert_eq!(stage.known(), (0..collectors).collect::<Vec<_>>());
        stage.until("no concern", |stage| stage.node.concerns().is_empty()).await;
        stage.edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_last_values_is_not_ready() {
    let stage = Stage::begin(1, 700, true, |_| {}).await;
    stage.until("the ring", |stage| stage.node.closed_gates() == ["last_values_read"]).await;
    stage.held.held.send_replace(false);
    stage.until_ready().await;
    assert_eq!(stage.last_values().incomplete, None);
    stage.edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_for_the_last_values_is_not_read() {
    let change = |edge: &mut EdgeSettings| edge.snapshot.age_max = Duration::ZERO;
    let stage = Stage::begin(1, 700, false, change).await;
    stage.until_ready().await;
    assert_eq!((stage.known(), stage.last_values().incomplete), (Vec::new(), None));
    stage.edge.stop().await;
}

#[test]
fn envelopes_come_in_the_order_of_the_log_and_the_oldest_of_too_many_go() {
    let stored = |stored_ns, sequence| {
        let channel = Channel::new(CollectorId::new("c").unwrap(), "m");
        let envelope = Envelope { channel, stamp: None, lines: Bytes::from_static(b"0123456789") };
        Stored { sequence, stored_ns, envelope }
    };
    let mut newest = Newest { bytes_max: 30, ..Newest::default() };
    for (shard, stored_ns, sequence) in [(0, 50, 5), (0, 50, 5), (1, 40, 9), (0, 10, 2), (1, 20, 7)] {
        newest.add(Shard(shard), stored(stored_ns, sequence));
    }
    let order: Vec<_> = newest.envelopes.into_keys().collect();
    assert_eq!(order, [(20, Shard(1), 7), (40, Shard(1), 9), (50, Shard(0), 5)]);
}
