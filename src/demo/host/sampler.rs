//! Reads what the pure functions need, and keeps the reading before.

use std::fs::read_to_string;
use std::path::Path;

use super::cpu::{self, Times};
use super::disk::{self, Mount, Space};
use super::net::{self, Interface};
use super::portable::Portable;
use super::processes::Census;
use super::{lines, mem, system};
use crate::proto::metric::Metric;

/// Measures this host.
pub(crate) struct Sampler {
    host: String,
    source: Source,
}

enum Source {
    Proc(Proc),
    /// Boxed: it holds the library's whole picture of the system.
    Portable(Box<Portable>),
    /// Neither `/proc` nor a system the library knows.
    Unknown,
}

/// `/proc`, with the processors' times of the reading before.
struct Proc {
    before: Vec<Times>,
}

impl Sampler {
    /// Takes the first reading, so that the first sample has shares of time already.
    pub(crate) fn new() -> Self {
        let host = sysinfo::System::host_name().unwrap_or_else(|_| "localhost".to_owned());
        let source = match Proc::open() {
            Some(proc) => Source::Proc(proc),
            None => Portable::open().map_or(Source::Unknown, |portable| Source::Portable(Box::new(portable))),
        };
        if matches!(source, Source::Unknown) {
            tracing::warn!(
                event = "demo_without_source",
                "the demo cannot measure this system: it has no /proc and is not known otherwise"
            );
        }
        Self { host, source }
    }

    /// The lines of one message. Blocks for as long as the kernel takes.
    pub(crate) fn sample(&mut self, timestamp_ns: i64) -> Vec<u8> {
        let metrics = match &mut self.source {
            Source::Proc(proc) => proc.metrics(),
            Source::Portable(portable) => portable.metrics(),
            Source::Unknown => Vec::new(),
        };
        lines(metrics, &self.host, timestamp_ns)
    }
}

impl Proc {
    fn open() -> Option<Self> {
        let before = cpu::read(&read_to_string("/proc/stat").ok()?);
        (!before.is_empty()).then_some(Self { before })
    }

    /// What cannot be read is left out, so that a restricted container still shows the rest.
    fn metrics(&mut self) -> Vec<Metric<'static>> {
        let now = cpu::read(&file("/proc/stat"));
        let mut metrics = cpu::usage(&self.before, &now);
        metrics.extend(mem::read(&file("/proc/meminfo")));
        metrics.extend(system::load(&file("/proc/loadavg"), cpu::count(&now), &file("/proc/cpuinfo")));
        metrics.extend(system::uptime(&file("/proc/uptime")).into_iter().flatten());
        let mounts = disk::mounts(&file("/proc/self/mountinfo"), &file("/proc/filesystems"));
        metrics.extend(mounts.iter().filter_map(|mount| Some(disk::metric(mount, space(mount)?))));
        metrics.extend(net::read(&file("/proc/net/dev"), interface));
        metrics.push(census().metric());
        self.before = now;
        metrics
    }
}

fn file(path: impl AsRef<Path>) -> String {
    read_to_string(path).unwrap_or_default()
}

fn space(mount: &Mount) -> Option<Space> {
    let stat = rustix::fs::statvfs(mount.path.as_str()).ok()?;
    Some(Space {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bfree.saturating_mul(stat.f_frsize),
        inodes_total: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

fn interface(name: &str) -> Option<Interface> {
    let about = Path::new("/sys/class/net").join(name);
    let flags = net::flags(&file(about.join("flags")))?;
    Some(Interface { flags, speed: file(about.join("speed")).trim().parse().unwrap_or(-1) })
}

fn census() -> Census {
    let mut census = Census::default();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if is_process {
            // A command may be any bytes; a process that is gone by now leaves nothing to read.
            let stat = std::fs::read(process.path().join("stat")).unwrap_or_default();
            census.add(&String::from_utf8_lossy(&stat));
        }
    }
    census
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::proto::line;

    /// Waits until the processors' times have moved on, which takes a tick of the kernel.
    fn sample_with_cpu(sampler: &mut Sampler) -> String {
        loop {
            let lines = String::from_utf8(sampler.sample(1_700_000_000_000_000_000)).unwrap();
            if lines.contains("cpu=cpu-total") {
                return lines;
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_host_is_measured_in_lines_that_can_be_read() {
        let text = sample_with_cpu(&mut Sampler::new());
        let mut measurements = BTreeSet::new();
        for line in line::lines(text.as_bytes()) {
            let line = line.unwrap();
            assert_eq!(line.timestamp(), Some(1_700_000_000_000_000_000));
            assert!(line.tag("host").is_some());
            measurements.insert(line.measurement().into_owned());
        }
        let always = ["cpu", "mem", "processes", "system"];
        assert!(always.iter().all(|name| measurements.contains(*name)), "{measurements:?}");
    }

    #[test]
    fn without_proc_the_library_measures() {
        let mut sampler =
            Sampler { host: "h".into(), source: Source::Portable(Box::new(Portable::open().unwrap())) };
        let text = String::from_utf8(sampler.sample(7)).unwrap();
        for name in ["cpu,cpu=cpu-total,host=h ", "mem,host=h ", "system,host=h load1="] {
            assert!(text.contains(name), "{name} in {text}");
        }
        assert!(line::lines(text.as_bytes()).all(|line| line.is_ok()));
    }
}
