//! The channels that this node has taken in lately: how many there are, and how fast they grow.
//!
//! A channel costs for as long as the log remembers it: the log keeps its newest message apart, each edge its last values. An
//! agent that writes a number into a measurement's name, or one that makes up host names, would fill them all. What is known
//! goes on whatever others do; what is new finds a limit per collector and second, one per collector, and one in all.
//!
//! Known is the hash of a channel, with a seed that nobody else knows; two channels with one hash count as one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::ChannelLimits;
use crate::ingest::batch::{Decoded, Refusal};
use crate::ops::meters::LineRejection;
use crate::ops::node::StatusSection;
use crate::proto::channel::Channel;
use crate::sync::Locked;

/// Channels that are gone are looked for at most once in this time: a look at 200,000 takes some milliseconds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// A refusal is warned of for so long.
const CONCERN: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Channels {
    limits: ChannelLimits,
    seed: u64,
    started: Instant,
    table: Locked<Table>,
    known: Gauge,
}

/// Bounded by `channels_max`: at 24 bytes a channel and 24 a collector, and a hash table's room to spare, 13 MiB for 200,000
/// collectors with one each.
#[derive(Default)]
struct Table {
    channels: HashMap<u64, Seen>,
    collectors: HashMap<u64, Share>,
    swept: Option<Instant>,
    refused: Option<(Instant, Limit)>,
    lines_refused: u64,
}

/// A channel.
struct Seen {
    collector: u64,
    /// Seconds since the node started.
    last_s: u32,
}

/// One collector's part.
struct Share {
    channels: usize,
    /// New channels that it may bring now.
    tokens: f64,
    filled: Instant,
}

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// New channels of one collector per second.
    Rate,
    /// Channels of one collector.
    Collector,
    /// Channels in all.
    Node,
}

impl Channels {
    /// Knows nothing yet; shows in `known` how much it knows.
    pub(super) fn new(limits: ChannelLimits, known: Gauge) -> Arc<Self> {
        let table = Locked::empty("channels taken in lately");
        Arc::new(Self { limits, seed: fastrand::u64(..), started: Instant::now(), table, known })
    }

    /// Takes out of a message what belongs to new channels beyond the limits.
    pub(super) fn admit(&self, decoded: &mut Decoded, now: Instant) {
        let known = self.table.with(|table| {
            decoded.refuse(|draft| {
                let limit = self.refuses(table, &draft.channel, now)?;
                table.refused = Some((now, limit));
                table.lines_refused += draft.metrics;
                Some(Refusal {
                    kind: LineRejection::TooManyChannels,
                    message: self.message(limit, &draft.channel),
                })
            });
            table.channels.len()
        });
        self.known.set(known as f64);
    }

    fn refuses(&self, table: &mut Table, channel: &Channel, now: Instant) -> Option<Limit> {
        let collector = xxh3_64_with_seed(channel.collector.as_str().as_bytes(), self.seed);
        let measurement = xxh3_64_with_seed(channel.measurement.as_bytes(), self.seed.rotate_left(32));
        let key = collector.rotate_left(1) ^ measurement;
        let now_s = u32::try_from(now.saturating_duration_since(self.started).as_secs()).unwrap_or(u32::MAX);
        if let Some(seen) = table.channels.get_mut(&key) {
            seen.last_s = now_s;
            return None;
        }
        let limits = &self.limits;
        if table.channels.len() >= limits.channels_max {
            table.sweep(now, now_s, limits.age_max);
        }
        if table.channels.len() >= limits.channels_max {
            return Some(Limit::Node);
        }
        let rate = limits.new_per_second_max as f64;
        let share =
            table.collectors.entry(collector).or_insert(Share { channels: 0, tokens: rate, filled: now });
        if share.channels >= limits.per_collector_max {
            return Some(Limit::Collector);
        }
        let passed = now.saturating_duration_since(share.filled).as_secs_f64();
        (share.tokens, share.filled) = ((share.tokens + passed * rate).min(rate), now);
        if share.tokens < 1.0 {
            return Some(Limit::Rate);
        }
        share.tokens -= 1.0;
        share.channels += 1;
        table.channels.insert(key, Seen { collector, last_s: now_s });
        None
    }

    fn message(&self, limit: Limit, channel: &Channel) -> String {
        let (max, key, of) = match limit {
            Limit::Rate => {
                (self.limits.new_per_second_max, "new_channels_per_second_max", "new ones per second")
            }
            Limit::Collector => {
                (self.limits.per_collector_max, "channels_per_collector_max", "of one collector")
            }
            Limit::Node => (self.limits.channels_max, "channels_max", "on this node"),
        };
        let name = format!("{}.{}", channel.collector, channel.measurement);
        format!(
            "{name:?} is a new channel, and there are {max} {of} already (collector.{key}): keep what changes out of the names of \
             hosts and measurements, or raise the limit"
        )
    }
}

impl Table {
    /// Forgets channels that the log has forgotten.
    fn sweep(&mut self, now: Instant, now_s: u32, age_max: Duration) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_INTERVAL) {
            return;
        }
        self.swept = Some(now);
        let age_max_s = u32::try_from(age_max.as_secs()).unwrap_or(u32::MAX);
        let Self { channels, collectors, .. } = self;
        for (_, gone) in channels.extract_if(|_, seen| now_s.saturating_sub(seen.last_s) > age_max_s) {
            if let Some(share) = collectors.get_mut(&gone.collector) {
                share.channels -= 1;
            }
        }
        collectors.retain(|_, share| share.channels > 0);
    }
}

impl StatusSection for Channels {
    fn describe(&self, status: &mut Map<String, Value>) {
        let (known, refused) = self.table.with(|table| (table.channels.len(), table.lines_refused));
        let max = self.limits.channels_max;
        status.insert("channels".to_owned(), json!({"known": known, "max": max, "lines_refused": refused}));
    }

    fn concern(&self) -> Option<String> {
        let (at, limit) = self.table.with(|table| table.refused)?;
        if at.elapsed() >= CONCERN {
            return None;
        }
        let (key, max) = match limit {
            Limit::Rate => ("new_channels_per_second_max", self.limits.new_per_second_max),
            Limit::Collector => ("channels_per_collector_max", self.limits.per_collector_max),
            Limit::Node => ("channels_max", self.limits.channels_max),
        };
        Some(format!(
            "lines of new channels are refused: more come than collector.{key} = {max} allows; known channels go on. \
             ws_lines_rejected_total{{kind=\"too_many_channels\"}} counts them, recent_errors in /api/metrics/status names them"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::batch::{self, Options};

    const LIMITS: ChannelLimits = ChannelLimits {
        channels_max: 100,
        per_collector_max: 10,
        new_per_second_max: 4,
        age_max: Duration::from_secs(60),
    };

    fn channels(limits: ChannelLimits) -> Arc<Channels> {
        Channels::new(limits, Gauge::noop())
    }

    /// How many of a message's lines are taken, `seconds` after the start.
    fn taken(channels: &Channels, seconds: u64, lines: impl IntoIterator<Item = String>) -> u64 {
        let options = Options {
            precision: None,
            collector: None,
            received_ns: 1,
            envelope_bytes_max: 1 << 20,
            envelope_bound_by: None,
            collectors_max: usize::MAX,
        };
        let text = lines.into_iter().collect::<Vec<_>>().join("\n");
        let mut decoded = batch::decode(text.as_bytes(), &options);
        let offered = decoded.accepted();
        channels.admit(&mut decoded, channels.started + Duration::from_secs(seconds));
        assert_eq!(decoded.accepted() + decoded.rejected.of(LineRejection::TooManyChannels), offered);
        decoded.accepted()
    }

    /// One line each of so many measurements of a host.
    fn measurements(host: &str, range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("m{n},host={host} v=1 1")).collect()
    }

    #[test]
    fn a_collector_brings_so_many_new_channels_per_second_and_in_all_and_its_known_ones_go_on() {
        let channels = channels(LIMITS);
        assert_eq!(taken(&channels, 0, measurements("a", 0..6)), 4, "at once");
        assert_eq!(taken(&channels, 0, measurements("b", 0..4)), 4, "another collector has its own part");
        assert_eq!(taken(&channels, 1, measurements("a", 0..10)), 8, "four more a second later");
        assert_eq!(taken(&channels, 9, measurements("a", 0..20)), 10, "and then no more");
        assert_eq!(taken(&channels, 10, measurements("a", 0..10)), 10, "known ones go on");
    }

    #[test]
    fn a_node_takes_so_many_channels_and_whoever_is_known_is_not_hurt() {
        let channels = channels(LIMITS);
        assert_eq!(taken(&channels, 0, measurements("honest", 0..2)), 2);
        let made_up = || (0..100_000).map(|n| format!("m,host=h{n} v=1 1"));
        assert_eq!(taken(&channels, 0, made_up()), 98);
        assert_eq!(taken(&channels, 1, measurements("honest", 0..3)), 2);
        channels.table.with(|table| assert_eq!((table.channels.len(), table.collectors.len()), (100, 99)));
        let concern = channels.concern().unwrap();
        assert!(concern.contains("collector.channels_max = 100"), "{concern}");
        // What the log has forgotten makes room.
        assert_eq!(taken(&channels, 62, measurements("honest", 0..2)), 2);
        assert_eq!(taken(&channels, 70, measurements("late", 0..3)), 3);
        channels.table.with(|table| assert_eq!((table.channels.len(), table.collectors.len()), (5, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn health_warns_for_a_minute_after_a_refusal() {
        let channels = channels(LIMITS);
        assert_eq!(channels.concern(), None);
        taken(&channels, 0, measurements("a", 0..5));
        assert!(channels.concern().unwrap().contains("collector.new_channels_per_second_max = 4"));
        tokio::time::advance(CONCERN).await;
        assert_eq!(channels.concern(), None);
    }
}
