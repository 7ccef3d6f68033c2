//! The port to the log and to the cluster's state.
//!
//! [`memory`] keeps both in this process; [`nats`] keeps them in JetStream and is the only folder that names its client.
//! One contract suite (`tests/broker_contract.rs`) runs against both. What lives here may not know who publishes or
//! who reads: no ingest, no edge, no sockets of collectors or clients.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::proto::channel::CollectorId;
use crate::proto::envelope::Envelope;
use crate::proto::offset::{Epoch, Sequence, Shard};

pub mod memory;
pub mod nats;

mod known;
mod tail;

/// Most changes waiting for one watcher of the state; the sender then waits for the watcher.
const STATE_EVENTS_MAX: usize = 256;

/// The log and the state, however they are kept.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// How many shards the log has; fixed for the life of the process.
    fn shards(&self) -> u16;

    /// Stores a batch in order and returns when the log has acknowledged all of it, one answer per envelope.
    ///
    /// After an error any part of the batch may be stored: publish the same batch again, with the same ids, until it
    /// succeeds or the dedup window (two minutes by default) has passed. Envelopes stored before are then answered as
    /// `duplicate` and not stored again.
    async fn publish(&self, shard: Shard, batch: &[Outgoing]) -> Result<Vec<Published>, BrokerError>;

    /// Follows a shard from now on. Envelopes come in order of sequence but may be missing (a full buffer, a lost
    /// connection): the reader compares sequences and repairs from [`Broker::read`]. Never ends by itself before the
    /// receiver is dropped.
    async fn tail(&self, shard: Shard) -> Result<mpsc::Receiver<Stored>, BrokerError>;

    /// Reads stored envelopes with `from <= sequence`, in order, as many as `limits` allow and at least one if there is
    /// one. Sequences below the retained range are skipped: a first sequence above `from` is a hole whose cause the
    /// caller tells from [`Broker::bounds`]. An empty answer means that nothing at or after `from` is stored (yet).
    async fn read(
        &self,
        shard: Shard,
        from: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError>;

    /// Reads stored envelopes with `sequence <= until`, newest first, as many as `limits` allow and at least one if there is one.
    /// An empty answer means that nothing at or before `until` is stored.
    async fn read_back(
        &self,
        shard: Shard,
        until: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError>;

    /// Every channel that has envelopes in a shard right now, in no particular order; nothing if there are more than
    /// `channels_max`. To count them costs little; a page of the list costs as much as a read, and all of it is in memory.
    async fn channels(
        &self,
        shard: Shard,
        channels_max: usize,
    ) -> Result<Option<Vec<LogChannel>>, BrokerError>;

    /// Of each of these channels, at most [`LAST_CHANNELS_MAX`], the last envelope with a sequence of at most `up_to`, in order
    /// of sequence. Channels that have none (any more) are left out.
    async fn last(
        &self,
        shard: Shard,
        channels: &[LogChannel],
        up_to: Sequence,
    ) -> Result<Vec<Stored>, BrokerError>;

    /// The newest envelope stored of a collector, whatever its measurement; `None` if nothing of it is stored. As the log's
    /// leader has it: whatever was acknowledged before this call is seen.
    async fn newest(&self, shard: Shard, collector: &CollectorId) -> Result<Option<Newest>, BrokerError>;

    /// What the shard holds right now.
    async fn bounds(&self, shard: Shard) -> Result<Bounds, BrokerError>;

    /// The keyed store that nodes share.
    fn state(&self) -> Arc<dyn StateStore>;

    /// Whether the log can be reached, now and as it changes.
    fn connection(&self) -> watch::Receiver<Connection>;

    /// What bounds an envelope beside the configuration: `None` where nothing does, or where it is not known yet. Changes with
    /// every connection.
    fn envelope_limit(&self) -> Option<EnvelopeLimit> {
        None
    }

    /// This machine's clock minus the clock of the log's server in nanoseconds, as of the last answer of [`Broker::bounds`];
    /// exact to half its round trip. `None` where both are one, or before the first answer.
    fn clock_ahead_ns(&self) -> Option<i64> {
        None
    }

    /// Tells the readers of a shard that this writer cannot store. Not kept and not acknowledged: a writer that stalls says so again
    /// every second.
    async fn tell_stalled(&self, stall: &Stall) -> Result<(), BrokerError> {
        let _ = stall;
        Ok(())
    }

    /// What writers tell by [`Broker::tell_stalled`] from now on, of all shards. Ends at once where nobody ever will.
    fn stalls(&self) -> mpsc::Receiver<Stall> {
        mpsc::channel(1).1
    }
}

/// A bound on envelopes that the log's servers set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeLimit {
    /// Most bytes of lines in one envelope: headers have their room already.
    pub bytes_max: usize,
    /// What sets it, and to what: the end of a sentence about a line that is longer.
    pub why: Arc<str>,
}

/// A writer that cannot store, as it tells readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Where.
    pub shard: u16,
    /// Which node.
    pub writer: String,
    /// For how long nothing was stored, although something waits.
    pub since_ms: u64,
    /// Why, as far as that node knows.
    pub reason: String,
}

/// Most channels of one [`Broker::last`]: what nats-server answers at once.
pub const LAST_CHANNELS_MAX: usize = 1024;

/// A channel as the log spells it, which only the log reads: others may have written it in a spelling that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogChannel(Box<str>);

/// Limits of one [`Broker::read`].
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// At most so many envelopes.
    pub envelopes_max: usize,
    /// Stop after so many bytes of lines; the envelope that crosses the limit is still delivered.
    pub bytes_max: usize,
}

/// An envelope on its way into the log.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What to store.
    pub envelope: Envelope,
    /// Equal ids within the dedup window are stored once.
    pub message_id: String,
}

/// The log's answer to one [`Outgoing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where it is stored.
    pub sequence: Sequence,
    /// It had been stored before, under the same id.
    pub duplicate: bool,
}

/// The place of an envelope in the log, and the id it was published under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Where it is stored.
    pub sequence: Sequence,
    /// Empty if it was published without one, as other programs do.
    pub message_id: String,
}

/// An envelope in the log.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its place in the shard.
    pub sequence: Sequence,
    /// When the log stored it, in nanoseconds since 1970.
    pub stored_ns: i64,
    /// What was stored.
    pub envelope: Envelope,
}

/// What a shard holds. An empty shard has `first == last + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// This shard's incarnation; a shard that was deleted and created again has another.
    pub epoch: Epoch,
    /// Oldest sequence still stored (or the next one to come).
    pub first: Sequence,
    /// Newest sequence ever stored.
    pub last: Sequence,
}

/// Whether the log can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Connected, streams in place.
    Connected,
    /// The log is in this process: there is nothing to connect to.
    Embedded,
    /// Not (yet, or any more); the reason is for operators.
    Disconnected {
        /// What the last attempt said.
        reason: String,
    },
}

impl Connection {
    /// Whether publishes and reads can succeed.
    pub fn is_connected(&self) -> bool {
        !matches!(self, Self::Disconnected { .. })
    }
}

/// What went wrong, sorted by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// The log cannot be reached, did not answer in time or has no room: back off and try again.
    #[error("the log is unavailable: {reason}")]
    Unavailable {
        /// In one word.
        cause: Cause,
        /// For operators.
        reason: String,
    },
    /// The log refused this very request and would refuse it again.
    #[error("the log refused the request: {0}")]
    Refused(String),
    /// What exists contradicts the configuration; an operator has to decide.
    #[error("the log does not match the configuration: {0}")]
    Incompatible(String),
}

/// Why the log is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is no connection, or it was lost before the answer.
    Disconnected,
    /// The connection is there, and no answer came in time.
    NoAnswer,
    /// The stream does not exist or has no leader, or JetStream is off.
    NoStream,
    /// A disk, an account or a stream is full.
    Full,
    /// Anything else that may pass.
    Other,
}

impl BrokerError {
    /// Worth another attempt.
    pub fn retryable(cause: Cause, reason: impl Into<String>) -> Self {
        Self::Unavailable { cause, reason: reason.into() }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Small values by key, shared by all nodes: node records, leases.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// The value of `key`, if there is one and it has not expired.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, BrokerError>;

    /// Writes `key` if it is as `expected`, and returns the new revision. With `ttl` the value expires by itself
    /// unless it is written again; whole seconds, at least one.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<u64, PutError>;

    /// Removes `key` if it is as `expected`.
    async fn delete(&self, key: &str, expected: Expected) -> Result<(), PutError>;

    /// All keys that begin with `prefix`: first what is there, then [`StateEvent::Synced`], then every change,
    /// expiries included. May deliver a value twice after a reconnect, and skips values that were overwritten before
    /// the watcher could be told; ends only when the receiver is dropped.
    async fn watch(&self, prefix: &str) -> Result<mpsc::Receiver<StateEvent>, BrokerError>;
}

/// A value and the revision that wrote it. Revisions grow over all keys, so they serve as fencing tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// What was written.
    pub value: Bytes,
    /// Which write it was.
    pub revision: u64,
}

/// The state a key must be in for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Any,
    /// Never written, deleted or expired.
    Absent,
    /// Last written by this revision.
    Revision(u64),
}

/// A change that [`StateStore::watch`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateEvent {
    /// The key has this value now.
    Put {
        /// Which key.
        key: String,
        /// Its value and revision.
        entry: Versioned,
    },
    /// The key was deleted or has expired.
    Removed {
        /// Which key.
        key: String,
    },
    /// Everything that existed when the watch began has been reported.
    Synced,
}

/// Why a write to the state did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PutError {
    /// The key is not as expected: somebody else wrote it.
    #[error("the key was changed by somebody else")]
    Conflict,
    /// See the broker's own error.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Expiry in whole seconds, at least one, rounded up: what JetStream can keep.
fn ttl_whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).max(1)
}
