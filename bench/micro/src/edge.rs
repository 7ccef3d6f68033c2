//! The middle of an edge: from an envelope in its place to the bytes for a socket.

use std::hint::black_box;

use bytes::Bytes;
use telecast::broker::Stored;
use telecast::edge::bench::{self, Arrival, Middle};
use telecast::proto::filter::FilterSet;

use crate::filters::host_filters;
use crate::input::{LINES, envelope, small_envelope};
use crate::{Prepared, Work};

/// Small enough to be full before the first run: every appended entry then lets an old one go, as it does for most of an edge's life.
const BYTES_MAX: usize = 1 << 20;
/// Envelopes of one run.
const ENVELOPES: usize = 100;
/// Views of the steps with many.
const VIEWS: u64 = 1_000;

/// Envelopes wait to be appended.
struct Append {
    middle: Middle,
    /// Each has as many lines and bytes as any other.
    make: fn(u64) -> Stored,
    sequence: u64,
    waiting: Vec<Arrival>,
}

impl Work for Append {
    fn refill(&mut self) {
        self.middle.attend();
        let first = self.sequence + 1;
        self.sequence += ENVELOPES as u64;
        self.waiting.extend((first..=self.sequence).map(|sequence| Arrival::from((self.make)(sequence))));
    }

    fn run(&mut self) {
        self.waiting.drain(..).for_each(|arrival| self.middle.append(arrival));
    }
}

impl Append {
    /// The ring and the views are full.
    fn new(views: impl IntoIterator<Item = FilterSet>, make: fn(u64) -> Stored) -> Self {
        let middle = Middle::new(views, BYTES_MAX);
        let mut append = Self { middle, make, sequence: 0, waiting: Vec::new() };
        let lines_bytes = make(1).envelope.lines.len();
        while append.sequence < (BYTES_MAX / lines_bytes) as u64 {
            append.refill();
            append.run();
        }
        append
    }

    fn prepared(self) -> Prepared {
        let lines_bytes = (self.make)(1).envelope.lines.len();
        Prepared::new(ENVELOPES, ENVELOPES * lines_bytes, self)
    }
}

/// Each line is of another host, and comes again after as many lines as there are views.
fn of_hosts(sequence: u64) -> Stored {
    envelope(sequence, VIEWS)
}

pub(crate) fn append() -> Prepared {
    Append::new([], of_hosts).prepared()
}

pub(crate) fn append_view() -> Prepared {
    Append::new([FilterSet::default()], of_hosts).prepared()
}

pub(crate) fn append_views() -> Prepared {
    Append::new(host_filters(VIEWS, "web"), of_hosts).prepared()
}

pub(crate) fn append_no_view() -> Prepared {
    Append::new(host_filters(VIEWS, "other"), of_hosts).prepared()
}

pub(crate) fn batch_1() -> Prepared {
    batch(1)
}

pub(crate) fn batch_16() -> Prepared {
    batch(16)
}

pub(crate) fn batch_256() -> Prepared {
    batch(256)
}

/// A view of everything, with more frames of about 480 bytes than any batch takes.
fn view() -> Middle {
    Append::new([FilterSet::default()], small_envelope).middle
}

fn batch(frames: usize) -> Prepared {
    let batches = 1_024 / frames;
    let view = view();
    let wire_bytes = view.collect(frames).map_or(0, |collected| collected.wire().len());
    Prepared::new(batches * frames, batches * wire_bytes, move || {
        for _ in 0..batches {
            black_box(view.collect(black_box(frames)));
        }
    })
}

pub(crate) fn progress_whole() -> Prepared {
    progress(|wire_bytes| wire_bytes)
}

pub(crate) fn progress_part() -> Prepared {
    progress(|wire_bytes| wire_bytes / 2 + 1)
}

/// What a session learns from a write that took so much of 16 frames.
fn progress(taken: fn(usize) -> usize) -> Prepared {
    const WRITES: usize = 1_000;
    const FRAMES: usize = 16;
    let Some(batch) = view().collect(FRAMES) else { panic!("the view has fewer than {FRAMES} frames") };
    let written = taken(batch.wire().len());
    Prepared::new(WRITES, 0, move || {
        for _ in 0..WRITES {
            black_box(batch.progress(black_box(written)));
        }
    })
}

pub(crate) fn write_rest() -> Prepared {
    const FRAMES: usize = 1_000;
    let (rest, pong) = (Bytes::from(vec![0; 512]), Bytes::from_static(&[0x8A, 4, 0, 0, 0, 0]));
    debug_assert_eq!(bench::write_rest(rest.clone(), pong.clone(), 256), 1);
    Prepared::new(FRAMES, 0, move || {
        for _ in 0..FRAMES {
            black_box(bench::write_rest(rest.clone(), pong.clone(), black_box(256)));
        }
    })
}

const _: () = assert!(VIEWS.is_multiple_of(LINES as u64), "hosts come round evenly");
