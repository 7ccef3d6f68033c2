//! One message of the log.

use bytes::Bytes;

use crate::proto::channel::{Channel, CollectorId, UNKNOWN_COLLECTOR, escape_token, unescape_token};
use crate::proto::offset::Shard;

/// One message of the log: one collector, one measurement, one or more metrics as line protocol.
///
/// Envelopes that ingest wrote hold normalised lines: valid UTF-8, one metric per line (string fields may still hold
/// raw newlines), `\n` between lines and none at the end, every line with its own timestamp in nanoseconds. Envelopes that
/// other programs wrote to the subject (no [`Stamp`]) may hold anything, and readers parse them as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who measured what.
    pub channel: Channel,
    /// Written by ingest; absent on envelopes that others published.
    pub stamp: Option<Stamp>,
    /// The metrics, as line protocol.
    pub lines: Bytes,
}

/// What ingest adds to each envelope, as message headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which writer of this collector: a later one has a larger revision.
    pub revision: u64,
    /// Counts this writer's envelopes from 1.
    pub sequence: u64,
    /// When ingest had the batch in its hands, in nanoseconds since 1970.
    pub received_ns: i64,
}

/// Header names of a [`Stamp`] on the bus.
pub mod header {
    /// [`super::Stamp::revision`], decimal.
    pub const REVISION: &str = "Telecast-Revision";
    /// [`super::Stamp::sequence`], decimal.
    pub const SEQUENCE: &str = "Telecast-Sequence";
    /// [`super::Stamp::received_ns`], decimal.
    pub const RECEIVED: &str = "Telecast-Received";
}

/// `<shard>.<collector>.<measurement>`, each token escaped: the part of a subject that is the same on every log.
pub fn subject_suffix(shard: Shard, channel: &Channel) -> String {
    format!("{}.{}.{}", shard.0, escape_token(channel.collector.as_str()), escape_token(&channel.measurement))
}

/// Reads `<collector>.<measurement>` back from the tokens after the shard. Programs that publish a host name with dots
/// unescaped make more than two tokens: the last is the measurement, everything before it the collector. Whatever else
/// they publish is an envelope all the same, of the collector `unknown`: it has a place in the log, and a reader that
/// passed it over would see a hole there.
pub fn channel_of_suffix(tokens: &str) -> Channel {
    let (collector, measurement) = tokens.rsplit_once('.').unwrap_or((UNKNOWN_COLLECTOR, tokens));
    let collector = CollectorId::new(&unescape_token(collector)).unwrap_or_else(|_| CollectorId::unknown());
    Channel::new(collector, unescape_token(measurement).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_host_name_with_raw_dots_is_still_one_collector() {
        let channel = channel_of_suffix("web.example.org.cpu");
        assert_eq!(channel.collector.as_str(), "web.example.org");
        assert_eq!(&*channel.measurement, "cpu");
    }

    #[test]
    fn a_subject_that_names_no_channel_is_an_envelope_of_nobody() {
        for tokens in ["cpu", "%00.cpu", ""] {
            assert_eq!(channel_of_suffix(tokens).collector.as_str(), "unknown", "{tokens}");
        }
    }

    proptest! {
        #[test]
        fn subjects_are_reversible(collector in "[^\\p{Cc}]{1,60}", measurement in ".{0,60}") {
            let channel = Channel::new(CollectorId::new(&collector).unwrap(), measurement.as_str());
            let suffix = subject_suffix(Shard(3), &channel);
            let tokens = suffix.strip_prefix("3.").unwrap();
            prop_assert_eq!(channel_of_suffix(tokens), channel);
        }
    }
}
