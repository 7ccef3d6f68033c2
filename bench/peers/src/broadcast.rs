//! The source of messages of peers written in Rust: a clock and tokio's broadcast channel, as its documentation shows it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{broadcast, mpsc};

use crate::pace::Pace;
use crate::stamp::{Stamp, message, now_ns};

/// Messages that a client may be behind before it misses some.
const BEHIND_MESSAGES_MAX: usize = 4096;

/// Messages that are due and that the runtime has not taken yet; the clock waits for it then.
const DUE_MESSAGES_MAX: usize = 1024;

/// How often it is looked whether all clients are there.
const LOOK: Duration = Duration::from_millis(10);

/// How long the clock sleeps at a time when nothing is ever due.
const NOTHING_DUE: Duration = Duration::from_secs(1);

/// A message, shared by all clients.
pub type Message = Arc<[u8]>;

/// Where clients get messages from; see [`publish`].
pub fn channel() -> broadcast::Sender<Message> {
    broadcast::Sender::new(BEHIND_MESSAGES_MAX)
}

/// Publishes `per_second` messages of so many bytes for ever, from when `clients` clients listen.
///
/// # Errors
/// When there is no room for a stamp in `bytes`, or no thread for the clock.
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
    let mut due = clock(per_second)?;
    while let Some(stamp) = due.recv().await {
        // Nobody listens: nothing is lost.
        let _ = to.send(message(stamp, bytes)?.into());
    }
    Ok(())
}

/// Gives each message when it is due, from a thread of its own: the runtime's timers round up to whole milliseconds, and the
/// rest would look like the server's latency. Clients are still woken from within the runtime, which costs it less than
/// waking them from outside. The thread ends with the receiver.
fn clock(per_second: f64) -> anyhow::Result<mpsc::Receiver<Stamp>> {
    let (to, due) = mpsc::channel(DUE_MESSAGES_MAX);
    let mut pace = Pace::new(per_second);
    let tick = move || {
        while !to.is_closed() {
            let now_ns = now_ns();
            while let Some(stamp) = pace.take(now_ns) {
                if to.blocking_send(stamp).is_err() {
                    return;
                }
            }
            thread::sleep(pace.wait(now_ns).unwrap_or(NOTHING_DUE));
        }
    };
    thread::Builder::new().name("clock".into()).spawn(tick).context("no thread for the clock")?;
    Ok(due)
}
