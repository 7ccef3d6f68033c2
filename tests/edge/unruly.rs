//! A log that misbehaves as it is told to, and counts what is asked of it. What is stored in it stays true.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use telecast::broker::memory::MemoryBroker;
use telecast::broker::{
    Bounds, Broker, BrokerError, Connection, LogChannel, Newest, Outgoing, Published, ReadLimits, StateStore,
    Stored,
};
use telecast::config::Settings;
use telecast::proto::channel::CollectorId;
use telecast::proto::offset::{Sequence, Shard};
use tokio::sync::{mpsc, watch};

use crate::bench::Log;

/// What the live flow does with envelopes.
#[derive(Clone, Copy)]
pub enum Live {
    /// Delivers each, once, in order.
    Orderly,
    /// Loses, repeats and reorders some, by this seed.
    Disordered(u64),
    /// Loses all.
    Lost,
}

/// See the module.
pub struct Unruly {
    /// What it was at first, and stays to who asks for its epoch.
    first: Arc<MemoryBroker>,
    now: Mutex<Arc<MemoryBroker>>,
    forgets: watch::Sender<()>,
    live: Live,
    /// No reads are answered while it is set.
    mute: AtomicBool,
    waiting: AtomicUsize,
    reads: AtomicU64,
    bounds: AtomicU64,
    lag: AtomicU64,
}

impl Unruly {
    /// The same log, seen like this.
    pub fn new(log: &Log, live: Live) -> Arc<Self> {
        let (reads, bounds) = (AtomicU64::new(0), AtomicU64::new(0));
        let (mute, waiting) = (AtomicBool::new(false), AtomicUsize::new(0));
        let lag = AtomicU64::new(0);
        let (first, now) = (log.broker.clone(), Mutex::new(log.broker.clone()));
        let forgets = watch::Sender::new(());
        Arc::new(Self { first, now, forgets, live, mute, waiting, reads, bounds, lag })
    }

    /// Loses its newest part, as a log does that is restored from a backup: it is the same log, and goes on from an older place.
    /// The first `kept` envelopes of its first shard stay. What is published from now on goes to the log that is returned.
    pub async fn forget(&self, kept: usize, settings: &Settings) -> Arc<MemoryBroker> {
        let limits = ReadLimits { envelopes_max: kept, bytes_max: usize::MAX };
        let stored = self.now().read(Shard(0), 1, limits).await.unwrap();
        let log = MemoryBroker::new(&settings.log);
        for Stored { sequence, envelope, .. } in stored {
            let outgoing = Outgoing { envelope, message_id: format!("again-{sequence}") };
            assert_eq!(log.publish(Shard(0), &[outgoing]).await.unwrap()[0].sequence, sequence);
        }
        *self.now.lock().unwrap() = log.clone();
        self.forgets.send_replace(());
        log
    }

    fn now(&self) -> Arc<MemoryBroker> {
        self.now.lock().unwrap().clone()
    }

    /// Whether reads are answered from now on.
    pub fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::Relaxed);
    }

    /// How many envelopes too few its bounds say from now on, as those of a server that is behind.
    pub fn set_lag(&self, lag: u64) {
        self.lag.store(lag, Ordering::Relaxed);
    }

    /// Reads that somebody waits for while none is answered.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// How often it was asked for bounds so far.
    pub fn bounds_asked(&self) -> u64 {
        self.bounds.load(Ordering::Relaxed)
    }
}

/// What becomes of an envelope, of those that are late, and in which order.
fn disorder(random: &mut fastrand::Rng, late: &mut Vec<Stored>, stored: Stored) -> Vec<Stored> {
    match random.u8(..10) {
        0..3 => vec![],
        3..5 => vec![stored.clone(), stored],
        5..7 => {
            late.push(stored);
            vec![]
        }
        _ => {
            let mut all = vec![stored];
            all.append(late);
            all
        }
    }
}

/// Somebody waits for an answer.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Broker for Unruly {
    fn shards(&self) -> u16 {
        self.first.shards()
    }

    async fn publish(&self, shard: Shard, batch: &[Outgoing]) -> Result<Vec<Published>, BrokerError> {
        self.now().publish(shard, batch).await
    }

    async fn tail(&self, shard: Shard) -> Result<mpsc::Receiver<Stored>, BrokerError> {
        let mut forgets = self.forgets.subscribe();
        let mut orderly = self.now().tail(shard).await?;
        let live = self.live;
        let mut random = match live {
            Live::Disordered(seed) => fastrand::Rng::with_seed(seed + u64::from(shard.0)),
            Live::Orderly | Live::Lost => fastrand::Rng::with_seed(0),
        };
        let (send, receive) = mpsc::channel(1024);
        // Ends with what it reads or the tail it feeds; a runtime that is dropped drops it too.
        #[allow(clippy::disallowed_methods)]
        tokio::spawn(async move {
            let mut late: Vec<Stored> = Vec::new();
            loop {
                let stored = tokio::select! {
                    Some(stored) = orderly.recv() => stored,
                    _ = forgets.changed() => return,
                };
                let comes = match live {
                    Live::Orderly => vec![stored],
                    Live::Disordered(_) => disorder(&mut random, &mut late, stored),
                    Live::Lost => vec![],
                };
                for stored in comes {
                    if send.send(stored).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(receive)
    }

    async fn read(
        &self,
        shard: Shard,
        from: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.mute.load(Ordering::Relaxed) {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let _waiting = Waiting(&self.waiting);
            std::future::pending::<()>().await;
        }
        self.now().read(shard, from, limits).await
    }

    async fn read_back(
        &self,
        shard: Shard,
        until: Sequence,
        limits: ReadLimits,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.now().read_back(shard, until, limits).await
    }

    async fn channels(
        &self,
        shard: Shard,
        channels_max: usize,
    ) -> Result<Option<Vec<LogChannel>>, BrokerError> {
        self.now().channels(shard, channels_max).await
    }

    async fn last(
        &self,
        shard: Shard,
        channels: &[LogChannel],
        up_to: Sequence,
    ) -> Result<Vec<Stored>, BrokerError> {
        self.now().last(shard, channels, up_to).await
    }

    async fn newest(&self, shard: Shard, collector: &CollectorId) -> Result<Option<Newest>, BrokerError> {
        self.now().newest(shard, collector).await
    }

    async fn bounds(&self, shard: Shard) -> Result<Bounds, BrokerError> {
        self.bounds.fetch_add(1, Ordering::Relaxed);
        let (first, bounds) = (self.first.bounds(shard).await?, self.now().bounds(shard).await?);
        let lag = self.lag.load(Ordering::Relaxed);
        Ok(Bounds { epoch: first.epoch, last: bounds.last.saturating_sub(lag), ..bounds })
    }

    fn state(&self) -> Arc<dyn StateStore> {
        self.first.state()
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.first.connection()
    }
}
