//! Follows one shard of the log: live flow in, everything in order out, holes repaired from the log itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::broker::{Bounds, BrokerError, ReadLimits, Stored};
use crate::edge::hub::Hub;
use crate::edge::sequencer::{Ordered, Sequencer};
use crate::edge::{LAG_PATIENCE, Shared};
use crate::ops::node::Gate;
use crate::proto::offset::{Epoch, Sequence, Shard};

/// Live envelopes taken at a time: enough to amortise the hub's lock, few enough for an even flow.
const TURN_ENVELOPES_MAX: usize = 256;
/// Envelopes that came before their turn, in bytes per shard. Beyond it they are read from the log instead.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// One read of a repair or of the warm-up.
const READ: ReadLimits = ReadLimits { envelopes_max: 2_000, bytes_max: 4 * 1024 * 1024 };
/// One envelope, to see which it is.
const ONE: ReadLimits = ReadLimits { envelopes_max: 1, bytes_max: 1 };
/// Without live envelopes for so long, the log is asked whether there is something newer.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at a log that seems to end before what this edge has got.
const DOUBT_PAUSE: Duration = Duration::from_millis(50);
/// First and longest pause between two attempts.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(2);

/// What the log says of itself.
enum Looks {
    /// It is the one that is followed.
    Same(Bounds),
    /// It is not, or it went back; it ended there.
    Another(Bounds),
}

/// Follows one shard.
pub(crate) struct Follower {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) shard: Shard,
    pub(crate) epoch: Epoch,
    pub(crate) sequencer: Sequencer,
    /// The newest envelope that was handed over and when it was stored: it tells this log from one that went back.
    newest: Option<(Sequence, i64)>,
    /// Opened when everything that was stored at the start has been read.
    pub(crate) caught_up: Arc<Gate>,
    pub(crate) caught_up_at: Sequence,
    /// The live flow may still hold envelopes of a log that is gone: it has to be taken anew.
    tail_outdated: bool,
}

impl Follower {
    /// A follower that begins after `start`, with everything up to `bounds.last` to be read first.
    pub(crate) fn new(
        shared: Arc<Shared>,
        hub: Arc<Hub>,
        shard: Shard,
        start: Sequence,
        bounds: Bounds,
        caught_up: Arc<Gate>,
    ) -> Self {
        let sequencer = Sequencer::new(start + 1, bounds.last, HELD_BYTES_MAX);
        Self {
            shared,
            hub,
            shard,
            epoch: bounds.epoch,
            sequencer,
            newest: None,
            caught_up,
            caught_up_at: bounds.last,
            tail_outdated: false,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut connection = self.shared.broker.connection();
        loop {
            let mut tail = self.tail().await;
            let mut check = tokio::time::interval(CHECK_INTERVAL);
            check.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut arrived = Vec::with_capacity(TURN_ENVELOPES_MAX);
            let mut heard = Instant::now();
            self.tail_outdated = false;
            loop {
                self.repair().await;
                if self.tail_outdated {
                    break;
                }
                // All three keep what they have when another branch wins.
                let check_bounds = tokio::select! {
                    count = tail.recv_many(&mut arrived, TURN_ENVELOPES_MAX) => {
                        if count == 0 {
                            break;
                        }
                        heard = Instant::now();
                        !self.take_live(&mut arrived).await
                    }
                    _ = check.tick() => heard.elapsed() >= CHECK_INTERVAL,
                    changed = connection.changed() => {
                        let connected = connection.borrow_and_update().is_connected();
                        changed.is_ok() && connected
                    }
                };
                if check_bounds {
                    self.check_bounds().await;
                }
            }
        }
    }

    async fn tail(&self) -> mpsc::Receiver<Stored> {
        let mut pause = PAUSE.start;
        loop {
            match self.shared.broker.tail(self.shard).await {
                Ok(tail) => return tail,
                Err(error) => {
                    self.complain("the live flow cannot be followed", &error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.end);
                }
            }
        }
    }

    /// Takes envelopes from the live flow. False when some were older than expected.
    async fn take_live(&mut self, arrived: &mut Vec<Stored>) -> bool {
        self.shared.node.meters.log_messages_received.increment(arrived.len() as u64);
        self.shared.note_heard(self.shard);
        self.shared.stamp_ages.note(arrived);
        let mut ordered = Vec::with_capacity(arrived.len());
        let mut as_expected = true;
        for stored in arrived.drain(..) {
            as_expected &= self.sequencer.live(stored, &mut ordered);
        }
        self.hand_over(ordered).await;
        as_expected
    }

    /// Reads what is missing until nothing is.
    async fn repair(&mut self) {
        let mut pause = PAUSE.start;
        while let Some(missing) = self.sequencer.missing() {
            match self.read_missing(*missing.start()).await {
                Ok(true) => pause = PAUSE.start,
                Ok(false) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.end);
                }
                Err(error) => {
                    self.complain("missing envelopes cannot be read", &error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.end);
                }
            }
        }
        if !self.caught_up.is_open() && self.sequencer.next() > self.caught_up_at {
            self.caught_up.set(true);
            tracing::info!(
                event = "log_followed",
                shard = self.shard.0,
                sequence = self.caught_up_at,
                "ring is warm"
            );
        }
    }

    /// One read. False when it brought nothing, which a lagging replica may do for a while.
    async fn read_missing(&mut self, from: Sequence) -> Result<bool, BrokerError> {
        let answer = self.shared.broker.read(self.shard, from, READ).await?;
        self.shared.note_heard(self.shard);
        let whole = answer.first().is_some_and(|stored| stored.sequence == from);
        let mut oldest = 0;
        if !whole {
            // Something is not there: gone for good, or is this another log by now?
            let bounds = match self.look().await? {
                Looks::Another(bounds) => {
                    self.reset(bounds);
                    return Ok(true);
                }
                Looks::Same(bounds) => bounds,
            };
            oldest = bounds.first;
            if answer.is_empty() && oldest <= from {
                return Ok(false);
            }
        }
        let count = answer.len() as u64;
        self.shared.node.meters.log_messages_received.increment(count);
        if self.caught_up.is_open() {
            self.shared.node.meters.log_messages_repaired.increment(count);
        }
        let mut ordered = Vec::with_capacity(answer.len());
        self.sequencer.repaired(answer, oldest, &mut ordered);
        self.hand_over(ordered).await;
        Ok(true)
    }

    /// Learns from the log what the live flow may have lost at its end, and whether it is still the same log.
    async fn check_bounds(&mut self) {
        match self.look().await {
            Ok(Looks::Another(bounds)) => self.reset(bounds),
            Ok(Looks::Same(bounds)) => {
                self.shared.note_heard(self.shard);
                self.sequencer.learn_last(bounds.last);
            }
            Err(error) => {
                tracing::debug!(event = "log_not_reached", shard = self.shard.0, %error, "bounds unknown")
            }
        }
    }

    /// Asks the log for its bounds, and whether it is still the one that is followed.
    ///
    /// A server that lags, or does not know yet that another one leads, says less than this edge has got: that is no reset.
    /// What tells is the newest envelope. If the log holds it, or soon does again, it is the same log; if it holds another in its
    /// place, or none for [`LAG_PATIENCE`], it went back. Meanwhile nothing is taken from the live flow, so that nothing
    /// of a log that went back is mistaken for what follows.
    async fn look(&self) -> Result<Looks, BrokerError> {
        let mut bounds = self.shared.broker.bounds(self.shard).await?;
        let reaches = |bounds: Bounds| bounds.last + 1 >= self.sequencer.next();
        if bounds.epoch == self.epoch && reaches(bounds) {
            return Ok(Looks::Same(bounds));
        }
        let deadline = Instant::now() + LAG_PATIENCE;
        // If it went back, everything behind this is new.
        let mut shortest = bounds;
        while bounds.epoch == self.epoch {
            match self.still_holds_newest().await? {
                Some(true) => return Ok(Looks::Same(bounds)),
                Some(false) => return Ok(Looks::Another(shortest)),
                None if self.newest.is_none() && reaches(bounds) => return Ok(Looks::Same(bounds)),
                None if Instant::now() >= deadline => return Ok(Looks::Another(shortest)),
                None => tokio::time::sleep(DOUBT_PAUSE).await,
            }
            bounds = self.shared.broker.bounds(self.shard).await?;
            if bounds.last < shortest.last {
                shortest = bounds;
            }
        }
        Ok(Looks::Another(bounds))
    }

    /// Whether the log has what this edge got last, or another envelope in its place; nothing if it has neither.
    async fn still_holds_newest(&self) -> Result<Option<bool>, BrokerError> {
        let Some((sequence, stored_ns)) = self.newest else { return Ok(None) };
        let found = self.shared.broker.read(self.shard, sequence, ONE).await?;
        Ok(found.first().map(|stored| {
            // A later one alone: the log let go of this one by its age or size, so it has been that far.
            stored.sequence > sequence || stored.stored_ns == stored_ns
        }))
    }

    /// The log was created anew or has lost its newest part. A new one is followed from its beginning; one that went
    /// backwards from its end, because what lies before it has been seen.
    fn reset(&mut self, bounds: Bounds) {
        let last = if bounds.epoch == self.epoch { bounds.last } else { bounds.first.saturating_sub(1) };
        tracing::warn!(
            event = "log_reset",
            shard = self.shard.0,
            was_at = self.sequencer.next().saturating_sub(1),
            goes_on_after = last,
            "the log is another one: clients are told of a reset"
        );
        self.tail_outdated = true;
        self.epoch = bounds.epoch;
        self.sequencer = Sequencer::new(last + 1, bounds.last, HELD_BYTES_MAX);
        self.newest = None;
        self.caught_up_at = self.caught_up_at.min(bounds.last);
        self.hub.reset(self.shard, bounds.epoch, last);
        self.shared.note_heard(self.shard);
    }

    async fn hand_over(&mut self, ordered: Vec<Ordered>) {
        if ordered.is_empty() {
            return;
        }
        self.shared.collectors.note(&ordered);
        self.shared.note_arrived(self.shard);
        self.newest = match ordered.last() {
            Some(Ordered::Envelope(stored)) => Some((stored.sequence, stored.stored_ns)),
            _ => None,
        };
        let mut arrivals = ordered.into_iter().peekable();
        while self.hub.append_some(self.shard, &mut arrivals) {
            // Writers and sessions that look for their place have their turn in between, also on this thread.
            tokio::task::yield_now().await;
        }
    }

    fn complain(&self, what: &str, error: &BrokerError) {
        tracing::warn!(event = "log_not_followed", shard = self.shard.0, %error, "{what}; trying again");
    }
}
