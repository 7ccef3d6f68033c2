//! All filters of one session.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::{Filter, FilterError};
use crate::proto::channel::Channel;
use crate::proto::printable::printable;

/// Most filters one session may have: each has its place in an edge's index, and is asked for every envelope that a session
/// catches up with.
pub const FILTERS_MAX: usize = 64;

/// What one session asks for: lines that pass at least one of its filters. Without any, everything. Canonical, so equal
/// sets are equal views; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterSet {
    /// Sorted, and none is covered by another.
    pub(super) filters: Arc<[Filter]>,
}

/// How much of an envelope passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Nothing.
    No,
    /// All of it, unseen.
    Whole,
    /// Those of its lines whose tags match.
    Lines,
}

/// Why filters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterSetError {
    /// A list without any. It was meant to ask for nothing, or came to be empty by mistake; neither is everything.
    #[error(
        "the list of filters is empty, which is nothing to ask for: name some, or leave it out for everything"
    )]
    Empty,
    /// More than [`FILTERS_MAX`].
    #[error(
        "a session has at most {FILTERS_MAX} filters, these are {0}: use wildcards or several connections"
    )]
    TooMany(usize),
    /// One of them cannot be read.
    #[error("filter `{filter}`: {error}")]
    Bad {
        /// As it was written, shortened when it is long.
        filter: String,
        /// What is wrong with it.
        error: FilterError,
    },
}

impl FilterSet {
    /// Puts filters together; what others cover is left out.
    pub fn new(filters: impl IntoIterator<Item = Filter>) -> Result<Self, FilterSetError> {
        let mut filters: Vec<Filter> = filters.into_iter().collect();
        if filters.len() > FILTERS_MAX {
            return Err(FilterSetError::TooMany(filters.len()));
        }
        filters.sort();
        filters.dedup();
        if filters.iter().any(Filter::is_everything) {
            filters.clear();
        }
        let kept: Vec<Filter> = filters
            .iter()
            .filter(|one| !filters.iter().any(|other| other != *one && other.covers(one)))
            .cloned()
            .collect();
        Ok(Self { filters: kept.into() })
    }

    /// Reads filters and puts them together. Callers that take a list from a client refuse an empty one, by [`FilterSetError::Empty`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, FilterSetError> {
        let texts: Vec<&str> = texts.into_iter().collect();
        if texts.len() > FILTERS_MAX {
            return Err(FilterSetError::TooMany(texts.len()));
        }
        let filters = texts
            .into_iter()
            .map(|text| text.parse().map_err(|error| FilterSetError::Bad { filter: shortened(text), error }));
        Self::new(filters.collect::<Result<Vec<Filter>, _>>()?)
    }

    /// The filters, in order; none means everything.
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Whether nothing is filtered out.
    pub fn is_everything(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether some lines have to be looked at; otherwise envelopes pass whole or not at all.
    pub fn has_predicates(&self) -> bool {
        self.filters.iter().any(Filter::has_predicates)
    }

    /// How much of an envelope of this channel passes.
    pub fn matches_channel(&self, channel: &Channel) -> Match {
        if self.is_everything() {
            return Match::Whole;
        }
        let mut found = Match::No;
        for filter in self.filters.iter().filter(|filter| filter.matches_channel(channel)) {
            if !filter.has_predicates() {
                return Match::Whole;
            }
            found = Match::Lines;
        }
        found
    }

    /// Whether one line of this channel passes, given a lookup of its tags' values.
    pub fn matches_line<'a>(&self, channel: &Channel, tag: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
        self.is_everything()
            || self.filters.iter().any(|filter| filter.matches_channel(channel) && filter.matches_tags(&tag))
    }
}

impl fmt::Display for FilterSet {
    /// The filters with spaces between them, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str(">");
        }
        for (at, filter) in self.filters.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " " })?;
            filter.fmt(f)?;
        }
        Ok(())
    }
}

/// An error message repeats a filter only up to here.
fn shortened(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 80;
    match text.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text).into_owned(),
    }
}
