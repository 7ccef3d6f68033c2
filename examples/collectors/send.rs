//! The collectors: all connect, then each flushes once a second, evenly spread over the second.

use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use telecast::proto::frame::{Event, Opcode, close_payload};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::metrics::{MEASUREMENTS, host, write_flush};
use crate::peer::{Peer, PeerError};
use crate::{Arguments, Failure, usage};

/// Handshakes at a time.
const CONNECTING_MAX: usize = 50;
/// How long the server may take to answer a close.
const FAREWELL: Duration = Duration::from_secs(5);

/// What was sent.
pub(crate) struct Outgoing {
    pub(crate) metrics: u64,
    pub(crate) bytes: u64,
    /// CPU time of this thread, while it sent.
    pub(crate) cpu: Duration,
    /// The longest that a flush was late.
    late: Duration,
}

impl Outgoing {
    pub(crate) fn describe(&self, arguments: &Arguments) -> String {
        let Arguments { collectors, seconds, .. } = arguments;
        let per_second = self.bytes / u64::from(*seconds);
        format!(
            "sent      {} metrics of {collectors} collectors in {seconds} s, {per_second} bytes a second; the latest flush \
             was {} ms late",
            self.metrics,
            self.late.as_millis()
        )
    }
}

/// Sends everything; tells `sending` when it begins.
pub(crate) fn run(arguments: &Arguments, sending: mpsc::Sender<()>) -> Result<Outgoing, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let peers = connect_all(arguments).await?;
        let cpu = usage::of_this_thread();
        let start = Instant::now();
        // The main thread waits for this, or has gone.
        let _ = sending.send(());
        let spacing = Duration::from_secs(1) / arguments.collectors;
        let mut tasks = JoinSet::new();
        for (number, peer) in peers {
            let collector = Collector { number, peer, start: start + spacing * number };
            tasks.spawn(collector.run(arguments.seconds));
        }
        let mut total = Outgoing { metrics: 0, bytes: 0, cpu: Duration::ZERO, late: Duration::ZERO };
        while let Some(ended) = tasks.join_next().await {
            let Outgoing { metrics, bytes, late, .. } = ended.map_err(|_| Failure::Ended)??;
            total.metrics += metrics;
            total.bytes += bytes;
            total.late = total.late.max(late);
        }
        total.cpu = usage::of_this_thread().saturating_sub(cpu);
        Ok(total)
    })
}

async fn connect_all(arguments: &Arguments) -> Result<Vec<(u32, Peer)>, Failure> {
    let places = Arc::new(Semaphore::new(CONNECTING_MAX));
    let mut tasks = JoinSet::new();
    for number in 0..arguments.collectors {
        let (places, url) = (places.clone(), arguments.ingest.clone());
        tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            Ok::<_, PeerError>((number, Peer::connect(&url).await?))
        });
    }
    let mut peers = Vec::new();
    while let Some(connected) = tasks.join_next().await {
        peers.push(connected.map_err(|_| Failure::Ended)??);
    }
    Ok(peers)
}

struct Collector {
    number: u32,
    peer: Peer,
    start: Instant,
}

impl Collector {
    async fn run(mut self, flushes: u32) -> Result<Outgoing, PeerError> {
        let host = host(self.number);
        let mut total = Outgoing { metrics: 0, bytes: 0, cpu: Duration::ZERO, late: Duration::ZERO };
        let mut ticks = interval_at(self.start, Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut lines = Vec::new();
        let mut flush = 0;
        while flush < flushes {
            tokio::select! {
                due = ticks.tick() => {
                    lines.clear();
                    write_flush(&mut lines, &host, flush, unix_ns());
                    self.peer.send(Opcode::Binary, &lines).await?;
                    total.late = total.late.max(due.elapsed());
                    total.metrics += MEASUREMENTS.len() as u64;
                    total.bytes += lines.len() as u64;
                    flush += 1;
                }
                // A collector is sent nothing but pings.
                said = self.peer.next() => if let Event::Ping(payload) = said? {
                    self.peer.send(Opcode::Pong, &payload).await?;
                },
            }
        }
        self.peer.send(Opcode::Close, &close_payload(1000, "")).await?;
        // Any end will do.
        let _ = timeout(FAREWELL, self.peer.next()).await;
        Ok(total)
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
