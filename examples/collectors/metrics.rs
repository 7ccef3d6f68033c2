//! What the collectors measure: ten measurements of six fields, as Telegraf names them. Two of the six carry the proof: the
//! flush's number, and when it was sent.

use std::io::Write as _;

/// Measurements per flush, each with one tag of its own and its first four fields.
pub(crate) const MEASUREMENTS: [(&str, &str, [&str; 4]); 10] = [
    ("cpu", ",cpu=cpu-total", ["usage_user", "usage_system", "usage_idle", "usage_iowait"]),
    ("mem", "", ["used", "available", "used_percent", "cached"]),
    ("swap", "", ["used", "free", "used_percent", "total"]),
    ("disk", ",device=sda1,fstype=ext4,path=/", ["used", "free", "used_percent", "inodes_used"]),
    ("diskio", ",name=sda", ["reads", "writes", "read_bytes", "write_bytes"]),
    ("net", ",interface=eth0", ["bytes_recv", "bytes_sent", "packets_recv", "packets_sent"]),
    ("system", "", ["load1", "load5", "load15", "uptime"]),
    ("processes", "", ["running", "sleeping", "blocked", "total"]),
    ("kernel", "", ["context_switches", "interrupts", "processes_forked", "entropy_avail"]),
    ("nginx", ",port=80,server=localhost", ["active", "requests", "reading", "waiting"]),
];

/// The collector's id, also its `host` tag.
pub(crate) fn host(collector: u32) -> String {
    format!("load-{collector:04}")
}

/// The number in a collector's id.
pub(crate) fn collector_of(host: &str) -> Option<usize> {
    host.strip_prefix("load-")?.parse().ok()
}

/// Appends one flush: `flush` counts from 0.
pub(crate) fn write_flush(out: &mut Vec<u8>, host: &str, flush: u32, unix_ns: u64) {
    for (name, tags, fields) in MEASUREMENTS {
        // Writing into memory cannot fail.
        let _ = write!(out, "{name}{tags},host={host},region=eu-west ");
        for field in fields {
            let _ = write!(out, "{field}={:.2},", fastrand::f64() * 10_000.0);
        }
        let _ = writeln!(out, "flush={flush}i,sent_us={}i {unix_ns}", unix_ns / 1_000);
    }
}
