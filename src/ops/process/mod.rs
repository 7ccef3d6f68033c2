//! This process as the machine sees it: what it may use, what it uses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::config::Machine;
use crate::ops::node::Node;

pub mod limits;

/// How often the process looks at itself.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Weight of the newest sample in the CPU figure: an average over some five seconds, so that one busy second (a start, a
/// burst of new clients) does not make the process unhealthy.
const CPU_SAMPLE_WEIGHT: f64 = 0.2;

/// What the process uses, as of the last sample.
#[derive(Debug, Default)]
pub struct Usage {
    memory_bytes: AtomicU64,
    memory_limit_bytes: AtomicU64,
    cpu_percent_bits: AtomicU64,
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

    /// CPU time used, in percent of what the process may use.
    pub fn cpu_percent(&self) -> f64 {
        f64::from_bits(self.cpu_percent_bits.load(Ordering::Relaxed))
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
    let limits = limits::read(Path::new("/"));
    node.usage.memory_limit_bytes.store(limits.memory_bytes, Ordering::Relaxed);
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut log = node.log.clone();
    let mut reached = log.borrow_and_update().is_connected();
    let mut lifecycle = node.watch_lifecycle();
    let mut before = (Instant::now(), cpu_time());
    loop {
        // All three are cancel-safe. A log whose sender is gone changes no more: wait for the tick then.
        tokio::select! {
            _ = ticks.tick() => {
                let now = (Instant::now(), cpu_time());
                sample(&node.usage, limits.cpus, before, now);
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
    meters.cpu_usage_percent.set(node.usage.cpu_percent());
    meters.memory_bytes.set(node.usage.memory_bytes() as f64);
    meters.memory_limit_bytes.set(node.usage.memory_limit_bytes() as f64);
    meters.connections_max.set(node.clients_max as f64);
    meters.log_connected.set(f64::from(u8::from(node.log.borrow().is_connected())));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        meters.tasks_active.set(runtime.metrics().num_alive_tasks() as f64);
    }
}

fn sample(usage: &Usage, cpus: f64, before: (Instant, Duration), now: (Instant, Duration)) {
    usage.memory_bytes.store(limits::resident_bytes(Path::new("/")).unwrap_or(0), Ordering::Relaxed);
    let wall = now.0.saturating_duration_since(before.0).as_secs_f64();
    if wall > 0.0 {
        let used = now.1.saturating_sub(before.1).as_secs_f64();
        let percent = used / (wall * cpus) * 100.0;
        let smoothed = usage.cpu_percent() * (1.0 - CPU_SAMPLE_WEIGHT) + percent * CPU_SAMPLE_WEIGHT;
        usage.cpu_percent_bits.store(smoothed.to_bits(), Ordering::Relaxed);
    }
}

/// CPU time of all threads since the start.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
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
    fn cpu_is_a_share_of_what_the_process_may_use_and_smooth() {
        let usage = Usage::default();
        let start = Instant::now();
        let at =
            |seconds: u64, cpu_ms: u64| (start + Duration::from_secs(seconds), Duration::from_millis(cpu_ms));
        sample(&usage, 2.0, at(0, 0), at(1, 1_000));
        assert!(
            (usage.cpu_percent() - 10.0).abs() < 0.01,
            "one busy second of half the share: a fifth of 50 %"
        );
        (1..40).for_each(|second| {
            sample(&usage, 2.0, at(second, second * 1_000), at(second + 1, (second + 1) * 1_000))
        });
        assert!((usage.cpu_percent() - 50.0).abs() < 0.1, "{}", usage.cpu_percent());
    }

    #[test]
    fn the_descriptor_limit_ends_at_the_hard_one() {
        assert!(machine().descriptors > 0);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
