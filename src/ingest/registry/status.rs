//! The collectors' part of `/api/metrics/status`.

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::ingest::registry::{Collector, Registry, Transport};
use crate::ops::listing::{Collectors, PRESENT, Row};
use crate::ops::node::StatusSection;
use crate::proto::channel::CollectorId;

impl StatusSection for Registry {
    fn describe(&self, _status: &mut Map<String, Value>) {}

    fn collectors(&self) -> Option<Collectors> {
        let now = Instant::now();
        // Sessions that take metrics in wait for the lock: nothing is written under it.
        let (open, known) = self.state.with(|state| {
            let known: Vec<(CollectorId, Collector)> =
                state.collectors.iter().map(|(id, collector)| (id.clone(), collector.clone())).collect();
            (state.claims.len(), known)
        });
        let rows: Vec<Row> = known.into_iter().map(|(id, collector)| row(id, &collector, now)).collect();
        let any_connected = Some(open > 0 || rows.iter().any(|row| row.connected == Some(true)));
        Some(Collectors { rows, any_connected })
    }

    fn busiest(&self, most: usize) -> Vec<(CollectorId, f64)> {
        let now = Instant::now();
        self.state.with(|state| {
            let mut rates: Vec<_> =
                state.collectors.iter().map(|(id, collector)| (id, collector.rate.at(now))).collect();
            // All of them are looked at, and only these put in order.
            if rates.len() > most {
                rates.select_nth_unstable_by(most, |(_, a), (_, b)| b.total_cmp(a));
                rates.truncate(most);
            }
            rates.sort_unstable_by(|(_, a), (_, b)| b.total_cmp(a));
            rates.into_iter().map(|(id, rate)| (id.clone(), rate)).collect()
        })
    }
}

fn row(id: CollectorId, collector: &Collector, now: Instant) -> Row {
    let holder = collector.holder.as_ref();
    let age = now.saturating_duration_since(collector.seen);
    let errors: Vec<Value> = collector
        .recent_errors
        .iter()
        .map(|(at, error)| {
            json!({"at": at.to_string(), "line": error.line, "column": error.column, "message": error.message})
        })
        .collect();
    let about = json!({
        "transport": match collector.transport {
            Transport::WebSocket => "websocket",
            Transport::Http => "http",
        },
        "remote": collector.remote.map(|remote| remote.to_string()),
        "connected_since": holder.map(|holder| holder.since.to_string()),
        "last_frame_age_ms": age.as_millis() as u64,
        "lines_accepted": collector.lines_accepted,
        "lines_rejected": collector.lines_rejected,
        "lines_per_second": (collector.rate.at(now) * 10.0).round() / 10.0,
        "bytes_received": collector.bytes_received,
        "recent_errors": errors,
    });
    Row { id, connected: Some(holder.is_some() || age < PRESENT), about }
}
