//! The middle of an edge: one ring, all views, the last values, and how a session finds its place in them.
//!
//! Followers append, the hub turns each entry into frames for the views that want it, and writers are told. The lock is
//! held while a few entries are encoded: followers wait for each other here, and sessions that look for their place for
//! them. Frames are written without it: writers only take a view's own lock for them.
//!
//! The last values have a lock of their own, so that neither reading lines for them nor copying many of them holds up live
//! frames. Entries wait in `State::unapplied`, in the ring's order, and whoever holds that lock applies them. Order of the
//! locks: last values, then state.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::broker::ReadLimits;
use crate::edge::batch::Frame;
use crate::edge::compress::Compressor;
use crate::edge::doorbell::Doorbell;
use crate::edge::encode;
use crate::edge::pieces::Pieces;
use crate::edge::ring::{Entry, Index, Item, Ring};
use crate::edge::sequencer::Ordered;
use crate::edge::series::SeriesStore;
use crate::edge::view::{Account, Cursor, Seat, View, ViewKey};
use crate::edge::wire::Wire;
use crate::ops::meters::{Label, Meters, SeriesDrop};
use crate::proto::filter::{FilterIndex, Share, Ticket};
use crate::proto::message::{Format, GapReason};
use crate::proto::offset::{Epoch, Offset, Sequence, Shard};

/// Entries that are encoded, and compressed, before the lock is let go and writers are told: with compression a
/// millisecond's work.
const ENTRIES_PER_LOCK: usize = 32;

/// The newest place of the log on this edge.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Its index in the ring.
    pub(crate) index: Index,
    /// Its offset.
    pub(crate) offset: Arc<Offset>,
    /// How often the log has turned out to be another one.
    pub(crate) resets: u64,
}

/// Where a session begins.
pub(crate) struct Attachment {
    /// The frames it shares.
    pub(crate) view: Seat,
    /// What it has seen: everything up to here.
    pub(crate) at: Arc<Offset>,
    /// How it goes on.
    pub(crate) start: Start,
}

/// How a session goes on from its place.
pub(crate) enum Start {
    /// On the view, from this cursor.
    Live(Cursor, Index),
    /// It has to be fed until it can join the view.
    CatchUp,
}

/// One ring, all views.
pub(crate) struct Hub {
    /// Never to be locked by whoever holds `state`.
    series: Mutex<SeriesStore>,
    state: Mutex<State>,
    head: watch::Sender<Head>,
    doorbells: Vec<Arc<Doorbell>>,
    view_bytes_max: usize,
    /// What views hold beside the ring.
    account: Arc<Account>,
}

struct State {
    compressor: Arc<Compressor>,
    ring: Ring,
    epochs: Vec<Epoch>,
    resets: u64,
    /// Entries that the last values do not hold yet: few, unless somebody is copying many values.
    unapplied: Vec<Arc<Entry>>,
    views: HashMap<ViewKey, Listed>,
    /// The same views by what they want of an envelope.
    index: FilterIndex<Arc<View>>,
}

struct Listed {
    view: Arc<View>,
    ticket: Ticket,
}

impl Hub {
    /// A hub whose log begins behind where `series` is; `epochs` are those of the shards.
    pub(crate) fn new(
        epochs: Vec<Epoch>,
        series: SeriesStore,
        ring_bytes_max: usize,
        view_bytes_max: usize,
        doorbells: Vec<Arc<Doorbell>>,
        compressor: Arc<Compressor>,
    ) -> Arc<Self> {
        let ring = Ring::new((*series.at().offset).clone(), ring_bytes_max);
        let head = Head { index: 0, offset: ring.head().clone(), resets: 0 };
        let (views, index) = (HashMap::new(), FilterIndex::default());
        let unapplied = Vec::new();
        let state = State { compressor, ring, epochs, resets: 0, unapplied, views, index };
        Arc::new(Self {
            series: Mutex::new(series),
            state: Mutex::new(state),
            head: watch::Sender::new(head),
            doorbells,
            view_bytes_max,
            account: Account::new(ring_bytes_max),
        })
    }

    /// Adds what comes next on a shard.
    pub(crate) fn append(&self, shard: Shard, arrivals: Vec<Ordered>, meters: &Meters) {
        let mut arrivals = arrivals.into_iter().peekable();
        while arrivals.peek().is_some() {
            let mut state = self.lock();
            for arrival in arrivals.by_ref().take(ENTRIES_PER_LOCK) {
                let entry = match arrival {
                    Ordered::Envelope(stored) => state.ring.push(shard, stored),
                    Ordered::Gone(range) => state.ring.push_gap(shard, *range.end(), GapReason::Retention),
                };
                state.dispatch(&entry, meters);
                state.unapplied.push(entry);
            }
            self.publish(state);
            self.settle();
        }
    }

    /// The shard was created anew (another epoch) or went backwards; it goes on after `last`.
    pub(crate) fn reset(&self, shard: Shard, epoch: Epoch, last: Sequence, meters: &Meters) {
        let mut state = self.lock();
        if let Some(slot) = state.epochs.get_mut(usize::from(shard.0)) {
            *slot = epoch;
        }
        let epoch = Epoch::combine(&state.epochs);
        state.resets += 1;
        let entry = state.ring.push_reset(epoch, shard, last);
        state.dispatch(&entry, meters);
        state.unapplied.push(entry);
        self.publish(state);
        self.settle();
    }

    /// The last values, as they are at the newest place. Whoever looks at many of them belongs on a thread that may block.
    pub(crate) fn with_series<T>(&self, look: impl FnOnce(&mut SeriesStore) -> T) -> T {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply_to(&mut series);
        let seen = look(&mut series);
        drop(series);
        // What came meanwhile was left to whoever held the lock.
        self.settle();
        seen
    }

    /// Sees to it that what is unapplied gets applied, here or by whoever holds the last values.
    fn settle(&self) {
        loop {
            let mut series = match self.series.try_lock() {
                Ok(series) => series,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.apply_to(&mut series);
            drop(series);
            // An entry may have come between the last look and the end of the lock, left by somebody who found it held.
            if self.lock().unapplied.is_empty() {
                return;
            }
        }
    }

    fn apply_to(&self, series: &mut SeriesStore) {
        loop {
            let unapplied = std::mem::take(&mut self.lock().unapplied);
            if unapplied.is_empty() {
                return;
            }
            unapplied.iter().for_each(|entry| series.apply(entry));
        }
    }

    /// Makes the ring's head known, then wakes the writers whose views have grown: whoever sees a head also sees the frames up to it.
    fn publish(&self, state: MutexGuard<'_, State>) {
        let (index, offset) = (state.ring.head_index(), state.ring.head().clone());
        let head = Head { index, offset, resets: state.resets };
        self.head.send_replace(head);
        drop(state);
        self.doorbells.iter().for_each(|doorbell| doorbell.ring_if_grown());
    }

    /// The newest place.
    pub(crate) fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// The newest place, as it moves on.
    pub(crate) fn watch_head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Gives a session the view it asks for, beginning after `at`, or after the newest place.
    pub(crate) fn attach(&self, key: &ViewKey, at: Option<Offset>) -> Attachment {
        let mut state = self.lock();
        let view = Seat::take(state.view(key, self.view_bytes_max, &self.account));
        let (index, at) = match at {
            None => (Some(state.ring.head_index()), state.ring.head().clone()),
            Some(offset) => (state.ring.locate(&offset), Arc::new(offset)),
        };
        let start = index
            .and_then(|index| Some(Start::Live(view.view().join(index)?, index)))
            .unwrap_or(Start::CatchUp);
        Attachment { view, at, start }
    }

    /// As many entries as `limits` allow of a shard that follow `after`, if the ring reaches back that far in `epoch`.
    pub(crate) fn entries(
        &self,
        epoch: Epoch,
        shard: Shard,
        after: Sequence,
        limits: ReadLimits,
    ) -> Option<Vec<Arc<Entry>>> {
        let state = self.lock();
        if state.ring.head().epoch != epoch {
            return None;
        }
        state.ring.shard_entries(shard, after, limits.envelopes_max, limits.bytes_max)
    }

    /// Whether `offset` is a place the ring can go on from, in whatever epoch.
    pub(crate) fn holds(&self, offset: &Offset) -> bool {
        self.lock().ring.locate(offset).is_some()
    }

    /// The place before everything that was stored at or after `stored_ns`, if the ring reaches back that far.
    pub(crate) fn since(&self, stored_ns: i64) -> Option<Arc<Offset>> {
        self.lock().ring.since(stored_ns)
    }

    /// When the log stored the newest of what is here, in nanoseconds since 1970; 0 if nothing is.
    pub(crate) fn stored_ns(&self) -> i64 {
        self.lock().ring.stored_ns()
    }

    /// Once a second: frames of evicted entries go, views without sessions go, gauges are set.
    pub(crate) fn tidy(&self, meters: &Meters) {
        let mut state = self.lock();
        let first = state.ring.first_index();
        let State { views, index, ring, .. } = &mut *state;
        for (_, gone) in views.extract_if(|_, listed| listed.view.sessions() == 0) {
            index.remove(gone.ticket);
        }
        views.values().for_each(|listed| listed.view.trim(first));
        meters.views.set(views.len() as f64);
        let deflated = views
            .values()
            .map(|listed| &listed.view)
            .filter(|view| view.key().wire == Wire::Deflated)
            .map(|view| view.sessions());
        meters.connections_deflated.set(deflated.sum::<usize>() as f64);
        meters.ring_bytes.set(ring.bytes() as f64);
        meters.view_bytes.set(self.account.bytes() as f64);
    }

    /// Once a second: last values that are too old go, what was dropped is counted. `now_ns` is the time since 1970.
    pub(crate) fn tidy_series(&self, now_ns: i64, meters: &Meters) {
        let (series, bytes, dropped) = self.with_series(|series| {
            series.expire(now_ns);
            (series.len(), series.bytes(), series.take_dropped())
        });
        meters.snapshot_series.set(series as f64);
        meters.snapshot_bytes.set(bytes as f64);
        for (reason, count) in SeriesDrop::ALL.iter().zip(dropped) {
            meters.snapshot_series_dropped.of(*reason).increment(count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn view(&mut self, key: &ViewKey, bytes_max: usize, account: &Arc<Account>) -> Arc<View> {
        if let Some(listed) = self.views.get(key) {
            return listed.view.clone();
        }
        let view = Arc::new(View::new(
            key.clone(),
            self.ring.head_index(),
            self.ring.head().clone(),
            bytes_max,
            account.clone(),
        ));
        let ticket = self.index.insert(&key.filters, view.clone());
        self.views.insert(key.clone(), Listed { view: view.clone(), ticket });
        view
    }

    /// Gives an entry's frame to every view that wants it; the others are not even looked at.
    fn dispatch(&mut self, entry: &Entry, meters: &Meters) {
        let first = self.ring.first_index();
        let frame = |bytes, own| Frame { index: entry.index, offset: entry.offset.clone(), bytes, own };
        match &entry.item {
            Item::Gap { reason, .. } => {
                for Listed { view, .. } in self.views.values() {
                    let bytes = self.compressor.whole(entry, view.key());
                    bytes.into_iter().for_each(|bytes| view.push(frame(bytes, false), first));
                    meters.gaps.of((*reason).into()).increment(view.sessions() as u64);
                }
            }
            Item::Envelope(stored) => {
                let lines = OnceCell::new();
                let read = || lines.get_or_init(|| encode::lines(&stored.envelope)).as_slice();
                let mut pieces = Pieces::new(entry, stored);
                // Parts in other frames by their lines: views that take the same of it share the work.
                let mut framed: HashMap<(Format, Wire, Vec<Range<u32>>), Bytes> = HashMap::new();
                for (view, share) in self.index.find(&stored.envelope.channel, read) {
                    let (key, own) = (view.key(), share != Share::Whole);
                    let Some(plain) = pieces.frame(share, key.format, lines.get().map(Vec::as_slice)) else {
                        continue;
                    };
                    let bytes = match share {
                        Share::Whole => self.compressor.shared(entry, plain, key),
                        Share::Lines(_) if key.wire == Wire::WebSocket => plain,
                        Share::Lines(runs) => framed
                            .entry((key.format, key.wire, runs.to_vec()))
                            .or_insert_with(|| self.compressor.own(plain, key.wire, Some(&entry.offset)))
                            .clone(),
                    };
                    view.push(frame(bytes, own), first);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
