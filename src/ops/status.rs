//! Readiness, and what a node tells about itself beyond its health.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::broker::Connection;
use crate::ops::health::{Health, Status};
use crate::ops::node::{Fault, Lifecycle, Node};
use crate::ops::version;

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readiness {
    /// Whether new peers should be sent here.
    pub ready: bool,
    /// Where the process is in its life.
    pub state: &'static str,
    /// Why not; empty when ready.
    pub reasons: Vec<String>,
}

/// What readiness is made from.
#[derive(Debug, Clone)]
pub struct ReadinessInputs {
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
    /// Whether the log can be reached.
    pub log: Connection,
    /// Conditions that do not hold.
    pub closed_gates: Vec<&'static str>,
    /// What does not work although the log is connected.
    pub faults: Vec<Fault>,
    /// Clients connected now.
    pub clients: usize,
    /// Clients the node may have; 0 on a node without clients.
    pub clients_max: usize,
}

impl ReadinessInputs {
    /// As `node` is now.
    pub fn of(node: &Node) -> Self {
        Self {
            lifecycle: node.lifecycle(),
            log: node.log.borrow().clone(),
            closed_gates: node.closed_gates(),
            faults: node.faults(),
            clients: node.clients(),
            clients_max: node.clients_max,
        }
    }
}

/// Says whether new peers should be sent here.
pub fn readiness(inputs: &ReadinessInputs) -> Readiness {
    let mut reasons = Vec::new();
    match inputs.lifecycle {
        Lifecycle::Running => {}
        Lifecycle::Starting => reasons.push("starting: not at work yet".to_owned()),
        Lifecycle::Draining => reasons.push("draining: it was asked to stop".to_owned()),
        Lifecycle::Error => reasons.push("error: beyond repair".to_owned()),
    }
    reasons.extend(inputs.closed_gates.iter().map(|gate| format!("waiting for {gate}")));
    if let Connection::Disconnected { reason } = &inputs.log {
        reasons.push(format!("the log is not connected: {reason}"));
    } else {
        let faults = inputs.faults.iter().filter(|fault| !fault.is_ready);
        reasons.extend(faults.map(|fault| fault.reason.clone()));
    }
    if inputs.clients_max > 0 && inputs.clients >= inputs.clients_max {
        reasons.push(format!("full: {} of {} clients", inputs.clients, inputs.clients_max));
    }
    Readiness { ready: reasons.is_empty(), state: inputs.lifecycle.as_str(), reasons }
}

/// The answer of `/api/health`: what a page shows in a corner.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The verdict of `/health`.
    pub status: Status,
    /// Clients connected.
    pub clients: usize,
    /// Which node.
    pub node: String,
    /// The work it does.
    pub role: &'static str,
    /// Of the program.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime: u64,
}

/// Sums the node up.
pub fn summary(node: &Node, health: &Health) -> Summary {
    Summary {
        status: health.status,
        clients: node.clients(),
        node: node.id.clone(),
        role: node.role.as_str(),
        version: version::NUMBER,
        uptime: health.uptime,
    }
}

/// The answer of `/health/detailed`: `/health`, then what tells this node from others.
#[derive(Debug, Clone, Serialize)]
pub struct Detailed {
    /// The members of `/health`.
    #[serde(flatten)]
    pub health: Health,
    /// Which node.
    pub node: String,
    /// The work it does.
    pub role: &'static str,
    /// Where it is in its life.
    pub state: &'static str,
    /// Of the program.
    pub version: &'static str,
    /// Which source it was built from.
    pub commit: &'static str,
    /// Why it is not ready; empty when it is.
    pub not_ready: Vec<String>,
}

/// Tells everything.
pub fn detailed(node: &Node, health: Health) -> Detailed {
    Detailed {
        health,
        node: node.id.clone(),
        role: node.role.as_str(),
        state: node.lifecycle().as_str(),
        version: version::NUMBER,
        commit: version::COMMIT,
        not_ready: readiness(&ReadinessInputs::of(node)).reasons,
    }
}

/// The answer of `/api/metrics/status` but for the collectors: the node, its log, and what its roles add.
pub fn metrics_status(node: &Node) -> Map<String, Value> {
    let log = node.log.borrow().clone();
    let (connected, reason) = match log {
        Connection::Connected | Connection::Embedded => (true, None),
        Connection::Disconnected { reason } => (false, Some(reason)),
    };
    // Identity goes on top: a section cannot hide it.
    let mut status = node.status();
    status.insert("node".to_owned(), json!(node.id));
    status.insert("role".to_owned(), json!(node.role.as_str()));
    status.insert("state".to_owned(), json!(node.lifecycle().as_str()));
    status.insert("uptime".to_owned(), json!(node.started.elapsed().as_secs()));
    status.insert("log".to_owned(), json!({"connected": connected, "reason": reason}));
    status.insert("clients".to_owned(), json!(node.clients()));
    status.insert("clients_max".to_owned(), json!(node.clients_max));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> ReadinessInputs {
        ReadinessInputs {
            lifecycle: Lifecycle::Running,
            log: Connection::Connected,
            closed_gates: Vec::new(),
            faults: Vec::new(),
            clients: 5,
            clients_max: 10,
        }
    }

    fn refused(inputs: &ReadinessInputs, reasons: &[&str]) {
        let readiness = readiness(inputs);
        assert_eq!(
            (readiness.ready, readiness.reasons),
            (false, reasons.iter().map(ToString::to_string).collect())
        );
    }

    #[test]
    fn a_running_node_with_a_log_and_a_place_is_ready() {
        let answer = serde_json::to_string(&readiness(&ready())).unwrap();
        assert_eq!(answer, r#"{"ready":true,"state":"running","reasons":[]}"#);
        assert!(
            readiness(&ReadinessInputs { clients: 0, clients_max: 0, ..ready() }).ready,
            "no clients, not full"
        );
    }

    #[test]
    fn every_reason_is_named() {
        refused(
            &ReadinessInputs { lifecycle: Lifecycle::Draining, ..ready() },
            &["draining: it was asked to stop"],
        );
        refused(&ReadinessInputs { clients: 10, ..ready() }, &["full: 10 of 10 clients"]);
        let fault = |is_ready| vec![Fault { reason: "nothing is stored".to_owned(), is_ready }];
        refused(&ReadinessInputs { faults: fault(false), ..ready() }, &["nothing is stored"]);
        assert!(readiness(&ReadinessInputs { faults: fault(true), ..ready() }).ready, "clients are served");
        let log = Connection::Disconnected { reason: "refused".to_owned() };
        let closed_gates = vec!["replay ring warmed"];
        refused(
            &ReadinessInputs { lifecycle: Lifecycle::Starting, log, closed_gates, ..ready() },
            &[
                "starting: not at work yet",
                "waiting for replay ring warmed",
                "the log is not connected: refused",
            ],
        );
    }
}
