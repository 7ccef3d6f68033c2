//! What writers tell readers that the log cannot: that nothing can be stored. One plain message a second and shard while it is so.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::broker::nats::link::Link;
use crate::broker::nats::stream;
use crate::broker::{BrokerError, Stall};

/// Unread ones; the next second brings others.
const STALLS_MAX: usize = 256;
/// Longest message that is read.
const STALL_BYTES_MAX: usize = 4 << 10;

/// See [`crate::broker::Broker::tell_stalled`]. Also while a stream is missing: the connection is enough.
pub(super) async fn tell(link: &Link, stall: &Stall) -> Result<(), BrokerError> {
    let live = link.lives().borrow().clone();
    let Some(live) = live else { return link.ready().map(drop) };
    let subject = stream::stall_subject(&link.log, &stall.shard.to_string());
    let body = serde_json::to_vec(stall).map_err(|error| BrokerError::Refused(error.to_string()))?;
    live.client.publish(subject, body.into()).await.map_err(|_| live.lost().into())
}

/// See [`crate::broker::Broker::stalls`].
pub(super) fn stalls(link: &Arc<Link>, tasks: &TaskTracker) -> mpsc::Receiver<Stall> {
    let (sender, receiver) = mpsc::channel(STALLS_MAX);
    let (link, stop) = (link.clone(), link.stop.clone());
    tasks.spawn(async move { stop.run_until_cancelled(follow(&link, &sender)).await });
    receiver
}

/// Until the reader is gone: one subscription per connection.
async fn follow(link: &Link, sender: &mpsc::Sender<Stall>) {
    let mut lives = link.lives();
    loop {
        let live = lives.borrow_and_update().clone();
        if let Some(live) = live
            && let Ok(mut messages) = live.client.subscribe(stream::stall_subject(&link.log, "*")).await
        {
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = live.closed.cancelled() => None,
                    () = sender.closed() => return,
                };
                let Some(message) = message else { break };
                if message.payload.len() <= STALL_BYTES_MAX
                    && let Ok(stall) = serde_json::from_slice::<Stall>(&message.payload)
                {
                    // A reader that is busy hears it a second later.
                    let _ = sender.try_send(stall);
                }
            }
        }
        tokio::select! {
            changed = lives.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}
