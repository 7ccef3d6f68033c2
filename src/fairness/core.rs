//! The accounts of a budget: which holder has what, and which has to give way. Pure: it is told the time, and says what to do.
//!
//! Three rules, in the order in which they bite:
//!
//! * A holder that has begun has a deadline, and brings at least [`Limits::bytes_per_second_min`] in each [`Limits::window`].
//! * When there is no room, a holder that wants more waits, and holders that have had [`PATIENCE`] give way, the slowest first, until
//!   there is. So a crowd of quick peers is served one after the other and loses nothing, and one that stalls holds up others
//!   for that long at most.
//! * Only peers that hold more than their share (the room divided by the peers that hold something) give way: what others do
//!   costs a peer within its share nothing. It waits [`SHARE_WAIT`] at most, then those above theirs give way, however quick.
//!
//! A quarter of the room is kept for the holders that began first, half of it for small ones too: with all of it given to many
//! that have each begun, none could end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::ops::meters::Cut;

/// A holder that has been read for so long gives way to others that wait. A batch of 1 MB needs less on a line of 4 Mbit/s.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A peer within its share waits no longer for those above theirs.
pub(super) const SHARE_WAIT: Duration = Duration::from_millis(250);
/// Holders this quick never give way for want of speed: they are done before others are.
pub(super) const SPARED_BYTES_PER_SECOND: u64 = 1 << 20;
/// Up to here a holder may use half of what is kept free: many batches, and any message that came in one read.
pub(super) const SMALL_BYTES: usize = 16 * 1024;
/// So many of those that began first may use all of what is kept free: four messages of the largest size, with defaults.
const FIRST: usize = 4;
/// So many may use half of it.
const EARLY: usize = 16;
/// A speed is measured over so long. Speeds are compared with bytes per second.
const PACE_WINDOW: Duration = Duration::from_secs(1);
/// After a search for somebody to give way that found nobody, the next one is so much later: it looks at all holders.
const SEARCH_PAUSE: Duration = Duration::from_millis(20);
/// Of those who wait, so many are woken when there is room.
const WOKEN: usize = 8;

/// What a budget allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What all hold together.
    pub bytes_max: usize,
    /// The least that each brings, on average over a window.
    pub bytes_per_second_min: u64,
    /// A new holder has so long to reach that, and an old one to reach it again.
    pub window: Duration,
}

/// A holder's number; smaller ones began earlier.
pub(super) type Id = u64;

/// Who shares: a peer's address, or its network.
pub(super) type Peer = Option<std::net::IpAddr>;

/// What came of a wish for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    Granted,
    /// Not yet. `soon`: somebody has been told to give way, or may have to; else all the room is held by what nobody can
    /// take back.
    Wait {
        soon: bool,
    },
    Cut(Cut),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its peer is read.
    Active,
    /// It has asked for more since then; its peer is not read meanwhile.
    Waiting(Duration),
    /// It is complete: it has no speed, and cannot give way.
    Pinned,
    /// It has to give back what it holds.
    Cut(Cut),
}

/// How much has come lately: in this window of time, and in the one before.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Duration,
    moved: u64,
    before: u64,
}

struct Holder<T> {
    peer: Peer,
    bytes: usize,
    state: State,
    /// When it began; later by the time for which it has waited.
    began: Duration,
    deadline: Option<Duration>,
    pace: Pace,
    /// Since when, and how much it has brought since.
    window: (Duration, u64),
    wakes: T,
}

/// See the module. `T` is whatever wakes a holder.
pub(super) struct Core<T> {
    limits: Limits,
    holders: BTreeMap<Id, Holder<T>>,
    waiting: BTreeSet<Id>,
    /// Of each peer, without what is about to be given back.
    peers: HashMap<Peer, usize>,
    held: usize,
    pinned: usize,
    /// Held by those that have been told to give it back.
    leaving: usize,
    next: Id,
    /// Before this, a search would find nobody: for peers above their share, and for those within it.
    search_after: [Duration; 2],
}

impl Pace {
    fn start(now: Duration) -> Self {
        Self { since: now, moved: 0, before: 0 }
    }

    fn moved(&mut self, bytes: u64, now: Duration) {
        let windows = self.windows(now);
        if windows >= 1.0 {
            let before = if windows < 2.0 { self.moved } else { 0 };
            *self = Self { since: now, moved: 0, before };
        }
        self.moved += bytes;
    }

    /// Bytes in the last window, of which the one before counts as far as it reaches into it.
    fn at(&self, now: Duration) -> u64 {
        let windows = self.windows(now);
        let lately = match windows {
            ..1.0 => self.moved as f64 + self.before as f64 * (1.0 - windows),
            _ => self.moved as f64 * (2.0 - windows).max(0.0),
        };
        lately as u64
    }

    fn windows(&self, now: Duration) -> f64 {
        now.saturating_sub(self.since).as_secs_f64() / PACE_WINDOW.as_secs_f64()
    }
}

impl<T: Clone> Core<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            holders: BTreeMap::new(),
            waiting: BTreeSet::new(),
            peers: HashMap::new(),
            held: 0,
            pinned: 0,
            leaving: 0,
            next: 0,
            search_after: [Duration::ZERO; 2],
        }
    }

    /// What is held.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// A new holder, of nothing yet.
    pub(super) fn open(&mut self, peer: Peer, deadline: Option<Duration>, now: Duration, wakes: T) -> Id {
        let id = self.next;
        self.next += 1;
        let holder = Holder {
            peer,
            bytes: 0,
            state: State::Active,
            began: now,
            deadline,
            pace: Pace::start(now),
            window: (now, 0),
            wakes,
        };
        self.holders.insert(id, holder);
        id
    }

    /// A holder wants to hold `more`, which its peer has brought. Returns which to wake as well: those that have to give way.
    pub(super) fn grow(&mut self, id: Id, more: usize, now: Duration) -> (Growth, Vec<T>) {
        let Some(holder) = self.holders.get(&id) else { return (Growth::Cut(Cut::GaveWay), Vec::new()) };
        if let State::Cut(cut) = holder.state {
            return (Growth::Cut(cut), Vec::new());
        }
        // One that is larger than all the room gets all of it.
        let more = more.min(self.limits.bytes_max.saturating_sub(holder.bytes));
        let bytes = holder.bytes + more;
        let ordinary = self.limits.bytes_max - self.limits.bytes_max / 4;
        let room = if self.held + more <= ordinary { ordinary } else { self.room_of(id, bytes) };
        if self.held + more <= room {
            self.end_wait(id, now);
            self.add(id, more);
            self.note(id, more as u64, now);
            return (Growth::Granted, Vec::new());
        }
        let since = self.begin_wait(id, now);
        let woken = self.make_room(id, more, room, since, now);
        let soon = self.leaving > 0 || self.pinned * 2 <= self.limits.bytes_max;
        (Growth::Wait { soon }, woken)
    }

    /// Charges a holder whether there is room or not, for what is there already.
    pub(super) fn force(&mut self, id: Id, more: usize) {
        if self.holders.get(&id).is_some_and(|holder| !matches!(holder.state, State::Cut(_))) {
            self.add(id, more);
        }
    }

    /// A holder that was pinned is given to those who take it: from now on its speed counts.
    pub(super) fn unpin(&mut self, id: Id, now: Duration) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        if holder.state == State::Pinned {
            self.pinned -= holder.bytes;
            holder.state = State::Active;
            (holder.began, holder.pace, holder.window) = (now, Pace::start(now), (now, 0));
        }
    }

    /// So much of what it holds has been taken, or brought: it is not stalled.
    pub(super) fn note(&mut self, id: Id, bytes: u64, now: Duration) {
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.pace.moved(bytes, now);
            holder.window.1 += bytes;
        }
    }

    /// A holder is complete.
    pub(super) fn pin(&mut self, id: Id, now: Duration) -> Result<(), Cut> {
        self.end_wait(id, now);
        let Some(holder) = self.holders.get_mut(&id) else { return Ok(()) };
        match holder.state {
            State::Cut(cut) => return Err(cut),
            State::Pinned => {}
            State::Active | State::Waiting(_) => {
                holder.state = State::Pinned;
                self.pinned += holder.bytes;
            }
        }
        Ok(())
    }

    /// Whether a holder may go on, and when to look again.
    pub(super) fn check(&mut self, id: Id, now: Duration) -> Result<Option<Duration>, Cut> {
        let limits = self.limits;
        let Some(holder) = self.holders.get_mut(&id) else { return Err(Cut::GaveWay) };
        match holder.state {
            State::Cut(cut) => return Err(cut),
            State::Waiting(_) | State::Pinned => return Ok(None),
            State::Active => {}
        }
        let (since, moved) = holder.window;
        let elapsed = now.saturating_sub(since);
        let cut = if holder.deadline.is_some_and(|deadline| now >= deadline) {
            Some(Cut::TimedOut)
        } else if elapsed >= limits.window {
            let least = limits.bytes_per_second_min as f64 * elapsed.as_secs_f64();
            ((moved as f64) < least).then_some(Cut::TooSlow)
        } else {
            None
        };
        if let Some(cut) = cut {
            self.cut(id, cut);
            return Err(cut);
        }
        if elapsed >= limits.window {
            holder.window = (now, 0);
        }
        let next = holder.window.0 + limits.window;
        Ok(Some(holder.deadline.map_or(next, |deadline| next.min(deadline))))
    }

    /// A holder has given everything back. Returns whom to wake: there is room.
    pub(super) fn close(&mut self, id: Id) -> Vec<T> {
        self.waiting.remove(&id);
        let Some(holder) = self.holders.remove(&id) else { return Vec::new() };
        self.held -= holder.bytes;
        match holder.state {
            State::Cut(_) => self.leaving -= holder.bytes,
            State::Pinned => {
                self.pinned -= holder.bytes;
                self.leave_peer(holder.peer, holder.bytes);
            }
            State::Active | State::Waiting(_) => self.leave_peer(holder.peer, holder.bytes),
        }
        let first = self.waiting.iter().take(WOKEN);
        first.filter_map(|id| Some(self.holders.get(id)?.wakes.clone())).collect()
    }

    /// How much may be held altogether, for this holder to come to hold `bytes`.
    fn room_of(&self, id: Id, bytes: usize) -> usize {
        let all = self.limits.bytes_max;
        let is_begun = |holder: &Holder<T>| {
            holder.bytes >= SMALL_BYTES && matches!(holder.state, State::Active | State::Waiting(_))
        };
        let mut begun = self.holders.iter().filter(|(_, holder)| is_begun(holder)).take(EARLY);
        let room = match begun.position(|(other, _)| *other == id) {
            Some(rank) if rank < FIRST => all,
            Some(_) => all - all / 8,
            None if bytes <= SMALL_BYTES => all - all / 8,
            None => all - all / 4,
        };
        // One that is larger than that would never get it.
        if bytes > room { all } else { room }
    }

    /// Tells holders to give way until there is room, or none is left that has to.
    fn make_room(&mut self, id: Id, more: usize, room: usize, since: Duration, now: Duration) -> Vec<T> {
        let mut woken = Vec::new();
        let Some(peer) = self.holders.get(&id).map(|holder| holder.peer) else { return woken };
        while self.held + more > room + self.leaving {
            let of_peer = self.peers.get(&peer).copied().unwrap_or(0);
            let peers = self.peers.len() + usize::from(of_peer == 0);
            let share = room / peers.max(1);
            let wanted = of_peer + more;
            let is_within = wanted <= share && now.saturating_sub(since) >= SHARE_WAIT;
            let search = &mut self.search_after[usize::from(is_within)];
            if now < *search {
                break;
            }
            let weakest = self.weakest(share, (peer, wanted), is_within, now);
            let weakest = weakest.or_else(|| self.youngest_of_a_standstill(share, (peer, wanted)));
            let Some(weakest) = weakest else {
                self.search_after[usize::from(is_within)] = now + SEARCH_PAUSE;
                break;
            };
            self.cut(weakest, Cut::GaveWay);
            woken.extend(self.holders.get(&weakest).map(|holder| holder.wakes.clone()));
        }
        woken
    }

    /// The slowest that has had its time, of the peers above their share; with `any`, whether it has had it or not. Of equally
    /// slow ones the largest.
    fn weakest(&self, share: usize, own: (Peer, usize), any: bool, now: Duration) -> Option<Id> {
        let gives_way = |holder: &Holder<T>| {
            let is_old =
                now.saturating_sub(holder.began) >= PATIENCE && holder.pace.at(now) < SPARED_BYTES_PER_SECOND;
            holder.state == State::Active
                && holder.bytes > 0
                && (any || is_old)
                && self.is_above(holder.peer, share, own)
        };
        let candidates = self.holders.iter().filter(|(_, holder)| gives_way(holder));
        let by_weakness = |(_, holder): &(&Id, &Holder<T>)| {
            let is_young = now.saturating_sub(holder.began) < PACE_WINDOW;
            let pace = if is_young { u64::MAX } else { holder.pace.at(now) };
            (pace, std::cmp::Reverse(holder.bytes))
        };
        candidates.min_by_key(by_weakness).map(|(id, _)| *id)
    }

    /// Where all wait for each other, so that no time will help, the one that has begun last gives way.
    fn youngest_of_a_standstill(&self, share: usize, own: (Peer, usize)) -> Option<Id> {
        let mut holding = self.holders.iter().filter(|(_, holder)| holder.bytes > 0);
        if !holding.all(|(_, holder)| matches!(holder.state, State::Waiting(_))) {
            return None;
        }
        let gives_way = |holder: &Holder<T>| holder.bytes > 0 && self.is_above(holder.peer, share, own);
        self.holders.iter().rfind(|(_, holder)| gives_way(holder)).map(|(id, _)| *id)
    }

    /// Whether a peer holds more than its share; of the one that wants more, what it wants counts.
    fn is_above(&self, peer: Peer, share: usize, (own, wanted): (Peer, usize)) -> bool {
        let held = if peer == own { wanted } else { self.peers.get(&peer).copied().unwrap_or(0) };
        held > share
    }

    fn begin_wait(&mut self, id: Id, now: Duration) -> Duration {
        let Some(holder) = self.holders.get_mut(&id) else { return now };
        if let State::Waiting(since) = holder.state {
            return since;
        }
        holder.state = State::Waiting(now);
        self.waiting.insert(id);
        now
    }

    /// The time for which it has waited does not count against it.
    fn end_wait(&mut self, id: Id, now: Duration) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        if let State::Waiting(since) = holder.state {
            let waited = now.saturating_sub(since);
            holder.state = State::Active;
            holder.began += waited;
            holder.deadline = holder.deadline.map(|deadline| deadline + waited);
            holder.window.0 += waited;
            holder.pace.since += waited;
            self.waiting.remove(&id);
        }
    }

    fn add(&mut self, id: Id, bytes: usize) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.bytes += bytes;
        self.held += bytes;
        if holder.state == State::Pinned {
            self.pinned += bytes;
        }
        if bytes > 0 {
            *self.peers.entry(holder.peer).or_default() += bytes;
        }
    }

    fn cut(&mut self, id: Id, cut: Cut) {
        self.waiting.remove(&id);
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.state = State::Cut(cut);
        self.leaving += holder.bytes;
        let (peer, bytes) = (holder.peer, holder.bytes);
        self.leave_peer(peer, bytes);
    }

    fn leave_peer(&mut self, peer: Peer, bytes: usize) {
        let Some(held) = self.peers.get_mut(&peer) else { return };
        *held -= bytes;
        if *held == 0 {
            self.peers.remove(&peer);
        }
    }
}
