//! The live flow of a shard: a plain subscription, renewed with every connection.

use std::sync::Arc;

use async_nats::Subscriber;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::{unconstrained, yield_now};
use tokio_util::task::TaskTracker;

use crate::broker::Stored;
use crate::broker::nats::link::{Link, Live};
use crate::broker::nats::{message, stream};
use crate::broker::tail::{Sent, TailSender};
use crate::proto::offset::Shard;

/// Messages that are handed on before others have their turn: of large ones, more than the connection brings at one of its own.
const TURN_MESSAGES_MAX: usize = 4_096;

/// The live flow over one connection.
struct Subscription {
    live: Arc<Live>,
    messages: Subscriber,
}

/// See [`crate::broker::Broker::tail`]. While there is no connection, the tail begins with the next one.
pub(super) async fn tail(link: &Arc<Link>, tasks: &TaskTracker, shard: Shard) -> mpsc::Receiver<Stored> {
    let (sender, receiver) = TailSender::channel();
    let mut lives = link.lives();
    let live = lives.borrow_and_update().clone();
    let subject = stream::live_subject(&link.log, shard);
    // Before this returns, so that whatever is asked for next on this connection is asked for later.
    let subscription = match live {
        Some(live) => subscribe(live, &subject).await,
        None => None,
    };
    let stop = link.stop.clone();
    tasks.spawn(async move { stop.run_until_cancelled(follow(lives, subject, subscription, sender)).await });
    receiver
}

/// Until the reader is gone.
async fn follow(
    mut lives: watch::Receiver<Option<Arc<Live>>>,
    subject: String,
    mut subscription: Option<Subscription>,
    mut sender: TailSender,
) {
    loop {
        if let Some(subscription) = subscription
            && forward(subscription, &mut sender).await == Sent::ReaderGone
        {
            return;
        }
        tokio::select! {
            changed = lives.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
        let live = lives.borrow_and_update().clone();
        subscription = match live {
            Some(live) => subscribe(live, &subject).await,
            None => None,
        };
    }
}

/// Until the reader or the connection is gone.
///
/// The client's queue is bounded in messages, not in bytes, and its connection fills it with up to 4 MiB at a turn. So whatever
/// is there is taken at each turn, however much that is: a task's usual allowance of 128 messages at a turn would let the queue
/// grow to its end while a burst is read, to half a gigabyte of messages of 4 kB.
async fn forward(subscription: Subscription, sender: &mut TailSender) -> Sent {
    let Subscription { live, mut messages } = subscription;
    loop {
        let mut arrived = tokio::select! {
            biased;
            () = sender.closed() => return Sent::ReaderGone,
            // What has arrived is handed on before the end is looked at.
            message = unconstrained(messages.next()) => match message {
                Some(message) => Some(message),
                None => return Sent::Dropped,
            },
            // A connection may be given up while its client lives on, for as long as somebody listens to it.
            () = live.closed.cancelled() => return Sent::Dropped,
        };
        let mut taken = 0;
        while let Some(message) = arrived {
            // What is no envelope is passed over, as reads do.
            if let Some(stored) = message::stored(message)
                && sender.send(stored) == Sent::ReaderGone
            {
                return Sent::ReaderGone;
            }
            taken += 1;
            if taken == TURN_MESSAGES_MAX {
                yield_now().await;
                break;
            }
            arrived = unconstrained(messages.next()).now_or_never().flatten();
        }
    }
}

/// `None` when the connection is lost already; the next one is about to come.
async fn subscribe(live: Arc<Live>, subject: &str) -> Option<Subscription> {
    let messages = live.client.subscribe(subject.to_owned()).await.ok()?;
    Some(Subscription { live, messages })
}
