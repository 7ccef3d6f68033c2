//! Work that many ask for and that is done once: while it goes on, everybody waits for the same; what came of it is kept for
//! those who ask later, as long as there is room.
//!
//! Whoever waits drives the work, so it ends when nobody waits for it any more, and goes on when only the first one leaves.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use hashlink::LruCache;

use crate::sync::Locked;

/// What comes of work.
pub(crate) trait Kept: Clone + Send + Sync + 'static {
    /// What it costs to keep.
    fn bytes(&self) -> usize;

    /// Whether it stays true: what depends on the moment is for those who wait for it, and not kept.
    fn is_lasting(&self) -> bool;
}

type Work<V, E> = Pin<Box<dyn Future<Output = Result<V, E>> + Send>>;

/// Results by what they were asked for, and the work for those that are not there yet.
pub(crate) struct Flights<K, V, E>(Arc<Locked<State<K, V, E>>>);

struct State<K, V, E> {
    kept: LruCache<K, V>,
    bytes: usize,
    bytes_max: usize,
    flying: HashMap<K, Flight<V, E>>,
    flights: u64,
}

struct Flight<V, E> {
    number: u64,
    /// Weak: only those who wait keep it going.
    work: WeakShared<Work<V, E>>,
}

impl<K, V, E> Flights<K, V, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Kept,
    E: Clone + Send + Sync + 'static,
{
    /// Keeps up to `bytes_max` of results, those asked for last.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let kept = LruCache::new_unbounded();
        let state = State { kept, bytes: 0, bytes_max, flying: HashMap::new(), flights: 0 };
        Self(Arc::new(Locked::leaf("work that many ask for", state)))
    }

    /// What is kept for `key`, or what comes of the work for it, which `begin` begins if nobody has.
    ///
    /// # Errors
    /// Those of the work. They are not kept: the next one to ask begins anew.
    pub(crate) async fn get<F>(&self, key: K, begin: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        self.get_if(key, |_| true, begin).await
    }

    /// The same, where what is kept may not do any more: it is replaced then.
    pub(crate) async fn get_if<F>(
        &self,
        key: K,
        does: impl Fn(&V) -> bool,
        begin: impl FnOnce() -> F,
    ) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let found = self.0.with(|state| {
            if let Some(kept) = state.kept.get(&key).filter(|kept| does(kept)) {
                return Found::Kept(kept.clone());
            }
            let flying = state.flying.get(&key).and_then(|flight| flight.work.upgrade());
            Found::Work(flying.unwrap_or_else(|| self.take_off(state, key, begin())))
        });
        match found {
            Found::Kept(kept) => Ok(kept),
            Found::Work(work) => work.await,
        }
    }

    fn take_off(
        &self,
        state: &mut State<K, V, E>,
        key: K,
        work: impl Future<Output = Result<V, E>> + Send + 'static,
    ) -> Shared<Work<V, E>> {
        state.flights += 1;
        let number = state.flights;
        let landing = Landing { state: self.0.clone(), key: key.clone(), number };
        let work: Work<V, E> = Box::pin(async move {
            let done = work.await;
            if let Ok(value) = &done {
                landing.keep(value);
            }
            done
        });
        let work = work.shared();
        if let Some(weak) = work.downgrade() {
            state.flying.insert(key, Flight { number, work: weak });
        }
        work
    }

    /// Lets go of what was asked for longest ago. False when nothing is kept.
    pub(crate) fn let_go_one(&self) -> bool {
        self.0.with(State::let_go_one).is_some()
    }

    /// What is kept now, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.with(|state| state.bytes)
    }
}

impl<K: Eq + Hash, V: Kept, E> State<K, V, E> {
    /// What is returned is to be dropped without the lock.
    fn let_go_one(&mut self) -> Option<V> {
        let (_, value) = self.kept.remove_lru()?;
        self.bytes -= value.bytes();
        Some(value)
    }
}

/// What an asker finds.
enum Found<V, E> {
    Kept(V),
    Work(Shared<Work<V, E>>),
}

/// The end of a flight, however it ends.
struct Landing<K: Eq + Hash, V, E> {
    state: Arc<Locked<State<K, V, E>>>,
    key: K,
    number: u64,
}

impl<K: Clone + Eq + Hash, V: Kept, E> Landing<K, V, E> {
    fn keep(&self, value: &V) {
        if !value.is_lasting() {
            return;
        }
        let gone: Vec<V> = self.state.with(|state| {
            state.bytes += value.bytes();
            let before = state.kept.insert(self.key.clone(), value.clone());
            state.bytes -= before.as_ref().map_or(0, Kept::bytes);
            let mut gone: Vec<V> = before.into_iter().collect();
            while state.bytes > state.bytes_max {
                let Some(oldest) = state.let_go_one() else { break };
                gone.push(oldest);
            }
            gone
        });
        drop(gone);
    }
}

impl<K: Eq + Hash, V, E> Drop for Landing<K, V, E> {
    fn drop(&mut self) {
        self.state.with(|state| {
            // Nobody may have waited for this one any more, and somebody have begun anew since.
            if state.flying.get(&self.key).is_some_and(|flight| flight.number == self.number) {
                state.flying.remove(&self.key);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;
    use tokio::task::JoinSet;

    use super::*;

    impl Kept for usize {
        fn bytes(&self) -> usize {
            *self
        }

        fn is_lasting(&self) -> bool {
            !self.is_multiple_of(2)
        }
    }

    type Numbers = Flights<u8, usize, &'static str>;

    #[tokio::test]
    async fn a_thousand_who_ask_for_the_same_have_it_made_once() {
        let flights = Arc::new(Numbers::new(100));
        let made = Arc::new(AtomicUsize::new(0));
        let (go, gone) = oneshot::channel::<()>();
        let gone = gone.map(|_| ()).shared();
        let mut waiting = JoinSet::new();
        for _ in 0..1_000 {
            let (flights, made, gone) = (flights.clone(), made.clone(), gone.clone());
            waiting.spawn(async move {
                let begin = || async move {
                    made.fetch_add(1, Ordering::Relaxed);
                    gone.await;
                    Ok(7)
                };
                flights.get(1, begin).await
            });
        }
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        assert!(waiting.join_all().await.into_iter().all(|got| got == Ok(7)));
        assert_eq!(flights.get(1, || async { panic!("kept") }).await, Ok(7));
        assert_eq!((made.load(Ordering::Relaxed), flights.bytes()), (1, 7));
    }

    #[tokio::test]
    async fn work_goes_on_for_whoever_is_left_and_ends_with_the_last() {
        let flights = Arc::new(Numbers::new(100));
        let (go, gone) = oneshot::channel::<()>();
        let get = |gone: oneshot::Receiver<()>| {
            let flights = flights.clone();
            async move { flights.get(1, || async move { gone.await.map(|()| 3).map_err(|_| "left") }).await }
        };
        let (mut first, mut second) = (JoinSet::new(), JoinSet::new());
        first.spawn(get(gone));
        tokio::task::yield_now().await;
        let (_unused, never) = oneshot::channel();
        second.spawn(get(never));
        tokio::task::yield_now().await;
        first.shutdown().await;
        assert!(!go.is_closed(), "the second waits for the same work");
        second.shutdown().await;
        assert!(go.is_closed(), "nobody does");
        assert_eq!(flights.get(1, || async { Ok(5) }).await, Ok(5), "and the next begins anew");
    }

    #[tokio::test]
    async fn errors_and_what_does_not_last_are_for_those_who_wait_and_the_oldest_makes_room() {
        let flights = Numbers::new(20);
        assert_eq!(flights.get(1, || async { Err("no") }).await, Err("no"));
        assert_eq!(flights.get(1, || async { Ok(2) }).await, Ok(2));
        assert_eq!(flights.get(1, || async { Ok(9) }).await, Ok(9));
        assert_eq!(flights.get(2, || async { Ok(11) }).await, Ok(11));
        assert_eq!(flights.get(1, || async { Ok(0) }).await, Ok(9));
        assert_eq!(flights.get(3, || async { Ok(7) }).await, Ok(7));
        assert_eq!(flights.bytes(), 16);
        assert_eq!(flights.get(2, || async { Err("let go") }).await, Err("let go"));
        assert!(flights.let_go_one() && flights.let_go_one() && !flights.let_go_one());
        assert_eq!(flights.bytes(), 0);
    }
}
