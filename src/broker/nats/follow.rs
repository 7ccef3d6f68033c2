//! Watchers of the state: a subscription for what changes, and a listing for what was missed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_MARKER_REASON, NATS_SUBJECT};
use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;

use crate::broker::known::Known;
use crate::broker::nats::api::Failure;
use crate::broker::nats::link::{Link, Live};
use crate::broker::nats::message;
use crate::broker::nats::read::{CHUNK_MESSAGES_MAX, End, direct_get};
use crate::broker::nats::state::{OPERATION, key_of_token, prefix_filter};
use crate::broker::nats::stream;
use crate::broker::{StateEvent, Versioned};

/// A lost notification is noticed this late; keys live about ten seconds.
const LISTING_INTERVAL: Duration = Duration::from_secs(30);
/// After a listing that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The watcher has dropped its end.
struct WatcherGone;

/// Until the watcher is gone: one round per connection.
pub(super) async fn follow(link: &Arc<Link>, prefix: &str, events: &mpsc::Sender<StateEvent>) {
    let mut watcher = Watcher { link, prefix, events, known: Known::default(), synced: false };
    let mut lives = link.lives();
    loop {
        let live = lives.borrow_and_update().clone();
        if let Some(live) = live
            && let Err(WatcherGone) = watcher.follow_one(&live).await
        {
            return;
        }
        tokio::select! {
            changed = lives.changed() => if changed.is_err() { return },
            () = events.closed() => return,
        }
    }
}

struct Watcher<'a> {
    link: &'a Link,
    prefix: &'a str,
    events: &'a mpsc::Sender<StateEvent>,
    known: Known,
    synced: bool,
}

/// What is there, and the newest revision that the listing has seen.
#[derive(Default)]
struct Listing {
    entries: BTreeMap<String, Versioned>,
    newest: u64,
}

/// One message of the bucket.
struct Change {
    key: String,
    revision: u64,
    /// `None` when the key was removed or has expired.
    value: Option<bytes::Bytes>,
}

impl Watcher<'_> {
    /// Until the connection is lost. The subscription comes first, so that nothing falls between it and the listing.
    async fn follow_one(&mut self, live: &Live) -> Result<(), WatcherGone> {
        let subject = stream::state_live_subject(&self.link.log, &prefix_filter(self.prefix));
        let Ok(mut changes) = live.client.subscribe(subject).await else { return Ok(()) };
        let mut first = true;
        loop {
            let wait = match self.list(live).await {
                Ok(listing) => {
                    // The stream may be another one than before the connection was lost; within one connection,
                    // a listing that is older than what is known came from a replica that lags.
                    let horizon = if first { u64::MAX } else { listing.newest };
                    first = false;
                    self.report_listing(listing, horizon).await?;
                    LISTING_INTERVAL
                }
                Err(failure) => {
                    tracing::debug!(
                        event = "state_not_listed",
                        ?failure,
                        prefix = self.prefix,
                        "the state cannot be listed yet"
                    );
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                outcome = self.follow_changes(&mut changes) => return outcome,
                () = live.closed.cancelled() => return Ok(()),
            }
        }
    }

    /// Until the connection is lost.
    async fn follow_changes(&mut self, changes: &mut Subscriber) -> Result<(), WatcherGone> {
        loop {
            let message = tokio::select! {
                message = changes.next() => message,
                () = self.events.closed() => return Err(WatcherGone),
            };
            let Some(message) = message else { return Ok(()) };
            let Some(change) = self.read(&message) else { continue };
            let event = match change.value {
                Some(value) => self.known.put(change.key, Versioned { value, revision: change.revision }),
                None => self.known.remove(change.key, change.revision),
            };
            if let Some(event) = event {
                self.send(event).await?;
            }
        }
    }

    async fn report_listing(&mut self, listing: Listing, horizon: u64) -> Result<(), WatcherGone> {
        for event in self.known.replace(listing.entries.into_iter().collect(), horizon) {
            self.send(event).await?;
        }
        if !self.synced {
            self.synced = true;
            self.send(StateEvent::Synced).await?;
        }
        Ok(())
    }

    async fn send(&self, event: StateEvent) -> Result<(), WatcherGone> {
        self.events.send(event).await.map_err(|_| WatcherGone)
    }

    /// Every key under the prefix. The bucket keeps one message per key, so its messages in order are its keys.
    async fn list(&self, live: &Live) -> Result<Listing, Failure> {
        let name = stream::state_stream_name(&self.link.log);
        let filter = stream::state_subject(&self.link.log, &prefix_filter(self.prefix));
        let mut listing = Listing::default();
        loop {
            let next = listing.newest + 1;
            let request = json!({"seq": next, "next_by_subj": filter, "batch": CHUNK_MESSAGES_MAX});
            let end = direct_get(self.link, live, &name, &request, |sequence, message| {
                listing.newest = sequence;
                // A key that changes while it is listed comes again.
                match self.read(&message) {
                    Some(Change { key, revision, value: Some(value) }) => {
                        listing.entries.insert(key, Versioned { value, revision });
                    }
                    Some(Change { key, value: None, .. }) => drop(listing.entries.remove(&key)),
                    None => {}
                }
                ControlFlow::Continue(())
            });
            if end.await? != End::More {
                return Ok(listing);
            }
        }
    }

    fn read(&self, message: &Message) -> Option<Change> {
        let headers = message.headers.as_ref()?;
        let subject = headers.get(NATS_SUBJECT)?.as_str();
        let token = subject.strip_prefix(&*stream::state_subject(&self.link.log, ""))?;
        let key = key_of_token(token).filter(|key| key.starts_with(self.prefix))?;
        let value = (!is_removal(headers)).then(|| message.payload.clone());
        Some(Change { key, revision: message::sequence(headers)?, value })
    }
}

fn is_removal(headers: &HeaderMap) -> bool {
    headers.get(OPERATION).is_some() || headers.get(NATS_MARKER_REASON).is_some()
}
