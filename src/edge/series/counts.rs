//! How many series a filter has, without looking at them: for clients that want to know whether theirs means anything. Pure.
//!
//! Series are counted by channel, by collector and by measurement, under a lock of their own: a storm of clients neither waits for
//! a task that copies last values, nor holds them up. Names are kept as hashes, so a name costs some bytes whatever its length; two that
//! share one would be counted together, which is bearable for a hint.

use std::collections::HashMap;
use std::hash::Hash;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::proto::channel::Channel;
use crate::proto::filter::{Filter, FilterSet};
use crate::sync::Locked;

/// What a channel's counts cost at most, in bytes: three entries of hash tables that have just grown.
pub(super) const CHANNEL_BYTES: usize = 3 * 2 * 18;

/// See the module.
pub(crate) struct SeriesCounts(Locked<Counts>);

/// How many series match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// So many.
    Exactly(u64),
    /// At most so many, and at least one channel has some: to know which, look at their tags.
    AtMost(u64),
    /// Last values are still being read from the log.
    Unknown,
}

#[derive(Default)]
struct Counts {
    all: u64,
    channels: HashMap<u64, u32>,
    collectors: HashMap<u64, u32>,
    measurements: HashMap<u64, u32>,
    /// Older values are still being read: what is not there may come.
    is_partial: bool,
}

impl SeriesCounts {
    pub(super) fn new() -> Self {
        Self(Locked::leaf("counts of series", Counts::default()))
    }

    /// One series more of a channel.
    pub(super) fn add(&self, channel: &Channel) {
        let (collector, measurement) = hashes(channel.collector.as_str(), &channel.measurement);
        let both = joined(collector, &channel.measurement);
        self.0.with(|counts| {
            counts.all += 1;
            *counts.channels.entry(both).or_default() += 1;
            *counts.collectors.entry(collector).or_default() += 1;
            *counts.measurements.entry(measurement).or_default() += 1;
        });
    }

    /// One series less.
    pub(super) fn remove(&self, channel: &Channel) {
        let (collector, measurement) = hashes(channel.collector.as_str(), &channel.measurement);
        let both = joined(collector, &channel.measurement);
        self.0.with(|counts| {
            counts.all -= 1;
            take_one(&mut counts.channels, both);
            take_one(&mut counts.collectors, collector);
            take_one(&mut counts.measurements, measurement);
        });
    }

    /// Whether older values are still being read.
    pub(super) fn set_partial(&self, is_partial: bool) {
        self.0.with(|counts| counts.is_partial = is_partial);
    }

    /// The series that filters let through. A few lookups per filter, and one per pair of those that name one part each.
    pub(crate) fn of(&self, filters: &FilterSet) -> Count {
        let (tagged, plain): (Vec<&Filter>, Vec<&Filter>) =
            filters.filters().iter().partition(|filter| filter.has_predicates());
        self.0.with(|counts| {
            if counts.is_partial {
                return Count::Unknown;
            }
            if filters.is_everything() {
                return Count::Exactly(counts.all);
            }
            let tagged: u64 = tagged.into_iter().map(|filter| counts.of_channels(&[filter])).sum();
            let plain = counts.of_channels(&plain);
            if tagged == 0 { Count::Exactly(plain) } else { Count::AtMost(counts.all.min(plain + tagged)) }
        })
    }
}

impl Counts {
    /// Series of the channels of these filters, of which none covers another.
    fn of_channels(&self, filters: &[&Filter]) -> u64 {
        let (mut collectors, mut measurements) = (Vec::new(), Vec::new());
        let mut count = 0;
        for filter in filters {
            match filter.names() {
                (None, None) => return self.all,
                (Some(collector), None) => collectors.push(xxh3_64(collector.as_bytes())),
                (None, Some(measurement)) => measurements.push(measurement),
                (Some(collector), Some(measurement)) => {
                    count += get(&self.channels, joined(xxh3_64(collector.as_bytes()), measurement));
                }
            }
        }
        count += collectors.iter().map(|collector| get(&self.collectors, *collector)).sum::<u64>();
        for measurement in measurements {
            count += get(&self.measurements, xxh3_64(measurement.as_bytes()));
            // Counted with their collector already.
            let twice =
                collectors.iter().map(|collector| get(&self.channels, joined(*collector, measurement)));
            count -= twice.sum::<u64>();
        }
        count
    }
}

fn hashes(collector: &str, measurement: &str) -> (u64, u64) {
    (xxh3_64(collector.as_bytes()), xxh3_64(measurement.as_bytes()))
}

fn joined(collector: u64, measurement: &str) -> u64 {
    xxh3_64_with_seed(measurement.as_bytes(), collector)
}

fn get<K: Eq + Hash>(counts: &HashMap<K, u32>, key: K) -> u64 {
    u64::from(counts.get(&key).copied().unwrap_or(0))
}

fn take_one(counts: &mut HashMap<u64, u32>, key: u64) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
