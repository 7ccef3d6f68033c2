//! Limits and usage as Linux tells them in files: control groups (v2 and v1), `/proc`.
//!
//! Everything takes the root of the file system, so that tests can bring their own. Files that are missing or say something
//! else (another system, another version) mean "no limit", never an error.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What a process may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes of memory: the tightest control group's limit, or the machine's memory; 0 if neither is known.
    pub memory_bytes: u64,
    /// Cores, possibly a fraction of one: those it may run on, or the tightest control group's quota if that is less.
    pub cores: f64,
}

/// Reads what this process may use.
pub fn read(root: &Path) -> Limits {
    let groups = text(&root.join("proc/self/cgroup")).unwrap_or_default();
    let machine = machine_memory_bytes(root);
    // v1 writes "unlimited" as a number near 2^63; anything above the machine's memory is no limit.
    let memory = memory_limit(root, &groups).filter(|limit| machine.is_none_or(|machine| *limit < machine));
    let allowed = cores_allowed(root);
    let quota = cpu_quota(root, &groups).filter(|quota| *quota > 0.0 && *quota < allowed);
    Limits { memory_bytes: memory.or(machine).unwrap_or(0), cores: quota.unwrap_or(allowed) }
}

/// Cores that are on and that affinity and cpusets leave to this process (proc_pid_status(5), `Cpus_allowed_list`, which may
/// name cores that a machine could have). [`std::thread::available_parallelism`] would not do: it rounds a quota down.
fn cores_allowed(root: &Path) -> f64 {
    let allowed = || {
        let status = text(&root.join("proc/self/status"))?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        let online = text(&root.join("sys/devices/system/cpu/online"))?;
        let (allowed, online) = (ranges(allowed)?, ranges(&online)?);
        let shared = |one: &RangeInclusive<u32>, other: &RangeInclusive<u32>| {
            let (first, last) = (one.start().max(other.start()), one.end().min(other.end()));
            (last + 1).saturating_sub(*first)
        };
        let count: u32 = allowed.iter().flat_map(|one| online.iter().map(|other| shared(one, other))).sum();
        (count > 0).then_some(f64::from(count))
    };
    allowed().unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1.0, |cores| usize::from(cores) as f64)
    })
}

/// Of a list such as `0-3,8`.
fn ranges(list: &str) -> Option<Vec<RangeInclusive<u32>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse::<u32>().ok()?)
    };
    list.trim().split(',').map(range).collect()
}

/// Resident memory of this process.
pub fn resident_bytes(root: &Path) -> Option<u64> {
    kilobytes(&text(&root.join("proc/self/status"))?, "VmRSS:")
}

fn machine_memory_bytes(root: &Path) -> Option<u64> {
    kilobytes(&text(&root.join("proc/meminfo"))?, "MemTotal:")
}

fn memory_limit(root: &Path, groups: &str) -> Option<u64> {
    let v2 = ancestors(root, "sys/fs/cgroup", unified_group(groups))
        .filter_map(|group| text(&group.join("memory.max"))?.trim().parse::<u64>().ok());
    let v1 = ancestors(root, "sys/fs/cgroup/memory", controller_group(groups, "memory"))
        .filter_map(|group| text(&group.join("memory.limit_in_bytes"))?.trim().parse::<u64>().ok());
    v2.chain(v1).min()
}

fn cpu_quota(root: &Path, groups: &str) -> Option<f64> {
    let v2 = ancestors(root, "sys/fs/cgroup", unified_group(groups)).filter_map(|group| {
        // "<quota µs> <period µs>", or "max <period>".
        let text = text(&group.join("cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    let v1 = ancestors(root, "sys/fs/cgroup/cpu", controller_group(groups, "cpu")).filter_map(|group| {
        let quota = text(&group.join("cpu.cfs_quota_us"))?.trim().parse::<f64>().ok()?;
        let period = text(&group.join("cpu.cfs_period_us"))?.trim().parse::<f64>().ok()?;
        // -1 means no quota.
        (quota > 0.0).then_some(quota / period)
    });
    v2.chain(v1).filter(|quota| quota.is_finite()).min_by(f64::total_cmp)
}

/// The group and everything above it: a limit on a parent (a pod) holds for its children (containers). Inside a container the
/// path often means nothing and the limits are at the mount itself, which is the last ancestor.
fn ancestors(root: &Path, mount: &str, group: Option<&str>) -> impl Iterator<Item = PathBuf> {
    let mount = root.join(mount);
    let group = group.unwrap_or("/").trim_start_matches('/').to_owned();
    let deepest = mount.join(group);
    let mut next = Some(deepest);
    std::iter::from_fn(move || {
        let current = next.take()?;
        if current != mount {
            next = current.parent().filter(|parent| parent.starts_with(&mount)).map(Path::to_owned);
        }
        Some(current)
    })
}

fn unified_group(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

fn controller_group<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let group = parts.next()?;
        controllers.split(',').any(|name| name == controller).then_some(group)
    })
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\n");

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/kubepods/pod7/box\n"),
            ("sys/fs/cgroup/kubepods/memory.max", "max\n"),
            ("sys/fs/cgroup/kubepods/pod7/memory.max", "1000000\n"),
            ("sys/fs/cgroup/kubepods/pod7/box/memory.max", "2000000\n"),
            ("sys/fs/cgroup/kubepods/pod7/box/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/kubepods/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(read(root.path()), Limits { memory_bytes: 1_000_000, cores: 0.5 });
    }

    #[test]
    fn inside_a_container_the_limits_are_at_the_mount() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/not/visible/here\n"),
            ("sys/fs/cgroup/memory.max", "268435456\n"),
            ("sys/fs/cgroup/cpu.max", "25000 100000\n"),
        ]);
        assert_eq!(read(root.path()), Limits { memory_bytes: 256 << 20, cores: 0.25 });
    }

    #[test]
    fn version_one_groups_are_understood() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "5:memory:/box\n4:cpu,cpuacct:/box\n"),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1048576\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "10000\n"),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(read(root.path()), Limits { memory_bytes: 1 << 20, cores: 0.1 });
    }

    #[test]
    fn without_limits_the_machine_is_the_limit() {
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| usize::from(cores) as f64);
        let unlimited = root(&[
            MEMINFO,
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(read(unlimited.path()), Limits { memory_bytes: 16_384_000 << 10, cores });
        assert_eq!(read(root(&[]).path()), Limits { memory_bytes: 0, cores });
    }

    #[test]
    fn cores_are_those_that_are_on_and_allowed() {
        let cores = |allowed: &str, online: &str, quota: &str| {
            let status = format!("Name:\ttelecast\nCpus_allowed:\tffff\nCpus_allowed_list:\t{allowed}\n");
            let files = [
                ("proc/self/status", status.as_str()),
                ("sys/devices/system/cpu/online", online),
                ("sys/fs/cgroup/cpu.max", quota),
            ];
            read(root(&files).path()).cores
        };
        assert_eq!(cores("0-15", "0-15\n", "max 100000\n"), 16.0);
        assert_eq!(cores("0-3,8,10-11", "0-15\n", "max 100000\n"), 7.0, "a cpuset");
        assert_eq!(cores("0-127", "0-1\n", "max 100000\n"), 2.0, "the machine could have more");
        assert_eq!(cores("0-15", "0-15\n", "150000 100000\n"), 1.5, "a quota is not rounded");
        assert_eq!(cores("0-3", "0-15\n", "800000 100000\n"), 4.0, "a quota of more than there is");
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let root = root(&[("proc/self/status", "Name:\ttelecast\nVmRSS:\t   5120 kB\n")]);
        assert_eq!(resident_bytes(root.path()), Some(5 << 20));
    }
}
