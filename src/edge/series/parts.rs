//! Metrics as parts of messages: by collector, and of bounded size. Pure.

use crate::edge::encode;
use crate::edge::series::Extract;
use crate::proto::channel::CollectorId;
use crate::proto::line;
use crate::proto::message::Format;

/// A part ends when its metrics have so many bytes: as few messages as that allows, none of which holds up a slow socket.
/// A metric that is larger has one for itself.
pub(crate) const PART_BYTES_MAX: usize = 64 * 1024;

/// The same of a snapshot. A session that does not read holds the message it has begun beyond the room of snapshots: a thousand of
/// them 16 MiB.
const SNAPSHOT_PART_BYTES_MAX: usize = 16 * 1024;

/// Metrics of one message.
pub(crate) struct Part {
    /// Whose they are. Line protocol does not tell collectors apart: there, whose the first one is.
    pub(crate) collector: CollectorId,
    /// Encoded, with commas between them in JSON.
    pub(crate) metrics: Vec<u8>,
}

/// Parts in the making.
pub(crate) struct Parts {
    format: Format,
    part_bytes_max: usize,
    parts: Vec<Part>,
}

impl Parts {
    /// None yet.
    pub(crate) fn new(format: Format, part_bytes_max: usize) -> Self {
        Self { format, part_bytes_max, parts: Vec::new() }
    }

    /// Adds a metric as [`encode::write_line`] writes it. Those of one collector should come one after the other.
    pub(crate) fn add(&mut self, collector: &CollectorId, metric: &[u8]) {
        // Line protocol does not tell collectors apart, so its messages need not either.
        let goes_on = |part: &&mut Part| {
            part.metrics.len() + metric.len() <= self.part_bytes_max
                && (self.format.is_lines() || part.collector == *collector)
        };
        if let Some(part) = self.parts.last_mut().filter(goes_on) {
            if self.format == Format::Json {
                part.metrics.push(b',');
            }
            part.metrics.extend_from_slice(metric);
        } else {
            self.parts.push(Part { collector: collector.clone(), metrics: metric.to_vec() });
        }
    }

    /// In which format they are.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// All of them.
    pub(crate) fn finish(self) -> Vec<Part> {
        self.parts
    }
}

impl Extract {
    /// The values in `format`. What they were copied from is let go on the way.
    pub(crate) fn into_parts(self, format: Format) -> Vec<Part> {
        let mut parts = Parts::new(format, SNAPSHOT_PART_BYTES_MAX);
        let mut metric = Vec::new();
        for group in self.groups {
            for line in line::lines(&group.lines).filter_map(Result::ok) {
                metric.clear();
                // Every line of the store has its time.
                encode::write_line(&mut metric, format, &line, 0);
                parts.add(&group.collector, &metric);
            }
        }
        parts.finish()
    }
}
