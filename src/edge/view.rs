//! Views: runs of frames that all sessions with the same wish share. Pure but for its lock.
//!
//! A view is appended to by the hub and read by writers. Its frames are numbered; a [`Cursor`] is the number of the next
//! frame a session will get. Frames leave a view when their entry leaves the ring, or when the view is over its own
//! bound; a cursor behind the oldest frame has been overtaken, and its session gets a gap.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::edge::ring::Index;
use crate::proto::filter::FilterSet;
use crate::proto::message::Format;
use crate::proto::offset::Offset;

/// The number of the next frame of a view.
pub(crate) type Cursor = u64;

/// What makes a view: sessions that ask for the same share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ViewKey {
    /// Which part of the log.
    pub(crate) filters: FilterSet,
    /// In which form.
    pub(crate) format: Format,
    /// Compressed, where that makes a message smaller.
    pub(crate) deflated: bool,
}

/// One frame of a view.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The entry it was made from.
    pub(crate) index: Index,
    /// The log's offset after it.
    pub(crate) offset: Arc<Offset>,
    /// Header and payload, ready to be written.
    pub(crate) bytes: Bytes,
    /// Made for this view alone; other frames are the ring's, and counted there.
    pub(crate) own: bool,
}

/// A run of frames for sessions to read at the same cursor.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// In order; never empty.
    pub(crate) frames: Vec<Frame>,
}

/// What a cursor finds.
#[must_use = "a gap must reach the client"]
pub(crate) enum Pending {
    /// Nothing newer.
    Nothing,
    /// Frames; the cursor moves behind them.
    Frames(Arc<Batch>),
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

/// What all views of an edge hold in frames of their own.
pub(crate) struct Account {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Account {
    /// An account that may rise to `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max })
    }

    /// What is held now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A shared run of frames.
pub(crate) struct View {
    key: ViewKey,
    state: Mutex<State>,
    /// Cursor behind the newest frame, readable without the lock.
    end: AtomicU64,
    sessions: AtomicUsize,
}

/// A session's hold on its view: a view without one is dropped.
pub(crate) struct Seat(Arc<View>);

impl Seat {
    /// Takes part in a view.
    pub(crate) fn take(view: Arc<View>) -> Self {
        view.sessions.fetch_add(1, Ordering::Relaxed);
        Self(view)
    }

    /// The view.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

struct State {
    frames: VecDeque<Frame>,
    first: Cursor,
    /// Of frames that are this view's own.
    bytes: usize,
    bytes_max: usize,
    /// Of all views' own frames.
    account: Arc<Account>,
    /// All matching entries after this index are here as frames.
    covered_after: Index,
    /// The place behind the newest frame there has been.
    newest: (Index, Arc<Offset>),
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
        let state = State {
            frames: VecDeque::new(),
            first: 0,
            bytes: 0,
            bytes_max,
            account,
            covered_after: index,
            newest: (index, offset),
        };
        Self { key, state: Mutex::new(state), end: AtomicU64::new(0), sessions: AtomicUsize::new(0) }
    }

    /// What its sessions asked for.
    pub(crate) fn key(&self) -> &ViewKey {
        &self.key
    }

    /// Sessions that hold a seat.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Cursor behind the newest frame.
    pub(crate) fn end(&self) -> Cursor {
        self.end.load(Ordering::Acquire)
    }

    /// Adds a frame, and lets go of those whose entries are older than `first_index`.
    pub(crate) fn push(&self, frame: Frame, first_index: Index) {
        let mut state = self.lock();
        state.newest = (frame.index, frame.offset.clone());
        if frame.own {
            state.bytes += frame.bytes.len();
            state.account.bytes.fetch_add(frame.bytes.len(), Ordering::Relaxed);
        }
        state.frames.push_back(frame);
        state.trim(first_index);
        while state.is_over() && state.frames.len() > 1 {
            state.drop_oldest();
        }
        self.end.store(state.first + state.frames.len() as u64, Ordering::Release);
    }

    /// Lets go of frames whose entries are older than `first_index`, so that their bytes do not outlive the ring.
    pub(crate) fn trim(&self, first_index: Index) {
        self.lock().trim(first_index);
    }

    /// The cursor for a session that has seen everything up to `index`, if everything after it is still here.
    pub(crate) fn join(&self, index: Index) -> Option<Cursor> {
        let state = self.lock();
        (index >= state.covered_after)
            .then(|| state.first + state.frames.partition_point(|frame| frame.index <= index) as u64)
    }

    /// Up to `frames_max` frames and about `bytes_max` bytes from `cursor` on, at least one frame if there is one.
    pub(crate) fn pending(&self, cursor: Cursor, frames_max: usize, bytes_max: usize) -> Pending {
        let state = self.lock();
        let Some(skip) = cursor.checked_sub(state.first) else {
            let (index, offset) = state.newest.clone();
            return Pending::Overtaken { cursor: state.first + state.frames.len() as u64, offset, index };
        };
        let mut bytes = 0;
        let frames: Vec<Frame> = state
            .frames
            .range((skip as usize).min(state.frames.len())..)
            .take(frames_max)
            .take_while(|frame| {
                let fits = bytes == 0 || bytes + frame.bytes.len() <= bytes_max;
                bytes += frame.bytes.len();
                fits
            })
            .cloned()
            .collect();
        if frames.is_empty() { Pending::Nothing } else { Pending::Frames(Arc::new(Batch { frames })) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The view's own frames are too many, or all views' own frames are and some of them are here.
    fn is_over(&self) -> bool {
        self.bytes > self.bytes_max || (self.bytes > 0 && self.account.bytes() > self.account.bytes_max)
    }

    fn trim(&mut self, first_index: Index) {
        while self.frames.front().is_some_and(|frame| frame.index < first_index) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.first += 1;
            if frame.own {
                self.bytes -= frame.bytes.len();
                self.account.bytes.fetch_sub(frame.bytes.len(), Ordering::Relaxed);
            }
            self.covered_after = self.covered_after.max(frame.index);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::offset::{Epoch, Shard};

    fn offset(sequence: u64) -> Arc<Offset> {
        Arc::new(Offset::start(Epoch(1), 1).with(Shard(0), sequence))
    }

    fn view_of(indexes: impl IntoIterator<Item = Index>, bytes_max: usize) -> View {
        let key = ViewKey { filters: FilterSet::default(), format: Format::Json, deflated: false };
        let view = View::new(key, 10, offset(10), bytes_max, Account::new(1 << 20));
        for index in indexes {
            let bytes = Bytes::from(vec![0; 100]);
            view.push(Frame { index, offset: offset(index), bytes, own: true }, 0);
        }
        view
    }

    fn indexes(pending: Pending) -> Vec<Index> {
        match pending {
            Pending::Frames(batch) => batch.frames.iter().map(|frame| frame.index).collect(),
            Pending::Nothing => Vec::new(),
            Pending::Overtaken { .. } => panic!("overtaken"),
        }
    }

    #[test]
    fn a_session_joins_behind_what_it_has_seen() {
        let view = view_of([11, 13, 17], 1 << 20);
        assert_eq!(view.join(9), None, "the view did not exist yet");
        for (seen, expected) in [(10, vec![11, 13, 17]), (12, vec![13, 17]), (13, vec![17]), (40, vec![])] {
            assert_eq!(indexes(view.pending(view.join(seen).unwrap(), 10, 1 << 20)), expected);
        }
    }

    #[test]
    fn a_batch_is_bounded_in_frames_and_bytes() {
        let view = view_of(11..=20, 1 << 20);
        assert_eq!(indexes(view.pending(0, 3, 1 << 20)), [11, 12, 13]);
        assert_eq!(indexes(view.pending(4, 10, 250)), [15, 16]);
        assert_eq!(indexes(view.pending(9, 10, 1)), [20], "a frame larger than the bound still goes out");
    }

    #[test]
    fn an_overtaken_cursor_learns_where_it_goes_on() {
        let view = view_of(11..=20, 500);
        let Pending::Overtaken { cursor, offset: at, index } = view.pending(2, 10, 1000) else {
            panic!("five frames are left")
        };
        assert_eq!((cursor, index, at), (10, 20, offset(20)));
        assert_eq!(view.join(14), None);
        assert_eq!(indexes(view.pending(view.join(15).unwrap(), 10, 1 << 20)), [16, 17, 18, 19, 20]);
    }

    #[test]
    fn frames_leave_with_their_entries() {
        let view = view_of(11..=20, 1 << 20);
        view.trim(18);
        assert_eq!(view.join(16), None);
        assert_eq!(indexes(view.pending(view.join(17).unwrap(), 10, 1 << 20)), [18, 19, 20]);
    }

    #[test]
    fn frames_of_their_own_are_bounded_over_all_views() {
        let account = Account::new(1_000);
        let key = ViewKey { filters: FilterSet::default(), format: Format::Json, deflated: false };
        let view = || View::new(key.clone(), 0, offset(0), 1 << 20, account.clone());
        let views = [view(), view(), view()];
        for index in 1..=20 {
            for view in &views {
                let bytes = Bytes::from(vec![0; 100]);
                view.push(Frame { index, offset: offset(index), bytes, own: true }, 0);
            }
        }
        assert!(account.bytes() <= 1_000);
        drop(views);
        assert_eq!(account.bytes(), 0);
    }
}
