//! What black-box tests are made of: real processes, and peers that keep account of what they sent and got.

#![allow(dead_code, reason = "every test binary uses another part of it")]

pub mod chromium;
pub mod client;
pub mod collector;
pub mod deflate;
pub mod event_source;
pub mod event_stream;
pub mod ledger;
pub mod nats;
pub mod nginx;
pub mod poller;
pub mod state;
pub mod telecast;
pub mod wire;

use std::time::Duration;

use tokio::time::{Instant, timeout};

/// Whatever a test waits for has happened by then, or the test fails: debug binaries on two busy cores need seconds, never
/// minutes.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Between two looks at something that cannot say when it changes.
const GLANCE: Duration = Duration::from_millis(20);

/// Waits for something that says itself when it is done.
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Looks until `look` has found something, and returns that and the time it took.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> (T, Duration) {
    let began = Instant::now();
    let found = patiently(what, async {
        let mut glances = tokio::time::interval(GLANCE);
        loop {
            glances.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    });
    (found.await, began.elapsed())
}
