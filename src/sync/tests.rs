use std::sync::Arc;
use std::sync::mpsc;

use super::*;

#[test]
#[should_panic(expected = "the lock `inner` (")]
fn a_thread_that_takes_a_lock_twice_panics_instead_of_waiting_for_itself() {
    let lock = Locked::leaf("inner", 0);
    lock.with(|_| lock.with(|_| ()));
}

#[test]
#[should_panic(expected = "while the same thread holds the lock `view` (")]
fn locks_in_another_order_than_the_written_one_panic_where_they_are_taken() {
    let (hub, view) = (Locked::new(Level::Hub, "hub", 0), Locked::new(Level::View, "view", 0));
    hub.with(|_| view.with(|_| ()));
    view.with(|_| hub.with(|_| ()));
}

#[test]
fn a_panic_under_a_lock_leaves_it_free() {
    let lock = Arc::new(Locked::leaf("free", 1));
    let other = lock.clone();
    assert!(std::thread::spawn(move || other.with(|_| panic!("on purpose"))).join().is_err());
    assert_eq!(lock.with(|value| *value), 1);
    assert_eq!(lock.try_with(|value| *value), Some(1));
}

#[test]
fn who_waits_for_long_is_listed_with_what_it_wants_and_holds() {
    let wanted = Arc::new(Locked::leaf("wanted by a test", ()));
    let (go, gone) = mpsc::channel::<()>();
    let waiting = wanted.with(|()| {
        let wanted = wanted.clone();
        let waiting = std::thread::spawn(move || {
            let outer = Locked::new(Level::Hub, "held by a test", ());
            outer.with(|()| wanted.with(|()| gone.recv().unwrap()));
        });
        let found = loop {
            let found = waits().into_iter().find(|wait| wait.what.contains("wanted by a test"));
            match found {
                Some(found) => break found,
                None => std::thread::yield_now(),
            }
        };
        assert!(found.what.contains("and holds the lock `held by a test` (src/sync/tests.rs:"), "{found:?}");
        waiting
    });
    go.send(()).unwrap();
    waiting.join().unwrap();
    assert!(!waits().iter().any(|wait| wait.what.contains("wanted by a test")));
}

/// What froze a node: a lock held over a decision, one branch of which takes it again. And the other kind: two locks in two
/// orders. Both would pass most of the time with real threads.
#[test]
fn the_model_finds_locks_in_two_orders() {
    let found = std::panic::catch_unwind(|| {
        model::check(|| {
            let locks = Arc::new((Locked::leaf("a", 0), Locked::leaf("b", 0)));
            let others = locks.clone();
            let other = model::spawn(move || others.0.with(|_| others.1.with(|_| ())));
            locks.1.with(|_| locks.0.with(|_| ()));
            other.join().unwrap();
        });
    });
    assert!(found.is_err());
    // The scheduler is left behind whatever happens.
    assert!(!model::is_running());
}
