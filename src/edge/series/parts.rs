//! Last values as parts of messages: by collector, and of bounded size. Pure.

use crate::edge::encode;
use crate::edge::series::Extract;
use crate::proto::channel::CollectorId;
use crate::proto::line;
use crate::proto::message::Format;

/// A part ends when its metrics have so many bytes: as few messages as that allows, none of which holds up a slow socket.
/// A metric that is larger has one for itself.
const PART_BYTES_MAX: usize = 64 * 1024;

/// Metrics of one message.
pub(crate) struct Part {
    /// Whose they are. Line protocol does not tell collectors apart: there, whose the first one is.
    pub(crate) collector: CollectorId,
    /// Encoded, with commas between them in JSON.
    pub(crate) metrics: Vec<u8>,
}

impl Extract {
    /// The values in `format`. What they were copied from is let go on the way.
    pub(crate) fn into_parts(self, format: Format) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut metric = Vec::new();
        for group in self.groups {
            for line in line::lines(&group.lines).filter_map(Result::ok) {
                metric.clear();
                // Every line of the store has its time.
                encode::write_line(&mut metric, format, &line, 0);
                match parts.last_mut() {
                    Some(part)
                        if part.metrics.len() + metric.len() <= PART_BYTES_MAX
                            && (format == Format::Influx || part.collector == group.collector) =>
                    {
                        if format == Format::Json {
                            part.metrics.push(b',');
                        }
                        part.metrics.extend_from_slice(&metric);
                    }
                    _ => {
                        parts.push(Part { collector: group.collector.clone(), metrics: metric.clone() });
                    }
                }
            }
        }
        parts
    }
}
