//! The start of an edge: where its ring begins, and the last values of what the log holds from before that.
//!
//! The ring is warmed by its followers. What lies before it is read beside them, so that a series that is written once an hour
//! is known as well. Where the log has few channels, the last envelope of each is asked for. Where it has many, or nobody
//! knows which of them still live, the log is read from the ring's beginning back, so that what is known first is what was
//! written last, until the bounds of the last values hold no more or the rest is too old.
//!
//! None of it keeps the edge from its clients for longer than a bounded time: the rest is read behind, and until that is
//! done, snapshots say of themselves that they may be incomplete.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Bounds, BrokerError, LAST_CHANNELS_MAX, LogChannel, ReadLimits, Stored};
use crate::edge::Shared;
use crate::edge::hub::Hub;
use crate::edge::series::{SeriesStore, Taken};
use crate::ops::clock::unix_ns;
use crate::ops::node::Gate;
use crate::proto::offset::{Epoch, Offset, Sequence, Shard};

/// Envelopes read at the start at most, per shard; the ring's bytes bound them as well. At 512 bytes each: 64 MB.
const WARM_ENVELOPES_MAX: u64 = if cfg!(test) { 64 } else { 131_072 };
/// Channels whose last envelopes are asked for by name: at 50,000 a second, it takes about as long as the ring does.
const NAMED_CHANNELS_MAX: usize = if cfg!(test) { 100 } else { 65_536 };
/// One read back, over all shards together: they are read in turns, and each holds one.
const BLOCK: ReadLimits = ReadLimits { envelopes_max: 4_096, bytes_max: 8 << 20 };
/// Envelopes that the last values are locked for at a time: some milliseconds, on a thread of their own.
const TAKEN_AT_ONCE: usize = 1_024;
/// Between two attempts to reach the log.
const RETRY: Duration = Duration::from_millis(250);
/// Between two looks whether the ring is there.
const RING_LOOK: Duration = Duration::from_millis(20);
/// Between two words on how far a long start has come, or on why it does not go on.
const PROGRESS: Duration = Duration::from_secs(5);
/// What `/health` knows the concern by.
const CONCERN: &str = "last_values";

/// Asks until the log tells what a shard holds.
pub(super) async fn reach(shared: &Shared, shard: Shard) -> Bounds {
    insist(shared, shard, || shared.broker.bounds(shard)).await
}

/// Where a shard's part of the ring begins: behind this sequence.
pub(super) fn ring_start(bounds: &Bounds) -> Sequence {
    let first = bounds.first.max((bounds.last + 1).saturating_sub(WARM_ENVELOPES_MAX));
    first.saturating_sub(1)
}

/// Last values at the place where the ring begins, to which those from before it are to be added.
pub(super) fn last_values(shared: &Shared, bounds: &[Bounds]) -> SeriesStore {
    let epochs: Vec<Epoch> = bounds.iter().map(|bounds| bounds.epoch).collect();
    let start = Offset { epoch: Epoch::combine(&epochs), sequences: bounds.iter().map(ring_start).collect() };
    let mut store = SeriesStore::new(start, shared.settings.snapshot);
    store.begin_older(older_parts(bounds).map(|(shard, _)| shard));
    store
}

/// Shards that hold something from before the ring, and up to where.
fn older_parts(bounds: &[Bounds]) -> impl Iterator<Item = (Shard, Sequence)> {
    let parts = bounds.iter().enumerate().map(|(number, bounds)| (number, bounds.first, ring_start(bounds)));
    parts.filter(|(_, first, start)| first <= start).map(|(number, _, start)| (Shard(number as u16), start))
}

/// Adds what the log holds from before the ring to the last values.
pub(super) struct Warming {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    parts: Vec<(Shard, Sequence)>,
    /// Opened when everything in the ring has been read.
    rings: Vec<Arc<Gate>>,
    /// Opened when all of it is there, or has taken too long.
    gate: Arc<Gate>,
    begun: Instant,
}

impl Warming {
    pub(super) fn new(
        shared: Arc<Shared>,
        hub: Arc<Hub>,
        bounds: &[Bounds],
        rings: &[Arc<Gate>],
        gate: Arc<Gate>,
    ) -> Self {
        let (parts, rings) = (older_parts(bounds).collect(), rings.to_vec());
        Self { shared, hub, parts, rings, gate, begun: Instant::now() }
    }

    /// Runs until everything is there, or `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.warm() => {}
        }
    }

    async fn warm(&self) {
        let timeout = self.shared.settings.warm_timeout;
        let mut read = std::pin::pin!(self.read());
        let taken = match tokio::time::timeout(timeout, read.as_mut()).await {
            Ok(taken) => taken,
            Err(_) => {
                self.go_on_behind(timeout);
                read.await
            }
        };
        self.with_series(SeriesStore::end_older).await;
        self.shared.node.set_concern(CONCERN, None);
        self.gate.set(true);
        if !self.parts.is_empty() {
            tracing::info!(
                event = "last_values_read",
                envelopes = taken,
                duration_ms = self.begun.elapsed().as_millis() as u64,
                "last values from before the ring are read"
            );
        }
    }

    fn go_on_behind(&self, timeout: Duration) {
        let timeout_ms = timeout.as_millis() as u64;
        tracing::warn!(
            event = "last_values_behind",
            timeout_ms,
            "last values are read on while clients are served; snapshots say that they are incomplete"
        );
        let concern = format!(
            "snapshots are incomplete: this node still reads last values from before its start, for more than \
             edge.snapshot.warm_timeout_ms = {timeout_ms}"
        );
        self.shared.node.set_concern(CONCERN, Some(concern));
        self.gate.set(true);
    }

    /// Returns how many envelopes were taken.
    async fn read(&self) -> usize {
        let mut named = Vec::new();
        let mut room = NAMED_CHANNELS_MAX;
        for (shard, _) in &self.parts {
            let channels = insist(&self.shared, *shard, || self.shared.broker.channels(*shard, room)).await;
            let Some(channels) = channels else {
                return self.walk_back().await;
            };
            room -= channels.len().min(room);
            named.push(channels);
        }
        self.read_named(&named).await
    }

    /// Reads the last envelope of each of these channels, and takes the newest of them all.
    async fn read_named(&self, named: &[Vec<LogChannel>]) -> usize {
        let mut newest = Newest { bytes_max: self.shared.settings.snapshot.bytes_max, ..Newest::default() };
        for ((shard, until), channels) in self.parts.iter().zip(named) {
            let of = channels.len();
            let mut progress = Progress::new();
            for (page, some) in channels.chunks(LAST_CHANNELS_MAX).enumerate() {
                let last = || self.shared.broker.last(*shard, some, *until);
                for stored in insist(&self.shared, *shard, last).await {
                    newest.add(*shard, stored);
                }
                progress.say(|| format!("{} of {of} channels", page * LAST_CHANNELS_MAX + some.len()));
            }
        }
        let mut taken = 0;
        let mut envelopes = newest.envelopes.into_iter().rev().peekable();
        while envelopes.peek().is_some() {
            let some = envelopes.by_ref().take(TAKEN_AT_ONCE).map(|((_, shard, _), stored)| (shard, stored));
            taken += self.take(some.collect()).await.envelopes;
        }
        taken
    }

    /// Reads the log back until the bounds hold no more, or the rest is too old or another log's.
    async fn walk_back(&self) -> usize {
        // What is in the ring is newer: only then it is known how much more the bounds hold.
        while !self.rings.iter().all(|gate| gate.is_open()) {
            tokio::time::sleep(RING_LOOK).await;
        }
        let mut walks: Vec<Walk> = self.parts.iter().map(|part| Walk::new(*part, self.parts.len())).collect();
        let mut progress = Progress::new();
        let age_ns = i64::try_from(self.shared.settings.snapshot.age_max.as_nanos()).unwrap_or(i64::MAX);
        let mut taken = 0;
        loop {
            let oldest_ns = unix_ns().saturating_sub(age_ns);
            let begun = Instant::now();
            for walk in walks.iter_mut().filter(|walk| walk.block.is_empty() && !walk.is_over) {
                walk.read(&self.shared).await;
            }
            if self.gate.is_open() {
                // Clients come first, and so do those who write to the log.
                tokio::time::sleep(begun.elapsed()).await;
            }
            let some = newest_first(&mut walks, oldest_ns);
            if some.is_empty() {
                return taken;
            }
            let Took { envelopes, is_full, unwanted } = self.take(some).await;
            taken += envelopes;
            walks.iter_mut().filter(|walk| unwanted.contains(&walk.shard)).for_each(Walk::end);
            if is_full {
                return taken;
            }
            progress.say(|| format!("{taken} envelopes"));
        }
    }

    /// Adds envelopes, in the order in which the last values want them.
    async fn take(&self, envelopes: Vec<(Shard, Stored)>) -> Took {
        self.with_series(move |series| {
            let mut took = Took::default();
            for (shard, stored) in envelopes {
                match series.take_older(shard, &stored) {
                    Taken::Yes => took.envelopes += 1,
                    Taken::Full => return Took { is_full: true, ..took },
                    Taken::Unwanted => took.unwanted.push(shard),
                }
            }
            took
        })
        .await
        .unwrap_or_default()
    }

    /// On a thread that may block. Nothing, if the node stops meanwhile.
    async fn with_series<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut SeriesStore) -> T + Send + 'static,
    ) -> Option<T> {
        let hub = self.hub.clone();
        self.shared.tasks.spawn_blocking(move || hub.with_series(look)).await.ok()
    }
}

/// What the last values took.
#[derive(Default)]
struct Took {
    envelopes: usize,
    /// They hold no more.
    is_full: bool,
    /// Shards of which they take nothing any more.
    unwanted: Vec<Shard>,
}

/// One shard that is read back.
struct Walk {
    shard: Shard,
    /// What comes next is at or before it.
    until: Sequence,
    /// Newest first.
    block: VecDeque<Stored>,
    is_over: bool,
    limits: ReadLimits,
}

impl Walk {
    fn new((shard, until): (Shard, Sequence), shards: usize) -> Self {
        let share = ReadLimits {
            envelopes_max: BLOCK.envelopes_max.div_ceil(shards),
            bytes_max: BLOCK.bytes_max.div_ceil(shards),
        };
        Self { shard, until, block: VecDeque::new(), is_over: false, limits: share }
    }

    async fn read(&mut self, shared: &Shared) {
        let (shard, until, limits) = (self.shard, self.until, self.limits);
        self.block = insist(shared, shard, || shared.broker.read_back(shard, until, limits)).await.into();
        match self.block.back() {
            Some(oldest) => self.until = oldest.sequence.saturating_sub(1),
            None => self.is_over = true,
        }
    }

    fn end(&mut self) {
        self.block.clear();
        self.is_over = true;
    }
}

/// The newest of what has been read, over all shards, until one has to be read on.
fn newest_first(walks: &mut [Walk], oldest_ns: i64) -> Vec<(Shard, Stored)> {
    let mut found = Vec::new();
    while found.len() < TAKEN_AT_ONCE {
        let newest = walks.iter_mut().filter(|walk| !walk.is_over);
        let stored_ns = |walk: &Walk| walk.block.front().map_or(i64::MAX, |stored| stored.stored_ns);
        let Some(walk) = newest.max_by_key(|walk| stored_ns(walk)) else { break };
        let Some(stored) = walk.block.pop_front() else { break };
        match stored.stored_ns < oldest_ns {
            // What is behind it is older still.
            true => walk.end(),
            false => found.push((walk.shard, stored)),
        }
    }
    found
}

/// Tells now and then how far a long start has come.
struct Progress(Instant);

impl Progress {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn say(&mut self, read: impl FnOnce() -> String) {
        if self.0.elapsed() >= PROGRESS {
            self.0 = Instant::now();
            tracing::info!(event = "last_values_progress", read = read(), "last values are being read");
        }
    }
}

/// Asks the log until it answers.
async fn insist<T, Answer: Future<Output = Result<T, BrokerError>>>(
    shared: &Shared,
    shard: Shard,
    ask: impl Fn() -> Answer,
) -> T {
    let mut said: Option<Instant> = None;
    loop {
        match ask().await {
            Ok(answer) => {
                shared.note_heard(shard);
                return answer;
            }
            // A log that is not there yet is usual at a start; one that refuses will not change its mind by itself.
            Err(error) if !error.is_retryable() && said.is_none_or(|said| said.elapsed() >= PROGRESS) => {
                said = Some(Instant::now());
                tracing::warn!(event = "log_refuses", shard = shard.0, %error, "the start waits for the log; trying again");
            }
            Err(error) => {
                tracing::debug!(event = "log_awaited", shard = shard.0, %error, "the log is not there yet");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Envelopes in the order in which the log stored them, over all shards: the order of updates that the last values have.
/// Of too many the oldest go, which would be the first to leave the last values as well.
#[derive(Default)]
struct Newest {
    envelopes: BTreeMap<(i64, Shard, Sequence), Stored>,
    bytes: usize,
    bytes_max: usize,
}

impl Newest {
    fn add(&mut self, shard: Shard, stored: Stored) {
        self.bytes += stored.envelope.lines.len();
        // A page that was asked for again after an error brings the same again.
        if let Some(twin) = self.envelopes.insert((stored.stored_ns, shard, stored.sequence), stored) {
            self.bytes -= twin.envelope.lines.len();
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.envelopes.pop_first() else { return };
            self.bytes -= oldest.envelope.lines.len();
        }
    }
}

#[cfg(test)]
mod tests;
