//! Edges on the embedded log, in this process, and clients with ledgers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use futures_util::{SinkExt as _, StreamExt as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use telecast::broker::memory::MemoryBroker;
use telecast::broker::{Broker, Outgoing};
use telecast::config::{self, Inputs, Machine, Role, Settings};
use telecast::edge::Edge;
use telecast::ops::http::{Listener, Policy};
use telecast::ops::meters::Meters;
use telecast::ops::node::Node;
use telecast::proto::channel::{Channel, CollectorId};
use telecast::proto::envelope::Envelope;
use telecast::proto::offset::{Epoch, Offset, Sequence, Shard};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

/// Far beyond what any step takes on a busy machine; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The built-in settings of an edge, with some keys changed as an environment would.
pub fn settings(changes: &[(&str, &str)]) -> Settings {
    let variable = |(key, value): &(&str, &str)| {
        (format!("TELECAST__{}", key.replace('.', "__").to_uppercase()), (*value).to_owned())
    };
    let inputs = Inputs {
        role: Role::Standalone,
        folder: PathBuf::from("/nonexistent"),
        folder_required: false,
        file: None,
        variables: changes.iter().map(variable).collect(),
        listen: None,
        nats: None,
        node: Some("edge-under-test".to_owned()),
        machine: Machine { host_name: "test".to_owned(), cores: 2, descriptors: 4096 },
    };
    config::load(&inputs).unwrap().settings
}

/// Settings of an edge whose ring holds next to nothing: below what a configuration may say, so that tests need not
/// publish megabytes.
pub fn tiny_ring(changes: &[(&str, &str)]) -> Settings {
    let mut settings = settings(changes);
    settings.edge.ring_bytes_max = 64 * 1024;
    settings.edge.view_bytes_max = 64 * 1024;
    settings
}

/// A log and the truth about what was published to it.
pub struct Log {
    pub broker: Arc<MemoryBroker>,
    counters: std::sync::Mutex<HashMap<String, u64>>,
    published: AtomicU64,
    /// Everything that was ever stored, by its place.
    stored: std::sync::Mutex<HashMap<Position, Row>>,
}

/// A place of one shard: the shard's epoch and number, and the sequence there.
pub type Position = (Epoch, Shard, Sequence);

/// One metric: collector, measurement, and the collector's count.
pub type Row = (String, String, u64);

impl Log {
    pub fn new(settings: &Settings) -> Self {
        let broker = MemoryBroker::new(&settings.log);
        Self {
            broker,
            counters: Default::default(),
            published: AtomicU64::new(0),
            stored: Default::default(),
        }
    }

    /// What was stored there, even if the log has let it go since.
    pub fn stored(&self, position: &Position) -> Option<Row> {
        self.stored.lock().unwrap().get(position).cloned()
    }

    /// Publishes the next metric of a collector.
    pub async fn publish(&self, collector: &str, measurement: &str) -> Row {
        self.publish_padded(collector, measurement, 1).await
    }

    /// The same, with a field that makes it larger.
    pub async fn publish_padded(&self, collector: &str, measurement: &str, padding: usize) -> Row {
        let count = {
            let mut counters = self.counters.lock().unwrap();
            let count = counters.entry(collector.to_owned()).or_default();
            *count += 1;
            *count
        };
        let region = if count.is_multiple_of(2) { "eu" } else { "us" };
        let pad = "x".repeat(padding);
        let lines = format!(
            "{measurement},host={collector},region={region} count={count}i,pad=\"{pad}\" {count}000000"
        );
        let channel = Channel::new(CollectorId::new(collector).unwrap(), measurement);
        let id = self.published.fetch_add(1, Ordering::Relaxed);
        let outgoing = Outgoing {
            envelope: Envelope { channel: channel.clone(), stamp: None, lines: lines.into() },
            message_id: format!("test-{id}"),
        };
        let shard = channel.collector.shard(self.broker.shards());
        let sequence = self.broker.publish(shard, &[outgoing]).await.unwrap()[0].sequence;
        let epoch = self.broker.bounds(shard).await.unwrap().epoch;
        let row = (collector.to_owned(), measurement.to_owned(), count);
        self.stored.lock().unwrap().insert((epoch, shard, sequence), row.clone());
        row
    }

    /// Publishes `count` metrics of a collector, all `cpu`.
    pub async fn publish_many(&self, collector: &str, count: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        for _ in 0..count {
            rows.push(self.publish(collector, "cpu").await);
        }
        rows
    }
}

/// An edge that listens.
pub struct RunningEdge {
    pub node: Arc<Node>,
    pub edge: Arc<Edge>,
    pub address: SocketAddr,
    metrics: PrometheusHandle,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl RunningEdge {
    /// Starts an edge and waits until it has read what the log held.
    pub async fn start(broker: Arc<dyn Broker>, settings: &Settings) -> Self {
        let connection = broker.connection();
        let clients_max = settings.edge.max_connections;
        let recorder = PrometheusBuilder::new().build_recorder();
        let meters = metrics::with_local_recorder(&recorder, Meters::register);
        let node = Node::new("edge-under-test".to_owned(), Role::Edge, meters, connection, clients_max);
        let edge = Edge::new(node.clone(), broker, settings.edge.clone(), 2);
        edge.start();
        let policy = Policy::new(node.clone(), &settings.server, settings.edge.slow_client_timeout * 2);
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), policy.clone()).unwrap();
        let address = listener.address().unwrap();
        let router: Router = edge.router(policy.origins());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.serve(router, stop.clone()));
        let metrics = recorder.handle();
        let running = Self { node, edge, address, metrics, stop, tasks };
        until(|| running.node.closed_gates().is_empty()).await;
        running
    }

    pub async fn connect(&self, query: &str) -> Client {
        Client::connect(self.address, query).await
    }

    /// Renders its metrics, also when it is gone.
    pub fn metrics(&self) -> PrometheusHandle {
        self.metrics.clone()
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        self.edge.stop().await;
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Waits for a condition that nothing announces.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the condition never came true");
}

/// What ended a connection.
#[derive(Debug)]
pub enum End {
    Close(u16, String),
    Cut,
}

/// A client that remembers everything it was told.
pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub welcome: Value,
    /// The last offset it learnt.
    pub offset: String,
    pub rows: Vec<Row>,
    pub gaps: Vec<(String, String, String)>,
    pub others: Vec<Value>,
}

impl Client {
    pub async fn connect(address: SocketAddr, query: &str) -> Self {
        let query = query.replace('>', "%3E").replace('{', "%7B").replace('}', "%7D");
        let url = format!("ws://{address}/ws{query}");
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut client = Self {
            socket,
            welcome: Value::Null,
            offset: String::new(),
            rows: Vec::new(),
            gaps: Vec::new(),
            others: Vec::new(),
        };
        let welcome = client.next().await.unwrap();
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client.offset = welcome["offset"].as_str().unwrap().to_owned();
        client.welcome = welcome;
        client
    }

    pub async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message, entered into the ledger.
    pub async fn next(&mut self) -> Result<Value, End> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing comes");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let message: Value =
                        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                    self.enter(&message);
                    return Ok(message);
                }
                Some(Ok(Message::Close(frame))) => {
                    let frame: Option<CloseFrame> = frame;
                    let frame = frame.expect("a close frame has a code");
                    return Err(End::Close(frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(End::Cut),
            }
        }
    }

    fn enter(&mut self, message: &Value) {
        match message["type"].as_str().unwrap() {
            "metrics" => {
                let offset = message["offset"].as_str().unwrap();
                assert_ne!(self.offset, offset, "an offset came twice");
                self.offset = offset.to_owned();
                let collector = message["collector"].as_str().unwrap();
                for metric in message["metrics"].as_array().unwrap() {
                    let count = metric["fields"]["count"].as_u64().unwrap();
                    assert_eq!(metric["timestamp"].as_u64(), Some(count), "ms of {metric}");
                    self.rows.push((
                        collector.to_owned(),
                        metric["name"].as_str().unwrap().to_owned(),
                        count,
                    ));
                }
            }
            "gap" => {
                let part = |name: &str| message[name].as_str().unwrap().to_owned();
                self.gaps.push((part("from"), part("to"), part("reason")));
                self.offset = part("to");
            }
            "heartbeat" | "goodbye" => {
                let offset = message["offset"].as_str().unwrap();
                let (before, now): (Offset, Offset) = (self.offset.parse().unwrap(), offset.parse().unwrap());
                assert!(
                    before.is_at_or_before(&now),
                    "{message} takes the client back from {before:?} to {now:?}"
                );
                self.offset = offset.to_owned();
            }
            _ => self.others.push(message.clone()),
        }
    }

    /// Reads until it has `count` rows.
    pub async fn read_rows(&mut self, count: usize) {
        while self.rows.len() < count {
            self.next()
                .await
                .unwrap_or_else(|end| panic!("{end:?} after {} of {count} rows", self.rows.len()));
        }
    }

    /// Reads until a message of this type comes.
    pub async fn read_type(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await.unwrap_or_else(|end| panic!("{end:?} before {kind}"));
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Reads to the end of the connection.
    pub async fn read_end(&mut self) -> End {
        loop {
            if let Err(end) = self.next().await {
                // The answer to a close frame leaves with the next read.
                let _ = tokio::time::timeout(PATIENCE, self.socket.next()).await;
                return end;
            }
        }
    }

    /// Asks for a pong: everything that was sent before it has been read when it comes.
    pub async fn ping(&mut self) {
        self.send(json!({"type": "ping", "id": "ping"})).await;
        self.read_type("pong").await;
    }

    /// Comes back to an edge with the last offset it learnt, and keeps its ledger.
    pub async fn resume(self, edge: &RunningEdge, query: &str) -> Self {
        let joint = if query.is_empty() { "?" } else { "&" };
        let fresh = edge.connect(&format!("{query}{joint}from={}", self.offset)).await;
        Self { rows: self.rows, gaps: self.gaps, others: self.others, ..fresh }
    }
}

/// A ledger by collector, for comparing orders that only hold within one.
pub fn by_collector(rows: &[Row]) -> HashMap<&str, Vec<(&str, u64)>> {
    let mut sorted: HashMap<&str, Vec<(&str, u64)>> = HashMap::new();
    for (collector, measurement, count) in rows {
        sorted.entry(collector).or_default().push((measurement, *count));
    }
    sorted
}
