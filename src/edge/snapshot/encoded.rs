//! What is encoded once and taken by many, a part at a time. Where there is no room for more of it, what nobody takes is given up,
//! however many still have a share of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::Gauge;
use tokio::time::sleep;

use crate::fairness::{Charge, Cut, FairBudget, Limits};
use crate::ops::meters::Meters;
use crate::sync::Locked;

/// A task that waits for room looks this often what has to give way.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// All that is encoded, of one edge.
pub(super) struct Room {
    budget: Arc<FairBudget>,
    bytes_max: usize,
    all: Locked<Vec<Weak<dyn GiveUp>>>,
}

/// Parts in their order. Those who take them hold a count on all of them, and what they write.
pub(crate) struct Encoded<P> {
    /// None once they are given up.
    parts: Locked<Option<Vec<P>>>,
    /// The same without the lock, for those who hold another.
    is_whole: AtomicBool,
    bytes: usize,
    charge: Charge,
}

/// They were given up: others wanted the room, and these were not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenUp;

trait GiveUp: Send + Sync {
    /// Gives up what takes too long.
    fn check(&self) -> Option<Cut>;
}

impl Room {
    /// Room for about `bytes_max`. What is not taken at `bytes_per_second_min`, on average over a `window`, is given up in any case.
    pub(super) fn new(bytes_max: usize, bytes_per_second_min: u64, window: Duration, gauge: Gauge) -> Self {
        let budget = FairBudget::new(Limits { bytes_max, bytes_per_second_min, window }, gauge);
        Self { budget, bytes_max, all: Locked::empty("encoded snapshots") }
    }

    /// Waits until there is some. How much will be taken of it is not known: see [`Room::is_left`].
    pub(super) async fn enter(&self, meters: &Meters) -> Charge {
        let mut charge = self.budget.open(None, None);
        loop {
            tokio::select! {
                biased;
                _ = charge.grow_to(1) => break,
                () = sleep(LOOK_AGAIN) => self.check(meters),
            }
        }
        // It is made first: nobody can take it yet. What was granted just now is not cut.
        let _ = charge.pin(1);
        charge
    }

    /// One snapshot may be larger than what is left, so each maker may go beyond it by one.
    pub(super) fn is_left(&self) -> bool {
        self.budget.bytes() < self.bytes_max
    }

    /// Has given up what takes too long.
    pub(super) fn check(&self, meters: &Meters) {
        let all: Vec<Arc<dyn GiveUp>> = self.all.with(|all| {
            all.retain(|one| one.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        });
        for cut in all.iter().filter_map(|one| one.check()) {
            meters.snapshots_cut.of(cut).increment(1);
        }
    }

    /// Parts of so many `bytes` altogether, to be taken from now on.
    pub(super) fn keep<P: Send + 'static>(
        &self,
        parts: Vec<P>,
        bytes: usize,
        mut charge: Charge,
    ) -> Arc<Encoded<P>> {
        // It is pinned, so it is not cut.
        let _ = charge.pin(bytes);
        charge.unpin();
        let parts = Locked::leaf("encoded parts", Some(parts));
        let kept = Arc::new(Encoded { parts, is_whole: AtomicBool::new(true), bytes, charge });
        let one: Weak<dyn GiveUp> = Arc::<Encoded<P>>::downgrade(&kept);
        self.all.with(|all| all.push(one));
        kept
    }
}

impl<P: Clone> Encoded<P> {
    /// One part; none behind the last.
    pub(crate) fn part(&self, at: usize) -> Result<Option<P>, GivenUp> {
        self.parts.with(|parts| parts.as_ref().map(|parts| parts.get(at).cloned())).ok_or(GivenUp)
    }

    /// So many bytes of it were taken by somebody.
    pub(crate) fn note(&self, bytes: usize) {
        self.charge.note(bytes);
    }

    /// Whether it was not given up.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<P: Send> GiveUp for Encoded<P> {
    fn check(&self) -> Option<Cut> {
        let cut = self.charge.check().err()?;
        // Once.
        self.is_whole.store(false, Ordering::Relaxed);
        let parts = self.parts.with(Option::take)?;
        drop(parts);
        self.charge.close();
        Some(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn room() -> Room {
        Room::new(10 * MIB, 1_000, Duration::from_secs(60), Gauge::noop())
    }

    async fn keep(room: &Room, bytes: usize) -> Arc<Encoded<u32>> {
        let charge = room.enter(&Meters::register()).await;
        room.keep(vec![1, 2, 3], bytes, charge)
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_gives_way_to_what_is_asked_for_and_what_is_taken_stays() {
        let room = room();
        let (taken, left) = (keep(&room, 4 * MIB).await, keep(&room, 7 * MIB).await);
        assert!(!room.is_left());
        let began = tokio::time::Instant::now();
        let (third, ()) = tokio::join!(keep(&room, MIB), async {
            for _ in 0..30 {
                taken.note(MIB);
                sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!((taken.part(0), taken.part(3)), (Ok(Some(1)), Ok(None)));
        assert_eq!((left.part(0), third.part(2)), (Err(GivenUp), Ok(Some(3))));
        assert_eq!(room.budget.bytes(), 5 * MIB, "given back at once, however many still have a share of it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_given_up_in_time_if_nobody_wants_its_room() {
        let room = room();
        let left = keep(&room, MIB).await;
        sleep(Duration::from_secs(59)).await;
        room.check(&Meters::register());
        assert_eq!(left.part(0), Ok(Some(1)));
        sleep(Duration::from_secs(1)).await;
        room.check(&Meters::register());
        assert_eq!((left.part(0), room.budget.bytes()), (Err(GivenUp), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_a_snapshot_holds_its_room_until_the_last_of_them_is_done() {
        let room = room();
        let kept = keep(&room, 12 * MIB).await;
        let other = kept.clone();
        drop(kept);
        assert!(!room.is_left());
        drop(other);
        assert_eq!(room.budget.bytes(), 0);
    }
}
