//! Whether a connection that has a collector id is still there.
//!
//! An agent whose connection broke without a word comes back before this node has noticed. Refusing it would cost its
//! metrics: agents that are known by their `host` tag believe them sent. So whoever has the id is asked first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Heard of so recently, a connection counts as alive without an answer.
const RECENT: Duration = Duration::from_secs(5);
/// A connection that is about to end gets so long to do it before a newcomer is refused for its sake.
const ENDING: Duration = Duration::from_secs(1);
/// A silent connection gets so long to answer a ping.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at an answer that nothing announces.
const GLANCE: Duration = Duration::from_millis(20);

/// One connection's signs of life.
pub(crate) struct Pulse {
    began: Instant,
    heard_ms: AtomicU64,
    beats: AtomicU64,
    /// A message is being taken: nothing is read meanwhile, so nothing can be heard.
    busy: AtomicBool,
    /// It is, and waits for room in the buffer, for as long as the log needs.
    waiting: AtomicBool,
    asked: Notify,
    gone: CancellationToken,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            heard_ms: AtomicU64::new(0),
            beats: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            asked: Notify::new(),
            gone: CancellationToken::new(),
        }
    }

    /// Bytes came.
    pub(crate) fn beat(&self) {
        self.heard_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Says whether a message of the connection is being taken.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Says whether that message waits for room. Apart from [`Self::set_busy`]: a message may also wait for another
    /// connection's answer, and two that waited for each other would wait for ever.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Waits until somebody wants to know; the connection then pings at once. Cancel-safe.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    pub(super) fn end(&self) {
        self.gone.cancel();
    }

    /// Whether the connection has ended.
    #[cfg(test)]
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard)
    }

    /// Finds out, in at most [`ANSWER`]. Whoever is `patient` waits before that until the connection has room for its
    /// message, however long it takes: only then can it read, and show whether there is anybody.
    pub(super) async fn probe(&self, patient: bool) -> Life {
        let mut waited = patient && self.room().await;
        let recent = self.silence() < RECENT;
        let beats = self.beats.load(Ordering::Relaxed);
        self.asked.notify_one();
        let mut deadline = Instant::now() + if recent { ENDING } else { ANSWER };
        while !self.gone.is_cancelled() && Instant::now() < deadline {
            if patient && self.room().await {
                waited = true;
                deadline = Instant::now() + ANSWER;
            }
            // What a connection reads after a wait may have lain in the kernel since before the agent left; its end
            // comes behind it.
            if !waited && self.beats.load(Ordering::Relaxed) != beats {
                return Life::Alive;
            }
            sleep(GLANCE).await;
        }
        match () {
            () if self.gone.is_cancelled() => Life::Gone,
            () if recent || self.busy.load(Ordering::Relaxed) => Life::Alive,
            () if self.beats.load(Ordering::Relaxed) != beats => Life::Alive,
            () => Life::Silent,
        }
    }

    /// Returns when no message waits for room; says whether one did.
    async fn room(&self) -> bool {
        let waited = self.waiting.load(Ordering::Relaxed);
        while self.waiting.load(Ordering::Relaxed) && !self.gone.is_cancelled() {
            sleep(GLANCE).await;
        }
        waited
    }
}

/// What a probe finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It is there.
    Alive,
    /// It has ended meanwhile.
    Gone,
    /// It does not answer.
    Silent,
}
