//! The log and the state in this process: `telecast standalone` without NATS, and tests.
//!
//! The same contract as JetStream's, with one difference: everything is gone when the process ends, and the next
//! process has another epoch. Memory is bounded by `log.max_bytes` per shard. No task runs for the log: retention is
//! applied when somebody publishes or looks.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::broker::{
    Bounds, Broker, BrokerError, Connection, LAST_CHANNELS_MAX, LogChannel, Newest, Outgoing, Published,
    ReadLimits, StateStore, Stored,
};
use crate::config::LogSettings;
use crate::proto::channel::CollectorId;
use crate::proto::offset::{Sequence, Shard};
use crate::sync::Locked;

mod shard;
mod state;

use shard::ShardLog;
use state::MemoryState;

/// See the module.
pub struct MemoryBroker {
    shards: Box<[Locked<ShardLog>]>,
    state: Arc<MemoryState>,
    connection: watch::Sender<Connection>,
}

impl MemoryBroker {
    /// An empty log of `settings.shards` shards; replicas and storage have no meaning here.
    pub fn new(settings: &LogSettings) -> Arc<Self> {
        let shards = (0..settings.shards)
            .map(|_| Locked::leaf("a shard of the embedded log", ShardLog::new(settings)))
            .collect();
        Arc::new(Self {
            shards,
            state: MemoryState::new(),
            connection: watch::Sender::new(Connection::Embedded),
        })
    }

    /// Deletes a shard's history and begins another incarnation of it, as an operator who deletes a stream does.
    pub fn recreate(&self, shard: Shard) -> Result<(), BrokerError> {
        self.with(shard, ShardLog::recreate)
    }

    fn with<R>(&self, shard: Shard, look: impl FnOnce(&mut ShardLog) -> R) -> Result<R, BrokerError> {
        let log = self.shards.get(usize::from(shard.0)).ok_or_else(|| no_such_shard(shard, self.shards()))?;
        Ok(log.with(look))
    }
}

/// A shard that the configuration does not have.
pub(super) fn no_such_shard(shard: Shard, shards: u16) -> BrokerError {
    BrokerError::Refused(format!("there is no shard {}: log.shards is {shards}", shard.0))
}

/// Refuses what no log answers at once.
pub(super) fn check_count(channels: &[LogChannel]) -> Result<(), BrokerError> {
    if channels.len() <= LAST_CHANNELS_MAX {
        return Ok(());
    }
    let count = channels.len();
    Err(BrokerError::Refused(format!(
        "{count} channels were asked for at once, at most {LAST_CHANNELS_MAX} may be"
    )))
}

#[async_trait]
impl Broker for MemoryBroker {
    fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    async fn publish(&self, shard: Shard, batch: &[Outgoing]) -> Result<Vec<Published>, BrokerError> {
        self.with(shard, |log| log.publish(batch, Instant::now()))?
    }

    async fn tail(&self, shard: Shard) -> Result<mpsc::Receiver<Stored>, BrokerError> {
        self.with(shard, ShardLog::tail)
    }

    async fn read(
        &self,
        shard: Shard,
        from: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.with(shard, |log| log.read(from, limits, Instant::now()))
    }

    async fn read_back(
        &self,
        shard: Shard,
        until: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.with(shard, |log| log.read_back(until, limits, Instant::now()))
    }

    async fn channels(
        &self,
        shard: Shard,
        channels_max: usize,
    ) -> Result<Option<Vec<LogChannel>>, BrokerError> {
        self.with(shard, |log| log.channels(shard, channels_max, Instant::now()))
    }

    async fn last(
        &self,
        shard: Shard,
        channels: &[LogChannel],
        up_to: Sequence,
    ) -> Result<Vec<Stored>, BrokerError> {
        check_count(channels)?;
        self.with(shard, |log| log.last(shard, channels, up_to, Instant::now()))
    }

    async fn newest(&self, shard: Shard, collector: &CollectorId) -> Result<Option<Newest>, BrokerError> {
        self.with(shard, |log| log.newest(collector, Instant::now()))
    }

    async fn bounds(&self, shard: Shard) -> Result<Bounds, BrokerError> {
        self.with(shard, |log| log.bounds(Instant::now()))
    }

    fn state(&self) -> Arc<dyn StateStore> {
        self.state.clone()
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }
}
