//! Brings a session that is elsewhere to its view: what has changed since, and nothing that was overwritten meanwhile.
//!
//! The log is not read for it. The last values are a log of their own, in which every series has its newest line only;
//! it is walked from the session's place on, in bounded parts that each end at a place. So a session holds one part at most,
//! however much has changed, and one that breaks off goes on from the last part it has. A part that its socket does not take is
//! given back; what is made instead, from where the session is by then, is smaller, so that a slow one gets on too. What is written again while it walks is
//! found again further on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::parts::{Stretch, messages};
use crate::edge::batch::{Batch, Frame};
use crate::edge::books::{Fates, Passage};
use crate::edge::compress::Compressor;
use crate::edge::encode;
use crate::edge::feed::{Fed, Joined, Over};
use crate::edge::hub::Hub;
use crate::edge::pieces::Encoded;
use crate::edge::replay::portion::{Account, Charge, GivenBack, Portion};
use crate::edge::resolve::First;
use crate::edge::series::{Group, PART_BYTES_MAX, Parts};
use crate::edge::view::View;
use crate::edge::way::{AHEAD_PATIENCE, Quiet, Way};
use crate::edge::wire::Wire;
use crate::proto::line;
use crate::proto::message::GapReason;
use crate::proto::offset::Offset;

/// Bytes of lines in a part, a few times as many as JSON. A walk over all that has changed is made for each.
const PART_BYTES: usize = 64 * 1024;
/// By how much smaller the next part is that is made instead of one that was given back, and larger behind one that was taken:
/// four walks from the largest to single envelopes.
const PART_STEP: usize = 8;
/// What a message costs besides its bytes: its place in the batch.
const FRAME_OVERHEAD_BYTES: usize = 120;
/// Parts that a view keeps for a second or until its next flush, for others who come from the same place: after a node has
/// died, they all come from a few.
const KEPT_PARTS_MAX: usize = 4;
/// A part is kept for so long in any case. A socket that is full for a moment has its part laid aside and goes on in the middle of
/// it; made again, it would begin with values that the client has.
const KEPT_MIN: Duration = Duration::from_millis(100);

/// A session's way through what has changed.
pub(crate) struct Resume {
    way: Way,
    /// How much of what has changed it gets at a time, in bytes of lines.
    part_bytes: usize,
}

/// Parts that a view has made lately, each once however many sessions ask for it.
#[derive(Default)]
pub(crate) struct KeptParts(tokio::sync::Mutex<VecDeque<Arc<Part>>>);

/// What has changed behind a place, for a session that has been told up to another.
pub(super) struct Part {
    wanted: Wanted,
    made: Instant,
    /// Nothing, where nothing matches.
    pub(super) portion: Option<Arc<Portion>>,
    /// Behind which the rest lies.
    pub(super) to: Arc<Offset>,
    /// Something is missing, and was announced.
    gaps: bool,
}

/// What makes a part.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What has changed behind it is wanted.
    pub(super) since: Arc<Offset>,
    /// What the session has been told.
    pub(super) at: Arc<Offset>,
    /// It asked for whatever there is.
    pub(super) quiet: bool,
    /// Bytes of lines, about.
    pub(super) bytes_max: usize,
}

impl Part {
    /// Whether it is what a session wants.
    fn serves(&self, wanted: &Wanted) -> bool {
        let Wanted { since, at, quiet, bytes_max } = &self.wanted;
        (since, at, quiet) == (&wanted.since, &wanted.at, &wanted.quiet) && *bytes_max <= wanted.bytes_max
    }

    /// What a session that has the part has been told: a gap may reach further than what is known of it.
    pub(super) fn at_end(&self) -> &Arc<Offset> {
        self.portion.as_ref().map_or(&self.wanted.at, |portion| &portion.to)
    }
}

impl KeptParts {
    /// Forgets those that are not new, unless somebody is making one.
    pub(crate) fn tidy(&self) {
        if let Ok(mut parts) = self.0.try_lock() {
            parts.retain(|part| part.made.elapsed() < KEPT_MIN);
            parts.shrink_to_fit();
        }
    }
}

impl Resume {
    /// The session begins where `way` does.
    pub(crate) fn new(way: Way) -> Self {
        Self { way, part_bytes: PART_BYTES }
    }

    /// Runs until the session has joined its view.
    pub(crate) async fn run(mut self, first: First) -> Result<(), Over> {
        self.begin(first).await?;
        let heads = self.way.hub.watch_head();
        // Ahead of what the session was told, where nothing has matched.
        let mut since = self.way.at.clone();
        // What the part was made for that was given last.
        let mut given: Option<Wanted> = None;
        let view = self.way.view.clone();
        loop {
            // Nothing is made before the session has room for it; and what is made then is of that moment.
            let at = self.way.feeder.asked().await?;
            match given.take() {
                Some(given) if at != self.way.at => {
                    // It was given back before the socket took all of it.
                    self.way.quiet = if given.quiet && at == given.at { Quiet::ALL } else { Quiet::NONE };
                    (since, self.way.at) = (given.since, at);
                    self.part_bytes = (given.bytes_max / PART_STEP).max(1);
                }
                Some(given) => self.part_bytes = (given.bytes_max * PART_STEP).min(PART_BYTES),
                None => {}
            }
            // Before the place is read, or a flush in between would be waited for in vain.
            let flush = view.next_flush();
            let (cursor, index, place) = view.place();
            let head = heads.borrow().clone();
            if let Some(start) = self.way.reset(&head) {
                self.way.lose(start, GapReason::Reset).await?;
                since = self.way.at.clone();
            } else if since == place {
                // What lies between was not for it: there was nothing to send.
                let steps = self.way.at.positions_to(&place);
                return self.way.join(Joined { cursor, index, at: place, steps }).await;
            } else if since.is_at_or_before(&place) && place.is_at_or_before(&head.offset) {
                (since, given) = self.send_part(since, &place).await?;
            } else if since.is_at_or_before(&head.offset) {
                // The view comes here with its next flush.
                flush.await;
            } else if tokio::time::timeout(AHEAD_PATIENCE, flush).await.is_err()
                && self.way.is_ahead_of_log(&head).await
            {
                self.way.lose(head.offset, GapReason::Reset).await?;
                since = self.way.at.clone();
            }
        }
    }

    /// Sends what comes before everything else. What is missing here is lost, whatever the log still holds.
    async fn begin(&mut self, first: First) -> Result<(), Over> {
        let Way { hub, at, snapshots, quiet, .. } = &self.way;
        match first {
            First::Snapshot => self.way.send_snapshot(None).await,
            First::Lost(reason) => self.way.send_snapshot(Some(reason)).await,
            First::Nothing if *snapshots && *quiet == Quiet::NONE && self.is_missing_some().await? => {
                let same_log = hub.head().offset.epoch == at.epoch;
                let reason = if same_log { GapReason::Retention } else { GapReason::Reset };
                self.way.send_snapshot(Some(reason)).await
            }
            First::Nothing => Ok(()),
        }
    }

    /// Whether the last values may not hold everything that has changed behind the session's place. Whoever is copying many of
    /// them has their lock for milliseconds: no thread of the runtime waits for that.
    async fn is_missing_some(&self) -> Result<bool, Over> {
        let Way { shared, hub, at, .. } = &self.way;
        let (hub, at) = (hub.clone(), at.clone());
        let look = move || hub.with_series(|series| series.incomplete_after(&at).is_some());
        shared.tasks.spawn_blocking(look).await.map_err(|_| Over)
    }

    /// Sends what comes next of what has changed behind `since` and up to `until`. Returns behind which place the rest lies, and
    /// what was given.
    async fn send_part(
        &mut self,
        since: Arc<Offset>,
        until: &Offset,
    ) -> Result<(Arc<Offset>, Option<Wanted>), Over> {
        let part = self.part(since, until).await?;
        if part.gaps && self.way.snapshots {
            self.way.send_snapshot(Some(GapReason::Retention)).await?;
            return Ok((self.way.at.clone(), None));
        }
        if part.gaps {
            self.way.count(GapReason::Retention);
        }
        if let Some(portion) = &part.portion {
            self.way.feeder.give(Fed::Portion(portion.clone())).await?;
        }
        self.way.quiet = Quiet::NONE;
        self.way.at = part.at_end().clone();
        Ok((part.to.clone(), part.portion.is_some().then(|| part.wanted.clone())))
    }

    /// The part from this place, made by whoever comes first.
    async fn part(&self, since: Arc<Offset>, until: &Offset) -> Result<Arc<Part>, Over> {
        let Way { shared, hub, view, at, .. } = &self.way;
        let quiet = self.way.quiet != Quiet::NONE;
        let wanted = Wanted { since, at: at.clone(), quiet, bytes_max: self.part_bytes };
        let find = |kept: &VecDeque<Arc<Part>>| {
            let same = |part: &&Arc<Part>| part.serves(&wanted) && part.to.is_at_or_before(until);
            kept.iter().find(same).cloned()
        };
        let kept = find(&*view.kept_parts().0.lock().await);
        if let Some(part) = kept {
            return Ok(part);
        }
        // Before the lock: what is kept for others under it is what there may be no room for.
        let (_turn, account) = shared.replays.turn_for_own().await;
        let mut kept = view.kept_parts().0.lock().await;
        if let Some(part) = find(&kept) {
            return Ok(part);
        }
        let (hub, view, shared_, account) = (hub.clone(), view.clone(), shared.clone(), account.clone());
        let (wanted, until) = (wanted.clone(), until.clone());
        // A walk over many thousands of series, on a thread that nobody else waits for.
        let made = shared
            .tasks
            .spawn_blocking(move || make(&hub, &view, &shared_.compressor, &account, wanted, &until));
        let part = Arc::new(made.await.map_err(|_| Over)?);
        kept.truncate(KEPT_PARTS_MAX - 1);
        kept.push_front(part.clone());
        Ok(part)
    }
}

/// The part that is wanted, up to `until` at most.
pub(super) fn make(
    hub: &Hub,
    view: &View,
    compressor: &Compressor,
    account: &Arc<Account>,
    wanted: Wanted,
    until: &Offset,
) -> Part {
    let (key, Wanted { since, at, quiet, bytes_max }) = (view.key(), &wanted);
    let changes = hub.with_series(|series| series.changed_after(&key.filters, since, until, *bytes_max));
    let mut frames = Vec::new();
    let mut from = at.clone();
    // What is missing may lie behind the view's place: then the view announces the rest.
    let missing = changes.incomplete_to.filter(|_| !*quiet).map(|missing| missing.earliest_of(until));
    let gap_to = missing.map(|missing| at.latest_of(&missing)).filter(|to| *to != **at).map(Arc::new);
    if let Some(to) = &gap_to {
        frames.push(gap_frame(key.wire, &from, to.clone(), GapReason::Retention));
        from = to.clone();
    }
    let mut parts = Parts::new(key.format, PART_BYTES_MAX);
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
    // One envelope is as little as there may be.
    let is_least = changes.envelopes <= 1 && *bytes_max < PART_BYTES;
    let given_back = if is_least { GivenBack::Unbegun } else { GivenBack::Always };
    let bytes = frames.iter().map(|frame| frame.bytes.len() + FRAME_OVERHEAD_BYTES).sum();
    let charge: Charge = Arc::new(account.charge(bytes));
    let portion = Batch::new(frames).map(|batch| Portion::of(batch, given_back, Some(charge)));
    Part { wanted, made: Instant::now(), portion, to: Arc::new(changes.to), gaps: gap_to.is_some() }
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
