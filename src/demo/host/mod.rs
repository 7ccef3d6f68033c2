//! Measures this host, under Telegraf's names.
//!
//! On Linux the numbers come from `/proc`, read by [`sampler`] and turned into metrics by pure functions, one file for each of
//! Telegraf's inputs. Elsewhere [`portable`] asks the operating system through a library, which knows less.

use crate::proto::line::write_metric;
use crate::proto::metric::{FieldValue, Metric};

mod cpu;
mod disk;
mod mem;
mod net;
mod portable;
mod processes;
mod sampler;
mod system;

pub(super) use sampler::Sampler;

type Fields = Vec<(&'static str, FieldValue<'static>)>;

/// A metric of this host, still without its host and time.
fn metric(name: &'static str, tags: &[(&'static str, &str)], fields: Fields) -> Metric<'static> {
    Metric {
        name: name.into(),
        tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).to_owned().into())).collect(),
        fields: fields.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        timestamp_ns: None,
    }
}

/// The lines of one message: every metric with its host and time, tags in order, as Telegraf's serializer has them.
fn lines(metrics: Vec<Metric<'static>>, host: &str, timestamp_ns: i64) -> Vec<u8> {
    let mut out = Vec::new();
    for mut metric in metrics {
        metric.tags.push(("host".into(), host.to_owned().into()));
        metric.tags.sort();
        metric.timestamp_ns = Some(timestamp_ns);
        // A metric without a finite field has no line, and nobody misses it.
        if write_metric(&mut out, &metric).is_ok() {
            out.push(b'\n');
        }
    }
    out
}

/// `part` of `whole` in percent; 0 of nothing.
fn percent(part: u64, whole: u64) -> FieldValue<'static> {
    FieldValue::Float(if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 })
}

/// Text of metrics as the tests compare it, without host and time.
#[cfg(test)]
fn text(metrics: &[Metric<'static>]) -> String {
    let mut out = Vec::new();
    for metric in metrics {
        write_metric(&mut out, metric).unwrap();
        out.push(b'\n');
    }
    String::from_utf8(out).unwrap()
}
