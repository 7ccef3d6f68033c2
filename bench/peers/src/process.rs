//! CPU time and memory of processes, from `/proc`.

use std::fs;
use std::ops::Sub;

use anyhow::Context as _;
use serde::Serialize;

/// CPU time of a process with all its threads, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// In the program itself.
    pub user_s: f64,
    /// In the kernel, on its behalf.
    pub system_s: f64,
}

impl Cpu {
    /// CPU time so far of all of `pids` together.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn of(pids: &[u32]) -> anyhow::Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, pid| {
            let one = Self::of_one(*pid)?;
            Ok(Self { user_s: sum.user_s + one.user_s, system_s: sum.system_s + one.system_s })
        })
    }

    fn of_one(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("{path}: the process is gone"))?;
        let ticks = stat_ticks(&stat).with_context(|| format!("{path} reads differently than expected"))?;
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok(Self { user_s: ticks.0 as f64 / per_second, system_s: ticks.1 as f64 / per_second })
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user_s: self.user_s - before.user_s, system_s: self.system_s - before.system_s }
    }
}

/// Resident memory of all of `pids` together, in KiB.
///
/// # Errors
/// When one of them does not run.
pub fn resident_kib(pids: &[u32]) -> anyhow::Result<u64> {
    let page_kib = rustix::param::page_size() as u64 / 1024;
    pids.iter().try_fold(0, |sum, pid| {
        let path = format!("/proc/{pid}/statm");
        let statm = fs::read_to_string(&path).with_context(|| format!("{path}: the process is gone"))?;
        let pages: u64 = statm.split(' ').nth(1).context("statm without resident pages")?.parse()?;
        Ok(sum + pages * page_kib)
    })
}

/// User and system time: fields 14 and 15. The name, field 2, may itself hold spaces and parentheses.
fn stat_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_shifts_nothing() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 75 0 0 20 0 1 0 9 1 2";
        assert_eq!(stat_ticks(stat), Some((250, 75)));
    }

    #[test]
    fn this_process_has_memory_and_another_is_gone() {
        assert!(resident_kib(&[std::process::id()]).unwrap() > 0);
        assert!(Cpu::of(&[std::process::id()]).is_ok());
        assert!(Cpu::of(&[u32::MAX]).is_err());
    }
}
