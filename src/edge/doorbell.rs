//! How the rest of an edge tells a writer that there is work: a bell, a list of views that have grown, and a list of
//! sessions that can go on.

use std::sync::Arc;
use std::task::{Wake, Waker};

use tokio::sync::Notify;

use crate::sync::Locked;

/// Tells views apart while they live. A view that is gone may leave its address to another, which is then swept once for
/// nothing.
pub(crate) type ViewAddress = usize;

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
    grown: Locked<Grown>,
    ready: Locked<Vec<SessionKey>>,
}

/// Views that have grown since the writer last looked.
#[derive(Default)]
struct Grown {
    views: Vec<ViewAddress>,
    /// The bell was rung for them. A writer that holds its flush back is not woken again and again meanwhile.
    rung: bool,
}

impl Doorbell {
    /// The bell of writer `number`.
    pub(crate) fn new(number: usize) -> Arc<Self> {
        Arc::new(Self {
            number,
            bell: Notify::new(),
            grown: Locked::empty("views that have grown"),
            ready: Locked::empty("sessions that can go on"),
        })
    }

    /// This view has new frames. The bell is rung later, once for all views: see [`Doorbell::ring_if_grown`].
    pub(crate) fn note_grown(&self, view: ViewAddress) {
        self.grown.with(|grown| grown.views.push(view));
    }

    /// Rings if views have grown and the bell was not rung since the writer last looked.
    pub(crate) fn ring_if_grown(&self) {
        let due = |grown: &mut Grown| !grown.views.is_empty() && !std::mem::replace(&mut grown.rung, true);
        if self.grown.with(due) {
            self.bell.notify_one();
        }
    }

    /// Takes the views that have grown. A writer that was rung for has to come here, sooner or later.
    pub(crate) fn take_grown(&self) -> Vec<ViewAddress> {
        self.grown.with(std::mem::take).views
    }

    /// This session can go on: its socket takes bytes again or has some, or something was fetched for it.
    pub(crate) fn ready(&self, session: SessionKey) {
        self.ready.with(|ready| ready.push(session));
        self.bell.notify_one();
    }

    /// Waits until somebody rings; a ring before the call counts. Cancel-safe.
    pub(crate) async fn wait(&self) {
        self.bell.notified().await;
    }

    /// Takes the sessions that can go on.
    pub(crate) fn take_ready(&self, into: &mut Vec<SessionKey>) {
        into.clear();
        self.ready.with(|ready| std::mem::swap(ready, into));
    }
}

/// Puts one session on its writer's list, when its socket can be written or read again.
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
