//! Feeds a session that cannot join its view yet: from the ring where it reaches, else from the log by bounded reads.
//!
//! It walks shard by shard up to the head it saw, and joins the view exactly there, so that nothing is sent twice and
//! nothing is left out. While it walks, it holds a bounded number of frames: the session's writer takes a batch when the
//! socket has taken the one before.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::broker::{BrokerError, ReadLimits, Stored};
use crate::edge::Shared;
use crate::edge::batch::{Batch, Frame};
use crate::edge::books::Passage;
use crate::edge::doorbell::{Doorbell, SessionKey};
use crate::edge::encode;
use crate::edge::hub::{Head, Hub};
use crate::edge::ring::{Entry, Index, Item};
use crate::edge::view::{Cursor, View};
use crate::edge::wire::Wire;
use crate::ops::meters::ReplayOutcome;
use crate::proto::filter::Match;
use crate::proto::message::GapReason;
use crate::proto::offset::{Offset, SHARDS_MAX, Sequence, Shard};

/// What is fetched at a time: a session that catches up holds at most two such chunks, one that its socket is taking and
/// the next, of about as many bytes in frames as in lines, or a few times that as JSON.
const CHUNK: ReadLimits = ReadLimits { envelopes_max: 128, bytes_max: 64 * 1024 };
/// Between two attempts to read the log while it does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// A place ahead of this edge is usual for moments: another edge was faster. Then the log is asked.
const AHEAD_PATIENCE: Duration = Duration::from_secs(2);

/// What a session's writer is given.
pub(crate) enum Fed {
    /// The next frames.
    Frames(Box<Batch>),
    /// Nothing is missing any more.
    Joined(Joined),
    /// The log refuses to be read.
    Failed(String),
}

/// How a session goes on with its view.
pub(crate) struct Joined {
    pub(crate) cursor: Cursor,
    pub(crate) index: Index,
    pub(crate) at: Arc<Offset>,
    /// Steps of the log it was taken past.
    pub(crate) steps: Index,
    /// Positions since its last frame that the log no longer held, and that were no loss.
    pub(crate) unheld: u64,
}

/// One session's way to its view.
pub(crate) struct CatchUp {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) view: Arc<View>,
    /// What the session has got so far.
    pub(crate) at: Offset,
    pub(crate) quiet: Quiet,
    /// Steps of the log it has taken: envelopes and gaps, sent or not.
    pub(crate) steps: Index,
    /// Positions that the log no longer held, and that were no loss, since the last frame.
    pub(crate) unheld: u64,
    /// How often the log had turned out to be another one when the session got this place.
    pub(crate) resets: u64,
    /// How the resume is counted when it ends.
    pub(crate) outcome: Option<ReplayOutcome>,
    pub(crate) feed: mpsc::Sender<Fed>,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) session: SessionKey,
}

/// Shards whose first hole is no loss, because the session asked for whatever there is and has got nothing of them yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet(u64);

const _: () = assert!(SHARDS_MAX <= 64, "one bit per shard");

impl Quiet {
    /// All shards, or none.
    pub(crate) fn all(quiet: bool) -> Self {
        Self(if quiet { u64::MAX } else { 0 })
    }

    /// From now on a hole of this shard is a loss. Says whether it was none until now.
    fn end(&mut self, shard: Shard) -> bool {
        let bit = 1u64 << (shard.0 % 64);
        let was = self.0 & bit != 0;
        self.0 &= !bit;
        was
    }
}

/// The session is gone, or was told that it cannot go on.
struct Over;

impl CatchUp {
    /// Runs until the session has joined its view or is gone.
    pub(crate) fn spawn(self) {
        let tracker = self.shared.tasks.clone();
        tracker.spawn(async move {
            let feed = self.feed.clone();
            // A session that leaves ends whatever this waits for.
            tokio::select! {
                () = feed.closed() => {}
                _ = self.run() => {}
            }
        });
    }

    async fn run(mut self) -> Result<(), Over> {
        let mut heads = self.hub.watch_head();
        let mut resets = self.resets;
        loop {
            let head = heads.borrow_and_update().clone();
            if std::mem::replace(&mut resets, head.resets) != head.resets
                && head.offset.epoch == self.at.epoch
                && !self.at.is_at_or_before(&head.offset)
            {
                // The log went backwards, behind this session: what it will hold up to there again is not the same.
                self.announce((*head.offset).clone(), GapReason::Reset).await?;
                continue;
            }
            if head.offset.epoch != self.at.epoch || head.offset.sequences.len() != self.at.sequences.len() {
                let start = Offset::start(head.offset.epoch, head.offset.sequences.len() as u16);
                self.announce(start, GapReason::Reset).await?;
                self.quiet = Quiet::all(true);
                continue;
            }
            let advanced = self.advance_to(&head).await?;
            // Right where it has got to, even if the head has moved on meanwhile: or it might chase it for ever.
            if self.at == *head.offset
                && let Some(cursor) = self.view.join(head.index)
            {
                return self.join(cursor, &head).await;
            }
            if !advanced {
                self.wait_for_head(&mut heads).await?;
            }
        }
    }

    async fn join(self, cursor: Cursor, head: &Head) -> Result<(), Over> {
        if let Some(outcome) = self.outcome {
            self.shared.node.meters.replay_requests.of(outcome).increment(1);
        }
        let (steps, unheld) = (self.steps, self.unheld);
        let (index, at) = (head.index, head.offset.clone());
        self.send(Fed::Joined(Joined { cursor, index, at, steps, unheld })).await
    }

    /// Waits until this edge is where the session is. A log that has gone backwards will never be: that is a reset.
    async fn wait_for_head(&mut self, heads: &mut watch::Receiver<Head>) -> Result<(), Over> {
        if let Ok(changed) = tokio::time::timeout(AHEAD_PATIENCE, heads.changed()).await {
            return changed.map_err(|_| Over);
        }
        for shard in self.shards() {
            let Ok(bounds) = self.shared.broker.bounds(shard).await else { return Ok(()) };
            if bounds.last < self.at.sequence(shard) {
                let head = (*heads.borrow().offset).clone();
                return self.announce(head, GapReason::Reset).await;
            }
        }
        Ok(())
    }

    /// Sends everything between the session's place and `head`. False when the session is ahead of it.
    async fn advance_to(&mut self, head: &Head) -> Result<bool, Over> {
        let mut advanced = false;
        for shard in self.shards() {
            let last = head.offset.sequence(shard);
            while self.at.sequence(shard) < last {
                advanced = true;
                // Nothing is fetched before there is room for it.
                drop(self.feed.reserve().await.map_err(|_| Over)?);
                let after = self.at.sequence(shard);
                match self.hub.entries(self.at.epoch, shard, after, CHUNK) {
                    Some(entries) if !entries.is_empty() => self.send_entries(shard, &entries, last).await?,
                    _ => {
                        if self.send_from_log(shard, last).await?.is_break() {
                            // The log is another one now; the hub will say so.
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(advanced)
    }

    async fn send_entries(
        &mut self,
        shard: Shard,
        entries: &[Arc<Entry>],
        last: Sequence,
    ) -> Result<(), Over> {
        self.quiet.end(shard);
        let mut frames = Vec::new();
        for entry in entries.iter().take_while(|entry| entry.sequence() <= last) {
            let stored = match &entry.item {
                Item::Gap { reason, .. } => {
                    frames.push(self.pass_gap(self.at.with(shard, entry.sequence()), *reason));
                    continue;
                }
                Item::Envelope(stored) => stored,
            };
            self.at = self.at.with(shard, entry.sequence());
            self.steps += 1;
            let key = self.view.key();
            let bytes = if self.at == *entry.offset {
                // The same place as in the ring's order: the ring's own frame will do.
                match key.filters.matches_channel(&stored.envelope.channel) {
                    Match::No => None,
                    Match::Whole => self.shared.compressor.replayed(entry, key),
                    Match::Lines => encode::part(entry, &key.filters, key.format)
                        .map(|plain| self.shared.compressor.own(plain, key.wire, Some(&self.at))),
                }
            } else {
                self.encode(stored)
            };
            frames.extend(bytes.map(|bytes| self.frame(bytes, None)));
        }
        self.send_frames(frames).await
    }

    /// One bounded read. Breaks off when the log does not hold what it should: it has been replaced.
    async fn send_from_log(&mut self, shard: Shard, last: Sequence) -> Result<ControlFlow<()>, Over> {
        let from = self.at.sequence(shard) + 1;
        let answer = {
            // Few sessions read the log at a time, so that a crowd of old offsets cannot starve the live flow.
            let _permit = self.shared.replays.acquire().await.map_err(|_| Over)?;
            self.shared.broker.read(shard, from, CHUNK).await
        };
        if self.hub.head().offset.epoch != self.at.epoch {
            // What was read may be of another log than the session's place.
            return Ok(ControlFlow::Break(()));
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(BrokerError::Unavailable(_)) => {
                tokio::time::sleep(RETRY).await;
                return Ok(ControlFlow::Continue(()));
            }
            Err(refused) => {
                self.send(Fed::Failed(refused.to_string())).await?;
                return Err(Over);
            }
        };
        let first = answer.first().map(|stored| stored.sequence);
        if first.is_none_or(|first| first > from) {
            return self.hole(shard, from, first, last).await;
        }
        self.send_stored(shard, &answer, last).await?;
        Ok(ControlFlow::Continue(()))
    }

    /// What lies between `from` and `first` is gone, if the log's bounds say so too.
    async fn hole(
        &mut self,
        shard: Shard,
        from: Sequence,
        first: Option<Sequence>,
        last: Sequence,
    ) -> Result<ControlFlow<()>, Over> {
        let Ok(bounds) = self.shared.broker.bounds(shard).await else {
            tokio::time::sleep(RETRY).await;
            return Ok(ControlFlow::Continue(()));
        };
        if bounds.last < last {
            tokio::time::sleep(RETRY).await;
            return Ok(ControlFlow::Break(()));
        }
        let next = first.unwrap_or(bounds.first).min(last + 1);
        if next <= from {
            // A replica that lags answers with nothing; the next read will be answered by another, or later.
            tokio::time::sleep(RETRY).await;
            return Ok(ControlFlow::Continue(()));
        }
        let to = self.at.with(shard, next - 1);
        if self.quiet.end(shard) {
            self.unheld += self.at.positions_to(&to);
            self.at = to;
        } else {
            self.announce(to, GapReason::Retention).await?;
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn send_stored(&mut self, shard: Shard, answer: &[Stored], last: Sequence) -> Result<(), Over> {
        self.quiet.end(shard);
        let mut frames = Vec::new();
        for stored in answer.iter().take_while(|stored| stored.sequence <= last) {
            if stored.sequence > self.at.sequence(shard) + 1 {
                let to = self.at.with(shard, stored.sequence - 1);
                frames.push(self.pass_gap(to, GapReason::Retention));
            }
            self.at = self.at.with(shard, stored.sequence);
            self.steps += 1;
            frames.extend(self.encode(stored).map(|bytes| self.frame(bytes, None)));
        }
        self.send_frames(frames).await
    }

    fn encode(&self, stored: &Stored) -> Option<bytes::Bytes> {
        let key = self.view.key();
        encode::filtered(&stored.envelope, stored.stored_ns, &self.at, &key.filters, key.format)
            .map(|plain| self.shared.compressor.own(plain, key.wire, Some(&self.at)))
    }

    /// A frame at the session's place. It is not part of the view's run: its index counts the steps taken here.
    fn frame(&mut self, bytes: bytes::Bytes, passage: Option<Passage>) -> Frame {
        let passage = match std::mem::take(&mut self.unheld) {
            0 => passage,
            unheld => Some(passage.unwrap_or_else(|| Passage::envelopes(1)).behind_unheld(unheld)),
        };
        let offset = Arc::new(self.at.clone());
        Frame { index: self.steps, offset, bytes, own: true, passage: passage.map(Arc::new) }
    }

    /// The announcement that what lies up to `to` does not come, and moves behind that.
    fn pass_gap(&mut self, to: Offset, reason: GapReason) -> Frame {
        let from = Arc::new(std::mem::replace(&mut self.at, to));
        self.count(reason);
        self.steps += 1;
        let passage = Passage::gap(&from, &self.at, reason);
        self.frame(encode::gap(self.wire(), &from, &self.at, reason), Some(passage))
    }

    /// Tells the session what it will not get, and moves it behind that.
    async fn announce(&mut self, to: Offset, reason: GapReason) -> Result<(), Over> {
        let gap = self.pass_gap(to, reason);
        self.send_frames(vec![gap]).await
    }

    fn count(&mut self, reason: GapReason) {
        self.shared.node.meters.gaps.of(reason.into()).increment(1);
        if let Some(outcome) = &mut self.outcome {
            *outcome = match reason {
                GapReason::Reset => ReplayOutcome::Reset,
                _ if *outcome == ReplayOutcome::Recovered => ReplayOutcome::Gap,
                _ => *outcome,
            };
        }
    }

    async fn send_frames(&mut self, frames: Vec<Frame>) -> Result<(), Over> {
        match Batch::new(frames) {
            Some(batch) => self.send(Fed::Frames(Box::new(batch))).await,
            None => Ok(()),
        }
    }

    async fn send(&self, fed: Fed) -> Result<(), Over> {
        self.feed.send(fed).await.map_err(|_| Over)?;
        self.doorbell.ready(self.session);
        Ok(())
    }

    fn wire(&self) -> Wire {
        self.view.key().wire
    }

    fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.at.sequences.len() as u16).map(Shard)
    }
}
