//! Taking metrics in: collector sockets and HTTP writes → batches → one writer per collector → the log.
//!
//! [`batch`] turns bytes into envelopes and is pure; `socket` and `write` are the two ways in; [`registry`]
//! knows who is connected; `channels` bounds what is new; [`budget`] bounds what waits for the log; [`writer`] is the only way out,
//! and `storing` knows whether it gets on. What lives here knows the
//! broker's port and nothing of clients.
//!
//! Accepted means: the batch has its part of the budget and a place in its collector's queue. Nothing accepted is dropped
//! but through one door (`writer`), which counts it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::routing::any;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, Connection};
use crate::config::CollectorSettings;
use crate::fairness::{Charge, FairBudget, Limits};
use crate::ingest::batch::CollectorBatch;
use crate::ingest::budget::Budget;
use crate::ingest::channels::Channels;
use crate::ingest::registry::{COLLECTORS_MAX, Registry};
use crate::ingest::storing::Storing;
use crate::ingest::writer::{Identity, Job, Left, Writers};
use crate::ops::node::{Fault, Node};
use crate::proto::channel::CollectorId;

pub mod batch;
pub mod budget;
mod channels;
mod params;
pub mod registry;
mod report;
mod socket;
mod storing;
#[cfg(test)]
mod testing;
mod write;
pub mod writer;

/// Collector sockets open at once. Each may hold one read beyond the budgets.
pub const SOCKETS_MAX: usize = 10_000;

/// After the drain's time is up, how long sockets have to notice, in addition.
const SOCKETS_GRACE: Duration = Duration::from_secs(1);

/// The ingest role of a node.
pub struct Ingest {
    node: Arc<Node>,
    settings: CollectorSettings,
    broker: Arc<dyn Broker>,
    registry: Arc<Registry>,
    channels: Arc<Channels>,
    writers: Writers,
    storing: Arc<Storing>,
    /// Accepted bytes that the log has not acknowledged.
    budget: Budget,
    /// Bytes of bodies and messages that are being received, and of messages that wait for `budget`. Apart from it, so that
    /// slow senders cannot starve what is complete.
    receiving: Arc<FairBudget>,
    /// Places for sockets.
    places: Arc<Semaphore>,
    sockets: TaskTracker,
    stopping: CancellationToken,
}

impl Ingest {
    /// Takes metrics into `broker`'s log, and adds the collectors to the node's status.
    pub fn new(node: Arc<Node>, broker: Arc<dyn Broker>, settings: CollectorSettings) -> Arc<Self> {
        let registry = Registry::new(
            node.id.clone(),
            settings.on_conflict,
            COLLECTORS_MAX,
            settings.ids_per_connection_max,
        );
        node.add_status(registry.clone());
        let channels = Channels::new(settings.channels, node.meters.collector_channels.clone());
        node.add_status(channels.clone());
        node.meters.collector_channels_max.set(settings.channels.channels_max as f64);
        let limits = Limits {
            bytes_max: settings.buffer_bytes_max,
            bytes_per_second_min: settings.receive_bytes_per_second_min,
            window: settings.receive_window,
        };
        node.meters.collector_buffer_bytes_max.set(settings.buffer_bytes_max as f64);
        let storing = Storing::new(broker.shards());
        Arc::new(Self {
            registry,
            channels,
            writers: Writers::new(node.clone(), broker.clone(), storing.clone()),
            storing,
            broker,
            budget: Budget::new(settings.buffer_bytes_max, node.meters.collector_buffered_bytes.clone()),
            receiving: FairBudget::new(limits, node.meters.receive_bytes.clone()),
            places: Arc::new(Semaphore::new(SOCKETS_MAX)),
            sockets: TaskTracker::new(),
            stopping: CancellationToken::new(),
            settings,
            node,
        })
    }

    /// The routes of collectors. The listener should put `ConnectInfo<SocketAddr>` into the requests' extensions;
    /// without it, remote addresses are unknown.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/ws/collector", any(socket::upgrade))
            .route("/api/v1/write", any(write::write))
            .route("/api/v2/write", any(write::write))
            .route("/write", any(write::write))
            .route("/ping", any(write::ping))
            .with_state(self)
    }

    /// Once a second: whether what was accepted is being stored, for health, metrics and the readers of the log. Never ends.
    pub async fn watch_storing(self: Arc<Self>) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            self.look_at_storing().await;
        }
    }

    async fn look_at_storing(&self) {
        let look = self.storing.look(Instant::now(), &self.node.id);
        self.node.meters.publish_oldest_seconds.set(look.oldest.as_secs_f64());
        self.node.meters.publish_stalled_seconds.set(look.stalled.as_secs_f64());
        self.node.set_fault("storing", look.fault.map(|reason| Fault { reason, is_ready: false }));
        self.node.set_concern("storing", look.concern);
        self.node.set_concern("envelope_limit", self.narrow_limit());
        for stall in &look.stalls {
            // Where there is no connection, readers notice by themselves.
            let _ = self.broker.tell_stalled(stall).await;
        }
    }

    /// Largest envelope just now, and what sets that bound if it is not the configuration.
    fn envelope_bound(&self) -> (usize, Option<Arc<str>>) {
        let configured = self.settings.envelope_bytes_max;
        match self.broker.envelope_limit() {
            Some(limit) if limit.bytes_max < configured => (limit.bytes_max, Some(limit.why)),
            _ => (configured, None),
        }
    }

    /// Works, and costs the sender of a long line.
    fn narrow_limit(&self) -> Option<String> {
        let (bytes_max, why) = self.envelope_bound();
        let configured = self.settings.envelope_bytes_max;
        Some(format!(
            "{}: envelopes end at {bytes_max} bytes instead of collector.envelope_bytes_max = {configured}, and longer lines \
             are refused; raise the servers' bound or lower ours",
            why?
        ))
    }

    /// Why the log does not take what this collector sends, as far as this node knows: for a task that waited for it in vain.
    fn obstacle(&self, collector: &CollectorId) -> Option<String> {
        self.lost_log().or_else(|| self.storing.failure(collector.shard(self.broker.shards())))
    }

    /// The same for what waits altogether.
    fn any_obstacle(&self) -> Option<String> {
        self.lost_log().or_else(|| self.storing.any_failure())
    }

    fn lost_log(&self) -> Option<String> {
        match &*self.node.log.borrow() {
            Connection::Connected | Connection::Embedded => None,
            Connection::Disconnected { reason } => Some(reason.clone()),
        }
    }

    /// Accepts what a socket brought: waits for room, then queues each collector's batch, which holds a token of `unsettled`
    /// until the log has it. Who waits keeps its part of what may be received charged.
    async fn accept(
        &self,
        batches: Vec<(CollectorBatch, Identity)>,
        received_ns: i64,
        unsettled: &TaskTracker,
        mut received: Charge,
    ) {
        if batches.is_empty() {
            return;
        }
        let total = batches.iter().map(|(batch, _)| budget::cost(batch.bytes())).sum();
        let mut room = match self.budget.try_grant(total) {
            Some(room) => room,
            None => {
                // One that had to give way is complete all the same: it is let in, and gives its part back then.
                let _ = received.pin(total);
                self.budget.grant(total).await
            }
        };
        drop(received);
        for (CollectorBatch { collector, drafts }, identity) in batches {
            let bytes = drafts.iter().map(|draft| draft.lines.len()).sum();
            let grant = room.split(budget::cost(bytes));
            let job = Job { drafts, received_ns, identity, grant, done: None, open: Some(unsettled.token()) };
            // Refused only when the node is out of time, and then counted where it is refused.
            let _ = self.writers.submit(&collector, job);
        }
    }

    /// Refuses new writes, sends collectors away (close 1012), and returns when every accepted batch is in the log or
    /// `within` has passed; then says what was left.
    pub async fn drain(&self, within: Duration) -> Left {
        let deadline = Instant::now() + within;
        self.stopping.cancel();
        self.sockets.close();
        // A socket that waits for room ends when the log takes something, or with the writers below. What sockets bring
        // last needs its time, too.
        let _ = tokio::time::timeout(within / 2, self.sockets.wait()).await;
        self.writers.finish(deadline.saturating_duration_since(Instant::now())).await;
        let _ = tokio::time::timeout(SOCKETS_GRACE, self.sockets.wait()).await;
        self.writers.left()
    }
}

fn remote(request: &Request) -> Option<SocketAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0)
}
