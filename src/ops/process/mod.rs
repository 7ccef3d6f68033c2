//! This process as the machine sees it: what it may use, what it uses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Handle;

use crate::config::Machine;
use crate::ops::node::Node;
use crate::sync::Locked;

pub mod cpu;
pub mod limits;

/// How often the process looks at itself.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// What the process uses, as of the last sample.
pub struct Usage {
    memory_bytes: AtomicU64,
    memory_limit_bytes: AtomicU64,
    cpu: Locked<cpu::Used>,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            memory_bytes: AtomicU64::new(0),
            memory_limit_bytes: AtomicU64::new(0),
            cpu: Locked::empty("CPU usage"),
        }
    }
}

impl Usage {
    /// Resident memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Memory the process may use; 0 if nobody knows.
    pub fn memory_limit_bytes(&self) -> u64 {
        self.memory_limit_bytes.load(Ordering::Relaxed)
    }

    /// CPU.
    pub fn cpu(&self) -> cpu::Used {
        self.cpu.with(|used| *used)
    }

    fn sample(&self, before: &cpu::Reading, now: &cpu::Reading, workers: usize) {
        let root = Path::new("/");
        // Read every time: a container can be given other limits while it runs.
        let limits = limits::read(root);
        self.memory_limit_bytes.store(limits.memory_bytes, Ordering::Relaxed);
        self.memory_bytes.store(limits::resident_bytes(root).unwrap_or(0), Ordering::Relaxed);
        self.cpu.with(|used| *used = used.sampled(limits.cores, workers, before, now));
    }
}

/// What the machine offers, after raising the descriptor limit as far as it goes without privileges.
pub fn machine() -> Machine {
    Machine {
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        descriptors: raise_descriptor_limit(),
    }
}

/// Keeps the figures of `node` and their gauges current. Never ends; the owner drops or cancels it.
pub async fn sampler(node: Arc<Node>) {
    let runtime = Handle::current().metrics();
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut log = node.log.clone();
    let mut reached = log.borrow_and_update().is_connected();
    let mut lifecycle = node.watch_lifecycle();
    let mut before = cpu::Reading::now(&runtime);
    loop {
        // All three are cancel-safe. A log whose sender is gone changes no more: wait for the tick then.
        tokio::select! {
            _ = ticks.tick() => {
                let now = cpu::Reading::now(&runtime);
                node.usage.sample(&before, &now, runtime.num_workers());
                before = now;
            }
            Ok(()) = log.changed() => {
                let connected = log.borrow_and_update().is_connected();
                if connected && reached {
                    node.meters.log_reconnects.increment(1);
                }
                reached |= connected;
            }
            Ok(()) = lifecycle.changed() => {}
        }
        export(&node);
    }
}

/// Writes the gauges of this process as they are now.
pub fn export(node: &Node) {
    let meters = &node.meters;
    let cpu = node.usage.cpu();
    meters.cpu_usage_percent.set(cpu.percent);
    meters.runtime_busy_ratio.set(cpu.busy_ratio);
    meters.memory_bytes.set(node.usage.memory_bytes() as f64);
    meters.memory_limit_bytes.set(node.usage.memory_limit_bytes() as f64);
    meters.connections_max.set(node.clients_max as f64);
    meters.log_connected.set(f64::from(u8::from(node.log.borrow().is_connected())));
    if let Ok(runtime) = Handle::try_current() {
        meters.tasks_active.set(runtime.metrics().num_alive_tasks() as f64);
    }
}

/// Every client is a descriptor, and the usual soft limit is 1024. Returns the limit in force.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Best effort: the limit that holds afterwards is read back, and bounds the connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_ends_at_the_hard_one() {
        assert!(machine().descriptors > 0);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
