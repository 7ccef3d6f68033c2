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
    pub(crate) batch: Option<Arc<Batch>>,
    /// The place it leads to. It says nothing if the batch leaves sessions where they are.
    pub(crate) to: Arc<Offset>,
    /// Steps of the log on the way: envelopes and gaps, sent or not.
    pub(crate) steps: Index,
    /// Positions that the log no longer held, and that were no loss.
    pub(crate) unheld: u64,
    /// Why some of the way is missing, once for each gap.
    pub(crate) gaps: Vec<GapReason>,
    pub(crate) given_back: GivenBack,
    bytes: usize,
    /// Whoever has the portion keeps what it holds charged.
    _charge: Option<Charge>,
}

/// Whether a session whose socket takes nothing gives a portion back, to have it made again when it can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenBack {
    /// In any case: it is made again from where the session has got to, or others hold it.
    Always,
    /// Unless it has begun with it: what would be made again is no shorter, and a slow socket would begin with it for ever.
    Unbegun,
    /// It is next to nothing, and is not made again.
    Never,
}

/// A part of an account, free again when the last who has it lets it go.
pub(crate) type Charge = Arc<dyn Send + Sync>;

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

    /// Charges it for so many more bytes, until what is returned is dropped.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Held {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Held { bytes, account: self.clone() }
    }
}

/// What an account is charged for.
pub(crate) struct Held {
    bytes: usize,
    account: Arc<Account>,
}

impl Held {
    /// What is held has become `bytes` altogether.
    fn grow_to(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        self.account.bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.freed.notify_waiters();
    }
}

impl Kept for Arc<Portion> {
    fn bytes(&self) -> usize {
        self.bytes
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
        let batch = Batch::new(vec![frame]).map(Arc::new);
        Arc::new(Self { batch, steps: 1, gaps: vec![reason], ..Self::nothing(to) })
    }

    /// Frames that were made elsewhere, whose indexes count steps from the first one's.
    pub(crate) fn of(batch: Batch, given_back: GivenBack, charge: Option<Charge>) -> Arc<Self> {
        let (steps, to) = batch.end().clone();
        let batch = Some(Arc::new(batch));
        Arc::new(Self { batch, steps, given_back, _charge: charge, ..Self::nothing(to) })
    }

    /// Messages that leave a session where it is, to be shared by all: see [`Batch::standing`].
    pub(crate) fn standing(batch: Batch, given_back: GivenBack) -> Arc<Self> {
        debug_assert!(batch.stands(), "each session stays where it is");
        let to = batch.end().1.clone();
        Arc::new(Self { batch: Some(Arc::new(batch)), given_back, ..Self::nothing(to) })
    }

    /// Bytes it has for a socket.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.wire().len())
    }

    /// The silent way past positions that the log no longer held.
    pub(crate) fn unheld(positions: u64, to: Arc<Offset>) -> Arc<Self> {
        Arc::new(Self { unheld: positions, ..Self::nothing(to) })
    }

    fn nothing(to: Arc<Offset>) -> Self {
        let given_back = GivenBack::Never;
        let (batch, gaps) = (None, Vec::new());
        Self { batch, to, steps: 0, unheld: 0, gaps, given_back, bytes: 0, _charge: None }
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
    held: Held,
}

impl<'a> Draft<'a> {
    /// A portion that begins at `at` and goes on along `shard`; `account` is charged for it as it grows.
    pub(crate) fn new(
        key: &'a ViewKey,
        compressor: &'a Compressor,
        shard: Shard,
        at: Offset,
        account: &Arc<Account>,
    ) -> Self {
        let (frames, gaps, held) = (Vec::new(), Vec::new(), account.charge(0));
        Self { key, compressor, shard, at, steps: 0, frames, bytes: 0, gaps, held }
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
        self.held.grow_to(self.bytes + (self.frames.len() + 1) * FRAME_OVERHEAD_BYTES);
        let offset = Arc::new(self.at.clone());
        self.frames.push(Frame { index: self.steps, offset, bytes, own: true, passage });
    }

    /// The portion.
    pub(crate) fn finish(self) -> Arc<Portion> {
        let Self { at, steps, frames, bytes, gaps, mut held, .. } = self;
        let bytes = bytes + frames.len() * FRAME_OVERHEAD_BYTES + size_of::<Portion>();
        held.grow_to(bytes);
        Arc::new(Portion {
            batch: Batch::new(frames).map(Arc::new),
            steps,
            gaps,
            given_back: GivenBack::Always,
            bytes,
            _charge: Some(Arc::new(held)),
            ..Portion::nothing(Arc::new(at))
        })
    }
}
