//! What every part of a process knows of the process: identity, lifecycle, readiness, and who adds to its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::watch;

use crate::broker::Connection;
use crate::config::Role;
use crate::ops::http::Held;
use crate::ops::listing::{Collectors, Listings};
use crate::ops::meters::Meters;
use crate::ops::process::Usage;
use crate::proto::channel::CollectorId;
use crate::sync::Locked;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Not ready yet.
    Starting,
    /// At work.
    Running,
    /// Asked to stop: not ready, still serving, then sending its peers away.
    Draining,
    /// Beyond repair; about to exit.
    Error,
}

impl Lifecycle {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Running, Self::Draining, Self::Error];

    /// As shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Error => "error",
        }
    }
}

/// One process of the cluster.
pub struct Node {
    /// Unique in the cluster.
    pub id: String,
    /// The work it does.
    pub role: Role,
    /// Its metrics.
    pub meters: Meters,
    /// When it started.
    pub started: Instant,
    /// Whether the log can be reached.
    pub log: watch::Receiver<Connection>,
    /// Clients it may have at most.
    pub clients_max: usize,
    /// Memory and CPU it uses, kept current by [`crate::ops::process::sampler`].
    pub usage: Usage,
    clients: AtomicUsize,
    lifecycle: watch::Sender<Lifecycle>,
    gates: Locked<Vec<Arc<Gate>>>,
    sections: Locked<Vec<Arc<dyn StatusSection>>>,
    concerns: Locked<BTreeMap<&'static str, String>>,
    faults: Locked<BTreeMap<&'static str, Fault>>,
    /// Its collectors, written down.
    pub listings: Listings,
}

/// Why a part of the process does not do its work, although the log is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For operators.
    pub reason: String,
    /// Whether new peers should be sent here all the same: others would fare no better, and something is still served.
    pub is_ready: bool,
}

/// A condition without which the node is not ready.
pub struct Gate {
    /// What is waited for, as `/readyz` names it.
    pub name: &'static str,
    open: AtomicBool,
}

impl Gate {
    /// Says whether the condition holds.
    pub fn set(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// Whether the condition holds.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

/// A part of `/api/metrics/status` that a role contributes.
pub trait StatusSection: Send + Sync {
    /// Adds members to the status object.
    fn describe(&self, status: &mut serde_json::Map<String, serde_json::Value>);

    /// The collectors it knows, if it knows collectors. Of several sections, the first that does is heard.
    fn collectors(&self) -> Option<Collectors> {
        None
    }

    /// What it is concerned about now, for the warnings of `/health`.
    fn concern(&self) -> Option<String> {
        None
    }

    /// Up to `most` collectors with the most metrics per second, if it knows any.
    fn busiest(&self, most: usize) -> Vec<(CollectorId, f64)> {
        let _ = most;
        Vec::new()
    }
}

impl Node {
    /// A node that is starting.
    pub fn new(
        id: String,
        role: Role,
        meters: Meters,
        log: watch::Receiver<Connection>,
        clients_max: usize,
    ) -> Arc<Self> {
        meters.connections_max.set(clients_max as f64);
        Arc::new(Self {
            id,
            role,
            meters,
            started: Instant::now(),
            log,
            clients_max,
            usage: Usage::default(),
            clients: AtomicUsize::new(0),
            lifecycle: watch::Sender::new(Lifecycle::Starting),
            gates: Locked::empty("gates"),
            sections: Locked::empty("status sections"),
            concerns: Locked::empty("concerns"),
            faults: Locked::empty("faults"),
            listings: Listings::default(),
        })
    }

    /// Where the process is in its life.
    pub fn lifecycle(&self) -> Lifecycle {
        *self.lifecycle.borrow()
    }

    /// Its life as it goes on.
    pub fn watch_lifecycle(&self) -> watch::Receiver<Lifecycle> {
        self.lifecycle.subscribe()
    }

    /// Moves on; a draining process never runs again.
    pub fn set_lifecycle(&self, next: Lifecycle) {
        self.lifecycle.send_if_modified(|current| {
            let allowed = *current != next && !(*current == Lifecycle::Draining && next != Lifecycle::Error);
            if allowed {
                *current = next;
            }
            allowed
        });
    }

    /// Adds a condition of readiness, closed until [`Gate::set`].
    pub fn add_gate(&self, name: &'static str) -> Arc<Gate> {
        let gate = Arc::new(Gate { name, open: AtomicBool::new(false) });
        self.gates.with(|gates| gates.push(gate.clone()));
        gate
    }

    /// Conditions that do not hold.
    pub fn closed_gates(&self) -> Vec<&'static str> {
        let closed = |gates: &mut Vec<Arc<Gate>>| {
            gates.iter().filter(|gate| !gate.is_open()).map(|gate| gate.name).collect()
        };
        self.gates.with(closed)
    }

    /// Has `/health` warn of what a part of the process is concerned about, until it says that it is no more.
    pub fn set_concern(&self, part: &'static str, concern: Option<String>) {
        self.concerns.with(|concerns| match concern {
            Some(concern) => concerns.insert(part, concern),
            None => concerns.remove(part),
        });
    }

    /// What parts of the process are concerned about.
    pub fn concerns(&self) -> Vec<String> {
        let mut all: Vec<String> = self.concerns.with(|concerns| concerns.values().cloned().collect());
        let sections = self.sections.with(|sections| sections.clone());
        all.extend(sections.iter().filter_map(|section| section.concern()));
        all
    }

    /// Has `/health` say that a part of the process does not do its work, until it says that it does.
    pub fn set_fault(&self, part: &'static str, fault: Option<Fault>) {
        self.faults.with(|faults| match fault {
            Some(fault) => faults.insert(part, fault),
            None => faults.remove(part),
        });
    }

    /// Parts of the process that do not do their work.
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.with(|faults| faults.values().cloned().collect())
    }

    /// Adds a section to the status.
    pub fn add_status(&self, section: Arc<dyn StatusSection>) {
        self.sections.with(|sections| sections.push(section));
    }

    /// The sections' members.
    pub fn status(&self) -> serde_json::Map<String, serde_json::Value> {
        let sections = self.sections.with(|sections| sections.clone());
        let mut status = serde_json::Map::new();
        sections.iter().for_each(|section| section.describe(&mut status));
        status
    }

    /// The collectors that this process knows; none are connected where it is no part of its work to know any.
    pub fn collectors(&self) -> Collectors {
        let sections = self.sections.with(|sections| sections.clone());
        let none = Collectors { rows: Vec::new(), any_connected: Some(false) };
        sections.iter().find_map(|section| section.collectors()).unwrap_or(none)
    }

    /// Up to `most` collectors with the most metrics per second, busiest first.
    pub fn busiest(&self, most: usize) -> Vec<(CollectorId, f64)> {
        let sections = self.sections.with(|sections| sections.clone());
        sections.iter().flat_map(|section| section.busiest(most)).take(most).collect()
    }

    /// Clients connected now.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Takes a place for a client, or `None` when the node is full. The place is free again when it is dropped.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let admitted = self
            .clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.clients_max).then_some(n + 1))
            .is_ok();
        admitted.then(|| {
            self.meters.connections_active.increment(1.0);
            Admission { node: self.clone(), _held: None }
        })
    }
}

/// A client's place on the node.
pub struct Admission {
    node: Arc<Node>,
    _held: Option<Box<Held>>,
}

impl Admission {
    /// Takes what the client's connection takes along, to give it up together.
    pub(crate) fn holding(mut self, held: Held) -> Self {
        self._held = Some(Box::new(held));
        self
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.node.clients.fetch_sub(1, Ordering::Relaxed);
        self.node.meters.connections_active.decrement(1.0);
    }
}
