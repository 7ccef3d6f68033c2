//! Snapshots: the last values at one place, encoded once for all sessions that ask for the same at the same time.
//!
//! What is copied from the store and encoded is shared, as it is written; a session holds no more than a count on it. So a thousand clients that
//! come at once cost the work of one. What all snapshots take together is bounded: who asks for one more waits until
//! others have been taken, or, if nobody takes them, are given up.

mod answers;
pub(crate) mod delivery;
mod encoded;

use self::answers::Answer;
pub(crate) use self::encoded::Encoded;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metrics::Gauge;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use crate::config::SnapshotSettings;
use crate::edge::Shared;
use crate::edge::batch::Batch;
use crate::edge::compress::Compressor;
use crate::edge::encode;
use crate::edge::hub::Hub;
use crate::edge::replay::portion::{GivenBack, Portion};
use crate::edge::series::{Extract, Part};
use crate::edge::snapshot::answers::Answers;
use crate::edge::snapshot::encoded::Room;
use crate::edge::view::ViewKey;
use crate::fairness::Charge;
use crate::ops::meters::{Meters, SeriesDrop};
use crate::ops::node::Node;
use crate::proto::channel::CollectorId;
use crate::proto::filter::FilterSet;
use crate::proto::message::{Incomplete, SnapshotPart};
use crate::proto::offset::Offset;
use crate::sync::Locked;

/// Messages that go out in one write, in bytes.
const BATCH_BYTES_MAX: usize = 16 * 1024;
/// What a message costs besides its bytes: its place in the batch.
const FRAME_OVERHEAD_BYTES: usize = 64;
/// A snapshot serves whoever asks within this time: what has changed since follows it.
const FRESH: Duration = Duration::from_millis(100);
/// Snapshots that are copied and encoded at the same time. Each keeps a thread busy and the last values locked for some
/// milliseconds per 10,000 series.
const MAKERS: usize = 2;
/// A bound that has cost series their values is warned of for so long.
const CONCERN: Duration = Duration::from_secs(60);
/// A client that takes less of its snapshot per second, on average and after the time that any client may be slow, is too
/// slow for it: others wait for the room.
const BYTES_PER_SECOND_MIN: usize = 64 * 1024;

/// The last values at one place, as ready messages.
pub(crate) struct Snapshot {
    /// The place.
    pub(crate) offset: Offset,
    /// All messages but the last, in order, as sessions write them.
    pub(crate) parts: Arc<Encoded<Arc<Portion>>>,
    /// The message that moves a client here; none, if nothing matches.
    pub(crate) last: Option<Bytes>,
    made: Instant,
}

impl Snapshot {
    /// How long a client may take for it, beyond the time it may be slow anyway.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs((self.parts.bytes() / BYTES_PER_SECOND_MIN) as u64)
    }

    /// Of these messages.
    fn new(offset: Offset, mut frames: Vec<Bytes>, room: &Room, charge: Charge) -> Self {
        let bytes = frames.iter().map(|frame| frame.len() + FRAME_OVERHEAD_BYTES).sum();
        let last = frames.pop();
        let here = Arc::new(offset.clone());
        let part = |run| Batch::standing(run, &here).map(|batch| Portion::standing(batch, GivenBack::Always));
        let (mut parts, mut run, mut run_bytes) = (Vec::new(), Vec::new(), 0);
        for frame in frames {
            if run_bytes + frame.len() > BATCH_BYTES_MAX {
                run_bytes = 0;
                parts.extend(part(std::mem::take(&mut run)));
            }
            run_bytes += frame.len();
            run.push(frame);
        }
        parts.extend(part(run));
        Self { offset, parts: room.keep(parts, bytes, charge), last, made: Instant::now() }
    }
}

/// All snapshots of an edge.
pub(crate) struct Snapshots {
    fresh: Locked<HashMap<ViewKey, Arc<OnceCell<Arc<Snapshot>>>>>,
    answers: Answers,
    makers: Semaphore,
    room: Arc<Room>,
    /// When a bound last cost a series its value.
    incomplete: Locked<Option<Instant>>,
}

impl Snapshots {
    /// None yet; those that are being sent take about `bytes_max` together. What nobody takes for `patience` is given up.
    pub(crate) fn new(bytes_max: usize, patience: Duration, gauge: Gauge) -> Self {
        Self {
            fresh: Locked::empty("fresh snapshots"),
            answers: Locked::empty("fresh answers"),
            makers: Semaphore::new(MAKERS),
            room: Arc::new(Room::new(bytes_max, BYTES_PER_SECOND_MIN as u64, patience, gauge)),
            incomplete: Locked::empty("incomplete snapshots"),
        }
    }

    /// A snapshot for sessions on views with this key, of a place that the edge has been at just now, and not before `floor`
    /// if that is of the same log: strictly behind it, if what follows it is `lost`.
    ///
    /// # Errors
    /// See [`Snapshots::extract`].
    pub(crate) async fn get(
        &self,
        shared: &Shared,
        hub: &Arc<Hub>,
        key: &ViewKey,
        floor: Option<&Offset>,
        lost: bool,
    ) -> Result<Arc<Snapshot>, Stopped> {
        loop {
            let head = hub.head().offset;
            let floor = floor.filter(|floor| floor.is_at_or_before(&head));
            let is_behind = |made: &Offset| {
                let is_there = |floor: &Offset| lost && floor == made && *floor != *head;
                floor.is_none_or(|floor| floor.is_at_or_before(made) && !is_there(floor))
            };
            // A reset of the log outdates it at once.
            let is_good = |made: &Arc<Snapshot>| {
                let is_whole = made.parts.is_whole();
                is_whole && made.offset.is_at_or_before(&head) && is_behind(&made.offset)
            };
            let (cell, outdated) = self.fresh.with(|fresh| {
                // One that is not made yet will be fresh.
                let is_good = |cell: &&Arc<OnceCell<Arc<Snapshot>>>| {
                    cell.get().is_none_or(|made| made.made.elapsed() < FRESH && is_good(made))
                };
                match fresh.get(key).filter(is_good) {
                    Some(cell) => (cell.clone(), None),
                    None => {
                        let cell = Arc::new(OnceCell::new());
                        (cell.clone(), fresh.insert(key.clone(), cell))
                    }
                }
            });
            drop(outdated);
            // A session that leaves while it makes one leaves that to the next who waits for it.
            let made = cell.get_or_try_init(|| self.make(shared, hub, key)).await?.clone();
            // It may have been begun before this session came to its place, or before the log became another one.
            if made.offset.epoch == hub.head().offset.epoch && is_behind(&made.offset) {
                return Ok(made);
            }
        }
    }

    /// Forgets those that are not fresh: sessions that are still sending one hold it themselves. Gives up what nobody takes.
    pub(crate) fn tidy(&self, meters: &Meters) {
        self.room.check(meters);
        let is_old = |cell: &Arc<OnceCell<Arc<Answer>>>| {
            cell.get().map_or(Arc::strong_count(cell) <= 1, Answer::is_old)
        };
        let old: Vec<_> = self.answers.with(|answers| answers.extract_if(|_, cell| is_old(cell)).collect());
        drop(old);
        let is_old = |cell: &Arc<OnceCell<Arc<Snapshot>>>| {
            cell.get().map_or(Arc::strong_count(cell) <= 1, |made| made.made.elapsed() >= FRESH)
        };
        // Dropped without the lock: a snapshot may be large.
        let old: Vec<_> = self.fresh.with(|fresh| fresh.extract_if(|_, cell| is_old(cell)).collect());
        drop(old);
    }

    /// The last values that match, when it is this caller's turn: `work` gets them on a thread that may block.
    ///
    /// # Errors
    /// When the node stops, or the work has failed in a way that nobody thought of.
    pub(crate) async fn extract<T: Send + 'static>(
        &self,
        shared: &Shared,
        hub: &Arc<Hub>,
        filters: &FilterSet,
        work: impl FnOnce(Extract, Charge) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (charge, _turn) = loop {
            // Not while a turn is taken: who waits for room must not keep others from looking for theirs.
            let charge = self.room.enter(&shared.node.meters).await;
            let turn = self.makers.acquire().await.map_err(|_| Stopped)?;
            if self.room.is_left() {
                break (charge, turn);
            }
        };
        let (hub, filters) = (hub.clone(), filters.clone());
        let work = shared.tasks.spawn_blocking(move || {
            let extract = hub.with_series(|series| series.matching(&filters));
            work(extract, charge)
        });
        work.await.map_err(|_| Stopped)
    }

    /// Has `/health` warn while a bound costs series their values, and for some time after that.
    pub(crate) fn warn(&self, node: &Node, limits: SnapshotSettings, bitten: Option<SeriesDrop>) {
        if let Some(bound) = bitten {
            let (key, value) = match bound {
                SeriesDrop::Bytes => ("edge.snapshot.bytes_max", limits.bytes_max),
                _ => ("edge.snapshot.series_max", limits.series_max),
            };
            if self.incomplete.with(|since| since.replace(Instant::now())).is_none() {
                tracing::warn!(
                    event = "snapshots_incomplete",
                    key,
                    value,
                    "more series are written than are kept"
                );
            }
            let concern = format!(
                "snapshots are incomplete: more series are written than {key} = {value} allows, and those updated least \
                 lately are left out; raise it, or write fewer series"
            );
            node.set_concern("snapshots", Some(concern));
        } else if self.incomplete.with(|since| since.take_if(|since| since.elapsed() >= CONCERN)).is_some() {
            node.set_concern("snapshots", None);
        }
    }

    async fn make(&self, shared: &Shared, hub: &Arc<Hub>, key: &ViewKey) -> Result<Arc<Snapshot>, Stopped> {
        let (room, compressor, key_) = (self.room.clone(), shared.compressor.clone(), key.clone());
        self.extract(shared, hub, &key.filters, move |extract, charge| {
            let offset = (*extract.at.offset).clone();
            let incomplete = extract.incomplete;
            let frames = frames(&offset, extract.into_parts(key_.format), incomplete, &key_, &compressor);
            Arc::new(Snapshot::new(offset, frames, &room, charge))
        })
        .await
    }
}

/// There is no more work to be had.
#[derive(Debug)]
pub(crate) struct Stopped;

/// The messages. Only the last one moves a client to their place: a connection that breaks before it asks for all again.
fn frames(
    offset: &Offset,
    mut parts: Vec<Part>,
    incomplete: Option<Incomplete>,
    key: &ViewKey,
    compressor: &Compressor,
) -> Vec<Bytes> {
    let token = offset.token();
    if parts.is_empty() && incomplete.is_some() {
        // Where nothing matches nothing is said, unless something may that is not known yet.
        parts.push(Part { collector: CollectorId::unknown(), metrics: Vec::new() });
    }
    let count = parts.len();
    let numbered = (1..).zip(parts);
    let frame = |(part, Part { collector, metrics }): (usize, Part)| {
        let which = SnapshotPart { offset: &token, part, parts: count, incomplete };
        let plain = encode::snapshot(key.format, which, &collector, &metrics);
        compressor.own(plain, key.wire, (part == count).then_some(offset))
    };
    numbered.map(frame).collect()
}
