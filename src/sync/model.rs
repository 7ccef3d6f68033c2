//! Threads whose steps a scheduler puts in many orders. A deadlock, or a lock that a thread takes twice, fails the check and
//! prints the schedule that leads there.
//!
//! Only [`crate::sync::Locked`] is seen by the scheduler. Atomics, `Notify` and cancellation tokens work as always; between
//! two locks the steps of a thread are one.

use std::cell::Cell;

use shuttle::sync::{Mutex, MutexGuard};

pub(crate) use shuttle::future::block_on;
pub(crate) use shuttle::thread::spawn;

/// Orders that are tried of each body: enough that two threads of four steps each meet in every way some times over.
const ORDERS: usize = 2_000;
/// Changes of the running thread that the second search allows itself: most faults need two or three.
const CHANGES: usize = 3;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether locks that are made now belong to the scheduler.
pub(super) fn is_running() -> bool {
    RUNNING.get()
}

/// Runs `body` in many orders. It makes its locks anew each time, and ends its threads.
pub(crate) fn check(body: impl Fn() + Send + Sync + Copy + 'static) {
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            RUNNING.set(false);
        }
    }
    RUNNING.set(true);
    let _running = Running;
    shuttle::check_random(body, ORDERS);
    shuttle::check_pct(body, ORDERS, CHANGES);
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(super) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    mutex.try_lock().ok()
}
