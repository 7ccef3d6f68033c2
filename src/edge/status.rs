//! What an edge adds to its node's status: the collectors whose envelopes it sees, and where it is in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::edge::Edge;
use crate::edge::sequencer::Ordered;
use crate::ops::log::{Followed, Follows};
use crate::ops::node::StatusSection;
use crate::proto::channel::CollectorId;
use crate::sync::Locked;

/// Collectors remembered; those that are gone make room, and where all are present, newcomers are not listed.
const COLLECTORS_MAX: usize = 10_000;
/// A collector that wrote nothing for so long counts as gone. Telegraf's default flush is every ten seconds.
const PRESENT: Duration = Duration::from_secs(30);

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

    fn describe(&self) -> (bool, Value) {
        // The live flow waits for the lock: nothing is written under it.
        let mut rows: Vec<(CollectorId, Seen)> =
            self.0.with(|table| table.seen.iter().map(|(id, seen)| (id.clone(), *seen)).collect());
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let present = rows.iter().any(|(_, seen)| seen.last.elapsed() < PRESENT);
        let row = |(id, seen): (CollectorId, Seen)| {
            json!({
                "id": id.as_str(),
                "connected": seen.last.elapsed() < PRESENT,
                "transport": "log",
                "last_frame_age_ms": seen.last.elapsed().as_millis() as u64,
                "envelopes": seen.envelopes,
            })
        };
        (present, rows.into_iter().map(row).collect())
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
        let (present, collectors) = self.0.shared.collectors.describe();
        // An ingest in the same process knows its collectors better.
        if !status.contains_key("collectors") {
            status.insert("collector_connected".to_owned(), present.into());
            status.insert("collectors".to_owned(), collectors);
        }
        let offset = self.0.hub.get().map(|hub| hub.head().offset.token());
        status.insert("offset".to_owned(), offset.into());
    }
}
