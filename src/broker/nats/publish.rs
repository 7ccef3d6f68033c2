//! Batches into the log: all messages on their way before the first answer is awaited.
//!
//! One subscription receives the answers to everything this connection publishes, and one entry per batch waits for
//! them: `<inbox>.<batch>.<place in the batch>`. The client's own requests would cost a name, a channel and two map
//! entries per message.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::client::PublishErrorKind;
use async_nats::{Client, Message, StatusCode, SubscribeError, Subscriber};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::broker::nats::api::{self, Failure};
use crate::broker::nats::link::{Link, Live};
use crate::broker::nats::message;
use crate::broker::{BrokerError, Cause, Outgoing, Published};
use crate::proto::offset::Shard;
use crate::sync::Locked;

/// Answers handed out per turn.
const ACKS_PER_TURN: usize = 256;

/// What may be behind it. Seen with nats-server 2.15: a stream whose write failed answers no publish any more, and no request
/// changes that (update, purge, step-down), only another start.
pub(super) const SILENT_SERVER: &str = "its disk may be full, or the stream has no leader (its log, and /healthz on its \
     monitoring port, say which); a nats-server whose disk was full stores nothing until it is restarted";

/// Where one connection's answers arrive.
pub(super) struct AckInbox {
    prefix: String,
    next_batch: AtomicU64,
    waiting: Arc<Locked<HashMap<u64, Waiting>>>,
}

/// A batch on its way.
struct Waiting {
    published: Vec<Option<Published>>,
    missing: usize,
    done: oneshot::Sender<Result<Vec<Published>, Failure>>,
}

/// A batch's place in the inbox, free again when dropped.
struct Ticket {
    batch: u64,
    waiting: Arc<Locked<HashMap<u64, Waiting>>>,
}

#[derive(Deserialize)]
struct PubAck {
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// Stores a batch and returns when all of it is acknowledged, or any of it cannot be.
pub(super) async fn publish(
    link: &Link,
    shard: Shard,
    batch: &[Outgoing],
) -> Result<Vec<Published>, BrokerError> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let live = link.ready()?;
    let (ticket, acks) = live.acks.expect(batch.len());
    let send_and_wait = async {
        for (place, outgoing) in batch.iter().enumerate() {
            send(&live, &link.log.name, shard, outgoing, ticket.reply(&live.acks, place)).await?;
        }
        let published = acks.await.map_err(|_| live.lost()).flatten();
        published.map_err(|failure| {
            if failure.hints_at_missing_stream() {
                link.recheck();
            }
            failure.of_publish()
        })
    };
    tokio::select! {
        published = send_and_wait => published,
        () = live.closed.cancelled() => Err(live.lost().into()),
        () = tokio::time::sleep(link.nats.request_timeout) => {
            // The connection may be fine and the stream without a leader: then nobody is ready.
            link.recheck();
            Err(unacknowledged(&live))
        }
    }
}

/// What a server does whose disk is full, too: it answers everything but publishes, and goes on so when there is room again. One that
/// said something against us, a missing permission for instance, has given its reason.
fn unacknowledged(live: &Live) -> BrokerError {
    let complaint = live.complaint();
    let reason = match complaint.is_empty() {
        true => format!("NATS did not answer a batch in time: {SILENT_SERVER}"),
        false => format!("NATS did not answer a batch in time{complaint}"),
    };
    BrokerError::retryable(Cause::NoAnswer, reason)
}

async fn send(
    live: &Live,
    name: &str,
    shard: Shard,
    outgoing: &Outgoing,
    reply: String,
) -> Result<(), BrokerError> {
    let subject = message::subject(name, shard, outgoing);
    let headers = message::headers(outgoing)
        .ok_or_else(|| BrokerError::Refused("a message id holds a line break: leave it out".into()))?;
    let lines = outgoing.envelope.lines.clone();
    let sent = live.client.publish_with_reply_and_headers(subject, reply, headers, lines).await;
    sent.map_err(|error| match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => BrokerError::Refused(format!(
            "an envelope of {} bytes is larger than NATS takes ({} with headers): raise max_payload of the servers, \
             or send shorter lines",
            outgoing.envelope.lines.len(),
            live.client.max_payload()
        )),
        PublishErrorKind::InvalidSubject => BrokerError::Refused(error.to_string()),
        // The client has ended: the connection is lost, and the link is about to say so.
        PublishErrorKind::Send => live.lost().into(),
    })
}

impl AckInbox {
    /// An inbox of this connection, and where its answers arrive.
    pub(super) async fn subscribe(client: &Client) -> Result<(Self, Subscriber), SubscribeError> {
        let prefix = client.new_inbox();
        let subscription = client.subscribe(format!("{prefix}.*.*")).await?;
        Ok((
            Self {
                prefix,
                next_batch: AtomicU64::new(1),
                waiting: Arc::new(Locked::empty("batches without their answers")),
            },
            subscription,
        ))
    }

    /// Gives every answer to the batch that waits for it, until the connection ends.
    pub(super) async fn hand_out(&self, subscription: Subscriber) {
        let mut turns = subscription.ready_chunks(ACKS_PER_TURN);
        while let Some(messages) = turns.next().await {
            self.waiting.with(|waiting| {
                for message in messages {
                    self.hand_over(waiting, &message);
                }
            });
        }
    }

    fn expect(&self, messages: usize) -> (Ticket, oneshot::Receiver<Result<Vec<Published>, Failure>>) {
        let (done, acks) = oneshot::channel();
        let batch = self.next_batch.fetch_add(1, Ordering::Relaxed);
        let expected = Waiting { published: vec![None; messages], missing: messages, done };
        self.waiting.with(|waiting| waiting.insert(batch, expected));
        (Ticket { batch, waiting: self.waiting.clone() }, acks)
    }

    /// The first error decides a batch; answers to a batch that nobody waits for any more are dropped.
    fn hand_over(&self, waiting: &mut HashMap<u64, Waiting>, message: &Message) -> Option<()> {
        let (batch, place) =
            message.subject.strip_prefix(&*self.prefix)?.strip_prefix('.')?.split_once('.')?;
        let (batch, place) = (batch.parse::<u64>().ok()?, place.parse::<usize>().ok()?);
        let answer = if message.status == Some(StatusCode::NO_RESPONDERS) {
            Err(Failure::NoResponders)
        } else {
            api::parse::<PubAck>(&message.payload)
        };
        match answer {
            Ok(ack) => {
                let batch_waiting = waiting.get_mut(&batch)?;
                let slot = batch_waiting.published.get_mut(place).filter(|slot| slot.is_none())?;
                *slot = Some(Published { sequence: ack.seq, duplicate: ack.duplicate });
                batch_waiting.missing -= 1;
                if batch_waiting.missing == 0 {
                    let Waiting { published, done, .. } = waiting.remove(&batch)?;
                    // A publisher that gave up has dropped its end.
                    let _ = done.send(Ok(published.into_iter().flatten().collect()));
                }
            }
            Err(failure) => {
                let _ = waiting.remove(&batch)?.done.send(Err(failure));
            }
        }
        Some(())
    }
}

impl Ticket {
    fn reply(&self, inbox: &AckInbox, place: usize) -> String {
        format!("{}.{}.{place}", inbox.prefix, self.batch)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waiting.with(|waiting| waiting.remove(&self.batch));
    }
}
