//! The middle of an edge: one ring, all views, the last values, and how a session finds its place in them.
//!
//! Followers append, the hub turns each entry into frames for the views that want it, and writers are told. The lock is
//! held while a few entries are encoded: followers wait for each other here, and sessions that look for their place for
//! them. It is handed over to who waits: a follower with a backlog would else have it again before anybody else wakes up.
//! Frames are written without it: writers only take a view's own lock for them.
//!
//! The last values have a lock of their own, so that neither reading lines for them nor copying many of them holds up live
//! frames. Entries wait in `State::unapplied`, in the ring's order, and whoever holds that lock applies them. Order of the
//! locks: last values, then state.

use std::iter::Peekable;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::broker::ReadLimits;
use crate::edge::compress::Compressor;
use crate::edge::conflate::{Conflation, GroupKey, Matcher, Round};
use crate::edge::doorbell::Doorbell;
use crate::edge::ring::{Entry, Index, Ring};
use crate::edge::sequencer::Ordered;
use crate::edge::series::{SeriesCounts, SeriesStore};
use crate::edge::shares::{Client, TooManyViews};
use crate::edge::view::{Account, Cursor, Seat, View, ViewKey};
use crate::ops::meters::{Label, Meters, SeriesDrop};
use crate::proto::filter::FilterIndex;
use crate::proto::message::GapReason;
use crate::proto::offset::{Epoch, Offset, Sequence, Shard};
use crate::sync::{Level, Locked};

mod dispatch;
mod head;
mod matching;
#[cfg(test)]
mod tests;
mod views;

pub(crate) use head::{Back, Head};
use matching::Looks;
pub(crate) use views::ViewLimits;
use views::Views;

/// Entries that are encoded, and compressed, before the lock is let go and writers are told: with compression a
/// millisecond's work.
const ENTRIES_PER_LOCK: usize = 32;
/// The same in bytes of lines, for large ones; the entry that crosses it is still taken.
const BYTES_PER_LOCK: usize = 64 * 1024;

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
    /// Never to be locked while `state` is.
    values: Locked<Values>,
    counts: Arc<SeriesCounts>,
    looks: Locked<Looks>,
    /// Never to be locked while `state` is.
    views: Locked<Views>,
    /// Groups of views with an interval that have come to be: for whoever gives them their beat.
    new_groups: Locked<Option<mpsc::UnboundedReceiver<GroupKey>>>,
    state: Locked<State>,
    head: watch::Sender<Head>,
    doorbells: Vec<Arc<Doorbell>>,
    /// What views hold beside the ring.
    account: Arc<Account>,
}

struct State {
    compressor: Arc<Compressor>,
    ring: Ring,
    epochs: Vec<Epoch>,
    resets: u64,
    back: Option<Back>,
    /// What the last values do not know yet: little, unless somebody is copying many of them.
    unapplied: Vec<Step>,
    /// Views by what they want of an envelope.
    index: FilterIndex<Arc<View>>,
}

/// What keeps up with the log behind the views.
struct Values {
    series: SeriesStore,
    /// Views that are made of them.
    conflation: Conflation,
}

/// One step of what happens to the last values and to who is made of them, in the ring's order.
enum Step {
    Entry(Arc<Entry>),
    /// A view with an interval, which begins behind the entry before.
    Joined(Arc<View>),
    Left(Arc<View>),
}

impl Hub {
    /// A hub whose log begins behind where `series` is; `epochs` are those of the shards.
    pub(crate) fn new(
        epochs: Vec<Epoch>,
        series: SeriesStore,
        ring_bytes_max: usize,
        view_limits: ViewLimits,
        doorbells: Vec<Arc<Doorbell>>,
        compressor: Arc<Compressor>,
    ) -> Arc<Self> {
        let ring = Ring::new((*series.at().offset).clone(), ring_bytes_max);
        let head = Head { index: 0, offset: ring.head().clone(), resets: 0, back: None };
        let (unapplied, index) = (Vec::new(), FilterIndex::default());
        let state = State { compressor, ring, epochs, resets: 0, back: None, unapplied, index };
        let account = Account::new(ring_bytes_max);
        let (announce, new_groups) = mpsc::unbounded_channel();
        let counts = series.counts();
        let values = Values { series, conflation: Conflation::new(announce) };
        Arc::new(Self {
            values: Locked::new(Level::LastValues, "last values", values),
            counts,
            looks: Locked::leaf("looks at last values", Looks::default()),
            new_groups: Locked::leaf("new groups", Some(new_groups)),
            views: Locked::new(Level::Views, "the views", Views::new(view_limits, account.clone())),
            state: Locked::new(Level::Hub, "the hub", state),
            head: watch::Sender::new(head),
            doorbells,
            account,
        })
    }

    /// Adds the first of what comes next on a shard, as much as the lock may be held for. True when some are left.
    pub(crate) fn append_some(
        &self,
        shard: Shard,
        arrivals: &mut Peekable<impl Iterator<Item = Ordered>>,
    ) -> bool {
        if arrivals.peek().is_none() {
            return false;
        }
        self.change(|state| {
            let mut bytes = 0;
            for arrival in arrivals.by_ref().take(ENTRIES_PER_LOCK) {
                let entry = match arrival {
                    Ordered::Envelope(stored) => {
                        bytes += stored.envelope.lines.len();
                        state.ring.push(shard, stored)
                    }
                    Ordered::Gone(range) => state.ring.push_gap(shard, *range.end(), GapReason::Retention),
                };
                state.dispatch(&entry);
                state.unapplied.push(Step::Entry(entry));
                if bytes >= BYTES_PER_LOCK {
                    break;
                }
            }
        });
        arrivals.peek().is_some()
    }

    /// Adds all of what comes next on a shard, without letting other tasks of the thread have a turn.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn append(&self, shard: Shard, arrivals: Vec<Ordered>) {
        let mut arrivals = arrivals.into_iter().peekable();
        while self.append_some(shard, &mut arrivals) {}
    }

    /// The shard was created anew (another epoch) or went backwards; it goes on after `last`.
    pub(crate) fn reset(&self, shard: Shard, epoch: Epoch, last: Sequence) {
        self.change(|state| {
            if let Some(slot) = state.epochs.get_mut(usize::from(shard.0)) {
                *slot = epoch;
            }
            let epoch = Epoch::combine(&state.epochs);
            state.resets += 1;
            let same_log = epoch == state.ring.head().epoch;
            let entry = state.ring.push_reset(epoch, shard, last);
            state.back = same_log.then(|| Back { to: entry.offset.clone(), index: entry.index });
            state.dispatch(&entry);
            state.unapplied.push(Step::Entry(entry));
        });
    }

    /// The last values, as they are at the newest place. Whoever looks at many of them belongs on a thread that may block.
    pub(crate) fn with_series<T>(&self, look: impl FnOnce(&mut SeriesStore) -> T) -> T {
        self.with_values(|values| look(&mut values.series))
    }

    /// What a group of views with an interval is to be given now; nothing if it has no views any more.
    pub(crate) fn collect(&self, group: GroupKey, matcher: &mut Matcher) -> Option<Round> {
        self.with_values(|Values { series, conflation }| conflation.collect(group, series, matcher))
    }

    /// What a group was to be given last has not reached all of its views.
    pub(crate) fn lose_round(&self, group: GroupKey) {
        self.with_values(|Values { conflation, .. }| conflation.lose(group));
    }

    /// Groups of views with an interval, as they come to be; nothing if somebody has asked before.
    pub(crate) fn take_new_groups(&self) -> Option<mpsc::UnboundedReceiver<GroupKey>> {
        self.new_groups.with(Option::take)
    }

    fn with_values<T>(&self, look: impl FnOnce(&mut Values) -> T) -> T {
        let seen = self.values.with(|values| {
            self.apply_to(values);
            look(values)
        });
        // What came meanwhile was left to whoever held the lock.
        self.settle();
        seen
    }

    /// Sees to it that what is unapplied gets applied, here or by whoever holds the last values.
    fn settle(&self) {
        loop {
            if self.values.try_with(|values| self.apply_to(values)).is_none() {
                return;
            }
            // Something may have come between the last look and the end of the lock, left by somebody who found it held.
            if self.state.with(|state| state.unapplied.is_empty()) {
                return;
            }
        }
    }

    fn apply_to(&self, Values { series, conflation }: &mut Values) {
        loop {
            let unapplied = self.state.with(|state| std::mem::take(&mut state.unapplied));
            if unapplied.is_empty() {
                return;
            }
            for step in unapplied {
                match step {
                    Step::Entry(entry) => {
                        conflation.note(&entry);
                        series.apply(&entry);
                    }
                    Step::Joined(view) => conflation.join(view),
                    Step::Left(view) => conflation.leave(&view),
                }
            }
        }
    }

    /// Wakes the writers whose views have grown.
    pub(crate) fn ring_grown(&self) {
        self.doorbells.iter().for_each(|doorbell| doorbell.ring_if_grown());
    }

    /// Changes the ring, makes its new head known, then wakes the writers whose views have grown: a task that sees a head also
    /// sees the frames up to it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.with_fair(|state| {
            change(state);
            let (index, offset) = (state.ring.head_index(), state.ring.head().clone());
            self.head.send_replace(Head { index, offset, resets: state.resets, back: state.back.clone() });
        });
        self.ring_grown();
        self.settle();
    }

    /// The newest place.
    pub(crate) fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// The newest place, as it moves on.
    pub(crate) fn watch_head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Gives a session of `client` the view it asks for; it gives up `leaving` for it.
    pub(crate) fn seat(
        &self,
        key: &ViewKey,
        client: Client,
        leaving: Option<&Seat>,
    ) -> Result<Seat, TooManyViews> {
        self.views.with(|views| views.seat(key, client, leaving, &self.state))
    }

    /// How a session begins with its view after `at`, or after the newest place.
    pub(crate) fn attach(&self, seat: Seat, at: Option<Offset>) -> Attachment {
        self.state.with(|state| state.attach(seat, at))
    }

    /// Both, for somebody.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn attach_to(&self, key: &ViewKey, at: Option<Offset>) -> Attachment {
        self.attach(self.seat(key, Client::at(None), None).expect("room for a view"), at)
    }

    /// As many entries as `limits` allow of a shard that follow `after`, if the ring reaches back that far in `epoch`.
    pub(crate) fn entries(
        &self,
        epoch: Epoch,
        shard: Shard,
        after: Sequence,
        limits: ReadLimits,
    ) -> Option<Vec<Arc<Entry>>> {
        self.state.with(|state| {
            if state.ring.head().epoch != epoch {
                return None;
            }
            state.ring.shard_entries(shard, after, limits.envelopes_max, limits.bytes_max)
        })
    }

    /// Whether `offset` is a place the ring can go on from, in whatever epoch.
    pub(crate) fn holds(&self, offset: &Offset) -> bool {
        self.state.with(|state| state.ring.locate(offset).is_some())
    }

    /// The place before everything that was stored at or after `stored_ns`, if the ring reaches back that far.
    pub(crate) fn since(&self, stored_ns: i64) -> Option<Arc<Offset>> {
        self.state.with(|state| state.ring.since(stored_ns))
    }

    /// When the log stored the newest of what is here, in nanoseconds since 1970; 0 if nothing is.
    pub(crate) fn stored_ns(&self) -> i64 {
        self.state.with(|state| state.ring.stored_ns())
    }

    /// Once a second: frames of evicted entries go, views without sessions go, gauges are set. Returns how many views there are.
    pub(crate) fn tidy(&self, meters: &Meters) -> usize {
        let (first, ring_bytes) = self.state.with(|state| (state.ring.first_index(), state.ring.bytes()));
        // With pauses in between, for those that wait.
        while self.views.with_fair(|views| views.take_out_some(&self.state)) {}
        let views = self.views.with(|views| views.tidy(first, meters));
        meters.ring_bytes.set(ring_bytes as f64);
        meters.view_bytes.set(self.account.bytes() as f64);
        views
    }

    /// Once a second: last values that are too old go, what was dropped is counted. `now_ns` is the time since 1970. Returns
    /// the last of the bounds that has cost a series since the last call, if one has.
    pub(crate) fn tidy_series(&self, now_ns: i64, meters: &Meters) -> Option<SeriesDrop> {
        let (series, bytes, dropped) = self.with_series(|series| {
            series.expire(now_ns);
            (series.len(), series.bytes(), series.take_dropped())
        });
        meters.snapshot_series.set(series as f64);
        meters.snapshot_bytes.set(bytes as f64);
        for (reason, count) in SeriesDrop::ALL.iter().zip(dropped) {
            meters.snapshot_series_dropped.of(*reason).increment(count);
        }
        let bounds = [SeriesDrop::Bytes, SeriesDrop::Count];
        bounds.into_iter().find(|bound| dropped[bound.index()] > 0)
    }
}

impl State {
    /// The newest place.
    fn place(&self) -> (Index, Arc<Offset>) {
        (self.ring.head_index(), self.ring.head().clone())
    }

    fn attach(&self, view: Seat, at: Option<Offset>) -> Attachment {
        if view.view().key().interval_ms.is_some() {
            // Where its view is: what has changed since comes with the next flush.
            let (cursor, index, place) = view.view().place();
            let start = at.as_ref().is_none_or(|at| *at == *place);
            let start = if start { Start::Live(cursor, index) } else { Start::CatchUp };
            return Attachment { view, at: at.map_or(place, Arc::new), start };
        }
        let (index, at) = match at {
            None => (Some(self.ring.head_index()), self.ring.head().clone()),
            Some(offset) => (self.ring.locate(&offset), Arc::new(offset)),
        };
        let start = index
            .and_then(|index| Some(Start::Live(view.view().join(index)?, index)))
            .unwrap_or(Start::CatchUp);
        Attachment { view, at, start }
    }
}
