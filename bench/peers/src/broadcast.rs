//! The source of messages of peers written in Rust: a timer and tokio's broadcast channel, as their documentation shows it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::pace::Pace;
use crate::stamp::{Stamp, message, now_ns};

/// Messages that a client may be behind before it misses some.
const BEHIND_MESSAGES_MAX: usize = 4096;

/// A message, shared by all clients.
pub type Message = Arc<[u8]>;

/// Where clients get messages from; see [`publish`].
pub fn channel() -> broadcast::Sender<Message> {
    broadcast::Sender::new(BEHIND_MESSAGES_MAX)
}

/// How often it is looked whether all clients are there.
const LOOK: Duration = Duration::from_millis(10);

/// Publishes `per_second` messages of so many bytes for ever, from when `clients` clients listen.
///
/// # Errors
/// When there is no room for a stamp in `bytes`.
pub async fn publish(
    to: broadcast::Sender<Message>,
    clients: usize,
    per_second: f64,
    bytes: usize,
) -> anyhow::Result<()> {
    message(Stamp { sent_ns: 0, number: 0 }, bytes)?;
    while to.receiver_count() < clients {
        tokio::time::sleep(LOOK).await;
    }
    let mut pace = Pace::new(per_second);
    loop {
        let now_ns = now_ns();
        while let Some(stamp) = pace.take(now_ns) {
            // Nobody listens: nothing is lost.
            let _ = to.send(message(stamp, bytes)?.into());
        }
        tokio::time::sleep(pace.wait(now_ns).unwrap_or(Duration::from_secs(1))).await;
    }
}
