//! Instructions of the steps, counted by callgrind: `cargo bench --bench instructions`. Needs valgrind and the runner of the same
//! version as the library; `make bench-micro` installs that one.

#![allow(missing_docs, reason = "what the macros make has none")]

use gungraun::{library_benchmark, library_benchmark_group, main};
use micro::{Prepared, Step};

fn prepare(id: &str) -> Prepared {
    match Step::find(id) {
        Some(step) => step.prepare(),
        None => panic!("there is no step {id}: list here what micro::STEPS lists"),
    }
}

// One run. It gives back what it was given, so that tearing that down is not counted.
#[library_benchmark(setup = prepare)]
#[bench::compare_copy("compare_copy")]
#[bench::compare_newlines("compare_newlines")]
#[bench::scan("scan")]
#[bench::parse("parse")]
#[bench::compare_parse("compare_parse")]
#[bench::decode("decode")]
#[bench::decode_json("decode_json")]
#[bench::append("append")]
#[bench::encode_json("encode_json")]
#[bench::compare_read_json("compare_read_json")]
#[bench::match_1("match_1")]
#[bench::match_100("match_100")]
#[bench::match_1000("match_1000")]
#[bench::match_none_1000("match_none_1000")]
#[bench::append_view("append_view")]
#[bench::append_views("append_views")]
#[bench::append_no_view("append_no_view")]
#[bench::batch_1("batch_1")]
#[bench::batch_16("batch_16")]
#[bench::batch_256("batch_256")]
#[bench::progress_whole("progress_whole")]
#[bench::progress_part("progress_part")]
#[bench::write_rest("write_rest")]
#[bench::frame_encode("frame_encode")]
#[bench::frame_mask("frame_mask")]
#[bench::frame_unmask("frame_unmask")]
#[bench::frame_ping("frame_ping")]
#[bench::read_subscribe("read_subscribe")]
fn step(mut prepared: Prepared) -> Prepared {
    prepared.run();
    prepared
}

library_benchmark_group!(name = steps, benchmarks = step);
main!(library_benchmark_groups = steps);
