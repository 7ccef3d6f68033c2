//! What a socket has begun to receive: charged as it arrives, and not for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::fairness::{Charge, Cut, FairBudget};
use crate::proto::frame::Decoder;

/// One socket's unfinished message.
pub(super) struct Receiving {
    budget: Arc<FairBudget>,
    remote: Option<SocketAddr>,
    timeout: Duration,
    charge: Option<Charge>,
}

impl Receiving {
    /// Nothing has begun yet. A message of `remote` is complete within `timeout`.
    pub(super) fn new(budget: Arc<FairBudget>, remote: Option<SocketAddr>, timeout: Duration) -> Self {
        Self { budget, remote, timeout, charge: None }
    }

    /// Returns when there is room for what `decoder` holds. May be cancelled: it is called again before anything is read.
    pub(super) async fn follow(&mut self, decoder: &Decoder) -> Result<(), Cut> {
        if !decoder.is_mid_message() {
            self.charge = None;
            return Ok(());
        }
        let charge = self
            .charge
            .get_or_insert_with(|| self.budget.open(self.remote, Some(Instant::now() + self.timeout)));
        charge.grow_to(decoder.buffered_bytes()).await
    }

    /// Returns when the message is given up.
    pub(super) async fn cut(&self) -> Cut {
        match &self.charge {
            Some(charge) => charge.cut().await,
            None => std::future::pending().await,
        }
    }

    /// The message is complete; what is charged for it goes with it.
    pub(super) fn take(&mut self) -> Option<Charge> {
        self.charge.take()
    }
}
