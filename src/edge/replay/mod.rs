//! Old parts of the log for sessions that catch up: read once, made into frames once, whoever asks.
//!
//! A crowd that comes back from the same place costs the log one read per piece, and this edge one encoding per portion and
//! view: `flights` has things done once, `piece` is what is read, `portion` what is made of it. Memory is bounded over all
//! sessions: see [`Replays::room`]. Sessions walk from portion to portion by themselves (see `catch_up`); nothing in here
//! knows one.

use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::broker::{Bounds, Broker, BrokerError, ReadLimits};
use crate::edge::LAG_PATIENCE;
use crate::edge::compress::Compressor;
use crate::edge::hub::{Head, Hub};
use crate::edge::replay::flights::{Flights, Kept};
use crate::edge::replay::piece::{Piece, block_end, block_start, limits, span_end};
use crate::edge::replay::portion::{Account, Draft, Portion};
use crate::edge::ring::Index;
use crate::edge::view::ViewKey;
use crate::ops::meters::Meters;
use crate::proto::offset::{Offset, Sequence, Shard};
use crate::sync::Locked;

mod flights;
mod piece;
pub(crate) mod portion;

/// Entries of the ring that are looked at under its lock at a time.
const RING_LIMITS: ReadLimits =
    ReadLimits { envelopes_max: piece::BLOCK as usize, bytes_max: piece::PIECE_BYTES_MAX };
/// Sessions that go to the newest place go to the same one for so long: each new one ends portions at another place.
const NEAR: Duration = Duration::from_millis(250);
/// The same for those that are farther away, where the log has several shards: their portions along one shard are told apart
/// by how far they came on the others.
const FAR: Duration = Duration::from_secs(10);
/// What the log says of its bounds is believed for so long, where it can only have become more.
const BOUNDS_AGE_MAX: Duration = Duration::from_millis(250);
/// Answers of searches by time that are kept: one per shard and second asked for.
const SEARCHES_BYTES_MAX: usize = 64 * 1024;
/// After waiting so long for others to give memory back, what is kept for later goes.
const ROOM_PATIENCE: Duration = Duration::from_millis(100);

/// Why there is no portion.
#[derive(Clone, Debug)]
pub(crate) enum Obstacle {
    /// The log does not hold what comes next. What it does hold next, if that is known.
    Hole(Option<Sequence>),
    /// The log became another one meanwhile: what was read may be of either.
    Replaced,
    /// The log did not answer, or refused to.
    Broker(BrokerError),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct PortionKey {
    view: ViewKey,
    at: Offset,
    shard: Shard,
    /// How often the log has turned out to be another one.
    resets: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct PieceKey {
    shard: Shard,
    from: Sequence,
    resets: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SearchKey {
    shard: Shard,
    second: i64,
    resets: u64,
}

/// Of a search by time: the last one before it.
impl Kept for Sequence {
    fn bytes(&self) -> usize {
        64
    }

    fn is_lasting(&self) -> bool {
        true
    }
}

/// Nobody closes the semaphores.
type Turn<'a> = Result<SemaphorePermit<'a>, AcquireError>;

/// What an edge has of old parts of the log.
pub(crate) struct Replays {
    broker: Arc<dyn Broker>,
    compressor: Arc<Compressor>,
    reads: Counter,
    portions: Flights<PortionKey, Arc<Portion>, Obstacle>,
    pieces: Flights<PieceKey, Arc<Piece>, BrokerError>,
    searches: Flights<SearchKey, Sequence, BrokerError>,
    bounds: Locked<Vec<Option<(Instant, Bounds)>>>,
    asking: Flights<Shard, Bounds, BrokerError>,
    /// Reads of the log, and what is made of each, that may go on at a time; who comes first is served first.
    log_work: Semaphore,
    /// The same for what the ring still has: it does not wait for a log that does not answer.
    ring_work: Semaphore,
    account: Arc<Account>,
    bytes_max: usize,
    targets: Locked<[Option<(Instant, Head)>; 2]>,
}

/// What the log said a moment ago is kept elsewhere: see [`Replays::bounds`].
impl Kept for Bounds {
    fn bytes(&self) -> usize {
        0
    }

    fn is_lasting(&self) -> bool {
        false
    }
}

impl Replays {
    /// Nothing yet. Up to `concurrency_max` reads go on at a time; portions and pieces of up to `bytes_max` are held.
    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        compressor: Arc<Compressor>,
        meters: &Meters,
        concurrency_max: usize,
        bytes_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            bounds: Locked::leaf("bounds of shards", vec![None; usize::from(broker.shards())]),
            broker,
            compressor,
            reads: meters.replay_reads.clone(),
            portions: Flights::new(bytes_max / 2),
            pieces: Flights::new(bytes_max / 4),
            searches: Flights::new(SEARCHES_BYTES_MAX),
            asking: Flights::new(0),
            log_work: Semaphore::new(concurrency_max),
            ring_work: Semaphore::new(concurrency_max),
            account: Arc::default(),
            bytes_max,
            targets: Locked::empty("targets of sessions"),
        })
    }

    /// What is held now: portions that anybody has, and pieces that are kept. Pieces are counted as long as they are kept;
    /// beyond that they are held only while something is made of them.
    pub(crate) fn bytes(&self) -> usize {
        self.account.bytes() + self.pieces.bytes()
    }

    /// Where a session that is at `at` is to go next, to join its view there if that covers everything behind `covered`. It
    /// is the newest place, or one that others went to shortly before, so that they all walk the same way.
    pub(crate) fn target(&self, head: &Head, at: &Offset, covered: Index) -> Head {
        let now = Instant::now();
        self.targets.with(|[near, far]| {
            let choose = |kept: &mut Option<(Instant, Head)>, age_max: Duration| {
                let fresh = |(since, kept): &(Instant, Head)| {
                    now.saturating_duration_since(*since) < age_max && kept.resets == head.resets
                };
                if !kept.as_ref().is_some_and(fresh) {
                    *kept = Some((now, head.clone()));
                }
                kept.as_ref().map_or_else(|| head.clone(), |(_, kept)| kept.clone())
            };
            if at.sequences.len() > 1 {
                let far = choose(far, FAR);
                if at.is_at_or_before(&far.offset) && *at != *far.offset {
                    return far;
                }
            }
            let chosen = choose(near, NEAR);
            if at.is_at_or_before(&chosen.offset) && chosen.index >= covered {
                return chosen;
            }
            *near = Some((now, head.clone()));
            head.clone()
        })
    }

    /// What a session with the wish `view` that is at `at` gets next along `shard`, which goes on up to `last` at least.
    pub(crate) async fn portion(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        view: &ViewKey,
        at: &Offset,
        shard: Shard,
        last: Sequence,
    ) -> Result<Arc<Portion>, Obstacle> {
        let key = PortionKey { view: view.clone(), at: at.clone(), shard, resets: hub.head().resets };
        let (replays, hub, wanted) = (self.clone(), hub.clone(), key.clone());
        self.portions.get(key, || async move { replays.make(&hub, &wanted, last).await }).await
    }

    async fn make(
        self: &Arc<Self>,
        hub: &Hub,
        key: &PortionKey,
        last: Sequence,
    ) -> Result<Arc<Portion>, Obstacle> {
        let shard = key.shard;
        let mut draft = Draft::new(&key.view, &self.compressor, shard, key.at.clone(), &self.account);
        let end_max = span_end(draft.sequence() + 1).min(last);
        loop {
            let (at, before) = (draft.sequence(), draft.steps());
            if before > 0 && !self.has_room() {
                return Ok(draft.finish());
            }
            let end = block_end(at + 1).min(last);
            let mut next = None;
            let in_ring = {
                let _turn = self.turn(&self.ring_work, before == 0).await;
                let entries = hub.entries(key.at.epoch, shard, at, RING_LIMITS).unwrap_or_default();
                draft.take_entries(&entries, end, last);
                !entries.is_empty()
            };
            if !in_ring {
                let _turn = self.turn(&self.log_work, before == 0).await;
                let piece = self.piece(key, at + 1).await.map_err(Obstacle::Broker)?;
                if hub.head().resets != key.resets {
                    return Err(Obstacle::Replaced);
                }
                draft.take_stored(&piece, end);
                next = piece.first_after(draft.sequence());
            }
            let stands = draft.steps() == before;
            if stands && before == 0 {
                return Err(Obstacle::Hole(next));
            }
            let ends_block = draft.sequence() >= end;
            if stands || draft.sequence() >= end_max || draft.is_full() || (ends_block && draft.is_enough()) {
                return Ok(draft.finish());
            }
            // Live frames first: a long run of work would keep a thread from them.
            tokio::task::yield_now().await;
        }
    }

    /// Waits until more may be held. Sessions whose sockets take nothing give their portion back (see `feed`), so those that are
    /// held and not kept are about to be written, and their memory comes back.
    ///
    /// Portions that anybody holds are at most three quarters of `bytes_max`, pieces that are kept the rest; beyond that come
    /// only what is being made right now, at most a portion and a piece for each unit of work.
    async fn room(&self) {
        loop {
            let freed = self.account.freed.notified();
            if self.has_room() {
                return;
            }
            if tokio::time::timeout(ROOM_PATIENCE, freed).await.is_err() {
                self.portions.let_go_one();
            }
        }
    }

    fn has_room(&self) -> bool {
        self.account.bytes() < self.bytes_max / 4 * 3
    }

    /// A turn to do some of `work`; for the beginning of something, one that finds room for it.
    async fn turn<'a>(&self, work: &'a Semaphore, begins: bool) -> Turn<'a> {
        loop {
            if begins {
                // Not while a turn is taken: others have begun, and go on.
                self.room().await;
            }
            let turn = work.acquire().await;
            if !begins || self.has_room() {
                return turn;
            }
        }
    }

    /// A turn to make something else for sessions that catch up, when there is room for it. The account is to be charged for it
    /// before the turn ends.
    pub(crate) async fn turn_for_own(&self) -> (Turn<'_>, &Arc<Account>) {
        (self.turn(&self.ring_work, true).await, &self.account)
    }

    /// The piece that says what the log holds at `next`: that of the whole block, which serves all who are somewhere in it; or,
    /// where that was too large to reach `next`, one that begins there.
    async fn piece(self: &Arc<Self>, key: &PortionKey, next: Sequence) -> Result<Arc<Piece>, BrokerError> {
        let (PortionKey { shard, resets, .. }, start) = (key, block_start(next));
        let whole = self.read(PieceKey { shard: *shard, from: start, resets: *resets }, next).await?;
        if whole.covers(next) || start == next {
            return Ok(whole);
        }
        self.read(PieceKey { shard: *shard, from: next, resets: *resets }, next).await
    }

    async fn read(self: &Arc<Self>, key: PieceKey, next: Sequence) -> Result<Arc<Piece>, BrokerError> {
        let (replays, PieceKey { shard, from, .. }) = (self.clone(), key.clone());
        let read = || async move {
            replays.reads.increment(1);
            let answer = replays.broker.read(shard, from, limits(from)).await?;
            Ok(Arc::new(Piece::new(from, answer)))
        };
        self.pieces.get_if(key, |piece| !piece.is_outdated_at(next), read).await
    }

    /// The log's bounds, as they are or were moments ago: with a last sequence of `reach` at least, if the log reaches that
    /// far.
    pub(crate) async fn bounds(
        self: &Arc<Self>,
        shard: Shard,
        reach: Sequence,
    ) -> Result<Bounds, BrokerError> {
        let known = |replays: &Self| {
            let slot = replays.bounds.with(|bounds| bounds.get(usize::from(shard.0)).copied());
            let (since, bounds) = slot??;
            (since.elapsed() < BOUNDS_AGE_MAX && bounds.last >= reach).then_some(bounds)
        };
        if let Some(bounds) = known(self) {
            return Ok(bounds);
        }
        let replays = self.clone();
        let ask = || async move {
            let bounds = replays.broker.bounds(shard).await?;
            let now = Instant::now();
            replays.bounds.with(|known| {
                if let Some(slot) = known.get_mut(usize::from(shard.0)) {
                    *slot = Some((now, bounds));
                }
            });
            Ok(bounds)
        };
        self.asking.get(shard, ask).await
    }

    /// Whether the log ends before `at`, on a shard where this edge, which is at `head`, is not as far. Then it will never be
    /// there again; else another edge was faster. A server that lags is given [`LAG_PATIENCE`] to say otherwise.
    pub(crate) async fn ends_before(
        self: &Arc<Self>,
        at: &Offset,
        head: &Offset,
    ) -> Result<bool, BrokerError> {
        for shard in at.shards().filter(|shard| at.sequence(*shard) > head.sequence(*shard)) {
            let (seen, deadline) = (at.sequence(shard), Instant::now() + LAG_PATIENCE);
            while self.bounds(shard, seen).await?.last < seen {
                if Instant::now() >= deadline {
                    return Ok(true);
                }
                tokio::time::sleep(BOUNDS_AGE_MAX).await;
            }
        }
        Ok(false)
    }

    /// The last sequence of `shard` that the log stored before the second that `stored_ns` lies in, since 1970. Who asks for
    /// the same second gets the same answer.
    pub(crate) async fn last_before(
        self: &Arc<Self>,
        shard: Shard,
        stored_ns: i64,
        resets: u64,
    ) -> Result<Sequence, BrokerError> {
        let second = stored_ns.div_euclid(1_000_000_000);
        let replays = self.clone();
        let search = || async move {
            let _permit = replays.log_work.acquire().await;
            replays.search(shard, second.saturating_mul(1_000_000_000)).await
        };
        self.searches.get(SearchKey { shard, second, resets }, search).await
    }

    /// A binary search: some twenty reads of one envelope, at most 64.
    async fn search(&self, shard: Shard, stored_ns: i64) -> Result<Sequence, BrokerError> {
        let bounds = self.broker.bounds(shard).await?;
        let (mut low, mut high) = (bounds.first, bounds.last.saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            let one = ReadLimits { envelopes_max: 1, bytes_max: 1 };
            self.reads.increment(1);
            match self.broker.read(shard, middle, one).await?.first() {
                Some(stored) if stored.stored_ns < stored_ns => low = stored.sequence + 1,
                _ => high = middle,
            }
        }
        Ok(low.saturating_sub(1))
    }
}
