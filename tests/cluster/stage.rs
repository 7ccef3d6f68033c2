//! What most tests start from: one nats-server, one ingest, some edges.

use std::net::SocketAddr;

use crate::support::collector::Collector;
use crate::support::nats::NatsServer;
use crate::support::telecast::{self, Launch, Telecast};

/// A running cluster. The processes end before their server.
pub struct Stage {
    pub ingest: Telecast,
    pub edges: Vec<Telecast>,
    pub nats: NatsServer,
}

impl Stage {
    /// Two edges.
    pub async fn new() -> Self {
        Self::with(2, |launch| launch).await
    }

    /// So many edges, all processes configured further by `configure`.
    pub async fn with(edges: usize, configure: impl Fn(Launch) -> Launch) -> Self {
        Self::on(NatsServer::start(), edges, configure).await
    }

    /// The same on a server of one's own.
    pub async fn on(nats: NatsServer, edges: usize, configure: impl Fn(Launch) -> Launch) -> Self {
        let ingest = configure(telecast::ingest(&nats.url())).start_unready().await;
        let mut started = Vec::new();
        for _ in 0..edges {
            started.push(configure(telecast::edge(&nats.url())).start_unready().await);
        }
        ingest.ready().await;
        for edge in &started {
            edge.ready().await;
        }
        Self { ingest, edges: started, nats }
    }

    /// Where an edge listens.
    pub fn edge(&self, number: usize) -> SocketAddr {
        self.edges[number].address()
    }

    /// A collector of its ingest.
    pub fn collector(&self, id: &str) -> Collector {
        Collector::new(id, &[self.ingest.address()])
    }
}
