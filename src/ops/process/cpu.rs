//! How much of the CPU that a process may use it does use.
//!
//! Two things bound it. The machine gives it a quota of its control group, or the cores it may run on. The runtime turns tasks
//! on its worker threads only, each of which is one core at most: two of them are all used up on a machine of sixteen cores
//! that is almost idle. So the process is compared with the former, its workers with the latter, and the greater share counts.
//! Workers are not told apart from other threads (which make snapshots and conflated frames) by the system, but they used no
//! more than the process did, and no more than the time they were busy.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::RuntimeMetrics;

/// Weight of the newest sample in the figures: an average over some five seconds, so that one busy second (a start, a burst of
/// new clients) does not make the process unhealthy.
const SAMPLE_WEIGHT: f64 = 0.2;

/// What was used since the start.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// When this was so.
    pub at: Instant,
    /// CPU time of all threads.
    pub process: Duration,
    /// Time in which workers turned tasks, summed over all of them; with time in which they wanted a core and had none.
    pub busy: Duration,
}

impl Reading {
    /// As it is now.
    pub fn now(runtime: &RuntimeMetrics) -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let process =
            Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
        let busy = (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
        Self { at: Instant::now(), process, busy }
    }
}

/// What 100 % is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// The cores, or the quota.
    Cores(f64),
    /// The runtime's threads.
    Workers(usize),
}

impl Default for Bound {
    fn default() -> Self {
        Self::Cores(1.0)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cores(1.0) => f.write_str("of 1 core that this process may use"),
            Self::Cores(cores) => write!(f, "of {cores} cores that this process may use"),
            Self::Workers(1) => f.write_str("of 1 worker thread, server.worker_threads"),
            Self::Workers(workers) => write!(f, "of {workers} worker threads, server.worker_threads"),
        }
    }
}

/// What is used, averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Of what may be used: 0 to 100.
    pub percent: f64,
    /// Of what, as of the newest sample.
    pub bound: Bound,
    /// The share of their time that the workers were busy, in the mean: 0 to 1.
    pub busy_ratio: f64,
}

impl Used {
    /// With one more sample: what was used from `before` to `now` by a process with so many `cores` and `workers`.
    #[must_use]
    pub fn sampled(self, cores: f64, workers: usize, before: &Reading, now: &Reading) -> Self {
        let wall = now.at.saturating_duration_since(before.at).as_secs_f64();
        if wall <= 0.0 {
            return self;
        }
        let process = now.process.saturating_sub(before.process).as_secs_f64() / wall;
        let busy = now.busy.saturating_sub(before.busy).as_secs_f64() / wall;
        let (of_cores, of_workers) = (process / cores, process.min(busy) / workers as f64);
        let bound = if of_workers > of_cores { Bound::Workers(workers) } else { Bound::Cores(cores) };
        // Clocks are not read at once, and a turn counts when it ends: a sample can be above what there is.
        let averaged = |old: f64, new: f64| old * (1.0 - SAMPLE_WEIGHT) + new.min(1.0) * SAMPLE_WEIGHT;
        Self {
            percent: averaged(self.percent / 100.0, of_cores.max(of_workers)) * 100.0,
            bound,
            busy_ratio: averaged(self.busy_ratio, busy / workers as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of a process that used `process` cores, and whose workers were busy for `busy` of them, for a minute.
    fn after_a_minute(cores: f64, workers: usize, process: f64, busy: f64) -> Used {
        let start = Instant::now();
        let at = |second: u32| {
            let since = Duration::from_secs(1) * second;
            Reading { at: start + since, process: since.mul_f64(process), busy: since.mul_f64(busy) }
        };
        let used = |used: Used, second| used.sampled(cores, workers, &at(second), &at(second + 1));
        (0..60).fold(Used::default(), used)
    }

    fn check(used: Used, percent: f64, busy_ratio: f64, bound: Bound) {
        assert!((used.percent - percent).abs() < 0.1, "{used:?}, expected {percent} %");
        assert!((used.busy_ratio - busy_ratio).abs() < 0.001, "{used:?}, expected {busy_ratio}");
        assert_eq!(used.bound, bound);
    }

    #[test]
    fn a_saturated_node_with_two_workers_on_sixteen_cores_is_full() {
        check(after_a_minute(16.0, 2, 2.0, 2.0), 100.0, 1.0, Bound::Workers(2));
        check(after_a_minute(16.0, 2, 1.0, 1.0), 50.0, 0.5, Bound::Workers(2));
    }

    #[test]
    fn a_quota_that_is_used_up_is_full_however_many_workers_there_are() {
        // The workers are throttled: they want to run for longer than they may.
        check(after_a_minute(0.5, 2, 0.5, 1.6), 100.0, 0.8, Bound::Cores(0.5));
    }

    #[test]
    fn threads_beside_the_workers_do_not_make_them_look_full() {
        check(after_a_minute(16.0, 2, 2.0, 0.5), 25.0, 0.25, Bound::Workers(2));
        check(after_a_minute(4.0, 2, 3.0, 0.5), 75.0, 0.25, Bound::Cores(4.0));
    }

    #[test]
    fn waiting_for_a_core_that_others_use_is_busy_and_uses_no_cpu() {
        check(after_a_minute(2.0, 2, 0.2, 2.0), 10.0, 1.0, Bound::Cores(2.0));
    }

    #[test]
    fn more_than_there_is_counts_as_all_of_it() {
        check(after_a_minute(1.0, 1, 1.02, 1.3), 100.0, 1.0, Bound::Cores(1.0));
    }

    #[test]
    fn one_busy_second_counts_a_fifth() {
        let start = Reading { at: Instant::now(), process: Duration::ZERO, busy: Duration::ZERO };
        let second = Duration::from_secs(1);
        let after = Reading { at: start.at + second, process: second, busy: second };
        check(Used::default().sampled(2.0, 2, &start, &after), 10.0, 0.1, Bound::Cores(2.0));
        assert_eq!(Used::default().sampled(2.0, 2, &start, &start), Used::default(), "no time has passed");
    }

    #[test]
    fn a_worker_that_computes_is_busy_and_one_that_waits_is_not() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let busy = || Reading::now(&runtime.metrics()).busy;
        let moment = Duration::from_millis(100);
        runtime.block_on(runtime.spawn(async move { tokio::time::sleep(moment).await })).unwrap();
        assert!(busy() < moment / 2, "{:?}", busy());
        let compute = async move {
            let begin = Instant::now();
            while begin.elapsed() < moment {}
        };
        runtime.block_on(runtime.spawn(compute)).unwrap();
        // A turn counts when the worker goes on to wait, which may be after the task has ended.
        while busy() < moment {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
