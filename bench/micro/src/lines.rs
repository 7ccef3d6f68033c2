//! Line protocol and JSON, a flush at a time.

use std::hint::black_box;

use telecast::ingest::batch::{self, Options};
use telecast::proto::json;
use telecast::proto::line::{self, Line};

use crate::Prepared;
use crate::input::{METRICS, NOW_NS, flush, flush_json};

/// A step that reads the whole flush.
fn over(flush: Vec<u8>, mut step: impl FnMut(&[u8]) + 'static) -> Prepared {
    Prepared::new(METRICS, flush.len(), move || step(black_box(&flush)))
}

/// The same for a step that is over before a clock is read.
fn over_and_over(mut step: impl FnMut(&[u8]) + 'static) -> Prepared {
    const TIMES: usize = 20;
    let flush = flush();
    Prepared::new(METRICS * TIMES, flush.len() * TIMES, move || {
        for _ in 0..TIMES {
            step(black_box(&flush));
        }
    })
}

pub(crate) fn copy() -> Prepared {
    let mut copy = Vec::new();
    over_and_over(move |flush| {
        copy.clear();
        copy.extend_from_slice(flush);
        black_box(&copy);
    })
}

pub(crate) fn newlines() -> Prepared {
    over_and_over(|flush| _ = black_box(memchr::memchr_iter(b'\n', flush).count()))
}

pub(crate) fn scan() -> Prepared {
    over(flush(), |flush| _ = black_box(line::lines(flush).filter(Result::is_ok).count()))
}

pub(crate) fn parse() -> Prepared {
    let read = |line: Line<'_>| {
        line.tags().for_each(|tag| _ = black_box(tag));
        line.fields().for_each(|field| _ = black_box(field));
    };
    over(flush(), move |flush| line::lines(flush).filter_map(Result::ok).for_each(read))
}

pub(crate) fn compare_parse() -> Prepared {
    over(flush(), |flush| {
        let text = std::str::from_utf8(flush).unwrap_or_default();
        black_box(influxdb_line_protocol::parse_lines(text).filter(Result::is_ok).count());
    })
}

pub(crate) fn decode() -> Prepared {
    over(flush(), |flush| _ = black_box(batch::decode(flush, &options())))
}

pub(crate) fn decode_json() -> Prepared {
    over(flush_json(), |flush| _ = black_box(batch::decode(flush, &options())))
}

fn options() -> Options<'static> {
    Options {
        precision: None,
        collector: None,
        received_ns: NOW_NS,
        envelope_bytes_max: 512 << 10,
        envelope_bound_by: None,
        collectors_max: 1_000,
    }
}

pub(crate) fn encode_json() -> Prepared {
    let mut text = Vec::new();
    over(flush(), move |flush| {
        text.clear();
        write_json(&mut text, flush);
        black_box(&text);
    })
}

pub(crate) fn read_json() -> Prepared {
    let mut text = Vec::new();
    write_json(&mut text, &flush());
    over(text, |text| _ = black_box(serde_json::from_slice::<serde_json::Value>(text).is_ok()))
}

fn write_json(text: &mut Vec<u8>, flush: &[u8]) {
    json::write_metrics(text, line::lines(flush).filter_map(Result::ok), NOW_NS);
}
