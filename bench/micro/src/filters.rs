//! Which filter sets want an envelope of ten lines. Lines have been read before: that is another step.

use std::hint::black_box;

use telecast::broker::Stored;
use telecast::proto::filter::{FilterIndex, FilterSet};
use telecast::proto::line::{self, Line};

use crate::Prepared;
use crate::input::{LINES, envelope};

/// Envelopes of one run.
const ENVELOPES: usize = 100;

pub(crate) fn one() -> Prepared {
    search(1, "web")
}

pub(crate) fn hundred() -> Prepared {
    search(100, "web")
}

pub(crate) fn thousand() -> Prepared {
    search(1_000, "web")
}

pub(crate) fn none() -> Prepared {
    search(1_000, "other")
}

/// As many filters as there are hosts, so each line is wanted by exactly one (or, with another prefix, by none).
fn search(filters: u64, prefix: &str) -> Prepared {
    let mut index = FilterIndex::default();
    for (number, filters) in host_filters(filters, prefix).enumerate() {
        index.insert(&filters, number);
    }
    let envelopes: Vec<Stored> = (0..ENVELOPES as u64).map(|at| envelope(at, filters)).collect();
    let bytes = envelopes.iter().map(|stored| stored.envelope.lines.len()).sum();
    // Lines borrow from their envelope, and both are to live as long as the step.
    let envelopes: &'static [Stored] = envelopes.leak();
    let lines: Vec<Vec<Line<'static>>> = envelopes
        .iter()
        .map(|stored| line::lines(&stored.envelope.lines).filter_map(Result::ok).collect())
        .collect();
    debug_assert!(lines.iter().all(|lines| lines.len() == LINES));
    Prepared::new(ENVELOPES, bytes, move || {
        for (stored, lines) in envelopes.iter().zip(&lines) {
            index.find(&stored.envelope.channel, || lines).for_each(|found| _ = black_box(found));
        }
    })
}

/// Filter sets that name one host each.
pub(crate) fn host_filters(count: u64, prefix: &str) -> impl Iterator<Item = FilterSet> {
    let filter = move |host: u64| {
        let text = format!("*.cpu{{host={prefix}-{host:04}}}");
        FilterSet::parse([text.as_str()]).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    (0..count).map(filter)
}
