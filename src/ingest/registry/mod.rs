//! Who sends metrics to this node: one connection per collector id, and what each collector did lately.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::OnConflict;
use crate::ingest::batch::BadLine;
use crate::ingest::registry::pulse::{Life, Pulse};
use crate::ingest::registry::rate::Rate;
use crate::proto::channel::CollectorId;

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    collectors: HashMap<CollectorId, Collector>,
    /// Connections since the start, to number them.
    connections: u64,
    /// Connections now, with or without an id.
    open: usize,
}

/// What is known of one collector.
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
    claimed: Mutex<Vec<CollectorId>>,
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
    /// The node remembers as many collectors as it can, all of them connected.
    #[error("this node has as many collectors as it can follow: use another node")]
    Full,
}

impl Registry {
    /// A registry of `node_id` that remembers at most `collectors_max`.
    pub fn new(node_id: String, on_conflict: OnConflict, collectors_max: usize) -> Arc<Self> {
        Arc::new(Self { node_id, on_conflict, collectors_max, state: Mutex::default() })
    }

    /// A connection that has no id yet.
    pub fn connect(self: &Arc<Self>, origin: Origin) -> Connection {
        let number = {
            let mut state = self.state();
            state.connections += 1;
            state.open += 1;
            state.connections
        };
        Connection {
            registry: self.clone(),
            number,
            origin,
            since: Timestamp::now(),
            lost: CancellationToken::new(),
            pulse: Arc::new(Pulse::new()),
            claimed: Mutex::default(),
        }
    }

    /// Adds what a message did; says whether its bad lines are due a line in the log.
    pub fn record(&self, id: &CollectorId, origin: Origin, traffic: Traffic<'_>, now: Instant) -> bool {
        let mut state = self.state();
        // More collectors than can be remembered still get their metrics through; they are only not listed.
        let Some(collector) = state.remember(id, origin, now, self.collectors_max) else { return false };
        collector.seen = now;
        if collector.holder.is_none() {
            collector.transport = origin.transport;
            collector.remote = origin.remote;
        }
        collector.lines_accepted += traffic.lines_accepted;
        collector.lines_rejected += traffic.lines_rejected;
        collector.bytes_received += traffic.bytes;
        collector.rate.add(traffic.lines_accepted, now);
        for error in traffic.errors.iter().take(RECENT_ERRORS_MAX) {
            if collector.recent_errors.len() == RECENT_ERRORS_MAX {
                collector.recent_errors.pop_front();
            }
            collector.recent_errors.push_back((Timestamp::now(), error.clone()));
        }
        let due =
            collector.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_INTERVAL);
        let warn = traffic.lines_rejected > 0 && due;
        if warn {
            collector.warned = Some(now);
        }
        warn
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let Err(held) = self.claim(id, Instant::now()) else { return Ok(()) };
        let (asked, pulse) = match self.registry.state().collectors.get(id).and_then(|c| c.holder.as_ref()) {
            Some(holder) => (holder.connection, holder.pulse.clone()),
            None => return self.claim(id, Instant::now()),
        };
        match pulse.probe(patient).await {
            Life::Alive => Err(held),
            Life::Gone => self.claim(id, Instant::now()),
            // Another newcomer may have been faster: what was found out says nothing about that one.
            Life::Silent => self.claim_from(id, Instant::now(), Some(asked)),
        }
    }

    /// Gives the id to this connection, or says who has it.
    pub fn claim(&self, id: &CollectorId, now: Instant) -> Result<(), ClaimError> {
        self.claim_from(id, now, None)
    }

    /// As [`Self::claim`], and also from the connection with the number `silent`, whatever the configuration says.
    fn claim_from(&self, id: &CollectorId, now: Instant, silent: Option<u64>) -> Result<(), ClaimError> {
        let registry = &self.registry;
        let mut state = registry.state();
        let collector =
            state.remember(id, self.origin, now, registry.collectors_max).ok_or(ClaimError::Full)?;
        let yields = |holder: &Holder| {
            registry.on_conflict == OnConflict::TakeOver || silent == Some(holder.connection)
        };
        match &collector.holder {
            Some(holder) if holder.connection == self.number => return Ok(()),
            // A connection that lost an id is on its way out. It must not take the id back, or two agents with one
            // name would throw each other out for ever.
            Some(holder) if !yields(holder) || self.lost.is_cancelled() => {
                return Err(ClaimError::Held {
                    collector: id.clone(),
                    node: registry.node_id.clone(),
                    since: holder.since,
                    remote: holder.remote,
                });
            }
            Some(holder) => holder.lost.cancel(),
            None => {}
        }
        collector.transport = self.origin.transport;
        collector.remote = self.origin.remote;
        collector.holder = Some(Holder {
            connection: self.number,
            since: self.since,
            remote: self.origin.remote,
            lost: self.lost.clone(),
            pulse: self.pulse.clone(),
        });
        self.claimed().push(id.clone());
        Ok(())
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

    fn claimed(&self) -> MutexGuard<'_, Vec<CollectorId>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let claimed = std::mem::take(&mut *self.claimed());
        let mut state = self.registry.state();
        state.open -= 1;
        for id in claimed {
            if let Some(collector) = state.collectors.get_mut(&id)
                && collector.holder.as_ref().is_some_and(|holder| holder.connection == self.number)
            {
                collector.holder = None;
            }
        }
        drop(state);
        // After the ids are free, or whoever waits for the end would be refused again.
        self.pulse.end();
    }
}
