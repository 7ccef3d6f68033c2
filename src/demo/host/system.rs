//! `system`: load, processors, uptime. Telegraf sends it as three metrics, because uptimes are counters of their own.

use std::collections::BTreeSet;

use crate::proto::metric::{FieldValue, Metric};

/// `/proc/loadavg`, the number of processors, and `/proc/cpuinfo`.
pub(super) fn load(loadavg: &str, processors: usize, cpuinfo: &str) -> Option<Metric<'static>> {
    let mut loads = loadavg.split_ascii_whitespace().map(|load| load.parse().ok());
    let loads = [loads.next()??, loads.next()??, loads.next()??];
    Some(load_metric(loads, processors, physical_processors(cpuinfo).unwrap_or(processors)))
}

/// The metric of the load over 1, 5 and 15 minutes.
pub(super) fn load_metric(
    [load1, load5, load15]: [f64; 3],
    processors: usize,
    physical: usize,
) -> Metric<'static> {
    let fields = vec![
        ("load1", FieldValue::Float(load1)),
        ("load15", FieldValue::Float(load15)),
        ("load5", FieldValue::Float(load5)),
        ("n_cpus", FieldValue::Integer(processors as i64)),
        ("n_physical_cpus", FieldValue::Integer(physical as i64)),
    ];
    super::metric("system", &[], fields)
}

/// `/proc/uptime`, as a number and for people.
pub(super) fn uptime(uptime: &str) -> Option<[Metric<'static>; 2]> {
    let seconds: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    Some(uptime_metrics(seconds as u64))
}

/// The two metrics of an uptime in seconds.
pub(super) fn uptime_metrics(seconds: u64) -> [Metric<'static>; 2] {
    let days = match seconds / 86_400 {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    let readable = format!("{days}{:2}:{:02}", seconds / 3600 % 24, seconds / 60 % 60);
    [
        super::metric("system", &[], vec![("uptime", FieldValue::Unsigned(seconds))]),
        super::metric("system", &[], vec![("uptime_format", FieldValue::String(readable.into()))]),
    ]
}

/// Distinct pairs of socket and core; virtual machines and other architectures may not name them.
fn physical_processors(cpuinfo: &str) -> Option<usize> {
    let mut cores = BTreeSet::new();
    let mut socket = "";
    for line in cpuinfo.lines() {
        match line.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
            Some(("physical id", value)) => socket = value,
            Some(("core id", value)) => {
                cores.insert((socket, value));
            }
            _ => {}
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::host::text;

    #[test]
    fn load_comes_with_the_number_of_processors() {
        let cpuinfo = "processor\t: 0\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 1\nphysical id\t: 0\ncore id\t\t: 0\n\n\
            processor\t: 2\nphysical id\t: 1\ncore id\t\t: 0\n";
        let metric = load("0.50 0.21 0.30 2/88 16349\n", 3, cpuinfo).unwrap();
        assert_eq!(text(&[metric]), "system load1=0.5,load15=0.3,load5=0.21,n_cpus=3i,n_physical_cpus=2i\n");
        assert!(text(&[load("1 1 1", 4, "").unwrap()]).contains("n_physical_cpus=4i"));
        assert_eq!(load("", 1, ""), None);
    }

    #[test]
    fn uptime_is_written_as_telegraf_writes_it() {
        for (seconds, readable) in
            [(1440, " 0:24"), (86_400 + 3_600 * 13 + 60 * 5, "1 day, 13:05"), (86_400 * 12, "12 days,  0:00")]
        {
            let metrics = uptime(&format!("{seconds}.49 2203.94\n")).unwrap();
            let expected = format!("system uptime={seconds}u\nsystem uptime_format=\"{readable}\"\n");
            assert_eq!(text(&metrics), expected);
        }
    }
}
