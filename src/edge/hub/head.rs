//! The newest place of the log on this edge, and what it means for sessions that are somewhere else. Pure.

use std::sync::Arc;

use crate::edge::ring::Index;
use crate::proto::offset::Offset;

/// The newest place of the log on this edge.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Its index in the ring.
    pub(crate) index: Index,
    /// Its offset.
    pub(crate) offset: Arc<Offset>,
    /// How often the log has turned out to be another one.
    pub(crate) resets: u64,
    /// Where it has gone back to, if the last time it was the same one without its newest part.
    pub(crate) back: Option<Back>,
}

/// Where the log has gone on from after it had gone back: what was behind that is not what is behind it now.
#[derive(Clone, Debug)]
pub(crate) struct Back {
    /// The place.
    pub(crate) to: Arc<Offset>,
    /// The ring's index of it.
    pub(crate) index: Index,
}

impl Head {
    /// How many of the resets a session knows of that has got everything up to `index`, as far as it matters.
    pub(crate) fn resets_known_at(&self, index: Index) -> u64 {
        let missed = self.back.as_ref().is_some_and(|back| index < back.index);
        self.resets - u64::from(missed)
    }

    /// Where a session has to go on that is at `at`, and has not been told of the last reset, in the same epoch.
    pub(crate) fn back_from(&self, at: &Offset) -> Option<Arc<Offset>> {
        let to = self.back.as_ref().map_or(&self.offset, |back| &back.to);
        (!at.is_at_or_before(to)).then(|| to.clone())
    }
}
