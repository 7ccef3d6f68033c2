//! What the threads of a run share: the plan, the phase, what was published, and figures for the progress bar.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::content::Content;
use super::doubts::Doubts;
use super::plan::Plan;
use crate::sync::Locked;

/// Connecting and the handshake together take at most so long.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often threads look at the phase when nothing else happens.
pub(super) const GLANCE: Duration = Duration::from_millis(20);

/// Where a run is. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Everybody connects.
    Connecting,
    /// Collectors publish, clients come and go.
    Running,
    /// Nothing new is published; what was is still arriving.
    Settling,
    /// Everybody leaves.
    Ending,
}

const PHASES: [Phase; 4] = [Phase::Connecting, Phase::Running, Phase::Settling, Phase::Ending];

/// Figures of one thread, written by it alone. On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Board {
    pub(super) deliveries: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Clients whose first attempt has ended, either way.
    pub(super) decided: AtomicU64,
    /// Clients that are connected now.
    pub(super) open: AtomicU64,
    /// Clients that have everything they will get.
    pub(super) settled: AtomicU64,
}

/// Sums over threads at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Glance {
    pub(super) deliveries: u64,
    pub(super) bytes: u64,
    pub(super) decided: u64,
    pub(super) open: u64,
    pub(super) settled: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: Plan,
    /// The addresses of `plan.targets`.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) content: Content,
    /// Which own collectors the clients' filters let through.
    pub(super) asked: Vec<bool>,
    pub(super) boards: Vec<Board>,
    pub(super) clock: Clock,
    /// The last count that each own collector has sent.
    pub(super) published: Vec<AtomicU32>,
    /// The highest count of each own collector that any client has got.
    pub(super) confirmed: Vec<AtomicU32>,
    /// Every own collector has connected, or could not.
    pub(super) collectors_decided: AtomicBool,
    /// `published` changes no more.
    pub(super) published_is_final: AtomicBool,
    doubts: Locked<Doubts>,
    /// The highest count of each own collector that is in doubt. Written while `doubts` is locked.
    doubted: Vec<AtomicU32>,
    phase: AtomicU8,
}

impl Shared {
    pub(super) fn new(plan: Plan, addresses: Vec<SocketAddr>) -> Self {
        let collectors = plan.publishing.as_ref().map_or(0, |publishing| publishing.collectors);
        let message_bytes = plan.publishing.as_ref().map_or(0, |publishing| publishing.message_bytes);
        let content = Content::new(fastrand::u32(..), message_bytes);
        let counts = || (0..collectors).map(|_| AtomicU32::new(0)).collect();
        Self {
            addresses,
            asked: (0..collectors).map(|number| content.passes(number, &plan.filters)).collect(),
            content,
            boards: (0..plan.threads).map(|_| Board::default()).collect(),
            clock: Clock::new(),
            published: counts(),
            confirmed: counts(),
            collectors_decided: AtomicBool::new(collectors == 0),
            published_is_final: AtomicBool::new(collectors == 0),
            doubts: Locked::empty("doubts"),
            doubted: counts(),
            phase: AtomicU8::new(Phase::Connecting as u8),
            plan,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Acquire))]
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    pub(super) fn glance(&self) -> Glance {
        let mut sum = Glance::default();
        for board in &self.boards {
            sum.deliveries += board.deliveries.load(Ordering::Relaxed);
            sum.bytes += board.bytes.load(Ordering::Relaxed);
            sum.decided += board.decided.load(Ordering::Relaxed);
            sum.open += board.open.load(Ordering::Relaxed);
            sum.settled += board.settled.load(Ordering::Relaxed);
        }
        sum
    }

    /// The last counts, as they are now.
    pub(super) fn published_counts(&self) -> Vec<u32> {
        self.published.iter().map(|count| count.load(Ordering::Acquire)).collect()
    }

    /// Some client has got this count of a collector.
    pub(super) fn confirm(&self, collector: usize, count: u32) {
        let Some((confirmed, doubted)) = self.confirmed.get(collector).zip(self.doubted.get(collector))
        else {
            return;
        };
        // Nearly always another client was first, and looking is cheaper than writing.
        if confirmed.load(Ordering::SeqCst) < count {
            confirmed.fetch_max(count, Ordering::SeqCst);
        }
        // Each side writes its own value before it looks at the other's, in one order for all threads: so either this sees the
        // doubt, or the doubt has seen that this count is confirmed.
        if doubted.load(Ordering::SeqCst) >= count {
            self.doubts.with(|doubts| {
                doubts.dispel(collector, count);
                doubted.store(doubts.last(collector), Ordering::SeqCst);
            });
        }
    }

    /// The connection of a collector has ended: what nobody has got yet may never have reached the log. What was sent up to
    /// `before` has been doubted already; returns up to where it is now.
    pub(super) fn doubt(&self, collector: usize, before: u32) -> u32 {
        self.doubts.with(|doubts| {
            let last = self.published[collector].load(Ordering::Relaxed);
            self.doubted[collector].store(last, Ordering::SeqCst);
            let first = self.confirmed[collector].load(Ordering::SeqCst).max(before) + 1;
            doubts.add(collector, first, last);
            self.doubted[collector].store(doubts.last(collector), Ordering::SeqCst);
            last
        })
    }

    /// What is in doubt now.
    pub(super) fn doubts(&self) -> Doubts {
        self.doubts.with(|doubts| doubts.clone())
    }
}

/// Wall-clock time that never jumps: read once, carried on by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    started_ns: u64,
}

impl Clock {
    fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_ns: u64::try_from(unix.as_nanos()).unwrap_or(0) }
    }

    /// Nanoseconds since 1970 at `now`.
    pub(super) fn unix_ns(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started);
        self.started_ns + u64::try_from(since.as_nanos()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::node::Node;
    use crate::load::plan::Publishing;
    use crate::load::target::Target;

    #[test]
    fn what_comes_after_its_collector_has_gone_was_in_the_log() {
        let node = Node::listen();
        let target = Target::of_collectors(&node.address().to_string()).unwrap();
        let publishing = Publishing { target, collectors: 1, messages_per_s: 1.0, message_bytes: 100 };
        let shared = node.shared(Plan { publishing: Some(publishing), ..node.plan(1) });
        shared.published[0].store(9, Ordering::Release);
        shared.confirm(0, 2);
        assert_eq!(shared.doubt(0, 0), 9);
        assert_eq!(shared.doubts().within(0, 1, 9), 7);
        for count in 3..=5 {
            shared.confirm(0, count);
        }
        assert_eq!(shared.doubts().within(0, 1, 9), 4);
        assert_eq!(shared.doubt(0, 9), 9, "the same once more doubts nothing new");
        assert_eq!((shared.doubts().within(0, 1, 9), shared.doubted[0].load(Ordering::Relaxed)), (4, 9));
    }
}
