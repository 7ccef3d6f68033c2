//! Nodes in the states that examples are about.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::collector::Collector;
use crate::support::nats::NatsServer;
use crate::support::telecast::{self, Telecast};

/// What examples find in the log.
pub const LINES: &str = "mem,host=web-01 used_percent=3.17 1795323075000000000";

/// What opens the ordinary node's `/admin`.
pub const ADMIN_TOKEN: &str = "s3cret";

/// A node, and what keeps it in its state.
pub struct Stage {
    pub node: Telecast,
    _clients: Vec<Client>,
    _collectors: Vec<Collector>,
    _sockets: Vec<TcpStream>,
}

impl Stage {
    /// A node in the state that `x-when` names; without one, an ordinary node with [`LINES`] in its log.
    pub async fn when(state: Option<&str>) -> Self {
        let (mut clients, mut collectors, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
        let node = match state {
            None => {
                let node = telecast::standalone().set("admin.token", ADMIN_TOKEN).start().await;
                assert_eq!(node.post("/api/v1/write", LINES).await.status, 204);
                node
            }
            Some("without_token") => telecast::standalone().start().await,
            Some("full") => {
                let node = telecast::standalone().set("edge.max_connections", 1).start().await;
                clients.push(Client::connect(node.address(), "").await);
                node
            }
            Some("crowded") => {
                let node = telecast::standalone().set("edge.views_per_address_max", 1).start().await;
                clients.push(Client::connect(node.address(), "filter=nobody.nothing").await);
                node
            }
            Some("named") => telecast::standalone().set("server.allowed_hosts", "127.0.0.1").start().await,
            Some("wide") => telecast::standalone().set("server.header_bytes_max", 200_000).start().await,
            Some("narrow") => {
                let node = telecast::standalone().set("server.connections_per_address_max", 1).start().await;
                let taken =
                    crate::support::eventually("the connection that saw it ready is gone", async || {
                        place_taken(node.address()).await
                    });
                sockets.push(taken.await.0);
                node
            }
            Some("draining") => {
                let node = telecast::standalone().set("edge.drain_grace_ms", 600_000).start().await;
                node.terminate();
                node
            }
            Some("leaving") => {
                // One client, so that sending all of them away takes as long as it may.
                let launch = telecast::standalone().set("edge.drain_grace_ms", 0);
                let node = launch.set("edge.drain_waves_ms", 600_000).start().await;
                clients.push(Client::connect(node.address(), "").await);
                node.terminate();
                node
            }
            Some("without_log") => {
                let launch = telecast::standalone().set("nats.url", NatsServer::absent().url());
                launch.set("collector.write_timeout_ms", 100).start_unready().await
            }
            Some("held") => {
                let node = telecast::standalone().start().await;
                let mut collector = Collector::new("web-03", &[node.address()]);
                collector.flush(1).await;
                crate::support::eventually("the collector's id is held", async || {
                    let status = node.get("/api/metrics/status").await.json;
                    (status["collectors"][0]["connected"] == json!(true)).then_some(())
                })
                .await;
                collectors.push(collector);
                node
            }
            Some(other) => {
                panic!("x-when: {other} is not known: give it a state in tests/specification/nodes.rs")
            }
        };
        Self { node, _clients: clients, _collectors: collectors, _sockets: sockets }
    }

    /// Where the node listens.
    pub fn address(&self) -> SocketAddr {
        self.node.address()
    }
}

/// A connection with a stream of events on it, unless it is refused.
async fn place_taken(address: SocketAddr) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /sse HTTP/1.1\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut status = [0; "HTTP/1.1 200".len()];
    socket.read_exact(&mut status).await.ok()?;
    (status == *b"HTTP/1.1 200").then_some(socket)
}
