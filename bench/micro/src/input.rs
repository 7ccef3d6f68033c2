//! What steps work on: metrics like Telegraf's, the same in every run.

use std::fmt::Write as _;

use bytes::Bytes;
use telecast::broker::Stored;
use telecast::proto::channel::{Channel, CollectorId};
use telecast::proto::envelope::{Envelope, Stamp};

/// Metrics of a flush.
pub const METRICS: usize = 1_000;
/// Lines of an envelope.
pub const LINES: usize = 10;
/// When everything happens, in nanoseconds since 1970.
pub const NOW_NS: i64 = 1_700_000_000_000_000_000;

/// A flush: 100 hosts, ten measurements each, two tags and five fields, about 135 bytes a line. Neighbours never belong into the
/// same envelope, which is the worst case of grouping.
pub fn flush() -> Vec<u8> {
    const NAMES: [&str; 10] =
        ["cpu", "mem", "swap", "disk", "diskio", "net", "system", "processes", "kernel", "nginx"];
    let line = |at: usize| {
        let (name, host, value) = (NAMES[at % NAMES.len()], at / NAMES.len(), at as f64 * 1.37);
        format!(
            "{name},host=web-{host:03},region=eu-west usage_user={value:.2},usage_system={:.3},used={}i,free={}i,\
             state=\"running\" {}\n",
            value / 7.0,
            at * 4096,
            at * 1024,
            NOW_NS + at as i64,
        )
    };
    (0..METRICS).map(line).collect::<String>().into_bytes()
}

/// The same kind of metrics as Telegraf's JSON batch.
pub fn flush_json() -> Vec<u8> {
    let mut text = String::from("{\"metrics\":[");
    for at in 0..METRICS {
        let (host, value) = (at / 10, at as f64 * 1.37);
        let _ = write!(
            text,
            "{}{{\"name\":\"cpu\",\"tags\":{{\"host\":\"web-{host:03}\",\"region\":\"eu-west\"}},\"fields\":{{\
             \"usage_user\":{value:.2},\"usage_system\":{:.3},\"used\":{},\"free\":{},\"state\":\"running\"}},\
             \"timestamp\":1700000000}}",
            if at == 0 { "" } else { "," },
            value / 7.0,
            at * 4096,
            at * 1024,
        );
    }
    text.push_str("]}");
    text.into_bytes()
}

/// Envelope `sequence` of a gateway that sends [`LINES`] lines at a time, each of another of its `hosts`, about 107 bytes a line.
pub fn envelope(sequence: u64, hosts: u64) -> Stored {
    let mut lines = String::new();
    for at in 0..LINES as u64 {
        let host = (sequence * LINES as u64 + at) % hosts;
        let _ = writeln!(
            lines,
            "cpu,cpu=cpu-total,host=web-{host:04},region=eu usage_user=12.5,usage_system={at}.25,used={}i {NOW_NS}",
            sequence % 10_000 + 10_000,
        );
    }
    stored(sequence, lines)
}

/// Envelope `sequence` with one line, which becomes a JSON frame of about 480 bytes.
pub fn small_envelope(sequence: u64) -> Stored {
    let fields: Vec<String> = (0..14).map(|at| format!("usage_part_{at:02}={at}.25")).collect();
    stored(sequence, format!("cpu,host=web-0001,region=eu {} {NOW_NS}\n", fields.join(",")))
}

fn stored(sequence: u64, lines: String) -> Stored {
    let collector = CollectorId::new("gateway").unwrap_or_else(|_| CollectorId::unknown());
    let stamp = Some(Stamp { revision: 1, sequence, received_ns: NOW_NS });
    let envelope = Envelope { channel: Channel::new(collector, "cpu"), stamp, lines: Bytes::from(lines) };
    Stored { sequence, stored_ns: NOW_NS + sequence as i64, envelope }
}
