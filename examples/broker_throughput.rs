//! How fast the broker stores and reads, and what a message costs: `cargo run --release --example broker_throughput`.
//!
//! Without an address in `NATS_URL` it measures the embedded log; `REPLICAS` is for a cluster. Runs for a bounded time and number of envelopes:
//! eight writers with one batch in flight each, as eight collectors are, while one reader follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use telecast::broker::memory::MemoryBroker;
use telecast::broker::nats::{NatsBroker, Updates};
use telecast::broker::{Broker, Outgoing, ReadLimits};
use telecast::config::{LogSettings, NatsSettings, Storage};
use telecast::proto::channel::{Channel, CollectorId};
use telecast::proto::envelope::{Envelope, Stamp};
use telecast::proto::offset::Shard;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SHARD: Shard = Shard(0);
const WRITERS: usize = 8;
const ENVELOPE_BYTES: usize = 512;
/// Ten measurements in one flush.
const BATCH: usize = 10;
const PUBLISH_TIME: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let log = LogSettings {
        name: format!("throughput{}", std::process::id()),
        shards: 1,
        replicas: std::env::var("REPLICAS").map_or(Ok(1), |replicas| replicas.parse())?,
        storage: Storage::File,
        max_age: Duration::from_secs(600),
        max_bytes: 1 << 30,
        duplicate_window: Duration::from_secs(120),
    };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let broker: Arc<dyn Broker> = match std::env::var("NATS_URL") {
        Ok(url) => {
            let nats = nats_settings(url);
            NatsBroker::connect(&nats, &log, "broker_throughput", Updates::Apply, &tasks, stop.clone())
        }
        Err(_) => MemoryBroker::new(&log),
    };
    broker.connection().wait_for(|connection| connection.is_connected()).await?;
    let mut tail = broker.tail(SHARD).await?;
    let mut follower = JoinSet::new();
    follower.spawn(async move {
        let mut seen = 0u64;
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(2), tail.recv()).await {
            seen += 1;
        }
        seen
    });

    let (began, cpu) = (Instant::now(), cpu_time());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(broker.clone(), writer));
    }
    let (mut stored, mut slowest) = (0, Duration::ZERO);
    while let Some(outcome) = writers.join_next().await {
        let (count, worst) = outcome?;
        stored += count;
        slowest = slowest.max(worst);
    }
    report("publish and follow", stored, began, cpu);
    println!("slowest batch        {slowest:?}");
    let seen = follower.join_next().await.transpose()?.unwrap_or(0);
    println!("followed live        {seen} of {stored}");

    let (began, cpu) = (Instant::now(), cpu_time());
    let limits = ReadLimits { envelopes_max: 4096, bytes_max: 4 << 20 };
    let (mut next, mut read) = (1, 0);
    loop {
        let part = broker.read(SHARD, next, limits).await?;
        let Some(last) = part.last() else { break };
        next = last.sequence + 1;
        read += part.len() as u64;
    }
    report("read", read, began, cpu);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn write(broker: Arc<dyn Broker>, writer: usize) -> (u64, Duration) {
    let began = Instant::now();
    let (mut stored, mut worst) = (0, Duration::ZERO);
    while began.elapsed() < PUBLISH_TIME {
        let batch: Vec<_> = (0..BATCH).map(|place| outgoing(writer, stored, place)).collect();
        let sent = Instant::now();
        match broker.publish(SHARD, &batch).await {
            Ok(published) => stored += published.len() as u64,
            Err(error) => {
                println!("writer {writer}: {error}");
                let mut connection = broker.connection();
                // An error here says that the broker is gone, and then the measurement is over.
                let _ = connection.wait_for(|connection| connection.is_connected()).await;
            }
        }
        worst = worst.max(sent.elapsed());
    }
    (stored, worst)
}

fn outgoing(writer: usize, batch: u64, place: usize) -> Outgoing {
    let collector = CollectorId::new(&format!("collector-{writer}")).expect("a valid id");
    let channel = Channel::new(collector, format!("measurement_{place}"));
    let stamp = Some(Stamp { revision: 1, sequence: batch, received_ns: 1_700_000_000_000_000_000 });
    let envelope = Envelope { channel, stamp, lines: Bytes::from_static(&[b'x'; ENVELOPE_BYTES]) };
    Outgoing { envelope, message_id: format!("{writer}-{batch}-{place}") }
}

fn report(what: &str, count: u64, began: Instant, cpu_before: Duration) {
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let cost = (cpu_time() - cpu_before).as_secs_f64() * 1e6 / count.max(1) as f64;
    println!("{what:20} {count} envelopes, {rate:.0}/s, {cost:.1} µs of this process's CPU each");
}

/// User and system time of this process, from `/proc`; zero where there is none.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the command's name, which may hold spaces: fields 14 and 15, in ticks of 10 ms.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn nats_settings(url: String) -> NatsSettings {
    NatsSettings {
        url,
        credentials_file: None,
        user: None,
        password: None,
        token: None,
        request_timeout: Duration::from_secs(15),
    }
}
