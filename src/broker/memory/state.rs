//! The keyed store of one process: compare-and-set, expiry, watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// See the module. Expired entries are absent from the moment they expire; the memory they hold is freed by the next
/// write.
pub(super) struct MemoryState {
    entries: Arc<Entries>,
    /// Owns the watchers' tasks: they end with the store, or with their receivers.
    watchers: Mutex<JoinSet<()>>,
}

struct Entries {
    by_key: Mutex<ByKey>,
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
        let entries = Entries { by_key: Mutex::default(), changes: watch::Sender::new(0) };
        Arc::new(Self { entries: Arc::new(entries), watchers: Mutex::default() })
    }
}

impl Entries {
    fn lock(&self) -> MutexGuard<'_, ByKey> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one key if it is as expected. Every change takes a revision, removals included.
    fn change(
        &self,
        key: &str,
        expected: Expected,
        entry: Option<(Bytes, Option<Instant>)>,
    ) -> Result<u64, PutError> {
        let now = Instant::now();
        let mut by_key = self.lock();
        by_key.entries.retain(|_, entry| entry.is_live(now));
        let found = by_key.entries.get(key).map(|entry| entry.versioned.revision);
        let as_expected = match expected {
            Expected::Any => true,
            Expected::Absent => found.is_none(),
            Expected::Revision(revision) => found == Some(revision),
        };
        if !as_expected {
            return Err(PutError::Conflict);
        }
        by_key.revision += 1;
        let revision = by_key.revision;
        match entry {
            Some((value, expires)) => {
                let versioned = Versioned { value, revision };
                by_key.entries.insert(key.to_owned(), Entry { versioned, expires });
            }
            None => {
                by_key.entries.remove(key);
            }
        }
        drop(by_key);
        self.changes.send_modify(|changes| *changes += 1);
        Ok(revision)
    }

    /// What there is under a prefix, and when the next of it expires.
    fn snapshot(&self, prefix: &str) -> (Vec<(String, Versioned)>, Option<Instant>) {
        let now = Instant::now();
        let by_key = self.lock();
        let live = || {
            let under =
                by_key.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
            under.filter(|(_, entry)| entry.is_live(now))
        };
        let entries = live().map(|(key, entry)| (key.clone(), entry.versioned.clone())).collect();
        (entries, live().filter_map(|(_, entry)| entry.expires).min())
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
        let by_key = self.entries.lock();
        Ok(by_key.entries.get(key).filter(|entry| entry.is_live(now)).map(|entry| entry.versioned.clone()))
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
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        while watchers.try_join_next().is_some() {}
        watchers.spawn(self.entries.clone().follow(prefix.to_owned(), sender));
        Ok(receiver)
    }
}
