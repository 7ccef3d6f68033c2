//! Sorts lines into envelopes: per collector, then per measurement, split at the envelope bound.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;

use crate::ingest::batch::{CollectorBatch, Draft, Options, UNKNOWN_COLLECTOR};
use crate::ops::meters::LineRejection;
use crate::proto::channel::{Channel, CollectorId, NAME_BYTES_MAX};

/// First allocation of an envelope's lines, in bytes: two typical Telegraf lines; it doubles from there.
const OPEN_BYTES: usize = 512;

/// The lines of one message, as they are sorted. Borrows the message: a line whose collector and measurement were seen
/// before costs two look-ups and a copy, and one like the line before it only two comparisons and a copy.
pub(super) struct Grouping<'a> {
    explicit: Option<&'a CollectorId>,
    envelope_bytes_max: usize,
    collectors_max: usize,
    envelope_bound_by: Option<&'a str>,
    collectors: Vec<Collector<'a>>,
    by_host: HashMap<Cow<'a, str>, usize>,
    last: Option<(usize, usize)>,
}

struct Collector<'a> {
    /// What the lines call it; `None` for the explicit or unknown one.
    host: Option<Cow<'a, str>>,
    id: CollectorId,
    by_measurement: HashMap<Cow<'a, str>, usize>,
    groups: Vec<Group<'a>>,
}

/// The envelopes of one channel.
pub(super) struct Group<'a> {
    measurement: Cow<'a, str>,
    channel: Channel,
    bytes_max: usize,
    bound_by: Option<&'a str>,
    full: Vec<Draft>,
    open: Vec<u8>,
    metrics: u64,
    own_timestamps: bool,
}

/// Why a well-formed line has no place.
pub(super) struct Misfit {
    pub(super) kind: LineRejection,
    pub(super) message: String,
}

/// What is said of a host that one connection, or request, has no place for.
pub(crate) fn too_many_collectors(collectors_max: usize) -> String {
    format!(
        "a connection, or a request, brings metrics of at most {collectors_max} collectors (collector.ids_per_connection_max), and \
         this host is one more: spread hosts over connections, send X-Collector-Id, or raise the limit"
    )
}

impl<'a> Grouping<'a> {
    pub(super) fn new(options: &Options<'a>) -> Self {
        Self {
            explicit: options.collector,
            envelope_bytes_max: options.envelope_bytes_max,
            collectors_max: options.collectors_max,
            envelope_bound_by: options.envelope_bound_by,
            collectors: Vec::new(),
            by_host: HashMap::new(),
            last: None,
        }
    }

    /// The group of a line with this `host` tag and this spelling of its measurement. (Two spellings of one name make
    /// two groups of one channel, which is harmless.)
    pub(super) fn group<'l>(
        &mut self,
        host: Option<Cow<'a, str>>,
        measurement: Cow<'a, str>,
        name: impl FnOnce() -> Cow<'l, str>,
    ) -> Result<&mut Group<'a>, Misfit> {
        let (collector, group) = match self.last {
            Some((collector, group)) if self.is(collector, group, host.as_deref(), &measurement) => {
                (collector, group)
            }
            _ => {
                let collector = self.collector(host)?;
                let bound = (self.envelope_bytes_max, self.envelope_bound_by);
                (collector, self.collectors[collector].group(measurement, name, bound)?)
            }
        };
        self.last = Some((collector, group));
        Ok(&mut self.collectors[collector].groups[group])
    }

    pub(super) fn finish(self) -> Vec<CollectorBatch> {
        let batches = self.collectors.into_iter().map(|collector| CollectorBatch {
            collector: collector.id,
            drafts: collector.groups.into_iter().flat_map(Group::finish).collect(),
        });
        // A collector of whom every line was too large has nothing to store.
        batches.filter(|batch| !batch.drafts.is_empty()).collect()
    }

    fn is(&self, collector: usize, group: usize, host: Option<&str>, measurement: &str) -> bool {
        let collector = &self.collectors[collector];
        collector.host.as_deref() == host && collector.groups[group].measurement == measurement
    }

    fn collector(&mut self, host: Option<Cow<'a, str>>) -> Result<usize, Misfit> {
        if let Some(&at) = self.by_host.get(host.as_deref().unwrap_or_default()) {
            return Ok(at);
        }
        let id = match (self.explicit, host.as_deref()) {
            (Some(explicit), _) => Ok(explicit.clone()),
            (None, host) => CollectorId::new(host.unwrap_or(UNKNOWN_COLLECTOR)),
        };
        let id = id.map_err(|error| Misfit {
            kind: LineRejection::Syntax,
            message: format!(
                "the host tag names no collector: {error}; send X-Collector-Id or ?collector= instead"
            ),
        })?;
        let at = self.collectors.len();
        if at >= self.collectors_max {
            return Err(Misfit { kind: LineRejection::TooManyCollectors, message: too_many_collectors(at) });
        }
        self.by_host.insert(host.clone().unwrap_or_default(), at);
        self.collectors.push(Collector { host, id, by_measurement: HashMap::new(), groups: Vec::new() });
        Ok(at)
    }
}

impl<'a> Collector<'a> {
    fn group<'l>(
        &mut self,
        measurement: Cow<'a, str>,
        name: impl FnOnce() -> Cow<'l, str>,
        (bytes_max, bound_by): (usize, Option<&'a str>),
    ) -> Result<usize, Misfit> {
        if let Some(&at) = self.by_measurement.get(&*measurement) {
            return Ok(at);
        }
        let name = name();
        if name.len() > NAME_BYTES_MAX {
            return Err(Misfit {
                kind: LineRejection::TooLarge,
                message: format!(
                    "a measurement has at most {NAME_BYTES_MAX} bytes, this one has {}",
                    name.len()
                ),
            });
        }
        let at = self.groups.len();
        self.by_measurement.insert(measurement.clone(), at);
        self.groups.push(Group {
            measurement,
            channel: Channel::new(self.id.clone(), &*name),
            bytes_max,
            bound_by,
            full: Vec::new(),
            open: Vec::with_capacity(OPEN_BYTES.min(bytes_max)),
            metrics: 0,
            own_timestamps: true,
        });
        Ok(at)
    }
}

impl Group<'_> {
    /// A whole line in nanoseconds; `own_timestamp` says whether the collector gave the time.
    pub(super) fn push_line(&mut self, line: &[u8], own_timestamp: bool) -> Result<(), Misfit> {
        self.make_room(line.len(), own_timestamp)?;
        self.open.extend_from_slice(line);
        Ok(())
    }

    /// A line without its timestamp, and the time in nanoseconds.
    pub(super) fn push(&mut self, body: &[u8], time_ns: i64, own_timestamp: bool) -> Result<(), Misfit> {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(time_ns).as_bytes();
        self.make_room(body.len() + 1 + digits.len(), own_timestamp)?;
        self.open.extend_from_slice(body);
        self.open.push(b' ');
        self.open.extend_from_slice(digits);
        Ok(())
    }

    fn make_room(&mut self, bytes: usize, own_timestamp: bool) -> Result<(), Misfit> {
        if bytes > self.bytes_max {
            return Err(Misfit {
                kind: LineRejection::TooLarge,
                message: {
                    let by = self.bound_by.map_or_else(String::new, |by| format!(": {by}"));
                    format!("a line has at most {} bytes, this one has {bytes}{by}", self.bytes_max)
                },
            });
        }
        if !self.open.is_empty() && self.open.len() + 1 + bytes > self.bytes_max {
            self.close();
        }
        if !self.open.is_empty() {
            self.open.push(b'\n');
        }
        self.metrics += 1;
        self.own_timestamps &= own_timestamp;
        Ok(())
    }

    fn close(&mut self) {
        self.full.push(Draft {
            channel: self.channel.clone(),
            lines: Bytes::from(std::mem::take(&mut self.open)),
            metrics: std::mem::take(&mut self.metrics),
            own_timestamps: std::mem::replace(&mut self.own_timestamps, true),
        });
    }

    fn finish(mut self) -> Vec<Draft> {
        if !self.open.is_empty() {
            self.close();
        }
        self.full
    }
}
