//! How many series the filters of a client have now, for its `welcome` and `ack`: nothing that matches is mostly a mistake, such as
//! braces that a shell has taken out of a URL.
//!
//! Without conditions on tags the counts are kept, and asking costs some lookups. With conditions the last values have to be looked
//! at, which is bounded: in series per look, in looks per second over all clients, and not at all while somebody else has them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Hub;
use crate::edge::series::Count;
use crate::proto::filter::FilterSet;

/// So many series are looked at for one answer: about a millisecond.
const SERIES_MAX: usize = 4_096;
/// Looks in a second: what more clients ask for with other conditions is not counted.
const LOOKS_MAX: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

/// What was counted in the last second.
#[derive(Default)]
pub(super) struct Looks {
    since: Option<Instant>,
    counted: HashMap<FilterSet, Option<u64>>,
}

impl Looks {
    /// What is known of these filters; nothing if they have to be counted, and `Some(None)` if nobody may now.
    fn known(&mut self, filters: &FilterSet, now: Instant) -> Option<Option<u64>> {
        if self.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            self.since = Some(now);
            self.counted.clear();
        }
        let known = self.counted.get(filters).copied();
        known.or_else(|| (self.counted.len() >= LOOKS_MAX).then_some(None))
    }
}

impl Hub {
    /// How many series the filters let through, where that is known at little cost.
    pub(crate) fn matching(&self, filters: &FilterSet) -> Option<u64> {
        match self.counts.of(filters) {
            Count::Exactly(count) => return Some(count),
            Count::Unknown => return None,
            Count::AtMost(_) => {}
        }
        let now = Instant::now();
        if let Some(known) = self.looks.with(|looks| looks.known(filters, now)) {
            return known;
        }
        let count = self.values.try_with(|values| {
            self.apply_to(values);
            (values.series.len() <= SERIES_MAX).then(|| values.series.count(filters))
        });
        self.settle();
        // Somebody else had them: the next one may be luckier.
        let count = count?;
        self.looks.with(|looks| looks.counted.insert(filters.clone(), count));
        count
    }
}
