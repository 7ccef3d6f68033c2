//! Any bytes as Telegraf JSON: nothing panics, and what is accepted and has a line reads back from that line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::json::decode;
use telecast_fuzz::proto::line::{Precision, lines, write_metric};

fuzz_target!(|input: &[u8]| {
    let Ok(metrics) = decode(input, Precision::Seconds) else { return };
    for (index, metric) in metrics.iter().enumerate() {
        let metric = match metric {
            Ok(metric) => metric,
            Err(e) => {
                assert_eq!(e.index, index);
                continue;
            }
        };
        let mut written = Vec::new();
        if write_metric(&mut written, metric).is_ok() {
            let mut all = lines(&written);
            let line = all.next().expect("a line").expect("a valid line");
            assert!(all.next().is_none(), "one metric is one line");
            assert_eq!(line.timestamp(), metric.timestamp_ns);
        }
    }
});
