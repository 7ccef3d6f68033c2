//! What a watcher of the state has been told, and what it has yet to be told.

use std::collections::HashMap;

use crate::broker::{StateEvent, Versioned};

/// Revisions by key, as last reported. Comparing them with what there is gives the changes, however they came about:
/// lost notifications, reconnects and expiries need no cases of their own.
#[derive(Default)]
pub(crate) struct Known {
    revisions: HashMap<String, u64>,
}

impl Known {
    /// The changes that lead from what was reported to `entries`: everything there was at revision `horizon`. What is
    /// known from later stays as it is.
    pub(crate) fn replace(&mut self, entries: Vec<(String, Versioned)>, horizon: u64) -> Vec<StateEvent> {
        let mut before = std::mem::take(&mut self.revisions);
        let mut changes = Vec::new();
        for (key, entry) in entries {
            let known = before.remove(&key);
            if let Some(later) = known.filter(|known| *known > horizon) {
                self.revisions.insert(key, later);
                continue;
            }
            if known != Some(entry.revision) {
                changes.push(StateEvent::Put { key: key.clone(), entry: entry.clone() });
            }
            self.revisions.insert(key, entry.revision);
        }
        let (later, mut gone): (Vec<_>, Vec<_>) = before.into_iter().partition(|(_, known)| *known > horizon);
        self.revisions.extend(later);
        gone.sort_unstable();
        changes.extend(gone.into_iter().map(|(key, _)| StateEvent::Removed { key }));
        changes
    }

    /// One key changed. `None` when that was reported before, or something newer was.
    pub(crate) fn put(&mut self, key: String, entry: Versioned) -> Option<StateEvent> {
        let known = self.revisions.entry(key.clone()).or_insert(0);
        if *known >= entry.revision {
            return None;
        }
        *known = entry.revision;
        Some(StateEvent::Put { key, entry })
    }

    /// One key was removed by `revision`. `None` when it was not known, or was written again since.
    pub(crate) fn remove(&mut self, key: String, revision: u64) -> Option<StateEvent> {
        if *self.revisions.get(&key)? > revision {
            return None;
        }
        self.revisions.remove(&key);
        Some(StateEvent::Removed { key })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(revision: u64) -> Versioned {
        Versioned { value: Bytes::from_static(b"v"), revision }
    }

    fn put(key: &str, revision: u64) -> StateEvent {
        StateEvent::Put { key: key.into(), entry: entry(revision) }
    }

    #[test]
    fn only_differences_are_reported() {
        let mut known = Known::default();
        assert_eq!(
            known.replace(vec![("a".into(), entry(1)), ("b".into(), entry(2))], 2),
            [put("a", 1), put("b", 2)]
        );
        assert_eq!(known.replace(vec![("a".into(), entry(1)), ("b".into(), entry(3))], 3), [put("b", 3)]);
        assert_eq!(known.replace(vec![("b".into(), entry(3))], 4), [StateEvent::Removed { key: "a".into() }]);
    }

    #[test]
    fn a_late_notification_changes_nothing() {
        let mut known = Known::default();
        known.replace(vec![("a".into(), entry(5))], 5);
        assert_eq!(known.put("a".into(), entry(4)), None);
        assert_eq!(known.remove("a".into(), 4), None);
        assert_eq!(known.remove("b".into(), 9), None);
        assert_eq!(known.put("a".into(), entry(6)), Some(put("a", 6)));
        assert_eq!(known.remove("a".into(), 7), Some(StateEvent::Removed { key: "a".into() }));
    }

    #[test]
    fn a_listing_from_the_past_takes_nothing_back() {
        let mut known = Known::default();
        known.replace(vec![("a".into(), entry(5)), ("b".into(), entry(6)), ("c".into(), entry(1))], u64::MAX);
        let stale = vec![("a".into(), entry(3))];
        assert_eq!(known.replace(stale, 4), [StateEvent::Removed { key: "c".into() }]);
        assert_eq!(known.put("a".into(), entry(5)), None);
        assert_eq!(known.put("b".into(), entry(6)), None);
    }
}
