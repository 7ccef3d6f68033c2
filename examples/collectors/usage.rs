//! CPU time and memory of other processes (Linux), and of this one's threads.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

/// Linux counts CPU time in hundredths of a second towards user space, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process to watch.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    name: String,
    pid: u32,
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, pid)| Some((name.to_owned(), pid.parse().ok()?)));
        parts.map(|(name, pid)| Self { name, pid }).ok_or_else(|| "write NAME=PID".to_owned())
    }
}

/// A process at one moment.
pub(crate) struct Usage {
    name: String,
    user_s: f64,
    system_s: f64,
    resident_mb: f64,
}

/// Every watched process now; one that has gone used nothing.
pub(crate) fn of_all(watched: &[Watched]) -> Vec<Usage> {
    watched.iter().map(|Watched { name, pid }| usage(name, *pid)).collect()
}

fn usage(name: &str, pid: u32) -> Usage {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The process's name may hold spaces and brackets; the fields begin behind its last bracket (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let seconds = |at: usize| {
        fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / TICKS_PER_SECOND
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Usage {
        name: name.to_owned(),
        user_s: seconds(11),
        system_s: seconds(12),
        resident_mb: kilobytes.unwrap_or(0.0) * 1024.0 / 1e6,
    }
}

/// CPU time of the thread that asks.
pub(crate) fn of_this_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What was used between two moments, as a table.
pub(crate) fn table(before: &[Usage], after: &[Usage], own: &[(&str, Duration)], seconds: u32) -> String {
    let seconds = f64::from(seconds);
    let mut text = String::from(
        "| process | CPU (% of one core) | user s | system s | resident MB |\n|---|---|---|---|---|\n",
    );
    for (before, after) in before.iter().zip(after) {
        let (user, system) = (after.user_s - before.user_s, after.system_s - before.system_s);
        let percent = (user + system) / seconds * 100.0;
        // Writing into memory cannot fail.
        let _ = writeln!(
            text,
            "| {} | {percent:.1} | {user:.1} | {system:.1} | {:.0} |",
            after.name, after.resident_mb
        );
    }
    for (name, cpu) in own {
        let percent = cpu.as_secs_f64() / seconds * 100.0;
        let _ = writeln!(text, "| {name} | {percent:.1} | | | |");
    }
    text
}
