//! Bytes that may wait for the log: a bound per node, so that a log that is away costs time and never memory.

use std::sync::Arc;

use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the accounting, in bytes: a batch of a few lines also costs its bookkeeping, and permits are counted
/// in 32 bits (256 × 2³² = 1 TiB).
pub const BLOCK_BYTES: usize = 256;

/// What a node may hold.
pub struct Budget {
    blocks: Arc<Semaphore>,
    blocks_max: u32,
    gauge: Gauge,
}

/// A part of the budget; given back when it is dropped.
#[must_use = "bytes are only accounted for while their grant is kept"]
pub struct Grant {
    permit: OwnedSemaphorePermit,
    gauge: Gauge,
}

impl Budget {
    /// A budget of `bytes_max`, whose use `gauge` shows in bytes.
    pub fn new(bytes_max: usize, gauge: Gauge) -> Self {
        let blocks_max = u32::try_from(bytes_max / BLOCK_BYTES).unwrap_or(u32::MAX).max(1);
        let blocks_max = blocks_max.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { blocks: Arc::new(Semaphore::new(blocks_max as usize)), blocks_max, gauge }
    }

    /// Waits for room, first come, first served. Asking for more than the whole budget waits for the whole budget, so
    /// that nothing can wait for ever.
    pub async fn grant(&self, bytes: usize) -> Grant {
        let blocks = self.blocks_of(bytes);
        let permit = self.blocks.clone().acquire_many_owned(blocks).await;
        self.granted(permit.expect("the budget is never closed"))
    }

    /// Room now, or none.
    pub fn try_grant(&self, bytes: usize) -> Option<Grant> {
        let permit = self.blocks.clone().try_acquire_many_owned(self.blocks_of(bytes)).ok()?;
        Some(self.granted(permit))
    }

    fn granted(&self, permit: OwnedSemaphorePermit) -> Grant {
        self.gauge.increment((permit.num_permits() * BLOCK_BYTES) as f64);
        Grant { permit, gauge: self.gauge.clone() }
    }

    fn blocks_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX).clamp(1, self.blocks_max)
    }
}

/// What `bytes` cost once rounded up to whole blocks; costs of parts add up to the cost of the whole.
pub fn cost(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK_BYTES).max(1) * BLOCK_BYTES
}

impl Grant {
    /// Takes a part of this grant, at most all of it.
    pub fn split(&mut self, bytes: usize) -> Self {
        let blocks = bytes.div_ceil(BLOCK_BYTES).min(self.permit.num_permits());
        let permit = self.permit.split(blocks).expect("no more than there is");
        Self { permit, gauge: self.gauge.clone() }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.gauge.decrement((self.permit.num_permits() * BLOCK_BYTES) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_than_the_whole_budget_waits_for_the_whole_budget_and_not_for_ever() {
        let budget = Budget::new(4 * BLOCK_BYTES, Gauge::noop());
        let all = budget.grant(100 * BLOCK_BYTES).await;
        assert!(budget.try_grant(1).is_none());
        drop(all);
        assert!(budget.try_grant(4 * BLOCK_BYTES).is_some());
    }

    #[tokio::test]
    async fn a_split_grant_comes_back_piece_by_piece() {
        let budget = Budget::new(4 * BLOCK_BYTES, Gauge::noop());
        let mut grant = budget.grant(cost(1) + cost(BLOCK_BYTES + 1)).await;
        let first = grant.split(cost(1));
        let second = grant.split(cost(BLOCK_BYTES + 1));
        assert_eq!(grant.permit.num_permits(), 0);
        drop(first);
        assert!(budget.try_grant(3 * BLOCK_BYTES).is_none());
        drop(second);
        assert!(budget.try_grant(4 * BLOCK_BYTES).is_some());
    }
}
