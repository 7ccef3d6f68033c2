//! Locks that only a closure reaches.
//!
//! A guard that is bound, or that lives in the head of a `match`, is held for as long as its scope and not for as long as
//! the data is looked at; a second lock taken in there stops a thread for good, and soon every thread. [`Locked`] hands out
//! no guard: the data is free when the closure returns. Its rules are checked where it is taken:
//!
//! * a thread that takes a lock which it holds already panics, in every build: that would have waited for ever;
//! * where locks are taken inside one another, [`Level`] is the order, and debug builds panic where it is not kept;
//! * a thread that has waited for more than [`REPORT_AFTER`] is listed in [`waits`], with what it holds meanwhile.
//!
//! `tests/layering.rs` holds that nobody else names a mutex. In unit tests, locks that are made inside `model::check` belong to
//! a scheduler that tries many orders of its threads' steps.

use std::cell::RefCell;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

/// Who waits for a lock for so long is reported: no lock is held for longer than some milliseconds.
pub const REPORT_AFTER: Duration = Duration::from_millis(100);

/// The order of locks that are taken inside one another, outermost first. A lock may be taken by a thread that holds only
/// locks that stand above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The last values of an edge's series, and who is made of them.
    LastValues,
    /// The list of an edge's views.
    Views,
    /// An edge's ring, and by what views envelopes are wanted.
    Hub,
    /// The frames of one view.
    View,
    /// The writers of an ingest, by collector.
    Writers,
    /// Under these no other lock is taken.
    Leaf,
}

/// Data behind a lock.
pub struct Locked<T> {
    name: &'static str,
    level: Level,
    inner: Inner<T>,
}

enum Inner<T> {
    Plain(Mutex<T>),
    #[cfg(test)]
    Model(shuttle::sync::Mutex<T>),
}

static WAITING: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());

thread_local! {
    /// What this thread holds, in the order of taking: two at most, but for errors.
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

/// A lock that a thread holds.
#[derive(Clone, Copy)]
struct Held {
    address: usize,
    name: &'static str,
    level: Level,
    at: &'static Location<'static>,
}

/// A thread that waits for a lock.
struct Waiting {
    number: u64,
    wait: Wait,
}

/// A thread that has waited for a lock for more than [`REPORT_AFTER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The system's number of the thread, where it tells.
    pub thread: Option<u32>,
    /// For what, and where in the source; then what it holds.
    pub what: String,
}

/// Threads that have waited for a lock for more than [`REPORT_AFTER`], now.
pub fn waits() -> Vec<Wait> {
    WAITING.lock().iter().map(|waiting| waiting.wait.clone()).collect()
}

impl<T> Locked<T> {
    /// Data under whose lock no other is taken; `name` is for reports.
    pub fn leaf(name: &'static str, value: T) -> Self {
        Self::new(Level::Leaf, name, value)
    }

    /// Data under whose lock others are taken.
    pub fn new(level: Level, name: &'static str, value: T) -> Self {
        Self { name, level, inner: Inner::new(value) }
    }

    /// Looks at the data, or changes it. What the closure returns is dropped without the lock.
    ///
    /// # Panics
    /// When this thread is in such a closure of the same lock already.
    #[track_caller]
    pub fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        match &self.inner {
            Inner::Plain(mutex) => self.held(Location::caller()).with(mutex, look, drop),
            #[cfg(test)]
            Inner::Model(mutex) => look(&mut model::lock(mutex)),
        }
    }

    /// As [`Self::with`], and hands the lock over to the thread that has waited longest: a thread with much to do would else have it
    /// again before anybody else wakes up.
    ///
    /// # Panics
    /// As [`Self::with`].
    #[track_caller]
    pub fn with_fair<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        match &self.inner {
            Inner::Plain(mutex) => self.held(Location::caller()).with(mutex, look, MutexGuard::unlock_fair),
            #[cfg(test)]
            Inner::Model(mutex) => look(&mut model::lock(mutex)),
        }
    }

    /// As [`Self::with`], unless somebody has the lock just now.
    #[track_caller]
    pub fn try_with<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        match &self.inner {
            Inner::Plain(mutex) => self.held(Location::caller()).try_with(mutex, look),
            #[cfg(test)]
            Inner::Model(mutex) => model::try_lock(mutex).map(|mut guard| look(&mut guard)),
        }
    }

    fn held(&self, at: &'static Location<'static>) -> Held {
        Held { address: std::ptr::from_ref(self).addr(), name: self.name, level: self.level, at }
    }
}

/// Without the data: it may be locked.
impl<T> std::fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Locked").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T: Default> Locked<T> {
    /// An empty one, as [`Self::leaf`].
    pub fn empty(name: &'static str) -> Self {
        Self::leaf(name, T::default())
    }
}

impl<T> Inner<T> {
    fn new(value: T) -> Self {
        #[cfg(test)]
        if model::is_running() {
            return Self::Model(shuttle::sync::Mutex::new(value));
        }
        Self::Plain(Mutex::new(value))
    }
}

impl Held {
    fn with<'m, T, R>(
        self,
        mutex: &'m Mutex<T>,
        look: impl FnOnce(&mut T) -> R,
        unlock: impl FnOnce(MutexGuard<'m, T>),
    ) -> R {
        self.check();
        let free = mutex.try_lock();
        let mut guard = free.unwrap_or_else(|| self.wait_for(mutex));
        let _entered = self.enter();
        let seen = look(&mut guard);
        unlock(guard);
        seen
    }

    fn try_with<T, R>(self, mutex: &Mutex<T>, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.check();
        let mut guard = mutex.try_lock()?;
        let _entered = self.enter();
        Some(look(&mut guard))
    }

    /// # Panics
    /// When this thread would wait for itself, or (in debug builds) takes locks in another order than others do.
    fn check(&self) {
        let outer =
            HELD.try_with(|held| held.borrow().iter().copied().find(|outer| self.is_wrong_under(outer)));
        let Ok(Some(outer)) = outer else { return };
        panic!("{self} is taken while the same thread holds {outer}");
    }

    fn is_wrong_under(&self, outer: &Self) -> bool {
        outer.address == self.address || cfg!(debug_assertions) && outer.level >= self.level
    }

    /// Held from here on, until what is returned is dropped.
    fn enter(self) -> Entered {
        // Fails only while the thread ends.
        let _ = HELD.try_with(|held| held.borrow_mut().push(self));
        Entered
    }

    #[cold]
    fn wait_for<'m, T>(&self, mutex: &'m Mutex<T>) -> MutexGuard<'m, T> {
        let soon = mutex.try_lock_for(REPORT_AFTER);
        soon.unwrap_or_else(|| {
            let _reported = Reported::new(self);
            mutex.lock()
        })
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the lock `{}` ({})", self.name, self.at)
    }
}

/// The time that a lock is held.
struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = HELD.try_with(|held| held.borrow_mut().pop());
    }
}

/// An entry of [`WAITING`].
struct Reported {
    number: u64,
}

impl Reported {
    fn new(wanted: &Held) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let mut what = format!("waits for {wanted}");
        let _ = HELD.try_with(|held| {
            held.borrow().iter().for_each(|held| what.push_str(&format!(" and holds {held}")));
        });
        let wait = Wait { thread: thread_number(), what };
        WAITING.lock().push(Waiting { number, wait });
        Self { number }
    }
}

impl Drop for Reported {
    fn drop(&mut self) {
        WAITING.lock().retain(|waiting| waiting.number != self.number);
    }
}

/// This thread's number, as in `/proc/self/task`.
pub(crate) fn thread_number() -> Option<u32> {
    std::fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}
