//! What is tested, and the words the claims are written in.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use telecast::broker::memory::MemoryBroker;
use telecast::broker::{Broker, Outgoing, ReadLimits, Stored};
use telecast::config::{LogSettings, Storage};
use telecast::proto::channel::{Channel, CollectorId};
use telecast::proto::envelope::{Envelope, Stamp};
use telecast::proto::offset::Shard;

/// The shard most claims need only one of.
pub const SHARD: Shard = Shard(0);
/// Limits that no test reaches.
pub const UNLIMITED: ReadLimits = ReadLimits { envelopes_max: 1_000_000, bytes_max: 1 << 30 };
/// Longer than anything here takes; a claim that does not hold by then does not hold.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A broker, and what only its kind of test may do to it.
#[async_trait]
pub trait UnderTest: Send + Sync + Sized {
    /// A connected broker with an empty log.
    async fn begin(settings: LogSettings) -> Self;
    /// The port to it.
    fn broker(&self) -> Arc<dyn Broker>;
    /// Deletes a shard and returns when another one is in its place.
    async fn recreate(&self, shard: Shard);
}

/// The embedded log.
pub struct Embedded(Arc<MemoryBroker>);

#[async_trait]
impl UnderTest for Embedded {
    async fn begin(settings: LogSettings) -> Self {
        Self(MemoryBroker::new(&settings))
    }

    fn broker(&self) -> Arc<dyn Broker> {
        self.0.clone()
    }

    async fn recreate(&self, shard: Shard) {
        self.0.recreate(shard).unwrap();
    }
}

/// Settings of a log that no other test uses.
pub fn log() -> LogSettings {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    LogSettings {
        name: format!("log{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
        shards: 1,
        replicas: 1,
        storage: Storage::File,
        max_age: Duration::from_secs(3600),
        max_bytes: 64 << 20,
        duplicate_window: Duration::from_secs(120),
    }
}

/// An envelope of `web-01`'s cpu whose lines are `text`.
pub fn outgoing(id: &str, text: &str) -> Outgoing {
    let channel = Channel::new(CollectorId::new("web-01").unwrap(), "cpu");
    let stamp = Some(Stamp { revision: 7, sequence: 1, received_ns: 1_700_000_000_000_000_000 });
    let envelope = Envelope { channel, stamp, lines: Bytes::copy_from_slice(text.as_bytes()) };
    Outgoing { envelope, message_id: id.to_owned() }
}

/// `count` envelopes with ids and lines `<prefix>-<number from 1>`.
pub fn batch(prefix: &str, count: usize) -> Vec<Outgoing> {
    (1..=count).map(|n| format!("{prefix}-{n}")).map(|text| outgoing(&text, &text)).collect()
}

/// The lines of each envelope.
pub fn texts(stored: &[Stored]) -> Vec<String> {
    stored.iter().map(|stored| String::from_utf8(stored.envelope.lines.to_vec()).unwrap()).collect()
}

/// Looks again and again until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let look = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "in time: {what}");
}
