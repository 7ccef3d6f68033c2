//! The collectors' part of `/api/metrics/status`.

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::ingest::registry::{Collector, Registry, Transport};
use crate::ops::node::StatusSection;
use crate::proto::channel::CollectorId;

impl StatusSection for Registry {
    fn describe(&self, status: &mut Map<String, Value>) {
        let now = Instant::now();
        let (open, listed) = self.state.with(|state| {
            let mut collectors: Vec<_> = state.collectors.iter().collect();
            collectors.sort_unstable_by_key(|(id, _)| *id);
            let listed: Vec<Value> =
                collectors.into_iter().map(|(id, collector)| listing(id, collector, now)).collect();
            (state.claims.len(), listed)
        });
        status.insert("collector_connected".into(), Value::Bool(open > 0));
        status.insert("collectors".into(), Value::Array(listed));
    }

    fn busiest(&self, most: usize) -> Vec<(CollectorId, f64)> {
        let now = Instant::now();
        self.state.with(|state| {
            let mut rates: Vec<_> =
                state.collectors.iter().map(|(id, collector)| (id, collector.rate.at(now))).collect();
            rates.sort_unstable_by(|(_, a), (_, b)| b.total_cmp(a));
            rates.into_iter().take(most).map(|(id, rate)| (id.clone(), rate)).collect()
        })
    }
}

fn listing(id: &CollectorId, collector: &Collector, now: Instant) -> Value {
    let holder = collector.holder.as_ref();
    let errors: Vec<Value> = collector
        .recent_errors
        .iter()
        .map(|(at, error)| {
            json!({"at": at.to_string(), "line": error.line, "column": error.column, "message": error.message})
        })
        .collect();
    json!({
        "id": id.as_str(),
        "connected": holder.is_some(),
        "transport": match collector.transport {
            Transport::WebSocket => "websocket",
            Transport::Http => "http",
        },
        "remote": collector.remote.map(|remote| remote.to_string()),
        "connected_since": holder.map(|holder| holder.since.to_string()),
        "last_frame_age_ms": now.saturating_duration_since(collector.seen).as_millis() as u64,
        "lines_accepted": collector.lines_accepted,
        "lines_rejected": collector.lines_rejected,
        "lines_per_second": (collector.rate.at(now) * 10.0).round() / 10.0,
        "bytes_received": collector.bytes_received,
        "recent_errors": errors,
    })
}
