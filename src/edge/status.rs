//! What an edge adds to its node's status: the collectors whose envelopes it sees, and where it is in the log.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::edge::Edge;
use crate::edge::sequencer::Ordered;
use crate::ops::listing::{self, PRESENT, Row};
use crate::ops::log::{Followed, Follows};
use crate::ops::node::StatusSection;
use crate::proto::channel::CollectorId;
use crate::sync::Locked;

/// Collectors remembered; those that are gone make room, and where all are present, newcomers are not listed.
const COLLECTORS_MAX: usize = 10_000;

/// Collectors, as seen through the log.
pub(crate) struct Collectors(Locked<Table>);

impl Default for Collectors {
    fn default() -> Self {
        Self(Locked::empty("collectors seen in the log"))
    }
}

#[derive(Default)]
struct Table {
    seen: HashMap<CollectorId, Seen>,
    /// When those that are gone were last removed.
    tidied: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Seen {
    last: Instant,
    envelopes: u64,
}

impl Collectors {
    /// These came.
    pub(crate) fn note(&self, arrivals: &[Ordered]) {
        let now = Instant::now();
        self.0.with(|table| table.note(arrivals, now));
    }

    /// An edge sees what collectors store, and not their connections: of one that is silent it cannot say whether it is there.
    fn listed(&self) -> listing::Collectors {
        // The live flow waits for the lock: nothing is written under it.
        let seen: Vec<(CollectorId, Seen)> =
            self.0.with(|table| table.seen.iter().map(|(id, seen)| (id.clone(), *seen)).collect());
        let row = |(id, Seen { last, envelopes }): (CollectorId, Seen)| {
            let age = last.elapsed();
            let about = json!({
                "transport": "log",
                "last_frame_age_ms": age.as_millis() as u64,
                "envelopes": envelopes,
            });
            Row { id, connected: (age < PRESENT).then_some(true), about }
        };
        let rows: Vec<Row> = seen.into_iter().map(row).collect();
        let any_connected = rows.iter().find_map(|row| row.connected);
        listing::Collectors { rows, any_connected }
    }
}

impl Table {
    fn note(&mut self, arrivals: &[Ordered], now: Instant) {
        let Self { seen, tidied } = self;
        for arrival in arrivals {
            let Ordered::Envelope(stored) = arrival else { continue };
            let collector = &stored.envelope.channel.collector;
            if let Some(seen) = seen.get_mut(collector) {
                seen.last = now;
                seen.envelopes += 1;
                continue;
            }
            if seen.len() >= COLLECTORS_MAX && tidied.is_none_or(|tidied| now - tidied >= PRESENT) {
                // All that are gone at once, and not again soon: the live flow waits for this.
                *tidied = Some(now);
                seen.retain(|_, seen| now.duration_since(seen.last) < PRESENT);
            }
            if seen.len() < COLLECTORS_MAX {
                seen.insert(collector.clone(), Seen { last: now, envelopes: 1 });
            }
        }
    }
}

impl Follows for Edge {
    fn followed(&self) -> Option<Followed> {
        let hub = self.hub.get()?;
        Some(Followed { sequences: hub.head().offset.sequences.to_vec(), stored_ns: hub.stored_ns() })
    }
}

/// The section of an edge.
pub(crate) struct Section(pub(crate) Arc<Edge>);

impl StatusSection for Section {
    fn describe(&self, status: &mut Map<String, Value>) {
        let offset = self.0.hub.get().map(|hub| hub.head().offset.token());
        status.insert("offset".to_owned(), offset.into());
    }

    /// An ingest in the same process knows its collectors better, and is asked first.
    fn collectors(&self) -> Option<listing::Collectors> {
        Some(self.0.shared.collectors.listed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::broker::Stored;
    use crate::proto::channel::Channel;
    use crate::proto::envelope::Envelope;

    #[tokio::test(start_paused = true)]
    async fn an_edge_does_not_know_whether_a_silent_collector_is_connected() {
        let collectors = Collectors::default();
        assert_eq!(collectors.listed().any_connected, None);
        let channel = Channel::new(CollectorId::new("web-01").unwrap(), "cpu");
        let envelope = Envelope { channel, stamp: None, lines: Bytes::from_static(b"cpu v=1 1") };
        collectors.note(&[Ordered::Envelope(Stored { sequence: 1, stored_ns: 1, envelope })]);
        let connected = || (collectors.listed().any_connected, collectors.listed().rows[0].connected);
        assert_eq!(connected(), (Some(true), Some(true)));
        tokio::time::advance(PRESENT + Duration::from_secs(1)).await;
        assert_eq!(connected(), (None, None));
    }
}
