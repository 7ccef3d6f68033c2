//! JetStream under test, and nodes that come and go.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use telecast::broker::Broker;
use telecast::broker::nats::{NatsBroker, Updates};
use telecast::config::{LogSettings, NatsSettings};
use telecast::proto::offset::Shard;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nats_server::NatsServer;
use crate::under_test::{PATIENCE, UnderTest, eventually};

/// JetStream on the nats-server that the tests share.
pub struct JetStream {
    pub server: Arc<NatsServer>,
    pub settings: LogSettings,
    pub node: Node,
}

#[async_trait]
impl UnderTest for JetStream {
    async fn begin(settings: LogSettings) -> Self {
        Self::on(NatsServer::shared(), settings).await
    }

    fn broker(&self) -> Arc<dyn Broker> {
        self.node.broker.clone()
    }

    async fn recreate(&self, shard: Shard) {
        let name = format!("{}-{}", self.settings.name, shard.0);
        admin(&self.server).await.delete_stream(name).await.unwrap();
        eventually("the stream is there again", async || self.broker().bounds(shard).await.is_ok()).await;
    }
}

impl JetStream {
    /// A connected broker on a server of its own.
    pub async fn on(server: Arc<NatsServer>, settings: LogSettings) -> Self {
        let node = Node::connect(&server, &settings, "node-1");
        node.connected().await;
        Self { server, settings, node }
    }
}

/// One node's connection, ended when dropped.
pub struct Node {
    pub broker: Arc<NatsBroker>,
    stop: CancellationToken,
}

impl Node {
    pub fn connect(server: &NatsServer, settings: &LogSettings, id: &str) -> Self {
        Self::connect_to(&nats_settings(server.url()), settings, id)
    }

    pub fn connect_to(nats: &NatsSettings, settings: &LogSettings, id: &str) -> Self {
        let stop = CancellationToken::new();
        let name = format!("telecast {id}");
        let broker =
            NatsBroker::connect(nats, settings, &name, Updates::Apply, &TaskTracker::new(), stop.clone());
        Self { broker, stop }
    }

    pub async fn connected(&self) {
        let mut connection = self.broker.connection();
        let wait = connection.wait_for(|connection| connection.is_connected());
        let reached = tokio::time::timeout(PATIENCE, wait).await;
        assert!(reached.is_ok(), "not connected in time: {:?}", self.broker.connection().borrow());
    }

    /// Waits for a disconnection whose reason holds `words`, and returns the reason.
    pub async fn disconnected(&self, words: &str) -> String {
        let mut connection = self.broker.connection();
        let wait = connection.wait_for(|connection| format!("{connection:?}").contains(words));
        let reached =
            tokio::time::timeout(PATIENCE, wait).await.map(|found| format!("{:?}", *found.unwrap()));
        reached.unwrap_or_else(|_| panic!("no {words:?} in time: {:?}", self.broker.connection().borrow()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn nats_settings(url: String) -> NatsSettings {
    NatsSettings {
        url,
        credentials_file: None,
        user: None,
        password: None,
        token: None,
        request_timeout: Duration::from_secs(15),
    }
}

/// A client beside the broker, as operators have one.
pub async fn admin(server: &NatsServer) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap())
}
