//! `/health`: how well the process is, in the exact shape that monitors already parse.

use serde::Serialize;

use crate::broker::Connection;
use crate::ops::node::{Fault, Lifecycle, Node};
use crate::ops::process::cpu::Used;

/// What the assessment is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Whether the log can be reached.
    pub log: Connection,
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
    /// Clients connected now.
    pub clients: usize,
    /// Clients the node may have; 0 on a node without clients.
    pub clients_max: usize,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Memory the process may use; 0 if nobody knows.
    pub memory_limit_bytes: u64,
    /// CPU used.
    pub cpu: Used,
    /// What parts of the process do not do, although the log is connected.
    pub faults: Vec<Fault>,
    /// What parts of the process warn of.
    pub concerns: Vec<String>,
    /// Seconds since the start.
    pub uptime_s: u64,
}

impl Inputs {
    /// As `node` is now.
    pub fn of(node: &Node) -> Self {
        Self {
            log: node.log.borrow().clone(),
            lifecycle: node.lifecycle(),
            clients: node.clients(),
            clients_max: node.clients_max,
            memory_bytes: node.usage.memory_bytes(),
            memory_limit_bytes: node.usage.memory_limit_bytes(),
            cpu: node.usage.cpu(),
            faults: node.faults(),
            concerns: node.concerns(),
            uptime_s: node.started.elapsed().as_secs(),
        }
    }
}

/// Above `warning` something should be done soon, above `critical` now. Ratios in percent; equal counts as above.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// The process is degraded.
    pub warning: f64,
    /// The process is unhealthy.
    pub critical: f64,
}

/// Clients against the most there may be.
pub const CAPACITY: Thresholds = Thresholds { warning: 80.0, critical: 95.0 };
/// Resident memory against the limit.
pub const MEMORY: Thresholds = Thresholds { warning: 80.0, critical: 90.0 };
/// CPU time against what may be used.
pub const CPU: Thresholds = Thresholds { warning: 70.0, critical: 90.0 };

/// The verdict in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Healthy,
    /// It works, and somebody should look.
    Degraded,
    /// It does not do its work.
    Unhealthy,
}

/// The answer of `/health`; members are written in this order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// The verdict.
    pub status: Status,
    /// Whether the process does its work: also true when degraded.
    pub healthy: bool,
    /// What was looked at.
    pub checks: Checks,
    /// Why it is degraded.
    pub warnings: Vec<String>,
    /// Why it is unhealthy.
    pub errors: Vec<String>,
    /// Seconds since the start.
    pub uptime: u64,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checks {
    /// The log.
    pub nats: NatsCheck,
    /// Places for clients.
    pub capacity: CapacityCheck,
    /// Memory.
    pub memory: MemoryCheck,
    /// CPU.
    pub cpu: CpuCheck,
}

/// Whether the log can be reached; the embedded one always can.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NatsCheck {
    /// `connected`; `embedded` where the log is in the process and there is no NATS; `disconnected`; or `stalled`: there is a log,
    /// and it is of no use, because what was accepted is not stored, or nothing arrives.
    pub status: &'static str,
    /// Whether this is good.
    pub healthy: bool,
}

/// Places for clients.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CapacityCheck {
    /// Clients connected.
    pub current: usize,
    /// Clients at most.
    pub max: usize,
    /// The former of the latter.
    pub percentage: f64,
    /// Whether this is good.
    pub healthy: bool,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryCheck {
    /// Resident, in MiB.
    pub used_mb: f64,
    /// Limit, in MiB.
    pub limit_mb: f64,
    /// The former of the latter.
    pub percentage: f64,
    /// Whether this is good.
    pub healthy: bool,
}

/// CPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuCheck {
    /// Of what the process may use: cores, or worker threads.
    pub percentage: f64,
    /// Whether this is good.
    pub healthy: bool,
}

/// Judges the process.
pub fn assess(inputs: &Inputs) -> Health {
    let mut findings = Findings::default();
    let nats = match &inputs.log {
        Connection::Disconnected { reason } => {
            findings.errors.push(format!("NATS is not connected: {reason}"));
            NatsCheck { status: "disconnected", healthy: false }
        }
        Connection::Connected | Connection::Embedded if !inputs.faults.is_empty() => {
            findings.errors.extend(inputs.faults.iter().map(|fault| fault.reason.clone()));
            NatsCheck { status: "stalled", healthy: false }
        }
        Connection::Connected => NatsCheck { status: "connected", healthy: true },
        Connection::Embedded => NatsCheck { status: "embedded", healthy: true },
    };
    if inputs.lifecycle == Lifecycle::Error {
        findings.errors.push("the process is beyond repair and about to exit; its log says why".to_owned());
    }
    let capacity = findings.judge_capacity(inputs.clients, inputs.clients_max);
    let (used_mb, limit_mb) = (mebibytes(inputs.memory_bytes), mebibytes(inputs.memory_limit_bytes));
    let percentage = percent(inputs.memory_bytes as f64, inputs.memory_limit_bytes as f64);
    let memory = MemoryCheck {
        used_mb,
        limit_mb,
        percentage,
        healthy: findings.judge("memory", percentage, MEMORY, &format!("{used_mb} of {limit_mb} MiB")),
    };
    let percentage = rounded(inputs.cpu.percent);
    let cpu = CpuCheck {
        percentage,
        healthy: findings.judge("CPU", percentage, CPU, &inputs.cpu.bound.to_string()),
    };
    findings.warnings.extend_from_slice(&inputs.concerns);
    let Findings { warnings, errors } = findings;
    let status = match (errors.is_empty(), warnings.is_empty()) {
        (false, _) => Status::Unhealthy,
        (true, false) => Status::Degraded,
        (true, true) => Status::Healthy,
    };
    Health {
        status,
        healthy: status != Status::Unhealthy,
        checks: Checks { nats, capacity, memory, cpu },
        warnings,
        errors,
        uptime: inputs.uptime_s,
    }
}

#[derive(Default)]
struct Findings {
    warnings: Vec<String>,
    errors: Vec<String>,
}

impl Findings {
    /// A full node serves those that it has: it is not ready for more ([`crate::ops::status::readiness`]), which is no reason to end it.
    fn judge_capacity(&mut self, current: usize, max: usize) -> CapacityCheck {
        let percentage = percent(current as f64, max as f64);
        let Thresholds { warning, critical } = CAPACITY;
        if percentage >= warning {
            let (level, from) =
                if percentage >= critical { ("critical", critical) } else { ("warning", warning) };
            let full = if max > 0 && current >= max { "; clients are turned away" } else { "" };
            self.warnings.push(format!(
                "connections at {percentage} % ({current} of {max}), {level} from {from} %{full}"
            ));
        }
        CapacityCheck { current, max, percentage, healthy: percentage < critical }
    }

    fn judge(&mut self, what: &str, percentage: f64, thresholds: Thresholds, detail: &str) -> bool {
        let Thresholds { warning, critical } = thresholds;
        if percentage >= critical {
            self.errors.push(format!("{what} at {percentage} % ({detail}), critical from {critical} %"));
        } else if percentage >= warning {
            self.warnings.push(format!("{what} at {percentage} % ({detail}), warning from {warning} %"));
        }
        percentage < critical
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { rounded(part / whole * 100.0) } else { 0.0 }
}

fn mebibytes(bytes: u64) -> f64 {
    rounded(bytes as f64 / f64::from(1 << 20))
}

/// To two decimals: more would be noise in every diff of two answers.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::process::cpu::Bound;

    fn calm() -> Inputs {
        Inputs {
            log: Connection::Connected,
            lifecycle: Lifecycle::Running,
            clients: 10,
            clients_max: 1_000,
            memory_bytes: 100 << 20,
            memory_limit_bytes: 512 << 20,
            cpu: Used { percent: 12.345, bound: Bound::Workers(2), busy_ratio: 0.12 },
            faults: Vec::new(),
            concerns: Vec::new(),
            uptime_s: 3_600,
        }
    }

    /// Asserts the verdict, and that exactly one warning or error mentions `what`.
    fn check(inputs: &Inputs, status: Status, what: &str) -> Health {
        let health = assess(inputs);
        assert_eq!(health.status, status, "{health:?}");
        assert_eq!(health.healthy, status != Status::Unhealthy);
        let (warnings, errors) = match status {
            Status::Healthy => (0, 0),
            Status::Degraded => (1, 0),
            Status::Unhealthy => (0, 1),
        };
        assert_eq!((health.warnings.len(), health.errors.len()), (warnings, errors), "{health:?}");
        assert!(health.warnings.iter().chain(&health.errors).all(|text| text.contains(what)), "{health:?}");
        health
    }

    #[test]
    fn the_answer_has_exactly_these_members_in_this_order() {
        let text = serde_json::to_string(&assess(&calm())).unwrap();
        assert_eq!(
            text,
            r#"{"status":"healthy","healthy":true,"checks":{"nats":{"status":"connected","healthy":true},"capacity":{"current":10,"max":1000,"percentage":1.0,"healthy":true},"memory":{"used_mb":100.0,"limit_mb":512.0,"percentage":19.53,"healthy":true},"cpu":{"percentage":12.35,"healthy":true}},"warnings":[],"errors":[],"uptime":3600}"#
        );
    }

    #[test]
    fn without_nats_the_process_is_unhealthy_and_says_why() {
        let log = Connection::Disconnected { reason: "connection refused".to_owned() };
        let health = check(&Inputs { log, ..calm() }, Status::Unhealthy, "connection refused");
        assert_eq!(health.checks.nats, NatsCheck { status: "disconnected", healthy: false });
    }

    #[test]
    fn a_process_without_nats_says_that_its_log_is_embedded() {
        let health = check(&Inputs { log: Connection::Embedded, ..calm() }, Status::Healthy, "");
        assert_eq!(health.checks.nats, NatsCheck { status: "embedded", healthy: true });
    }

    #[test]
    fn thresholds_degrade_first_and_fail_later() {
        for (memory_bytes, status) in [(79, Status::Healthy), (80, Status::Degraded), (90, Status::Unhealthy)]
        {
            let inputs = Inputs { memory_bytes: memory_bytes << 20, memory_limit_bytes: 100 << 20, ..calm() };
            assert_eq!(check(&inputs, status, "memory").checks.memory.healthy, status != Status::Unhealthy);
        }
        for (percent, status) in
            [(69.9, Status::Healthy), (70.0, Status::Degraded), (90.0, Status::Unhealthy)]
        {
            let inputs = Inputs { cpu: Used { percent, ..calm().cpu }, ..calm() };
            assert_eq!(check(&inputs, status, "CPU").checks.cpu.healthy, status != Status::Unhealthy);
        }
    }

    #[test]
    fn what_is_said_of_cpu_names_what_there_is_too_little_of() {
        for (bound, text) in [
            (Bound::Cores(1.0), "CPU at 95 % (of 1 core that this process may use), critical from 90 %"),
            (Bound::Cores(0.5), "CPU at 95 % (of 0.5 cores that this process may use), critical from 90 %"),
            (
                Bound::Workers(2),
                "CPU at 95 % (of 2 worker threads, server.worker_threads), critical from 90 %",
            ),
        ] {
            let cpu = Used { percent: 95.0, bound, busy_ratio: 1.0 };
            check(&Inputs { cpu, ..calm() }, Status::Unhealthy, text);
        }
    }

    #[test]
    fn a_full_node_is_degraded_and_never_unhealthy() {
        for (clients, status, text) in [
            (799, Status::Healthy, ""),
            (800, Status::Degraded, "warning from 80 %"),
            (949, Status::Degraded, "warning from 80 %"),
            (950, Status::Degraded, "critical from 95 %"),
            (1_000, Status::Degraded, "turned away"),
        ] {
            let health = check(&Inputs { clients, ..calm() }, status, text);
            assert_eq!(health.checks.capacity.healthy, clients < 950);
        }
    }

    #[test]
    fn a_log_that_takes_nothing_is_unhealthy_and_says_why() {
        let faults = vec![Fault { reason: "nothing has been stored for 54 s".to_owned(), is_ready: false }];
        let health =
            check(&Inputs { faults: faults.clone(), ..calm() }, Status::Unhealthy, "stored for 54 s");
        assert_eq!(health.checks.nats, NatsCheck { status: "stalled", healthy: false });
        // What follows from a lost connection is not said again.
        let log = Connection::Disconnected { reason: "connection refused".to_owned() };
        check(&Inputs { log, faults, ..calm() }, Status::Unhealthy, "connection refused");
    }

    #[test]
    fn what_a_part_of_the_process_warns_of_degrades_it() {
        let concerns = vec!["snapshots are incomplete".to_owned()];
        check(&Inputs { concerns, ..calm() }, Status::Degraded, "incomplete");
    }

    #[test]
    fn what_has_no_limit_is_never_full() {
        check(&Inputs { clients_max: 0, clients: 0, memory_limit_bytes: 0, ..calm() }, Status::Healthy, "");
    }

    #[test]
    fn a_process_beyond_repair_is_unhealthy_and_a_draining_one_is_not() {
        check(&Inputs { lifecycle: Lifecycle::Error, ..calm() }, Status::Unhealthy, "beyond repair");
        check(&Inputs { lifecycle: Lifecycle::Draining, ..calm() }, Status::Healthy, "");
    }
}
