//! What single steps cost. Each step is written once, here; `benches/time.rs` times it, `benches/instructions.rs` counts its
//! instructions, and the program of this package puts both into one table.
//!
//! Counts are what to compare before and after a change: they are the same on a busy machine. They do not know caches and
//! branches; times do.
//!
//! * [`input`]: what steps work on.
//! * `lines`: line protocol and JSON. `filters`: which views want an envelope. `frames`: WebSocket. `edge`: ring, views, batches.

pub mod input;

mod edge;
mod filters;
mod frames;
mod lines;

/// One step: what is measured, and in which unit.
pub struct Step {
    /// Its name on the command line and in files.
    pub id: &'static str,
    /// What it does.
    pub title: &'static str,
    /// What the cost is given for: a metric, a frame, …
    pub per: &'static str,
    /// Makes everything that is not to be measured.
    prepare: fn() -> Prepared,
}

/// A step that is ready to run, any number of times.
pub struct Prepared {
    /// How many things (see [`Step::per`]) a run works through.
    pub things: u64,
    /// How many bytes a run works through; 0 where they say nothing.
    pub bytes: u64,
    work: Box<dyn Work>,
}

/// What is run again and again. It is long enough, some tens of microseconds, for reading a clock around it.
trait Work {
    /// Makes what a run uses up. Not measured.
    fn refill(&mut self) {}

    /// The step.
    fn run(&mut self);
}

impl<F: FnMut()> Work for F {
    fn run(&mut self) {
        self();
    }
}

impl Prepared {
    fn new(things: usize, bytes: usize, work: impl Work + 'static) -> Self {
        Self { things: things as u64, bytes: bytes as u64, work: Box::new(work) }
    }

    /// Makes what a run uses up.
    pub fn refill(&mut self) {
        self.work.refill();
    }

    /// What is measured.
    pub fn run(&mut self) {
        self.work.run();
    }
}

impl Step {
    const fn new(
        id: &'static str,
        title: &'static str,
        per: &'static str,
        prepare: fn() -> Prepared,
    ) -> Self {
        Self { id, title, per, prepare }
    }

    /// Everything but the next run, which is not the first: buffers have their size, caches are filled.
    pub fn prepare(&self) -> Prepared {
        let mut prepared = (self.prepare)();
        prepared.refill();
        prepared.run();
        prepared.refill();
        prepared
    }

    /// Where results and callers look a step up.
    pub fn find(id: &str) -> Option<&'static Self> {
        STEPS.iter().find(|step| step.id == id)
    }
}

/// All steps, in the order of the data's way. Those called "compare" are not of this product.
pub const STEPS: &[Step] = &[
    Step::new("compare_copy", "compare: copy", "metric", lines::copy),
    Step::new("compare_newlines", "compare: find line ends (memchr)", "metric", lines::newlines),
    Step::new("scan", "scan and validate lines", "metric", lines::scan),
    Step::new("parse", "parse: scan, then read all tags and fields", "metric", lines::parse),
    Step::new("compare_parse", "compare: influxdb-line-protocol 2", "metric", lines::compare_parse),
    Step::new("decode", "decode: scan, group into envelopes", "metric", lines::decode),
    Step::new("decode_json", "decode Telegraf's JSON into envelopes", "metric", lines::decode_json),
    Step::new("append", "append to the ring, no view", "envelope", edge::append),
    Step::new("encode_json", "encode as JSON: scan, write", "metric", lines::encode_json),
    Step::new("compare_read_json", "compare: read that JSON (serde_json)", "metric", lines::read_json),
    Step::new("match_1", "match: index of 1 filter", "envelope", filters::one),
    Step::new("match_100", "match: index of 100 filters", "envelope", filters::hundred),
    Step::new("match_1000", "match: index of 1,000 filters", "envelope", filters::thousand),
    Step::new("match_none_1000", "match: 1,000 filters, none wants it", "envelope", filters::none),
    Step::new("append_view", "append, one view of everything", "envelope", edge::append_view),
    Step::new("append_views", "append, 1,000 views, ten want a line each", "envelope", edge::append_views),
    Step::new("append_no_view", "append, 1,000 views, none wants it", "envelope", edge::append_no_view),
    Step::new("batch_1", "build a batch of 1 frame", "frame", edge::batch_1),
    Step::new("batch_16", "build a batch of 16 frames", "frame", edge::batch_16),
    Step::new("batch_256", "build a batch of 256 frames", "frame", edge::batch_256),
    Step::new("progress_whole", "progress: a batch of 16 taken whole", "write", edge::progress_whole),
    Step::new("progress_part", "progress: half of it taken", "write", edge::progress_part),
    Step::new("write_rest", "finish a frame, pong behind it, two writes", "frame", edge::write_rest),
    Step::new("frame_encode", "frame 512 bytes", "frame", frames::encode),
    Step::new("frame_mask", "frame and mask 512 bytes, as clients do", "frame", frames::mask),
    Step::new("frame_unmask", "read a masked message of 512 bytes", "frame", frames::unmask),
    Step::new("frame_ping", "read a masked ping of 4 bytes", "frame", frames::ping),
    Step::new("read_subscribe", "read a client's `subscribe`", "message", frames::subscribe),
];
