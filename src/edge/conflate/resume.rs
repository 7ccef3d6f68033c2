//! Brings a session that is elsewhere to its view: what has changed since, and nothing that was overwritten meanwhile.
//!
//! The log is not read for it. The last values are a log of their own, in which every series has its newest line only;
//! it is walked from the session's place on, in bounded parts that each end at a place. So a session holds one part at most,
//! however much has changed, and one that breaks off goes on from the last part it has. What is written again while it walks is
//! found again further on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::parts::{Encoded, Stretch, messages};
use crate::edge::Shared;
use crate::edge::batch::{Batch, Frame};
use crate::edge::books::{Fates, Passage};
use crate::edge::compress::Compressor;
use crate::edge::encode;
use crate::edge::feed::{Fed, Feeder, Joined, Over};
use crate::edge::hub::{Head, Hub};
use crate::edge::replay::portion::Portion;
use crate::edge::resolve::First;
use crate::edge::ring::Index;
use crate::edge::series::{Group, Parts};
use crate::edge::snapshot::delivery::Delivery;
use crate::edge::view::{Cursor, View};
use crate::edge::wire::Wire;
use crate::ops::meters::ReplayOutcome;
use crate::proto::line;
use crate::proto::message::GapReason;
use crate::proto::offset::{Offset, Shard};

/// Bytes of lines in a part, a few times as many as JSON: a session holds one at a time. A walk over all that has changed is made
/// for each.
const PART_BYTES: usize = 64 * 1024;
/// A place ahead of this edge is usual for moments: another edge was faster. Then the log is asked.
const AHEAD_PATIENCE: Duration = Duration::from_secs(2);
/// Parts that a view keeps for a second or until its next flush, for others who come from the same place: after a node has
/// died, they all come from a few.
const KEPT_PARTS_MAX: usize = 4;

/// One session's way to its view.
pub(crate) struct Resume {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) view: Arc<View>,
    /// What the session has got so far.
    pub(crate) at: Offset,
    /// It asked for whatever there is: what is missing is no loss.
    pub(crate) quiet: bool,
    /// Where something is lost to the session, it wants the last values instead.
    pub(crate) snapshots: bool,
    /// Its client has been told a place before, or begins behind one of its own.
    pub(crate) placed: bool,
    /// How often the log had turned out to be another one when the session got this place.
    pub(crate) resets: u64,
    /// How the resume is counted when it ends.
    pub(crate) outcome: Option<ReplayOutcome>,
    pub(crate) feeder: Feeder,
}

/// Parts that a view has made lately, each once however many sessions ask for it.
#[derive(Default)]
pub(crate) struct KeptParts(tokio::sync::Mutex<VecDeque<Arc<Part>>>);

/// What has changed behind a place, for a session that has been told up to another.
pub(super) struct Part {
    since: Offset,
    at: Offset,
    /// For who asked for whatever there is.
    quiet: bool,
    /// Nothing, where nothing matches.
    pub(super) batch: Option<Batch>,
    /// Behind which the rest lies.
    pub(super) to: Offset,
    /// Something is missing, and was announced.
    gaps: bool,
}

impl Part {
    /// What a session that has the part has been told: a gap may reach further than what is known of it.
    pub(super) fn at_end(&self) -> Offset {
        match &self.batch {
            Some(batch) => (*batch.end().1).clone(),
            None => self.at.clone(),
        }
    }
}

impl KeptParts {
    /// Forgets them, unless somebody is making one.
    pub(crate) fn clear(&self) {
        if let Ok(mut parts) = self.0.try_lock() {
            *parts = VecDeque::new();
        }
    }
}

impl Resume {
    /// Runs until the session has joined its view or is gone.
    pub(crate) fn spawn(self, first: First) {
        let (tracker, wanted) = (self.shared.tasks.clone(), self.feeder.wanted());
        // A session that leaves ends whatever this waits for.
        tracker.spawn(Feeder::while_wanted(wanted, self.run(first)));
    }

    async fn run(mut self, first: First) -> Result<(), Over> {
        self.begin(first).await?;
        let heads = self.hub.watch_head();
        let mut resets = self.resets;
        // Ahead of what the session was told, where nothing has matched.
        let mut since = self.at.clone();
        let view = self.view.clone();
        loop {
            // Nothing is made before there is room for it; and what is made then is of that moment.
            self.feeder.asked().await?;
            // Before the place is read, or a flush in between would be waited for in vain.
            let flush = view.next_flush();
            let (cursor, index, place) = view.place();
            let head = heads.borrow().clone();
            let was_reset = std::mem::replace(&mut resets, head.resets) != head.resets;
            if let Some(start) = self.reset_to(&head, was_reset) {
                self.lose(start, GapReason::Reset).await?;
                since = self.at.clone();
            } else if since == *place {
                return self.join(cursor, index, place).await;
            } else if since.is_at_or_before(&place) && place.is_at_or_before(&head.offset) {
                since = self.send_part(since, &place).await?;
            } else if since.is_at_or_before(&head.offset) {
                // The view comes here with its next flush.
                flush.await;
            } else if tokio::time::timeout(AHEAD_PATIENCE, flush).await.is_err() {
                self.ask_log(&head).await?;
                since = self.at.clone();
            }
        }
    }

    /// Sends what comes before everything else. What is missing here is lost, whatever the log still holds.
    async fn begin(&mut self, first: First) -> Result<(), Over> {
        match first {
            First::Snapshot => self.take_snapshot(None).await,
            First::Lost(reason) => self.take_snapshot(Some(reason)).await,
            First::Nothing if self.snapshots && !self.quiet && self.is_missing_some().await? => {
                let same_log = self.hub.head().offset.epoch == self.at.epoch;
                let reason = if same_log { GapReason::Retention } else { GapReason::Reset };
                self.take_snapshot(Some(reason)).await
            }
            First::Nothing => Ok(()),
        }
    }

    /// Whether the last values may not hold everything that has changed behind the session's place. Whoever is copying many of
    /// them has their lock for milliseconds: no thread of the runtime waits for that.
    async fn is_missing_some(&self) -> Result<bool, Over> {
        let (hub, at) = (self.hub.clone(), self.at.clone());
        let look = move || hub.with_series(|series| series.incomplete_after(&at).is_some());
        self.shared.tasks.spawn_blocking(look).await.map_err(|_| Over)
    }

    /// What lies between the session and `to` is lost to it: says so and goes on behind it, or behind the last values.
    async fn lose(&mut self, to: Offset, reason: GapReason) -> Result<(), Over> {
        if self.snapshots { self.take_snapshot(Some(reason)).await } else { self.announce(to, reason).await }
    }

    /// Sends the last values, and goes on behind them. With a reason, what the session has missed before them is lost.
    async fn take_snapshot(&mut self, lost: Option<GapReason>) -> Result<(), Over> {
        lost.into_iter().for_each(|reason| self.count(reason));
        let at = Arc::new(self.at.clone());
        // Up to here the state knows of what the log has done.
        self.resets = self.hub.head().resets;
        let placed = std::mem::replace(&mut self.placed, true) || lost.is_some();
        let delivery = Delivery { shared: &self.shared, hub: &self.hub, view: &self.view, at: &at, placed };
        self.at = (*delivery.send(&mut self.feeder, lost).await?).clone();
        self.quiet = false;
        Ok(())
    }

    async fn join(mut self, cursor: Cursor, index: Index, at: Arc<Offset>) -> Result<(), Over> {
        if let Some(outcome) = self.outcome {
            self.shared.node.meters.replay_requests.of(outcome).increment(1);
        }
        // What lies between was not for it: there was nothing to send.
        let steps = self.at.positions_to(&at);
        self.feeder.give(Fed::Joined(Joined { cursor, index, at, steps })).await
    }

    /// Where the session has to begin anew, if the log is another one than that of its place.
    fn reset_to(&mut self, head: &Head, was_reset: bool) -> Option<Offset> {
        let same_log =
            head.offset.epoch == self.at.epoch && head.offset.sequences.len() == self.at.sequences.len();
        if !same_log {
            self.quiet = true;
            return Some(Offset::start(head.offset.epoch, head.offset.sequences.len() as u16));
        }
        // It went backwards, behind this session: what it will hold up to there again is not the same.
        if !was_reset {
            return None;
        }
        head.back_from(&self.at).map(|back| (*back).clone())
    }

    /// The session is ahead of this edge. A log that has gone backwards will never be there: that is a reset.
    async fn ask_log(&mut self, head: &Head) -> Result<(), Over> {
        for shard in (0..self.at.sequences.len() as u16).map(Shard) {
            let seen = self.at.sequence(shard);
            let Ok(bounds) = self.shared.replays.bounds(shard, seen).await else { return Ok(()) };
            if bounds.last < seen {
                return self.lose((*head.offset).clone(), GapReason::Reset).await;
            }
        }
        Ok(())
    }

    /// Sends what comes next of what has changed behind `since` and up to `until`. Returns behind which place the rest lies.
    async fn send_part(&mut self, since: Offset, until: &Offset) -> Result<Offset, Over> {
        let part = self.part(since, until).await?;
        if part.gaps && self.snapshots {
            self.take_snapshot(Some(GapReason::Retention)).await?;
            return Ok(self.at.clone());
        }
        if part.gaps {
            self.count(GapReason::Retention);
        }
        if let Some(batch) = &part.batch {
            self.feeder.give(Fed::Portion(Portion::of(batch.clone()))).await?;
        }
        self.quiet = false;
        self.at = part.at_end();
        Ok(part.to.clone())
    }

    /// The part from this place, made by whoever comes first.
    async fn part(&self, since: Offset, until: &Offset) -> Result<Arc<Part>, Over> {
        let mut kept = self.view.kept_parts().0.lock().await;
        let same = |part: &&Arc<Part>| {
            let quiet_fits = part.quiet == self.quiet;
            part.since == since && part.at == self.at && quiet_fits && part.to.is_at_or_before(until)
        };
        if let Some(part) = kept.iter().find(same) {
            return Ok(part.clone());
        }
        let (hub, view, shared) = (self.hub.clone(), self.view.clone(), self.shared.clone());
        let (at, quiet, until) = (self.at.clone(), self.quiet, until.clone());
        // A walk over many thousands of series, on a thread that nobody else waits for.
        let made = self
            .shared
            .tasks
            .spawn_blocking(move || make(&hub, &view, &shared.compressor, since, at, &until, quiet));
        let part = Arc::new(made.await.map_err(|_| Over)?);
        kept.truncate(KEPT_PARTS_MAX - 1);
        kept.push_front(part.clone());
        Ok(part)
    }

    /// Tells the session what it will not get, and moves it behind that.
    async fn announce(&mut self, to: Offset, reason: GapReason) -> Result<(), Over> {
        let from = Arc::new(std::mem::replace(&mut self.at, to));
        self.count(reason);
        let frame = gap_frame(self.view.key().wire, &from, Arc::new(self.at.clone()), reason);
        match Batch::new(vec![frame]) {
            Some(batch) => self.feeder.give(Fed::Portion(Portion::of(batch))).await,
            None => Ok(()),
        }
    }

    /// Notes a gap, which is counted where it is written.
    fn count(&mut self, reason: GapReason) {
        if let Some(outcome) = &mut self.outcome {
            *outcome = match reason {
                GapReason::Reset => ReplayOutcome::Reset,
                _ if *outcome == ReplayOutcome::Recovered => ReplayOutcome::Gap,
                _ => *outcome,
            };
        }
    }
}

/// The part behind `since`, up to `until` at most, for sessions that have been told up to `at`.
pub(super) fn make(
    hub: &Hub,
    view: &View,
    compressor: &Compressor,
    since: Offset,
    at: Offset,
    until: &Offset,
    quiet: bool,
) -> Part {
    let key = view.key();
    let changes = hub.with_series(|series| series.changed_after(&key.filters, &since, until, PART_BYTES));
    let mut frames = Vec::new();
    let mut from = Arc::new(at.clone());
    // What is missing may lie behind the view's place: then the view announces the rest.
    let missing = changes.incomplete_to.filter(|_| !quiet).map(|missing| missing.earliest_of(until));
    let gap_to = missing.map(|missing| at.latest_of(&missing)).filter(|to| *to != at).map(Arc::new);
    if let Some(to) = &gap_to {
        frames.push(gap_frame(key.wire, &from, to.clone(), GapReason::Retention));
        from = to.clone();
    }
    let mut parts = Parts::new(key.format);
    for Group { collector, lines } in &changes.extract.groups {
        let lines: Vec<_> = line::lines(lines).filter_map(Result::ok).collect();
        let mut encoded = Encoded::new(key.format, lines.len());
        for (number, line) in lines.iter().enumerate() {
            parts.add(collector, encoded.line(number, line));
        }
    }
    // Nobody has counted what was overwritten, or looked at it: all of it may have matched.
    let to = Arc::new(from.latest_of(&changes.to));
    let stretch = Stretch { from, to, conflated: None };
    let fates = stretch.fates(changes.envelopes, u64::MAX);
    frames.extend(messages(parts, &stretch).map(|message| {
        let fates = if message.is_last { fates } else { Fates::default() };
        let at = message.is_last.then_some(&*message.offset);
        let bytes = compressor.own(message.bytes, key.wire, at);
        frame(bytes, message.offset, Passage { fates, ..Passage::default() })
    }));
    Part { since, at, quiet, batch: Batch::new(frames), to: changes.to, gaps: gap_to.is_some() }
}

fn gap_frame(wire: Wire, from: &Arc<Offset>, to: Arc<Offset>, reason: GapReason) -> Frame {
    let bytes = encode::gap(wire, from, &to, reason);
    let passage = Passage::gap(from, &to, reason);
    frame(bytes, to, passage)
}

/// A frame of no view's run: its index says nothing, and what it takes a session past is all in its passage.
fn frame(bytes: Bytes, offset: Arc<Offset>, passage: Passage) -> Frame {
    Frame { index: 0, offset, bytes, own: true, passage: Some(Arc::new(passage)) }
}
