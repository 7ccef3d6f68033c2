//! `--demo`: real metrics of this host, sent like any collector sends them.
//!
//! Once a second, on the second, it measures the host under Telegraf's measurement and field names and sends the lines as
//! one binary WebSocket message, as Telegraf's `outputs.websocket` does. It is a client of the public ingest path and
//! knows nothing else of this process. `host` measures; `link` is the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

mod host;
mod link;

use host::Sampler;
use link::{Link, LinkError};

use crate::sync::Locked;

/// First pause before another attempt to connect, in milliseconds; it doubles with every failure.
const PAUSE_MS_MIN: u64 = 250;

/// Longest pause before another attempt, in milliseconds.
const PAUSE_MS_MAX: u64 = 10_000;

/// Measures this host and sends it to `url` (`ws://HOST:PORT/ws/collector`) until `shutdown`.
///
/// A lost connection is made again, with growing pauses; what would have been measured meanwhile is not.
pub async fn run(url: String, shutdown: CancellationToken) {
    let sampler = Arc::new(Locked::leaf("the sampler of this host", Sampler::new()));
    let mut pause_ms = PAUSE_MS_MIN;
    while !shutdown.is_cancelled() {
        let connected = tokio::select! {
            () = shutdown.cancelled() => return,
            connected = Link::connect(&url) => connected,
        };
        let ended = match connected {
            Ok(link) => {
                tracing::info!(event = "demo_connected", url, "the demo collector is connected");
                let since = Instant::now();
                let ended = link.serve(&sampler, &shutdown).await;
                // A server that accepts and closes at once (the id has another writer) is no success.
                if since.elapsed() >= Duration::from_millis(PAUSE_MS_MAX) {
                    pause_ms = PAUSE_MS_MIN;
                }
                ended
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) | Err(LinkError::Stopped) => return,
            Err(error) => tracing::warn!(
                event = "demo_not_connected",
                url,
                pause_ms,
                "the demo collector is not connected: {error}"
            ),
        }
        // Jitter is not needed: there is one demo per ingest.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
        }
        pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
    }
}

#[cfg(test)]
mod tests;
