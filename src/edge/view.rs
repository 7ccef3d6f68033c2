//! Views: runs of frames that all sessions with the same wish share. Pure but for its lock.
//!
//! A view is appended to by the hub and read by writers. Its frames are numbered; a [`Cursor`] is the number of the next
//! frame a session will get. Frames leave a view when their entry leaves the ring, or when the view is over its own
//! bound; a cursor behind the oldest frame has been overtaken, and its session gets a gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::edge::batch::{Batch, Frame};
use crate::edge::conflate::resume::KeptParts;
use crate::edge::doorbell::{Doorbell, ViewAddress};
use crate::edge::ring::Index;
use crate::edge::shares::{Client, Shares};
use crate::edge::wire::Wire;
use crate::proto::filter::FilterSet;
use crate::proto::message::{Format, Subscription, interval_served};
use crate::proto::offset::Offset;
use crate::sync::{Level, Locked};

/// The number of the next frame of a view.
pub(crate) type Cursor = u64;

/// What a frame costs a view besides its bytes: its place in the run, which has a third of its room to spare on average.
const FRAME_OVERHEAD_BYTES: usize = size_of::<Frame>() * 3 / 2;

/// What makes a view: sessions that ask for the same share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ViewKey {
    /// Which part of the log.
    pub(crate) filters: FilterSet,
    /// In which form.
    pub(crate) format: Format,
    /// In which frames.
    pub(crate) wire: Wire,
    /// Only each series' newest value, once in so many milliseconds; every value, without it.
    pub(crate) interval_ms: Option<u32>,
}

impl ViewKey {
    /// The view that a subscription asks for, in the frames that its connection takes.
    pub(crate) fn of(subscription: &Subscription, wire: Wire) -> Self {
        Self {
            filters: subscription.filters.clone(),
            format: subscription.format,
            wire,
            interval_ms: subscription.interval_ms.map(interval_served),
        }
    }
}

/// What a frame adds to its view.
fn held_bytes(frame: &Frame) -> usize {
    FRAME_OVERHEAD_BYTES + if frame.own { frame.bytes.len() } else { 0 }
}

/// What a cursor finds.
#[must_use = "a gap must reach the client"]
pub(crate) enum Pending {
    /// Nothing newer.
    Nothing,
    /// Frames; the cursor moves behind them.
    Frames(Batch),
    /// The frames at the cursor are gone: everything up to `offset` is lost to this session, which goes on at `cursor`.
    Overtaken {
        /// Where the session goes on.
        cursor: Cursor,
        /// The place in the log right before it.
        offset: Arc<Offset>,
        /// The ring's index of that place.
        index: Index,
    },
}

/// What all views of an edge hold beside the ring: frames of their own, and their runs.
pub(crate) struct Account {
    bytes: AtomicUsize,
    bytes_max: usize,
    views: AtomicUsize,
}

impl Account {
    /// An account that may rise to `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max, views: AtomicUsize::new(0) })
    }

    /// What is held now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a view that holds `bytes` has to let go of some because all views together hold too much: those that hold
    /// more than their equal share do, so that a busy view leaves the others theirs.
    fn claims_from(&self, bytes: usize) -> bool {
        self.bytes() > self.bytes_max && bytes > self.bytes_max / self.views.load(Ordering::Relaxed).max(1)
    }
}

/// A shared run of frames.
pub(crate) struct View {
    key: ViewKey,
    state: Locked<State>,
    /// Cursor behind the newest frame, readable without the lock.
    end: AtomicU64,
    /// When ingest received what the newest frame was made from, in nanoseconds since 1970; 0 before there is one.
    received_ns: AtomicI64,
    sessions: AtomicUsize,
    flushed: Notify,
    kept_parts: KeptParts,
}

/// A session's hold on its view: a view without one is dropped.
pub(crate) struct Seat {
    view: Arc<View>,
    shares: Arc<Shares>,
    client: Client,
}

impl Seat {
    /// Takes part in a view, which is one of its client's then.
    pub(crate) fn take(view: Arc<View>, shares: Arc<Shares>, client: Client) -> Self {
        view.sessions.fetch_add(1, Ordering::Relaxed);
        shares.enter(client, view.address());
        Self { view, shares, client }
    }

    /// The view.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whose it is.
    pub(crate) fn client(&self) -> Client {
        self.client
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shares.leave(self.client, self.view.address());
        self.view.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

struct State {
    frames: VecDeque<Frame>,
    first: Cursor,
    /// Of the run, and of frames that are this view's own.
    bytes: usize,
    bytes_max: usize,
    /// Of all views.
    account: Arc<Account>,
    /// All matching entries after this index are here as frames.
    covered_after: Index,
    /// The place behind the newest frame there has been.
    newest: (Index, Arc<Offset>),
    /// With an interval: where the frames of the last flush that had any begin.
    last_flush: Cursor,
    /// Writers that have sessions here.
    listeners: Vec<Listener>,
}

struct Listener {
    doorbell: Arc<Doorbell>,
    /// It has been told that the view has grown, and has not come to look yet.
    told: bool,
}

impl View {
    /// An empty view that will get everything after `index`, which is at `offset`.
    pub(crate) fn new(
        key: ViewKey,
        index: Index,
        offset: Arc<Offset>,
        bytes_max: usize,
        account: Arc<Account>,
    ) -> Self {
        account.views.fetch_add(1, Ordering::Relaxed);
        let state = State {
            frames: VecDeque::new(),
            first: 0,
            bytes: 0,
            bytes_max,
            account,
            covered_after: index,
            newest: (index, offset),
            last_flush: 0,
            listeners: Vec::new(),
        };
        Self {
            key,
            state: Locked::new(Level::View, "a view", state),
            end: AtomicU64::new(0),
            received_ns: AtomicI64::new(0),
            sessions: AtomicUsize::new(0),
            flushed: Notify::new(),
            kept_parts: KeptParts::default(),
        }
    }

    /// It is known only from here on: it gets everything after `index`, which is at `offset`.
    pub(crate) fn begin(&self, index: Index, offset: Arc<Offset>) {
        self.state.with(|state| {
            state.covered_after = index;
            state.newest = (index, offset);
        });
    }

    /// What its sessions asked for.
    pub(crate) fn key(&self) -> &ViewKey {
        &self.key
    }

    /// Sessions that hold a seat.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// What writers know it by.
    pub(crate) fn address(&self) -> ViewAddress {
        std::ptr::from_ref(self) as ViewAddress
    }

    /// From now on the writer is told when the view grows.
    pub(crate) fn listen(&self, doorbell: Arc<Doorbell>) {
        self.state.with(|state| state.listeners.push(Listener { doorbell, told: false }));
    }

    /// The writer is told no more.
    pub(crate) fn unlisten(&self, writer: usize) {
        self.state.with(|state| state.listeners.retain(|listener| listener.doorbell.number != writer));
    }

    /// The writer, having been told, is about to look: whatever comes from now on it is told of again. To be called before
    /// the writer looks, or a frame that comes in between would be waited for in vain.
    pub(crate) fn attend(&self, writer: usize) {
        self.state.with(|state| {
            let listeners = state.listeners.iter_mut().filter(|listener| listener.doorbell.number == writer);
            listeners.for_each(|listener| listener.told = false);
        });
    }

    /// Cursor behind the newest frame.
    pub(crate) fn end(&self) -> Cursor {
        self.end.load(Ordering::Acquire)
    }

    /// The frame that comes next was received by ingest at this time, in nanoseconds since 1970.
    pub(crate) fn note_received(&self, received_ns: i64) {
        self.received_ns.store(received_ns, Ordering::Relaxed);
    }

    /// When ingest received what the newest frame was made from, if there is one.
    pub(crate) fn received_ns(&self) -> Option<i64> {
        Some(self.received_ns.load(Ordering::Relaxed)).filter(|received_ns| *received_ns != 0)
    }

    /// Adds a frame, and lets go of those whose entries are older than `first_index`. Writers are told, but not woken.
    pub(crate) fn push(&self, frame: Frame, first_index: Index) {
        self.state.with(|state| {
            state.newest = (frame.index, frame.offset.clone());
            state.add(frame);
            state.trim(first_index);
            self.tell(state);
        });
    }

    /// Adds the newest values up to a place, for a view with an interval; there are no frames if nothing has changed. What is
    /// older than the flush before is let go: a session that has not written it by then gets what has changed since, not a
    /// queue of what has grown old.
    pub(crate) fn flush(&self, frames: Vec<Frame>, index: Index, offset: Arc<Offset>) {
        self.state.with(|state| {
            state.newest = (index, offset);
            if frames.is_empty() {
                return;
            }
            let end = state.end();
            let before = std::mem::replace(&mut state.last_flush, end);
            while state.first < before {
                state.drop_oldest();
            }
            frames.into_iter().for_each(|frame| state.add(frame));
            state.trim(0);
            self.tell(state);
        });
        self.kept_parts.tidy();
        self.flushed.notify_waiters();
    }

    fn tell(&self, state: &mut State) {
        self.end.store(state.end(), Ordering::Release);
        let address = self.address();
        for listener in state.listeners.iter_mut().filter(|listener| !listener.told) {
            listener.told = true;
            listener.doorbell.note_grown(address);
        }
    }

    /// Lets go of frames whose entries are older than `first_index`, so that their bytes do not outlive the ring, and of
    /// the oldest that are too many.
    pub(crate) fn trim(&self, first_index: Index) {
        self.state.with(|state| state.trim(first_index));
    }

    /// All frames behind this place of the ring are here.
    pub(crate) fn covered_after(&self) -> Index {
        self.state.with(|state| state.covered_after)
    }

    /// The cursor for a session that has seen everything up to `index`, if everything after it is still here.
    pub(crate) fn join(&self, index: Index) -> Option<Cursor> {
        self.state.with(|state| {
            (index >= state.covered_after)
                .then(|| state.first + state.frames.partition_point(|frame| frame.index <= index) as u64)
        })
    }

    /// Whether frames at `cursor` have been let go.
    pub(crate) fn has_overtaken(&self, cursor: Cursor) -> bool {
        cursor < self.state.with(|state| state.first)
    }

    /// The place behind the newest frame there has been, and the cursor there. A view with an interval is at the place of
    /// its last flush.
    pub(crate) fn place(&self) -> (Cursor, Index, Arc<Offset>) {
        self.state.with(|state| {
            let (index, offset) = state.newest.clone();
            (state.end(), index, offset)
        })
    }

    /// What it has made for sessions that come to it, with an interval.
    pub(crate) fn kept_parts(&self) -> &KeptParts {
        &self.kept_parts
    }

    /// Resolves at the next flush after this call.
    pub(crate) fn next_flush(&self) -> Notified<'_> {
        self.flushed.notified()
    }

    /// Up to `frames_max` frames and about `bytes_max` bytes from `cursor` on, at least one frame if there is one. A frame with
    /// which the log becomes another one comes alone: places before and behind it cannot be compared.
    pub(crate) fn pending(&self, cursor: Cursor, frames_max: usize, bytes_max: usize) -> Pending {
        self.state.with(|state| state.pending(cursor, frames_max, bytes_max))
    }
}

impl State {
    /// Cursor behind the newest frame.
    fn end(&self) -> Cursor {
        self.first + self.frames.len() as u64
    }

    fn pending(&self, cursor: Cursor, frames_max: usize, bytes_max: usize) -> Pending {
        let Some(skip) = cursor.checked_sub(self.first) else {
            let (index, offset) = self.newest.clone();
            return Pending::Overtaken { cursor: self.end(), offset, index };
        };
        let (mut bytes, mut reset) = (0, false);
        let frames: Vec<Frame> = self
            .frames
            .range((skip as usize).min(self.frames.len())..)
            .take(frames_max)
            .take_while(|frame| {
                let fits =
                    bytes == 0 || bytes + frame.bytes.len() <= bytes_max && !reset && !frame.is_reset();
                bytes += frame.bytes.len();
                reset = frame.is_reset();
                fits
            })
            .cloned()
            .collect();
        Batch::new(frames).map_or(Pending::Nothing, Pending::Frames)
    }

    fn add(&mut self, frame: Frame) {
        self.bytes += held_bytes(&frame);
        self.account.bytes.fetch_add(held_bytes(&frame), Ordering::Relaxed);
        self.frames.push_back(frame);
    }

    fn trim(&mut self, first_index: Index) {
        while self.frames.front().is_some_and(|frame| frame.index < first_index) {
            self.drop_oldest();
        }
        while self.frames.len() > 1 && (self.bytes > self.bytes_max || self.account.claims_from(self.bytes)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.first += 1;
            self.bytes -= held_bytes(&frame);
            self.account.bytes.fetch_sub(held_bytes(&frame), Ordering::Relaxed);
            self.covered_after = self.covered_after.max(frame.index);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.account.views.fetch_sub(1, Ordering::Relaxed);
        self.account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
