//! How the rest of an edge tells a writer that there is work: a bell, and a list of sessions that can go on.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use tokio::sync::Notify;

/// A session's place in its writer, never used again for another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionKey {
    /// Position in the writer's table.
    pub(crate) slot: usize,
    /// Tells sessions apart that had the position one after another.
    pub(crate) generation: u64,
}

/// A writer's bell.
pub(crate) struct Doorbell {
    /// Which writer's it is, counted from 0.
    pub(crate) number: usize,
    bell: Notify,
    ready: Mutex<Vec<SessionKey>>,
}

impl Doorbell {
    /// The bell of writer `number`.
    pub(crate) fn new(number: usize) -> Arc<Self> {
        Arc::new(Self { number, bell: Notify::new(), ready: Mutex::default() })
    }

    /// There may be new frames.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// This session can go on: its socket takes bytes again, or frames were fetched for it.
    pub(crate) fn ready(&self, session: SessionKey) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        self.bell.notify_one();
    }

    /// Waits until somebody rings; a ring before the call counts. Cancel-safe.
    pub(crate) async fn wait(&self) {
        self.bell.notified().await;
    }

    /// Takes the sessions that can go on.
    pub(crate) fn take_ready(&self, into: &mut Vec<SessionKey>) {
        into.clear();
        std::mem::swap(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner), into);
    }
}

/// Wakes one session's place at its writer, when its socket can be written again.
pub(crate) struct SessionWaker {
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) session: SessionKey,
}

impl SessionWaker {
    /// As a waker for the socket.
    pub(crate) fn waker(doorbell: Arc<Doorbell>, session: SessionKey) -> Waker {
        Waker::from(Arc::new(Self { doorbell, session }))
    }
}

impl Wake for SessionWaker {
    fn wake(self: Arc<Self>) {
        self.doorbell.ready(self.session);
    }
}
