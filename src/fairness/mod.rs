//! A budget of bytes that many peers share, so that no one's slowness or greed costs others anything.
//!
//! What a peer sends or is sent is charged as it arrives, never as it was announced. A [`Charge`] grows with it and is given
//! back when it is dropped. Where there is not enough for all, `core` decides who waits and who gives way; this shell keeps the
//! clock and the lock, and wakes those concerned. The lock is never held while anything is waited for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::core::Limits;
use self::core::{Core, Growth, Id};
pub use crate::ops::meters::Cut;
use crate::sync::Locked;

mod core;
#[cfg(test)]
mod tests;

/// A holder that waits looks again after this time, unless it is woken before: time alone may have made others give way.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// See the module.
pub struct FairBudget {
    core: Locked<Core<Arc<Notify>>>,
    started: Instant,
    gauge: Gauge,
}

/// A part of a budget, that grows; given back when it is dropped.
#[must_use = "bytes are only accounted for while their charge is kept"]
pub struct Charge {
    budget: Arc<FairBudget>,
    id: Id,
    bytes: usize,
    wakes: Arc<Notify>,
}

/// Why there is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// This one has to give back what it holds.
    Cut(Cut),
    /// All the room is held by what is complete and waits for others than peers.
    Full,
}

impl FairBudget {
    /// A budget with these limits, whose use `gauge` shows in bytes.
    pub fn new(limits: Limits, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self {
            core: Locked::leaf("fair budget", Core::new(limits)),
            started: Instant::now(),
            gauge,
        })
    }

    /// A charge of nothing yet, to be complete by `deadline`; for a peer at this address, if it is known. Peers of one IPv6
    /// network of 64 bits are one: a host with such a network has all its addresses.
    pub fn open(self: &Arc<Self>, remote: Option<SocketAddr>, deadline: Option<Instant>) -> Charge {
        let peer = remote.map(|remote| network_of(remote.ip()));
        let deadline = deadline.map(|deadline| deadline.saturating_duration_since(self.started));
        let wakes = Arc::new(Notify::new());
        let id = self.with(|core, now| core.open(peer, deadline, now, wakes.clone()));
        Charge { budget: self.clone(), id, bytes: 0, wakes }
    }

    /// What is held now.
    pub fn bytes(&self) -> usize {
        self.with(|core, _| core.held())
    }

    fn with<R>(&self, work: impl FnOnce(&mut Core<Arc<Notify>>, Duration) -> R) -> R {
        let now = self.started.elapsed();
        self.core.with(|core| {
            let result = work(core, now);
            self.gauge.set(core.held() as f64);
            result
        })
    }
}

impl Charge {
    /// What it is charged for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges for `bytes` altogether, as soon as there is room for them. May be cancelled and called again.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), Cut> {
        loop {
            match self.try_grow_to(bytes) {
                Growth::Granted => return Ok(()),
                Growth::Cut(cut) => return Err(cut),
                Growth::Wait { .. } => self.woken().await,
            }
        }
    }

    /// The same for a peer that can come again: unless there is no room before others than peers have done something.
    pub async fn grow_soon_to(&mut self, bytes: usize) -> Result<(), Lack> {
        loop {
            match self.try_grow_to(bytes) {
                Growth::Granted => return Ok(()),
                Growth::Cut(cut) => return Err(Lack::Cut(cut)),
                Growth::Wait { soon: false } => return Err(Lack::Full),
                Growth::Wait { soon: true } => self.woken().await,
            }
        }
    }

    fn try_grow_to(&mut self, bytes: usize) -> Growth {
        let more = bytes.saturating_sub(self.bytes);
        let (growth, leaving) = self.budget.with(|core, now| core.grow(self.id, more, now));
        wake(&leaving);
        if growth == Growth::Granted {
            self.bytes += more;
        }
        growth
    }

    async fn woken(&self) {
        // Somebody who wakes this one before it sleeps has left it a permit.
        tokio::select! {
            () = self.wakes.notified() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }

    /// What it is charged for is complete, `bytes` altogether: it cannot give way any more, nor has it a speed.
    ///
    /// # Errors
    /// When it has to give way already.
    pub fn pin(&mut self, bytes: usize) -> Result<(), Cut> {
        let more = bytes.saturating_sub(self.bytes);
        self.budget.with(|core, now| {
            core.pin(self.id, now)?;
            core.force(self.id, more);
            Ok(())
        })?;
        self.bytes += more;
        Ok(())
    }

    /// What was pinned is there to be taken: it gives way if it is not.
    pub fn unpin(&self) {
        self.budget.with(|core, now| core.unpin(self.id, now));
    }

    /// So much of it has been taken.
    pub fn note(&self, bytes: usize) {
        self.budget.with(|core, now| core.note(self.id, bytes as u64, now));
    }

    /// Whether it may be kept.
    ///
    /// # Errors
    /// When it has to be given back.
    pub fn check(&self) -> Result<(), Cut> {
        self.budget.with(|core, now| core.check(self.id, now)).map(drop)
    }

    /// Gives it back before it is dropped.
    pub fn close(&self) {
        wake(&self.budget.with(|core, _| core.close(self.id)));
    }

    /// Returns when it has to be given back. May be cancelled and called again.
    pub async fn cut(&self) -> Cut {
        loop {
            let next = match self.budget.with(|core, now| core.check(self.id, now)) {
                Err(cut) => return cut,
                Ok(next) => next,
            };
            let look_again = async {
                match next {
                    Some(next) => sleep_until(self.budget.started + next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wakes.notified() => {}
                () = look_again => {}
            }
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.close();
    }
}

fn wake(those: &[Arc<Notify>]) {
    those.iter().for_each(|one| one.notify_one());
}

fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}
