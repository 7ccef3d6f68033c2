//! Who sends metrics to this node: one connection per collector id, and what each collector did lately.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::OnConflict;
use crate::ingest::batch::{BadLine, too_many_collectors};
use crate::ingest::registry::pulse::{Life, Pulse};
use crate::ingest::registry::rate::Rate;
use crate::proto::channel::CollectorId;
use crate::sync::Locked;

mod pulse;
mod rate;
mod status;
#[cfg(test)]
mod tests;

/// Collectors that are remembered, connected or not: at about 1 KiB each, 10 MiB.
pub const COLLECTORS_MAX: usize = 10_000;

/// Bad lines remembered of each collector.
pub const RECENT_ERRORS_MAX: usize = 5;

/// A collector that sends bad lines is named in the log at most once in this time.
pub const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Every collector this node knows.
pub struct Registry {
    node_id: String,
    on_conflict: OnConflict,
    collectors_max: usize,
    ids_per_connection_max: usize,
    state: Locked<State>,
}

#[derive(Default)]
struct State {
    collectors: HashMap<CollectorId, Collector>,
    /// Connections since the start, to number them.
    connections: u64,
    /// Connections now, by their numbers, with the ids that they have claimed: those that another has taken over included.
    claims: HashMap<u64, Vec<CollectorId>>,
}

/// What is known of one collector.
#[derive(Clone)]
struct Collector {
    holder: Option<Holder>,
    transport: Transport,
    remote: Option<SocketAddr>,
    seen: Instant,
    lines_accepted: u64,
    lines_rejected: u64,
    bytes_received: u64,
    rate: Rate,
    recent_errors: VecDeque<(Timestamp, BadLine)>,
    warned: Option<Instant>,
}

/// The connection that has a collector id.
#[derive(Clone)]
struct Holder {
    connection: u64,
    since: Timestamp,
    remote: Option<SocketAddr>,
    lost: CancellationToken,
    pulse: Arc<Pulse>,
}

/// How a collector's metrics came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over a WebSocket.
    WebSocket,
    /// By HTTP writes.
    Http,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// How.
    pub transport: Transport,
    /// From whom, where the listener says so.
    pub remote: Option<SocketAddr>,
}

/// What one message did for one collector.
#[derive(Clone, Copy, Debug)]
pub struct Traffic<'a> {
    /// Metrics accepted.
    pub lines_accepted: u64,
    /// Lines not accepted.
    pub lines_rejected: u64,
    /// Bytes as received.
    pub bytes: u64,
    /// The first of the bad lines.
    pub errors: &'a [BadLine],
}

/// A collector's connection and the ids it has; they are free again when it is dropped.
pub struct Connection {
    registry: Arc<Registry>,
    number: u64,
    origin: Origin,
    since: Timestamp,
    lost: CancellationToken,
    pulse: Arc<Pulse>,
}

/// Why a claim failed, and whom to ask about it.
struct Denied {
    error: ClaimError,
    /// The number and the signs of life of the connection that has the id.
    holder: Option<(u64, Arc<Pulse>)>,
}

/// Why a connection does not get a collector id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another connection has it.
    #[error(
        "collector id in use: node {node} has a connection as '{collector}' since {since}{}",
        remote.map(|remote| format!(" from {remote}")).unwrap_or_default()
    )]
    Held {
        /// The id.
        collector: CollectorId,
        /// The node that has the other connection.
        node: String,
        /// Since when.
        since: Timestamp,
        /// From where.
        remote: Option<SocketAddr>,
    },
    /// The connection has as many ids as one may have.
    #[error("{}", too_many_collectors(*ids_max))]
    TooMany {
        /// So many.
        ids_max: usize,
    },
    /// The node remembers as many collectors as it can, all of them connected.
    #[error("this node has as many collectors as it can follow: use another node")]
    Full,
}

impl Registry {
    /// A registry of `node_id` that remembers at most `collectors_max`, of which one connection may have
    /// `ids_per_connection_max`.
    pub fn new(
        node_id: String,
        on_conflict: OnConflict,
        collectors_max: usize,
        ids_per_connection_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            node_id,
            on_conflict,
            collectors_max,
            ids_per_connection_max,
            state: Locked::empty("the registry of collectors"),
        })
    }

    /// A connection that has no id yet.
    pub fn connect(self: &Arc<Self>, origin: Origin) -> Connection {
        let number = self.state.with(|state| {
            state.connections += 1;
            state.claims.insert(state.connections, Vec::new());
            state.connections
        });
        Connection {
            registry: self.clone(),
            number,
            origin,
            since: Timestamp::now(),
            lost: CancellationToken::new(),
            pulse: Arc::new(Pulse::new()),
        }
    }

    /// Adds what a message did; says whether its bad lines are due a line in the log.
    pub fn record(&self, id: &CollectorId, origin: Origin, traffic: Traffic<'_>, now: Instant) -> bool {
        self.state.with(|state| {
            // More collectors than can be remembered still get their metrics through; they are only not listed.
            let collector = state.remember(id, origin, now, self.collectors_max);
            collector.is_some_and(|collector| collector.record(origin, traffic, now))
        })
    }
}

impl Collector {
    fn record(&mut self, origin: Origin, traffic: Traffic<'_>, now: Instant) -> bool {
        self.seen = now;
        if self.holder.is_none() {
            self.transport = origin.transport;
            self.remote = origin.remote;
        }
        self.lines_accepted += traffic.lines_accepted;
        self.lines_rejected += traffic.lines_rejected;
        self.bytes_received += traffic.bytes;
        self.rate.add(traffic.lines_accepted, now);
        for error in traffic.errors.iter().take(RECENT_ERRORS_MAX) {
            if self.recent_errors.len() == RECENT_ERRORS_MAX {
                self.recent_errors.pop_front();
            }
            self.recent_errors.push_back((Timestamp::now(), error.clone()));
        }
        let due = self.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_INTERVAL);
        let warn = traffic.lines_rejected > 0 && due;
        if warn {
            self.warned = Some(now);
        }
        warn
    }
}

impl State {
    fn remember(
        &mut self,
        id: &CollectorId,
        origin: Origin,
        now: Instant,
        collectors_max: usize,
    ) -> Option<&mut Collector> {
        if !self.collectors.contains_key(id) && self.collectors.len() >= collectors_max {
            self.forget_some(collectors_max);
            if self.collectors.len() >= collectors_max {
                return None;
            }
        }
        Some(self.collectors.entry(id.clone()).or_insert_with(|| Collector {
            holder: None,
            transport: origin.transport,
            remote: origin.remote,
            seen: now,
            lines_accepted: 0,
            lines_rejected: 0,
            bytes_received: 0,
            rate: Rate::default(),
            recent_errors: VecDeque::new(),
            warned: None,
        }))
    }

    /// Gives `id` to `claimant`, or names its holder.
    fn claim(
        &mut self,
        claimant: &Connection,
        id: &CollectorId,
        now: Instant,
        silent: Option<u64>,
    ) -> Result<(), Denied> {
        let Registry { node_id, on_conflict, collectors_max, ids_per_connection_max, .. } =
            &*claimant.registry;
        let has_it = |holder: &Holder| holder.connection == claimant.number;
        let holder = self.collectors.get(id).and_then(|collector| collector.holder.as_ref());
        if holder.is_some_and(has_it) {
            return Ok(());
        }
        // Before it is remembered: what a connection may not have must not cost others their place.
        if self.claims.get(&claimant.number).is_some_and(|claims| claims.len() >= *ids_per_connection_max) {
            let error = ClaimError::TooMany { ids_max: *ids_per_connection_max };
            return Err(Denied { error, holder: None });
        }
        let collector = self
            .remember(id, claimant.origin, now, *collectors_max)
            .ok_or(Denied { error: ClaimError::Full, holder: None })?;
        let yields =
            |holder: &Holder| *on_conflict == OnConflict::TakeOver || silent == Some(holder.connection);
        match &collector.holder {
            // A connection that lost an id is on its way out. It must not take the id back, or two agents with one
            // name would throw each other out for ever.
            Some(holder) if !yields(holder) || claimant.lost.is_cancelled() => {
                let Holder { since, remote, .. } = *holder;
                let (collector, node) = (id.clone(), node_id.clone());
                let error = ClaimError::Held { collector, node, since, remote };
                return Err(Denied { error, holder: Some((holder.connection, holder.pulse.clone())) });
            }
            // Under the lock: a session that loses an id knows it before it can ask for it again.
            Some(holder) => holder.lost.cancel(),
            None => {}
        }
        collector.transport = claimant.origin.transport;
        collector.remote = claimant.origin.remote;
        collector.holder = Some(Holder {
            connection: claimant.number,
            since: claimant.since,
            remote: claimant.origin.remote,
            lost: claimant.lost.clone(),
            pulse: claimant.pulse.clone(),
        });
        self.claims.entry(claimant.number).or_default().push(id.clone());
        Ok(())
    }

    /// Frees what a connection has that ends.
    fn release(&mut self, connection: u64) {
        for id in self.claims.remove(&connection).unwrap_or_default() {
            if let Some(collector) = self.collectors.get_mut(&id)
                && collector.holder.as_ref().is_some_and(|holder| holder.connection == connection)
            {
                collector.holder = None;
            }
        }
    }

    /// Drops the disconnected collectors that were seen longest ago, a sixteenth of all at once: a flood of made-up host
    /// names must not cost a search each.
    fn forget_some(&mut self, collectors_max: usize) {
        let idle = self.collectors.iter().filter(|(_, collector)| collector.holder.is_none());
        let mut idle: Vec<(Instant, CollectorId)> =
            idle.map(|(id, collector)| (collector.seen, id.clone())).collect();
        let count = (collectors_max / 16).max(1).min(idle.len());
        if count == 0 {
            return;
        }
        idle.select_nth_unstable(count - 1);
        for (_, id) in &idle[..count] {
            self.collectors.remove(id);
        }
    }
}

impl Connection {
    /// Gives the id to this connection, unless another that has it is alive: a silent one is asked first, which takes
    /// up to two seconds. Asking for an id that it has costs a look-up.
    ///
    /// The other one may wait for room, and can then show nothing. Whoever is `patient` waits with it: a message that
    /// would be lost with a refusal does not mind. Everybody else is refused.
    pub async fn claim_or_probe(&self, id: &CollectorId, patient: bool) -> Result<(), ClaimError> {
        let Err(Denied { error, holder }) = self.claim_from(id, Instant::now(), None) else { return Ok(()) };
        // Whom to ask was found in the same look as that the id is taken.
        let Some((asked, pulse)) = holder else { return Err(error) };
        let life = pulse.probe(patient).await;
        self.claim_after(id, Instant::now(), error, asked, life)
    }

    /// The second attempt, once it is known what has become of the connection `asked`.
    fn claim_after(
        &self,
        id: &CollectorId,
        now: Instant,
        held: ClaimError,
        asked: u64,
        life: Life,
    ) -> Result<(), ClaimError> {
        let silent = match life {
            Life::Alive => return Err(held),
            Life::Gone => None,
            // Another newcomer may have been faster: what was found out says nothing about that one.
            Life::Silent => Some(asked),
        };
        self.claim_from(id, now, silent).map_err(|denied| denied.error)
    }

    /// Gives the id to this connection, or names its holder.
    pub fn claim(&self, id: &CollectorId, now: Instant) -> Result<(), ClaimError> {
        self.claim_from(id, now, None).map_err(|denied| denied.error)
    }

    /// As [`Self::claim`], and also from the connection with the number `silent`, whatever the configuration says.
    fn claim_from(&self, id: &CollectorId, now: Instant, silent: Option<u64>) -> Result<(), Denied> {
        self.registry.state.with(|state| state.claim(self, id, now, silent))
    }

    /// Cancelled when another connection has taken one of its ids over.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Its signs of life, for the socket to keep up.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.registry.state.with(|state| state.release(self.number));
        // After the ids are free, or whoever waits for the end would be refused again.
        self.pulse.end();
    }
}
