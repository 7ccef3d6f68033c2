//! What sessions that catch up are fed: a run of frames that leads from one place of the log to a later one. Pure.
//!
//! Sessions at the same place with the same wish share one. Portions end where those that began elsewhere end too: at the end
//! of a block of the log, if they have enough by then, and at the end of a span of blocks in any case. So clients that
//! lost their connections within the same seconds soon walk together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::broker::Stored;
use crate::edge::batch::{Batch, Frame};
use crate::edge::books::Passage;
use crate::edge::compress::Compressor;
use crate::edge::encode;
use crate::edge::replay::flights::Kept;
use crate::edge::replay::piece::Piece;
use crate::edge::ring::{Entry, Index, Item};
use crate::edge::view::ViewKey;
use crate::proto::filter::Match;
use crate::proto::message::GapReason;
use crate::proto::offset::{Offset, Sequence, Shard};

/// A portion with so many bytes of frames ends with its block: fewer, and sessions with narrow filters would take a turn of
/// their writer for each block.
const ENOUGH_BYTES: usize = 16 * 1024;
/// A portion with so many ends wherever it is: about what a socket's send buffer takes.
const FULL_BYTES: usize = 128 * 1024;
/// What a frame costs besides its bytes: its place in the batch, and the offset behind it.
const FRAME_OVERHEAD_BYTES: usize = 120;

/// See the module.
pub(crate) struct Portion {
    /// None where everything on the way is filtered out.
    pub(crate) batch: Option<Batch>,
    /// The place it leads to.
    pub(crate) to: Arc<Offset>,
    /// Steps of the log on the way: envelopes and gaps, sent or not.
    pub(crate) steps: Index,
    /// Positions that the log no longer held, and that were no loss.
    pub(crate) unheld: u64,
    /// Why some of the way is missing, once for each gap.
    pub(crate) gaps: Vec<GapReason>,
    /// Made for one session: it is small, and nobody else could make it again.
    pub(crate) own: bool,
    held: Held,
}

/// What all portions hold that anybody still has.
#[derive(Default)]
pub(crate) struct Account {
    bytes: AtomicUsize,
    /// Rung when one is gone.
    pub(crate) freed: Notify,
}

impl Account {
    /// What is held now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

struct Held {
    bytes: usize,
    account: Option<Arc<Account>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            account.freed.notify_waiters();
        }
    }
}

impl Kept for Arc<Portion> {
    fn bytes(&self) -> usize {
        self.held.bytes
    }

    fn is_lasting(&self) -> bool {
        true
    }
}

impl Portion {
    /// The announcement that what lies up to `to` does not come.
    pub(crate) fn gap(key: &ViewKey, from: Arc<Offset>, to: Arc<Offset>, reason: GapReason) -> Arc<Self> {
        let bytes = encode::gap(key.wire, &from, &to, reason);
        let passage = Some(Arc::new(Passage::gap(&from, &to, reason)));
        let frame = Frame { index: 1, offset: to.clone(), bytes, own: true, passage };
        Arc::new(Self {
            batch: Batch::new(vec![frame]),
            to,
            steps: 1,
            unheld: 0,
            gaps: vec![reason],
            own: true,
            held: Held { bytes: 0, account: None },
        })
    }

    /// Frames that were made elsewhere, whose indexes count steps from the first one's.
    pub(crate) fn of(batch: Batch) -> Arc<Self> {
        let (steps, to) = batch.end().clone();
        Arc::new(Self {
            batch: Some(batch),
            to,
            steps,
            unheld: 0,
            gaps: Vec::new(),
            own: true,
            held: Held { bytes: 0, account: None },
        })
    }

    /// The silent way past positions that the log no longer held.
    pub(crate) fn unheld(positions: u64, to: Arc<Offset>) -> Arc<Self> {
        Arc::new(Self {
            batch: None,
            to,
            steps: 0,
            unheld: positions,
            gaps: Vec::new(),
            own: true,
            held: Held { bytes: 0, account: None },
        })
    }
}

/// A portion in the making.
pub(crate) struct Draft<'a> {
    key: &'a ViewKey,
    compressor: &'a Compressor,
    shard: Shard,
    at: Offset,
    steps: Index,
    frames: Vec<Frame>,
    bytes: usize,
    gaps: Vec<GapReason>,
}

impl<'a> Draft<'a> {
    /// A portion that begins at `at` and goes on along `shard`.
    pub(crate) fn new(key: &'a ViewKey, compressor: &'a Compressor, shard: Shard, at: Offset) -> Self {
        Self { key, compressor, shard, at, steps: 0, frames: Vec::new(), bytes: 0, gaps: Vec::new() }
    }

    /// Where it has got to on its shard.
    pub(crate) fn sequence(&self) -> Sequence {
        self.at.sequence(self.shard)
    }

    /// Steps it has taken.
    pub(crate) fn steps(&self) -> Index {
        self.steps
    }

    /// Whether it ends with the block.
    pub(crate) fn is_enough(&self) -> bool {
        self.bytes >= ENOUGH_BYTES
    }

    /// Whether it ends where it is.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES
    }

    /// Takes entries of the ring that follow, up to `end`; a gap may lead beyond it, but never beyond `last`.
    pub(crate) fn take_entries(&mut self, entries: &[Arc<Entry>], end: Sequence, last: Sequence) {
        for entry in entries {
            let is_gap = matches!(entry.item, Item::Gap { .. });
            if entry.sequence() > if is_gap { last } else { end } || self.is_full() {
                break;
            }
            match &entry.item {
                Item::Gap { reason, .. } => self.pass_gap(entry.sequence(), *reason),
                Item::Envelope(stored) => {
                    self.at = self.at.with(self.shard, entry.sequence());
                    self.steps += 1;
                    // The same place as in the ring's order: the ring's own frame will do.
                    let same = self.at == *entry.offset;
                    let bytes = match self.key.filters.matches_channel(&stored.envelope.channel) {
                        Match::No => None,
                        Match::Whole if same => self.compressor.replayed(entry, self.key),
                        Match::Whole | Match::Lines => self.encode(stored),
                    };
                    self.push(bytes, None);
                }
            }
        }
    }

    /// Takes stored envelopes that follow, up to `end`.
    pub(crate) fn take_stored(&mut self, piece: &Piece, end: Sequence) {
        let mut taken = false;
        for stored in piece.after(self.sequence()) {
            if stored.sequence > end || self.is_full() {
                break;
            }
            if stored.sequence > self.sequence() + 1 {
                if !taken {
                    // Whether it is gone, or is no loss, is not for a portion to say.
                    break;
                }
                self.pass_gap(stored.sequence - 1, GapReason::Retention);
            }
            taken = true;
            self.at = self.at.with(self.shard, stored.sequence);
            self.steps += 1;
            let bytes = self.encode(stored);
            self.push(bytes, None);
        }
    }

    fn encode(&self, stored: &Stored) -> Option<Bytes> {
        let Self { key, at, .. } = self;
        encode::filtered(&stored.envelope, stored.stored_ns, at, &key.filters, key.format)
            .map(|plain| self.compressor.own(plain, key.wire, Some(at)))
    }

    fn pass_gap(&mut self, to: Sequence, reason: GapReason) {
        let to = self.at.with(self.shard, to);
        let from = Arc::new(std::mem::replace(&mut self.at, to));
        self.steps += 1;
        self.gaps.push(reason);
        let bytes = encode::gap(self.key.wire, &from, &self.at, reason);
        self.push(Some(bytes), Some(Arc::new(Passage::gap(&from, &self.at, reason))));
    }

    /// Adds a frame at the place it has got to. Its index counts the steps from the portion's beginning.
    fn push(&mut self, bytes: Option<Bytes>, passage: Option<Arc<Passage>>) {
        let Some(bytes) = bytes else { return };
        self.bytes += bytes.len();
        let offset = Arc::new(self.at.clone());
        self.frames.push(Frame { index: self.steps, offset, bytes, own: true, passage });
    }

    /// The portion, which `account` is charged for.
    pub(crate) fn finish(self, account: &Arc<Account>) -> Arc<Portion> {
        let bytes = self.bytes + self.frames.len() * FRAME_OVERHEAD_BYTES + size_of::<Portion>();
        account.bytes.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Portion {
            batch: Batch::new(self.frames),
            to: Arc::new(self.at),
            steps: self.steps,
            unheld: 0,
            gaps: self.gaps,
            own: false,
            held: Held { bytes, account: Some(account.clone()) },
        })
    }
}
