//! Stored envelopes from a place back, newest first. A batch direct get goes forwards only, so a block that ends at the place is
//! asked for, and turned around.

use std::ops::ControlFlow;

use async_nats::Message;
use serde_json::json;

use crate::broker::nats::link::Link;
use crate::broker::nats::read::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_MESSAGES_MAX, End, LAGGING_ATTEMPTS, LAGGING_PAUSE, bounds,
    direct_get, missing,
};
use crate::broker::nats::{message, stream};
use crate::broker::{BrokerError, ReadLimits, Stored};
use crate::proto::offset::{Sequence, Shard};

/// By how much smaller the next block is after one whose bytes did not fit: its oldest part is read in vain.
const CUT_FACTOR: u64 = 8;

/// A range of sequences that is read at once.
struct Block {
    until: Sequence,
    bytes: usize,
    bytes_max: usize,
    found: Vec<Stored>,
    /// The last sequence that was answered with, of whatever kind of message.
    seen: Sequence,
}

impl Block {
    fn take(&mut self, sequence: Sequence, message: Message) -> ControlFlow<()> {
        if sequence > self.until {
            self.seen = self.until;
            return ControlFlow::Break(());
        }
        self.seen = sequence;
        if let Some(stored) = message::stored(message) {
            self.bytes += stored.envelope.lines.len();
            self.found.push(stored);
        }
        match sequence == self.until || self.bytes >= self.bytes_max {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// See [`crate::broker::Broker::read_back`].
pub(super) async fn read_back(
    link: &Link,
    shard: Shard,
    until: Sequence,
    limits: ReadLimits,
) -> Result<Vec<Stored>, BrokerError> {
    let live = link.ready()?;
    let name = stream::log_stream_name(&link.log, shard);
    let (mut until, mut lagging) = (until, 0);
    let mut size = limits.envelopes_max.clamp(1, CHUNK_MESSAGES_MAX) as u64;
    while until > 0 {
        let from = (until + 1).saturating_sub(size).max(1);
        let request = json!({
            "seq": from,
            "batch": until - from + 1,
            "max_bytes": limits.bytes_max.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
        });
        let mut block =
            Block { until, bytes: 0, bytes_max: limits.bytes_max, found: Vec::new(), seen: from - 1 };
        let end = direct_get(link, &live, &name, &request, |sequence, message| block.take(sequence, message));
        let end = end.await.map_err(|failure| missing(link, failure))?;
        if end == End::Exhausted && block.seen < until {
            // The end of what is stored, or of what a replica that lags has got so far.
            if link.log.replicas > 1 && lagging < LAGGING_ATTEMPTS {
                lagging += 1;
                tokio::time::sleep(LAGGING_PAUSE).await;
                continue;
            }
        } else if block.seen < until && size > 1 {
            // Its newest part is what is wanted.
            size = (size / CUT_FACTOR).max(1);
            continue;
        }
        if !block.found.is_empty() {
            block.found.reverse();
            // A larger block was asked for to get over a hole.
            block.found.truncate(limits.envelopes_max.max(1));
            return Ok(block.found);
        }
        let bounds = bounds(link, shard).await?;
        if from <= bounds.first {
            break;
        }
        if until > bounds.last {
            until = bounds.last;
        } else {
            (until, size) = (from - 1, (size * 2).min(CHUNK_MESSAGES_MAX as u64));
        }
    }
    Ok(Vec::new())
}
