//! The keyed store of one process: compare-and-set, expiry, watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::broker::known::Known;
use crate::broker::{
    BrokerError, Expected, PutError, STATE_EVENTS_MAX, StateEvent, StateStore, Versioned, ttl_whole_seconds,
};
use crate::sync::Locked;

/// See the module. Expired entries are absent from the moment they expire; the memory they hold is freed by the next
/// write.
pub(super) struct MemoryState {
    entries: Arc<Entries>,
    /// Owns the watchers' tasks: they end with the store, or with their receivers.
    watchers: Locked<JoinSet<()>>,
}

struct Entries {
    by_key: Locked<ByKey>,
    /// Wakes watchers; the number itself means nothing.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct ByKey {
    entries: BTreeMap<String, Entry>,
    revision: u64,
}

struct Entry {
    versioned: Versioned,
    expires: Option<Instant>,
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

impl MemoryState {
    pub(super) fn new() -> Arc<Self> {
        let entries = Entries { by_key: Locked::empty("state"), changes: watch::Sender::new(0) };
        Arc::new(Self { entries: Arc::new(entries), watchers: Locked::empty("watchers of the state") })
    }
}

impl Entries {
    /// Changes one key if it is as expected. Every change takes a revision, removals included.
    fn change(
        &self,
        key: &str,
        expected: Expected,
        entry: Option<(Bytes, Option<Instant>)>,
    ) -> Result<u64, PutError> {
        let now = Instant::now();
        let revision = self.by_key.with(|by_key| by_key.change(key, expected, entry, now))?;
        self.changes.send_modify(|changes| *changes += 1);
        Ok(revision)
    }

    /// What there is under a prefix, and when the next of it expires.
    fn snapshot(&self, prefix: &str) -> (Vec<(String, Versioned)>, Option<Instant>) {
        let now = Instant::now();
        self.by_key.with(|ByKey { entries, .. }| {
            let live = || {
                let under = entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
                under.filter(|(_, entry)| entry.is_live(now))
            };
            let found = live().map(|(key, entry)| (key.clone(), entry.versioned.clone())).collect();
            (found, live().filter_map(|(_, entry)| entry.expires).min())
        })
    }

    /// Tells one watcher what changed until it stops listening. Reads the changes from the difference to what it was
    /// told, so a slow watcher costs no memory: it misses values that were overwritten before it looked.
    async fn follow(self: Arc<Self>, prefix: String, events: mpsc::Sender<StateEvent>) {
        let mut changes = self.changes.subscribe();
        let mut known = Known::default();
        let mut synced = false;
        loop {
            changes.mark_unchanged();
            let (entries, next_expiry) = self.snapshot(&prefix);
            let mut news = known.replace(entries, u64::MAX);
            if !synced {
                news.push(StateEvent::Synced);
                synced = true;
            }
            for event in news {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep_until(next_expiry) => {}
                () = events.closed() => return,
            }
        }
    }
}

impl ByKey {
    fn change(
        &mut self,
        key: &str,
        expected: Expected,
        entry: Option<(Bytes, Option<Instant>)>,
        now: Instant,
    ) -> Result<u64, PutError> {
        self.entries.retain(|_, entry| entry.is_live(now));
        let found = self.entries.get(key).map(|entry| entry.versioned.revision);
        let as_expected = match expected {
            Expected::Any => true,
            Expected::Absent => found.is_none(),
            Expected::Revision(revision) => found == Some(revision),
        };
        if !as_expected {
            return Err(PutError::Conflict);
        }
        self.revision += 1;
        let revision = self.revision;
        match entry {
            Some((value, expires)) => {
                let versioned = Versioned { value, revision };
                self.entries.insert(key.to_owned(), Entry { versioned, expires });
            }
            None => {
                self.entries.remove(key);
            }
        }
        Ok(revision)
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[async_trait]
impl StateStore for MemoryState {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, BrokerError> {
        let now = Instant::now();
        let live = |by_key: &mut ByKey| {
            let entry = by_key.entries.get(key).filter(|entry| entry.is_live(now));
            entry.map(|entry| entry.versioned.clone())
        };
        Ok(self.entries.by_key.with(live))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<u64, PutError> {
        let expires = ttl.map(|ttl| Instant::now() + Duration::from_secs(ttl_whole_seconds(ttl)));
        self.entries.change(key, expected, Some((value, expires)))
    }

    async fn delete(&self, key: &str, expected: Expected) -> Result<(), PutError> {
        self.entries.change(key, expected, None).map(drop)
    }

    async fn watch(&self, prefix: &str) -> Result<mpsc::Receiver<StateEvent>, BrokerError> {
        let (sender, receiver) = mpsc::channel(STATE_EVENTS_MAX);
        self.watchers.with(|watchers| {
            while watchers.try_join_next().is_some() {}
            watchers.spawn(self.entries.clone().follow(prefix.to_owned(), sender));
        });
        Ok(receiver)
    }
}
