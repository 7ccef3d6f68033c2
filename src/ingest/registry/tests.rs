use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::ops::listing::{Listing, PRESENT};
use crate::ops::node::StatusSection;
use crate::sync::model;

const SOCKET: Origin = Origin { transport: Transport::WebSocket, remote: None };

fn id(text: &str) -> CollectorId {
    CollectorId::new(text).unwrap()
}

fn traffic(accepted: u64) -> Traffic<'static> {
    Traffic { lines_accepted: accepted, lines_rejected: 0, bytes: 10, errors: &[] }
}

fn status(registry: &Registry) -> serde_json::Value {
    Listing::of(registry.collectors().unwrap()).beside(serde_json::Map::new())
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_is_told_who_has_the_id_until_that_one_ends() {
    let registry = Registry::new("ingest-1".into(), OnConflict::Refuse, 10, 1_000);
    let now = Instant::now();
    let first = registry.connect(SOCKET);
    first.claim(&id("web-01"), now).unwrap();
    first.claim(&id("web-01"), now).unwrap();
    let second = registry.connect(SOCKET);
    let error = second.claim(&id("web-01"), now).unwrap_err();
    assert!(error.to_string().contains("node ingest-1 has a connection as 'web-01' since 20"), "{error}");
    assert!(!first.lost().is_cancelled());
    drop(first);
    second.claim(&id("web-01"), now).unwrap();
    assert_eq!(status(&registry)["collector_connected"], true);
    drop(second);
    // As an edge sees it too, which learns of no connection.
    assert_eq!(status(&registry)["collector_connected"], true);
    tokio::time::advance(PRESENT).await;
    assert_eq!(status(&registry)["collector_connected"], false);
}

#[test]
fn a_take_over_ends_the_older_connection_which_never_takes_the_id_back() {
    let registry = Registry::new("ingest-1".into(), OnConflict::TakeOver, 10, 1_000);
    let now = Instant::now();
    let first = registry.connect(SOCKET);
    first.claim(&id("web-01"), now).unwrap();
    let second = registry.connect(SOCKET);
    second.claim(&id("web-01"), now).unwrap();
    assert!(first.lost().is_cancelled());
    assert!(matches!(first.claim(&id("web-01"), now), Err(ClaimError::Held { .. })));
    drop(first);
    assert_eq!(status(&registry)["collectors"][0]["connected"], true, "the newcomer keeps it");
}

#[test]
fn the_oldest_disconnected_collectors_are_forgotten_first() {
    let registry = Registry::new("ingest-1".into(), OnConflict::Refuse, 32, 1_000);
    let start = Instant::now();
    let connected = registry.connect(SOCKET);
    connected.claim(&id("connected"), start).unwrap();
    for n in 0..31 {
        registry.record(&id(&format!("c-{n:02}")), SOCKET, traffic(1), start + Duration::from_secs(n));
    }
    registry.record(&id("new"), SOCKET, traffic(1), start + Duration::from_secs(99));
    let status = status(&registry);
    let ids: Vec<&str> =
        status["collectors"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"connected") && ids.contains(&"new") && ids.contains(&"c-30"), "{ids:?}");
    assert!(!ids.contains(&"c-00") && !ids.contains(&"c-01") && ids.contains(&"c-02"), "{ids:?}");
}

#[test]
fn a_node_full_of_connected_collectors_refuses_another() {
    let registry = Registry::new("ingest-1".into(), OnConflict::Refuse, 1, 1_000);
    let now = Instant::now();
    let first = registry.connect(SOCKET);
    first.claim(&id("a"), now).unwrap();
    assert_eq!(registry.connect(SOCKET).claim(&id("b"), now), Err(ClaimError::Full));
    assert!(!registry.record(&id("b"), SOCKET, traffic(1), now));
}

#[test]
fn the_status_lists_what_a_collector_did_and_its_last_five_errors() {
    let registry = Registry::new("ingest-1".into(), OnConflict::Refuse, 10, 1_000);
    let now = Instant::now();
    let errors: Vec<BadLine> =
        (1..=4).map(|line| BadLine { line, column: 2, message: format!("bad {line}") }).collect();
    let message = Traffic { lines_accepted: 3, lines_rejected: 4, bytes: 100, errors: &errors };
    assert!(registry.record(&id("web-01"), SOCKET, message, now), "the first bad lines are logged");
    assert!(!registry.record(&id("web-01"), SOCKET, message, now), "the next are not, for a while");
    assert!(registry.record(&id("web-01"), SOCKET, message, now + WARN_INTERVAL));
    let status = status(&registry);
    let collector = &status["collectors"][0];
    assert_eq!(collector["lines_accepted"], 9);
    assert_eq!(collector["lines_rejected"], 12);
    assert_eq!(collector["bytes_received"], 300);
    assert_eq!(collector["transport"], "websocket");
    assert_eq!(collector["recent_errors"].as_array().unwrap().len(), RECENT_ERRORS_MAX);
    assert_eq!(collector["recent_errors"][0]["message"], "bad 4");
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_old_connection_died_in_silence_gets_its_id_back() {
    let registry = Registry::new("ingest-1".to_owned(), OnConflict::Refuse, 10, 1_000);
    let dead = registry.connect(SOCKET);
    dead.claim(&id("web-01"), Instant::now()).unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    let back = registry.connect(SOCKET);
    back.claim_or_probe(&id("web-01"), false).await.unwrap();
    assert!(dead.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_answers_a_ping_keeps_its_id() {
    let registry = Registry::new("ingest-1".to_owned(), OnConflict::Refuse, 10, 1_000);
    let alive = registry.connect(SOCKET);
    alive.claim(&id("web-01"), Instant::now()).unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let second = registry.connect(SOCKET);
    let wanted = id("web-01");
    let answer = async {
        alive.pulse().asked().await;
        alive.pulse().beat();
    };
    let (claim, ()) = tokio::join!(second.claim_or_probe(&wanted, true), answer);
    assert!(matches!(claim, Err(ClaimError::Held { .. })));
    assert!(!alive.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_before_its_old_connection_has_ended_waits_for_that() {
    let registry = Registry::new("ingest-1".to_owned(), OnConflict::Refuse, 10, 1_000);
    let ending = registry.connect(SOCKET);
    ending.claim(&id("web-01"), Instant::now()).unwrap();
    let back = registry.connect(SOCKET);
    let wanted = id("web-01");
    let end = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(ending);
    };
    let (claim, ()) = tokio::join!(back.claim_or_probe(&wanted, true), end);
    claim.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_room_is_not_taken_for_dead() {
    let registry = Registry::new("ingest-1".to_owned(), OnConflict::Refuse, 10, 1_000);
    let waiting = registry.connect(SOCKET);
    waiting.claim(&id("web-01"), Instant::now()).unwrap();
    waiting.pulse().set_busy(true);
    tokio::time::advance(Duration::from_secs(60)).await;
    let second = registry.connect(SOCKET);
    assert!(matches!(second.claim_or_probe(&id("web-01"), false).await, Err(ClaimError::Held { .. })));
}

/// Both asked the same dead connection; that it did not answer is no reason to throw the other newcomer out.
#[tokio::test(start_paused = true)]
async fn of_two_that_ask_a_dead_connection_one_gets_the_id_and_keeps_it() {
    let registry = Registry::new("ingest-1".to_owned(), OnConflict::Refuse, 10, 1_000);
    let dead = registry.connect(SOCKET);
    dead.claim(&id("web-01"), Instant::now()).unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    let (one, other) = (registry.connect(SOCKET), registry.connect(SOCKET));
    let wanted = id("web-01");
    let (first, second) =
        tokio::join!(one.claim_or_probe(&wanted, true), other.claim_or_probe(&wanted, true));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    assert!(!one.lost().is_cancelled() && !other.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_patient_newcomer_waits_for_a_connection_that_waits_for_room_and_asks_it_then() {
    let registry = Registry::new("ingest-1".to_owned(), OnConflict::Refuse, 10, 1_000);
    let waiting = registry.connect(SOCKET);
    waiting.claim(&id("web-01"), Instant::now()).unwrap();
    waiting.pulse().set_busy(true);
    waiting.pulse().set_waiting(true);
    let back = registry.connect(SOCKET);
    let wanted = id("web-01");
    let room = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        waiting.pulse().set_waiting(false);
        waiting.pulse().set_busy(false);
        // What the kernel still held, and then the end that the agent made of it long ago.
        waiting.pulse().beat();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(waiting);
    };
    let (claim, ()) = tokio::join!(back.claim_or_probe(&wanted, true), room);
    claim.unwrap();
}

/// Runs `body` on a thread of its own: one that waits for itself fails the test, and does not stop it.
fn within_a_minute(body: impl FnOnce() + Send + 'static) {
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        body();
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(60)).expect("the body panicked, or waits for itself");
}

/// The id is not held by anybody, and yet not to be had: the second look at the registry was made under the first, and the
/// node stood still.
#[test]
fn a_full_registry_refuses_with_a_reason_and_goes_on() {
    within_a_minute(|| {
        let registry = Registry::new("ingest-1".into(), OnConflict::Refuse, 2, 1_000);
        let holder = registry.connect(SOCKET);
        ["a", "b"].iter().for_each(|name| holder.claim(&id(name), Instant::now()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for patient in [false, true] {
            let late = registry.connect(SOCKET);
            let refused = runtime.block_on(late.claim_or_probe(&id("c"), patient)).unwrap_err();
            assert_eq!(refused, ClaimError::Full);
            assert!(refused.to_string().contains("use another node"), "{refused}");
        }
        drop(holder);
        runtime.block_on(registry.connect(SOCKET).claim_or_probe(&id("c"), false)).unwrap();
    });
}

/// Agents that restart: each connects again while its last connection ends, with any outcome of the question whether that
/// one is alive.
#[test]
fn reconnecting_collectors_never_stand_still_and_never_share_an_id() {
    for on_conflict in [OnConflict::Refuse, OnConflict::TakeOver] {
        CONFLICT.store(usize::from(on_conflict == OnConflict::TakeOver), Ordering::Relaxed);
        model::check(reconnect);
    }
}

static CONFLICT: AtomicUsize = AtomicUsize::new(0);

fn reconnect() {
    let on_conflict = [OnConflict::Refuse, OnConflict::TakeOver][CONFLICT.load(Ordering::Relaxed)];
    // Two ids and room for one: it is full whenever somebody has the other.
    let registry = Registry::new("ingest-1".into(), on_conflict, 1, 1_000);
    let agents = [("a", Life::Silent), ("a", Life::Alive), ("b", Life::Gone)].map(|(name, life)| {
        let registry = registry.clone();
        model::spawn(move || {
            for _ in 0..2 {
                come_and_go(&registry, &id(name), life);
            }
        })
    });
    agents.into_iter().for_each(|agent| agent.join().unwrap());
    registry.state.with(|state| {
        assert!(state.claims.is_empty(), "every connection has ended");
        assert!(state.collectors.values().all(|collector| collector.holder.is_none()), "every id is free");
    });
}

fn come_and_go(registry: &Arc<Registry>, wanted: &CollectorId, life: Life) {
    let connection = registry.connect(SOCKET);
    let now = Instant::now();
    let claimed = match connection.claim_from(wanted, now, None) {
        Ok(()) => Ok(()),
        Err(Denied { error, holder: None }) => Err(error),
        Err(Denied { error, holder: Some((asked, pulse)) }) => {
            let life = if pulse.is_gone() { Life::Gone } else { life };
            connection.claim_after(wanted, now, error, asked, life)
        }
    };
    registry.record(wanted, SOCKET, traffic(1), now);
    if claimed.is_ok() {
        // A session that was given an id has it, or has been told that it lost it.
        let has_it = registry.state.with(|state| {
            let holder = state.collectors.get(wanted).and_then(|collector| collector.holder.as_ref());
            holder.is_some_and(|holder| holder.connection == connection.number)
        });
        assert!(has_it || connection.lost().is_cancelled());
    }
}
