//! What single steps cost, in CPU time of one core: `cargo run --release --example micro`.
//!
//! Each step runs over the same flush of 1,000 Telegraf-like metrics (100 hosts, ten measurements, five fields). Ratios to
//! copying and to an independent parser say more than the figures, which belong to one machine.

use std::hint::black_box;
use std::time::Duration;

use telecast::ingest::batch::{self, Options};
use telecast::proto::json;
use telecast::proto::line;

/// Each step is repeated for so long, this many times; the best round counts, as it was disturbed least.
const ROUND: Duration = Duration::from_millis(300);
const ROUNDS: usize = 5;

const METRICS: usize = 1_000;
const NOW_NS: i64 = 1_700_000_000_000_000_000;

fn main() {
    let flush = flush();
    println!("{METRICS} metrics, {} bytes each; one core\n", flush.len() / METRICS);
    println!("| step | ns per metric | metrics per second | against copying |\n|---|---|---|---|");
    let mut copy = Vec::with_capacity(flush.len());
    let copying = measure(|| {
        copy.clear();
        copy.extend_from_slice(black_box(&flush));
        black_box(&copy);
    });
    let row = |name: &str, cost: f64| {
        println!("| {name} | {cost:.0} | {:.2} M | {:.0}× |", 1e3 / cost, cost / copying);
    };
    row("copy", copying);
    row(
        "find newlines (memchr)",
        measure(|| _ = black_box(memchr::memchr_iter(b'\n', black_box(&flush)).count())),
    );
    row(
        "scan and validate lines",
        measure(|| _ = black_box(line::lines(black_box(&flush)).filter(Result::is_ok).count())),
    );
    row("the same with influxdb-line-protocol 2", measure(|| _ = black_box(oracle(black_box(&flush)))));
    let options =
        Options { precision: None, collector: None, received_ns: NOW_NS, envelope_bytes_max: 512 << 10 };
    row(
        "decode: scan, group into envelopes",
        measure(|| _ = black_box(batch::decode(black_box(&flush), &options))),
    );
    let mut text = Vec::with_capacity(flush.len() * 3);
    row(
        "encode as JSON (scan again, write)",
        measure(|| {
            text.clear();
            json::write_metrics(&mut text, line::lines(black_box(&flush)).filter_map(Result::ok), NOW_NS);
            black_box(&text);
        }),
    );
    row(
        "read that JSON with serde_json into values",
        measure(|| _ = black_box(serde_json::from_slice::<serde_json::Value>(black_box(&text)).is_ok())),
    );
}

fn oracle(flush: &[u8]) -> usize {
    let text = std::str::from_utf8(flush).unwrap_or_default();
    influxdb_line_protocol::parse_lines(text).filter(Result::is_ok).count()
}

fn flush() -> Vec<u8> {
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

/// Nanoseconds of CPU time per metric.
fn measure(mut step: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begin = cpu_time();
        let mut runs = 0;
        let spent = loop {
            step();
            runs += 1;
            let spent = cpu_time().saturating_sub(begin);
            if spent >= ROUND {
                break spent;
            }
        };
        best = best.min(spent.as_secs_f64() * 1e9 / (runs * METRICS) as f64);
    }
    best
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
