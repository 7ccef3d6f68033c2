//! The log and the state in JetStream. The only folder that names its client.
//!
//! - `link` keeps one connection at a time, and says in words why there is none; `login` is what it is made with.
//! - `stream` knows how streams have to be: pure. `reconcile` makes them so.
//! - `publish`, `read`, `tail`: the three ways of the data; `back` reads a range from its end, `last` the newest of each channel,
//!   `newest` of a collector. `message` knows an envelope's spelling on the bus.
//! - `stall`: what writers tell readers when the log takes nothing.
//! - `state` and `follow`: the keyed store, and its watchers.
//! - `api`: one request and its answer, with failures sorted.
//!
//! No consumers: JetStream pays for each of them. The live flow is a plain subscription to what the stream republishes,
//! and everything else is asked for by batch direct get.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::memory::{check_count, no_such_shard};
use crate::broker::{
    Bounds, Broker, BrokerError, Connection, EnvelopeLimit, LogChannel, Newest, Outgoing, Published,
    ReadLimits, Stall, StateStore, Stored,
};
use crate::config::{LogSettings, NatsSettings};
use crate::proto::channel::CollectorId;
use crate::proto::offset::{Sequence, Shard};

mod api;
mod back;
mod follow;
mod last;
mod link;
mod login;
mod message;
mod newest;
mod publish;
mod read;
mod reconcile;
mod stall;
mod state;
mod stream;
mod tail;

use link::Link;
pub use login::{Unusable, check};
pub use reconcile::Updates;
use state::NatsState;

/// See the module.
pub struct NatsBroker {
    link: Arc<Link>,
    state: Arc<NatsState>,
    tasks: TaskTracker,
}

impl NatsBroker {
    /// Returns at once, whether or not NATS is there: [`Broker::connection`] tells when it is, and why not until then.
    ///
    /// `updates` says whether this node may change the limits of streams that exist; it may create them in any case.
    /// `client_name` is what the server's monitoring shows. Everything that runs, runs on `tasks` and ends with `stop`;
    /// whoever stops the broker then waits for the tracker.
    pub fn connect(
        nats: &NatsSettings,
        log: &LogSettings,
        client_name: &str,
        updates: Updates,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let link = Link::new(nats.clone(), log.clone(), client_name.to_owned(), stop);
        tasks.spawn(link.clone().run(updates));
        let state = Arc::new(NatsState::new(link.clone(), tasks.clone()));
        Arc::new(Self { link, state, tasks: tasks.clone() })
    }

    fn check(&self, shard: Shard) -> Result<(), BrokerError> {
        if shard.0 < self.link.log.shards { Ok(()) } else { Err(no_such_shard(shard, self.link.log.shards)) }
    }
}

#[async_trait]
impl Broker for NatsBroker {
    fn shards(&self) -> u16 {
        self.link.log.shards
    }

    async fn publish(&self, shard: Shard, batch: &[Outgoing]) -> Result<Vec<Published>, BrokerError> {
        self.check(shard)?;
        publish::publish(&self.link, shard, batch).await
    }

    async fn tail(&self, shard: Shard) -> Result<mpsc::Receiver<Stored>, BrokerError> {
        self.check(shard)?;
        Ok(tail::tail(&self.link, &self.tasks, shard).await)
    }

    async fn read(
        &self,
        shard: Shard,
        from: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.check(shard)?;
        read::read(&self.link, shard, from, limits).await
    }

    async fn read_back(
        &self,
        shard: Shard,
        until: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.check(shard)?;
        back::read_back(&self.link, shard, until, limits).await
    }

    async fn channels(
        &self,
        shard: Shard,
        channels_max: usize,
    ) -> Result<Option<Vec<LogChannel>>, BrokerError> {
        self.check(shard)?;
        last::channels(&self.link, shard, channels_max).await
    }

    async fn last(
        &self,
        shard: Shard,
        channels: &[LogChannel],
        up_to: Sequence,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.check(shard)?;
        check_count(channels)?;
        last::last(&self.link, shard, channels, up_to).await
    }

    async fn newest(&self, shard: Shard, collector: &CollectorId) -> Result<Option<Newest>, BrokerError> {
        self.check(shard)?;
        newest::newest(&self.link, shard, collector).await
    }

    async fn bounds(&self, shard: Shard) -> Result<Bounds, BrokerError> {
        self.check(shard)?;
        read::bounds(&self.link, shard).await
    }

    fn state(&self) -> Arc<dyn StateStore> {
        self.state.clone()
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.link.connection()
    }

    fn envelope_limit(&self) -> Option<EnvelopeLimit> {
        self.link.envelope_limit()
    }

    fn clock_ahead_ns(&self) -> Option<i64> {
        self.link.clock_ahead_ns()
    }

    async fn tell_stalled(&self, stall: &Stall) -> Result<(), BrokerError> {
        stall::tell(&self.link, stall).await
    }

    fn stalls(&self) -> mpsc::Receiver<Stall> {
        stall::stalls(&self.link, &self.tasks)
    }
}
