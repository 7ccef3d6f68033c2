//! Jobs of one collector that wait their turn, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ingest::writer::Job;

/// Waiting jobs. Unbounded in length: every job holds its part of the node's byte budget.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(u64, Job)>,
    next_number: u64,
}

/// A place in a queue.
pub struct Ticket {
    queue: Arc<Queue>,
    number: u64,
}

impl Ticket {
    /// Takes the job back if its turn has not come; says whether it did. A job that was begun is carried to its end:
    /// part of it may be stored, and a writer that skipped its sequences would announce a loss that is none.
    pub fn withdraw(&self) -> bool {
        let mut waiting = self.queue.waiting();
        // Numbers ascend along the queue.
        let found = waiting.jobs.binary_search_by_key(&self.number, |(number, _)| *number);
        found.is_ok_and(|at| waiting.jobs.remove(at).is_some())
    }
}

impl Queue {
    pub(super) fn push(self: &Arc<Self>, job: Job) -> Ticket {
        let number = {
            let mut waiting = self.waiting();
            let number = waiting.next_number;
            waiting.next_number += 1;
            waiting.jobs.push_back((number, job));
            number
        };
        self.arrived.notify_one();
        Ticket { queue: self.clone(), number }
    }

    pub(super) fn pop(&self) -> Option<Job> {
        self.waiting().jobs.pop_front().map(|(_, job)| job)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting().jobs.is_empty()
    }

    /// Returns when a job has come since the last call; may return early.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
