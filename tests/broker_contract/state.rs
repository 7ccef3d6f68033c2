//! Claims about the keyed store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use telecast::broker::{Expected, PutError, StateEvent, StateStore};
use tokio::sync::mpsc;

use crate::under_test::{PATIENCE, UnderTest, eventually, log};

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

async fn begin<T: UnderTest>() -> (T, Arc<dyn StateStore>) {
    let it = T::begin(log()).await;
    let state = it.broker().state();
    (it, state)
}

async fn put(state: &Arc<dyn StateStore>, key: &str, value: &'static str) -> u64 {
    state.put(key, Bytes::from_static(value.as_bytes()), Expected::Any, None).await.unwrap()
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn next(watch: &mut mpsc::Receiver<StateEvent>) -> StateEvent {
    tokio::time::timeout(PATIENCE, watch.recv()).await.expect("in time").expect("a watch does not end")
}

fn is_put(event: &StateEvent, wanted_key: &str, wanted: &'static str) -> bool {
    matches!(event, StateEvent::Put { key, entry } if key == wanted_key && entry.value == wanted)
}

pub async fn a_value_is_read_back_with_its_revision<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    assert_eq!(state.get("a").await.unwrap(), None);
    let revision = put(&state, "a", "one").await;
    let found = state.get("a").await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (value("one"), revision));
}

pub async fn revisions_grow_over_all_keys<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let first = put(&state, "a", "one").await;
    let second = put(&state, "b", "one").await;
    let third = put(&state, "a", "two").await;
    assert!(0 < first && first < second && second < third);
}

pub async fn only_one_of_two_writers_creates_a_key<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let create = |text| state.put("lease", value(text), Expected::Absent, SECOND);
    let (one, other) = futures_util::future::join(create("one"), create("other")).await;
    assert_eq!(usize::from(one.is_ok()) + usize::from(other.is_ok()), 1, "{one:?} {other:?}");
    assert!(matches!(one.and(other), Err(PutError::Conflict)));
}

pub async fn a_stale_revision_is_a_conflict<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let first = put(&state, "a", "one").await;
    let second = state.put("a", value("two"), Expected::Revision(first), None).await.unwrap();
    let stale = state.put("a", value("three"), Expected::Revision(first), None).await;
    assert!(matches!(stale, Err(PutError::Conflict)), "{stale:?}");
    assert_eq!(state.get("a").await.unwrap().unwrap().revision, second);
    let unknown = state.put("b", value("x"), Expected::Revision(second), None).await;
    assert!(matches!(unknown, Err(PutError::Conflict)), "{unknown:?}");
}

pub async fn a_deleted_key_is_absent_and_can_be_created_again<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let first = put(&state, "a", "one").await;
    state.delete("a", Expected::Revision(first)).await.unwrap();
    assert_eq!(state.get("a").await.unwrap(), None);
    let stale = state.put("a", value("x"), Expected::Revision(first), None).await;
    assert!(matches!(stale, Err(PutError::Conflict)), "{stale:?}");
    let again = state.put("a", value("two"), Expected::Absent, None).await.unwrap();
    assert!(again > first);
    state.delete("a", Expected::Any).await.unwrap();
    assert_eq!(state.get("a").await.unwrap(), None);
}

pub async fn a_stale_delete_is_a_conflict<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let first = put(&state, "a", "one").await;
    let second = put(&state, "a", "two").await;
    let stale = state.delete("a", Expected::Revision(first)).await;
    assert!(matches!(stale, Err(PutError::Conflict)), "{stale:?}");
    state.delete("a", Expected::Revision(second)).await.unwrap();
}

pub async fn a_value_expires<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    put(&state, "stays", "one").await;
    state.put("goes", value("one"), Expected::Any, SECOND).await.unwrap();
    assert!(state.get("goes").await.unwrap().is_some());
    eventually("the value is gone", async || state.get("goes").await.unwrap().is_none()).await;
    assert!(state.get("stays").await.unwrap().is_some());
}

pub async fn an_expired_key_can_be_created_again<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let first = state.put("lease", value("one"), Expected::Absent, SECOND).await.unwrap();
    assert!(matches!(
        state.put("lease", value("other"), Expected::Absent, SECOND).await,
        Err(PutError::Conflict)
    ));
    eventually("the lease is free", async || {
        state.put("lease", value("other"), Expected::Absent, SECOND).await.is_ok_and(|second| second > first)
    })
    .await;
    let late = state.put("lease", value("one"), Expected::Revision(first), SECOND).await;
    assert!(matches!(late, Err(PutError::Conflict)), "{late:?}");
}

pub async fn a_renewed_value_does_not_expire<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let ttl = Some(Duration::from_secs(2));
    let mut revision = state.put("lease", value("x"), Expected::Absent, ttl).await.unwrap();
    // Three lifetimes: every write puts off the end, and needs that the value of the write before still lives.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        revision = state.put("lease", value("x"), Expected::Revision(revision), ttl).await.unwrap();
    }
}

pub async fn keys_may_hold_any_text<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let keys = ["lease/web-01", "lease/a.b", "lease/*", "lease/>", "lease/Zürich 7", "lease/100%", "lease/"];
    let mut watch = state.watch("lease/").await.unwrap();
    assert_eq!(next(&mut watch).await, StateEvent::Synced);
    for key in keys {
        put(&state, key, "x").await;
        assert!(is_put(&next(&mut watch).await, key, "x"));
        assert!(state.get(key).await.unwrap().is_some());
    }
}

pub async fn a_watch_reports_what_is_there_then_what_changes<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    put(&state, "a", "old").await;
    put(&state, "a", "one").await;
    put(&state, "b", "one").await;
    put(&state, "c", "one").await;
    state.delete("c", Expected::Any).await.unwrap();
    let mut watch = state.watch("").await.unwrap();
    let mut there = [next(&mut watch).await, next(&mut watch).await];
    there.sort_by_key(|event| format!("{event:?}"));
    assert!(is_put(&there[0], "a", "one") && is_put(&there[1], "b", "one"), "{there:?}");
    assert_eq!(next(&mut watch).await, StateEvent::Synced);
    put(&state, "a", "two").await;
    assert!(is_put(&next(&mut watch).await, "a", "two"));
    state.delete("b", Expected::Any).await.unwrap();
    assert_eq!(next(&mut watch).await, StateEvent::Removed { key: "b".into() });
    put(&state, "c", "new").await;
    assert!(is_put(&next(&mut watch).await, "c", "new"));
}

pub async fn a_watch_reports_expiry<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    let mut watch = state.watch("node/").await.unwrap();
    assert_eq!(next(&mut watch).await, StateEvent::Synced);
    state.put("node/1", value("x"), Expected::Any, SECOND).await.unwrap();
    assert!(is_put(&next(&mut watch).await, "node/1", "x"));
    let written = std::time::Instant::now();
    assert_eq!(next(&mut watch).await, StateEvent::Removed { key: "node/1".into() });
    assert!(written.elapsed() < Duration::from_secs(5), "expiry was reported after {:?}", written.elapsed());
}

pub async fn a_watch_knows_its_prefix<T: UnderTest>() {
    let (_it, state) = begin::<T>().await;
    put(&state, "node/1", "one").await;
    put(&state, "lease/1", "one").await;
    let mut watch = state.watch("node/").await.unwrap();
    assert!(is_put(&next(&mut watch).await, "node/1", "one"));
    assert_eq!(next(&mut watch).await, StateEvent::Synced);
    put(&state, "lease/1", "two").await;
    put(&state, "node/2", "two").await;
    assert!(is_put(&next(&mut watch).await, "node/2", "two"));
}
