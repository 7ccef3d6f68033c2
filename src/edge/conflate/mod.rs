//! Conflation: views with an interval, which get each series' newest value once per interval and nothing in between.
//!
//! No envelope is encoded for them. While envelopes are applied to the last values, those that such views want are counted
//! here; once per interval a [`flush`] takes the series that were written since and makes messages of them, each
//! line encoded once for all views that get it. Views with the same interval flush together in a few groups, at different
//! moments, so that one walk over the changes serves hundreds of them and their sessions are not all written to at once;
//! [`pace`] gives the beat. [`resume`] brings a session that is somewhere else to its view: it gets what has changed since.
//!
//! What a message of a flush stands for begins behind the flush before. A value that is overwritten between two places is
//! not lost: the newer one follows, and is what counts.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::edge::doorbell::ViewAddress;
use crate::edge::encode;
use crate::edge::ring::{Entry, Index, Item};
use crate::edge::series::{Changed, SeriesStore, StoredPlace};
use crate::edge::view::View;
use crate::proto::filter::{FilterIndex, Share, Ticket};
use crate::proto::message::GapReason;
use crate::proto::offset::Offset;

mod flush;
pub(crate) mod pace;
mod parts;
pub(crate) mod resume;
#[cfg(test)]
mod tests;

/// Moments of an interval at which its views flush. Each costs a walk over what has changed; an interval of a second is
/// divided into quarters.
const PHASES: u8 = 4;

/// Views that flush at the same moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    interval_ms: u32,
    /// Which part of the interval, below [`PHASES`].
    phase: u8,
}

/// All views with an interval, and what of the log they have not been given yet. It goes along with the last values, and
/// is at the same place.
pub(crate) struct Conflation {
    members: Vec<Option<Member>>,
    free: Vec<usize>,
    by_view: HashMap<ViewAddress, usize>,
    /// The same members by what they want of an envelope.
    index: FilterIndex<usize>,
    groups: HashMap<GroupKey, Group>,
    /// Whoever gives new groups their beat.
    new_groups: mpsc::UnboundedSender<GroupKey>,
}

struct Member {
    view: Arc<View>,
    ticket: Ticket,
    group: GroupKey,
    tally: Tally,
}

/// What a view's filters have let through since its last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) metrics: u64,
    pub(crate) envelopes: u64,
}

struct Group {
    members: Vec<usize>,
    /// Counts changes of the members.
    generation: u64,
    /// Of the last flush. What was written before it has been given to everybody who was there.
    flushed: Index,
    /// Its place, in terms of the log as it is now.
    since: Offset,
    /// The log has a hole, or is another one since.
    gap: Option<Gap>,
    /// Why the round that is being given begins with a gap, if it does.
    giving: Option<GapReason>,
}

/// Up to where clients miss something.
#[derive(Clone, Debug)]
struct Gap {
    /// Whoever is there already does not miss it.
    index: Index,
    to: Offset,
    reason: GapReason,
    /// What was counted, was counted behind it.
    counted_behind: bool,
}

/// What one group is to be given.
pub(crate) struct Round {
    /// The last flush. Who has come since has been given everything up to where it came.
    flushed: Index,
    to: StoredPlace,
    changed: Vec<Changed>,
    gap: Option<Gap>,
    members: Vec<(Arc<View>, Tally)>,
}

/// A group's members by what they want of a channel: their positions in the group's rounds. Made again when they change.
#[derive(Default)]
pub(crate) struct Matcher {
    generation: u64,
    index: FilterIndex<usize>,
}

impl Conflation {
    /// Without views; new groups are announced on the channel.
    pub(crate) fn new(new_groups: mpsc::UnboundedSender<GroupKey>) -> Self {
        Self {
            members: Vec::new(),
            free: Vec::new(),
            by_view: HashMap::new(),
            index: FilterIndex::default(),
            groups: HashMap::new(),
            new_groups,
        }
    }

    /// A view is to get everything behind the place it is at, which is where the last values are.
    pub(crate) fn join(&mut self, view: Arc<View>) {
        let Some(interval_ms) = view.key().interval_ms else { return };
        let size = |phase: &u8| {
            let key = GroupKey { interval_ms, phase: *phase };
            self.groups.get(&key).map_or(0, |group| group.members.len())
        };
        let phase = (0..PHASES).min_by_key(size).unwrap_or(0);
        let key = GroupKey { interval_ms, phase };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.members.push(None);
            self.members.len() - 1
        });
        let group = self.groups.entry(key).or_insert_with(|| {
            // Nobody listens any more when the node stops.
            let _ = self.new_groups.send(key);
            let (_, flushed, place) = view.place();
            let since = (*place).clone();
            Group { members: Vec::new(), generation: 0, flushed, since, gap: None, giving: None }
        });
        group.members.push(slot);
        group.generation += 1;
        self.by_view.insert(view.address(), slot);
        let ticket = self.index.insert(&view.key().filters, slot);
        self.members[slot] = Some(Member { view, ticket, group: key, tally: Tally::default() });
    }

    /// A view is gone.
    pub(crate) fn leave(&mut self, view: &View) {
        let Some(slot) = self.by_view.remove(&view.address()) else { return };
        let Some(member) = self.members[slot].take() else { return };
        self.free.push(slot);
        self.index.remove(member.ticket);
        if let Some(group) = self.groups.get_mut(&member.group) {
            group.members.retain(|other| *other != slot);
            group.generation += 1;
        }
    }

    /// The log goes on with this entry.
    pub(crate) fn note(&mut self, entry: &Entry) {
        match &entry.item {
            _ if self.by_view.is_empty() => {}
            Item::Envelope(stored) => {
                let lines = std::cell::OnceCell::new();
                let read = || lines.get_or_init(|| encode::lines(&stored.envelope)).as_slice();
                for (slot, share) in self.index.find(&stored.envelope.channel, read) {
                    let metrics = match share {
                        Share::Whole => read().len(),
                        Share::Lines(runs) => runs.iter().map(ExactSizeIterator::len).sum(),
                    };
                    if let Some(Some(member)) = self.members.get_mut(*slot)
                        && metrics > 0
                    {
                        member.tally.metrics += metrics as u64;
                        member.tally.envelopes += 1;
                    }
                }
            }
            Item::Gap { reason, .. } => self.note_gap(entry, *reason),
        }
    }

    /// What was counted before a gap lies inside what clients are told of it: it begins where they are.
    fn note_gap(&mut self, entry: &Entry, reason: GapReason) {
        self.members.iter_mut().flatten().for_each(|member| member.tally = Tally::default());
        for group in self.groups.values_mut() {
            let was_reset = group.gap.as_ref().is_some_and(|gap| gap.reason == GapReason::Reset);
            let reason = if was_reset { GapReason::Reset } else { reason };
            if reason == GapReason::Reset {
                // The other shards go on, with what they have that nobody has been given.
                group.since = group.since.with(entry.shard, entry.sequence());
                group.since.epoch = entry.offset.epoch;
            }
            let to = (*entry.offset).clone();
            group.gap = Some(Gap { index: entry.index, to, reason, counted_behind: true });
        }
    }

    /// What a group is to be given now, or nothing if it has no views any more: then the group is gone as well.
    pub(crate) fn collect(
        &mut self,
        key: GroupKey,
        store: &SeriesStore,
        matcher: &mut Matcher,
    ) -> Option<Round> {
        let group = self.groups.get_mut(&key)?;
        if group.members.is_empty() {
            self.groups.remove(&key);
            return None;
        }
        let mut members = Vec::with_capacity(group.members.len());
        for slot in &group.members {
            if let Some(Some(member)) = self.members.get_mut(*slot) {
                members.push((member.view.clone(), std::mem::take(&mut member.tally)));
            }
        }
        matcher.follow(group.generation, &members);
        let to = store.at().clone();
        let flushed = std::mem::replace(&mut group.flushed, to.index);
        let since = std::mem::replace(&mut group.since, (*to.offset).clone());
        let gap = match (group.gap.take(), store.incomplete_after(&since)) {
            (gap, None) => gap,
            // What the hole has swallowed is not to be had from anywhere.
            (Some(gap), Some(missing)) if missing.is_at_or_before(&gap.to) => Some(gap),
            // The bounds of the last values do not hold what is written in an interval.
            (gap, Some(missing)) => {
                let reason = gap.map_or(GapReason::Retention, |gap| gap.reason);
                Some(Gap { index: to.index, to: missing, reason, counted_behind: false })
            }
        };
        group.giving = gap.as_ref().map(|gap| gap.reason);
        let changed = store.changed_channels(&since, |channel| matcher.index.asks_for(channel));
        Some(Round { flushed, to, changed, gap, members })
    }

    /// The last round of a group has not been given to all of its views, and never will be: what it had is a gap for those that
    /// are not behind it. Collected again it might fail again, and for ever.
    pub(crate) fn lose(&mut self, key: GroupKey) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        let reason = group.giving.take().unwrap_or(GapReason::Retention);
        match &mut group.gap {
            // One that has come since reaches further, and what was counted since is behind it.
            Some(gap) if reason == GapReason::Reset => gap.reason = reason,
            Some(_) => {}
            None => {
                let (index, to) = (group.flushed, group.since.clone());
                group.gap = Some(Gap { index, to, reason, counted_behind: true });
            }
        }
    }
}

impl Gap {
    /// Where it leads a client that is at a place, if it concerns it.
    fn from(&self, index: Index, at: &Offset) -> Option<Offset> {
        match self.reason {
            _ if self.index <= index => None,
            GapReason::Reset => Some(self.to.clone()),
            _ => Some(at.latest_of(&self.to)).filter(|to| to != at),
        }
    }
}

impl Matcher {
    fn follow(&mut self, generation: u64, members: &[(Arc<View>, Tally)]) {
        if self.generation == generation {
            return;
        }
        let mut index = FilterIndex::default();
        for (position, (view, _)) in members.iter().enumerate() {
            index.insert(&view.key().filters, position);
        }
        *self = Self { generation, index };
    }
}
