use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use metrics::Gauge;
use proptest::prelude::*;

use super::core::{Core, Growth, Id, PATIENCE, Peer, SHARE_WAIT, SMALL_BYTES};
use super::{Cut, FairBudget, Lack, Limits, network_of};

const MIB: usize = 1 << 20;
const STEP: usize = SMALL_BYTES;

fn limits(bytes_max: usize) -> Limits {
    Limits { bytes_max, bytes_per_second_min: 1_000, window: Duration::from_secs(5) }
}

fn peer(number: u8) -> Peer {
    Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)))
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A holder that has brought `bytes` at once.
fn holder(core: &mut Core<Id>, of: u8, bytes: usize, now: Duration) -> Id {
    let id = core.open(peer(of), None, now, 0);
    assert_eq!(core.grow(id, bytes, now).0, Growth::Granted);
    id
}

#[test]
fn a_peer_that_stalls_gives_way_to_one_that_comes_after_its_time() {
    let mut core = Core::new(limits(8 * MIB));
    let quick = holder(&mut core, 1, MIB, ms(0));
    let stalled = holder(&mut core, 1, 5 * MIB, ms(0));
    let late = core.open(peer(1), None, ms(10), 0);
    assert_eq!(core.grow(late, MIB, ms(10)).0, Growth::Wait { soon: true }, "both have had no time yet");
    // One of them goes on.
    let now = PATIENCE + ms(20);
    core.note(quick, 3 * MIB as u64, now);
    core.grow(late, MIB, now);
    assert_eq!(core.check(stalled, now), Err(Cut::GaveWay));
    assert!(core.check(quick, now).is_ok());
    assert_eq!(core.grow(late, MIB, now).0, Growth::Wait { soon: true }, "not before it is given back");
    core.close(stalled);
    assert_eq!(core.grow(late, MIB, now).0, Growth::Granted);
    assert_eq!(core.held(), 2 * MIB);
}

#[test]
fn what_is_small_has_room_at_once_beside_any_number_of_large_ones() {
    let mut core = Core::new(limits(8 * MIB));
    let mut large = 0;
    loop {
        let id = core.open(peer(1), None, ms(0), 0);
        if core.grow(id, 100_000, ms(0)).0 != Growth::Granted {
            break;
        }
        large += 1;
    }
    assert!(large > 50);
    for _ in 0..50 {
        holder(&mut core, 1, 300, ms(1));
    }
}

#[test]
fn a_peer_within_its_share_waits_for_none_that_is_above_it_however_quick() {
    let mut core = Core::new(limits(8 * MIB));
    let greedy: Vec<Id> = (0..6).map(|_| holder(&mut core, 1, MIB, ms(0))).collect();
    let modest = core.open(peer(2), None, ms(0), 0);
    assert_eq!(core.grow(modest, MIB, ms(0)).0, Growth::Wait { soon: true });
    let now = SHARE_WAIT;
    core.grow(modest, MIB, now);
    let cut: Vec<Id> = greedy.into_iter().filter(|id| core.check(*id, now).is_err()).collect();
    assert_eq!(cut.len(), 1, "no more than is needed");
    core.close(cut[0]);
    assert_eq!(core.grow(modest, MIB, now).0, Growth::Granted);
}

#[test]
fn who_brings_too_little_or_too_late_is_given_up_and_waiting_counts_for_nobody() {
    let mut core = Core::new(limits(8 * MIB));
    let trickle = core.open(peer(1), None, ms(0), 0);
    let steady = core.open(peer(1), Some(ms(12_000)), ms(0), 0);
    for second in 1..12 {
        core.grow(trickle, 1, ms(second * 1_000));
        core.grow(steady, 2_000, ms(second * 1_000));
        let is_over = core.check(trickle, ms(second * 1_000)).is_err();
        assert_eq!(is_over, second >= 5, "{second}");
        assert!(core.check(steady, ms(second * 1_000)).is_ok(), "{second}");
    }
    assert_eq!(core.check(trickle, ms(12_000)), Err(Cut::TooSlow));
    core.close(trickle);
    // One that waits is not read: neither its deadline nor its rate goes on.
    let full = holder(&mut core, 2, 8 * MIB - 30_000, ms(11_000));
    assert_eq!(core.pin(full, ms(11_000)), Ok(()));
    assert_eq!(core.grow(steady, 100_000, ms(11_500)).0, Growth::Wait { soon: false });
    assert_eq!(core.check(steady, ms(60_000)), Ok(None));
    core.close(full);
    assert_eq!(core.grow(steady, 100_000, ms(61_500)).0, Growth::Granted);
    assert!(core.check(steady, ms(61_900)).is_ok());
    assert_eq!(core.check(steady, ms(62_000)), Err(Cut::TimedOut));
}

#[test]
fn what_is_complete_never_gives_way() {
    let mut core = Core::new(limits(8 * MIB));
    let complete = holder(&mut core, 1, 6 * MIB, ms(0));
    assert_eq!(core.pin(complete, ms(0)), Ok(()));
    let late = core.open(peer(2), None, ms(0), 0);
    for second in 0..60 {
        assert_eq!(core.grow(late, MIB, ms(second * 1_000)).0, Growth::Wait { soon: false });
    }
    assert_eq!(core.check(complete, ms(60_000)), Ok(None));
}

/// Agents that flush in the same second, through one proxy: five times what there is room for.
#[test]
fn a_crowd_of_quick_peers_is_served_one_after_the_other_and_loses_nothing() {
    let mut core = Core::new(limits(64 * MIB));
    let message_bytes = 320_000;
    let mut now = ms(0);
    let mut open: Vec<(Id, usize)> = (0..1_000).map(|_| (core.open(peer(1), None, now, 0), 0)).collect();
    let mut rounds = 0;
    while !open.is_empty() {
        rounds += 1;
        now += ms(1);
        assert!(rounds < 20_000, "{} are left", open.len());
        open.retain_mut(|(id, bytes)| {
            assert!(core.check(*id, now).is_ok());
            match core.grow(*id, STEP, now).0 {
                Growth::Granted => *bytes += STEP,
                Growth::Wait { .. } => {}
                Growth::Cut(cut) => panic!("{cut:?} after {rounds} rounds"),
            }
            let is_done = *bytes >= message_bytes;
            if is_done {
                core.close(*id);
            }
            !is_done
        });
    }
    assert_eq!(core.held(), 0);
}

/// Room for one, and all have begun.
#[test]
fn where_all_wait_for_each_other_the_youngest_gives_way() {
    let mut core = Core::new(limits(MIB));
    let all: Vec<Id> = (0..20).map(|_| core.open(peer(1), None, ms(0), 0)).collect();
    let mut done = Vec::new();
    let mut held = [0; 20];
    for round in 0..10_000 {
        for (at, id) in all.iter().enumerate().filter(|(at, _)| !done.contains(at)).collect::<Vec<_>>() {
            match core.grow(*id, STEP, ms(round)).0 {
                Growth::Granted => held[at] += STEP,
                Growth::Wait { .. } => continue,
                Growth::Cut(_) => held[at] = MIB,
            }
            if held[at] >= MIB {
                core.close(*id);
                done.push(at);
            }
        }
    }
    assert_eq!((done.len(), core.held()), (20, 0));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open(u8),
    Grow(usize, usize),
    Take(usize, u64),
    Pin(usize),
    Unpin(usize),
    Close(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4_u8).prop_map(Step::Open),
        8 => (any::<usize>(), 1..300_000_usize).prop_map(|(which, more)| Step::Grow(which, more)),
        2 => (any::<usize>(), 1..100_000_u64).prop_map(|(which, bytes)| Step::Take(which, bytes)),
        1 => any::<usize>().prop_map(Step::Pin),
        1 => any::<usize>().prop_map(Step::Unpin),
        2 => any::<usize>().prop_map(Step::Close),
        2 => (0..3_000_u64).prop_map(Step::Wait),
    ]
}

/// What the model knows of a holder.
struct Known {
    id: Id,
    peer: u8,
    bytes: usize,
    is_cut: bool,
}

fn held_by(known: &[Known], peer: u8) -> usize {
    known.iter().filter(|one| one.peer == peer && !one.is_cut).map(|one| one.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever peers do: no more is held than there may be, no account is lost, and a holder that gives way is of a peer that holds
    /// more than its share.
    #[test]
    fn accounts_balance_and_only_peers_above_their_share_give_way(steps in prop::collection::vec(step(), 1..120)) {
        let bytes_max = 2 * MIB;
        let mut core = Core::new(limits(bytes_max));
        let mut now = ms(0);
        let mut known: Vec<Known> = Vec::new();
        for step in steps {
            let count = known.len().max(1);
            match step {
                Step::Open(of) => {
                    let id = core.open(peer(of), None, now, 0);
                    known.push(Known { id, peer: of, bytes: 0, is_cut: false });
                }
                Step::Grow(which, more) => if let Some(at) = known.get(which % count).map(|_| which % count) {
                    let before: Vec<usize> = (0..4).map(|peer| held_by(&known, peer)).collect();
                    let growth = core.grow(known[at].id, more, now).0;
                    if growth == Growth::Granted {
                        known[at].bytes += more.min(bytes_max - known[at].bytes);
                    }
                    let of = known[at].peer;
                    let mut wanted = before.clone();
                    wanted[usize::from(of)] += more;
                    let peers = wanted.iter().filter(|bytes| **bytes > 0).count();
                    for one in known.iter_mut().filter(|one| !one.is_cut) {
                        if core.check(one.id, now) == Err(Cut::GaveWay) {
                            one.is_cut = true;
                            // At the least: what was kept free is not shared.
                            let share = (bytes_max - bytes_max / 4) / peers.max(1);
                            prop_assert!(wanted[usize::from(one.peer)] > share, "{step:?} {wanted:?}");
                            prop_assert!(growth != Growth::Granted);
                        } else if core.check(one.id, now).is_err() {
                            one.is_cut = true;
                        }
                    }
                },
                Step::Take(which, bytes) => if let Some(one) = known.get(which % count) {
                    core.note(one.id, bytes, now);
                },
                Step::Pin(which) => if let Some(one) = known.get(which % count) {
                    prop_assert_eq!(core.pin(one.id, now).is_err(), one.is_cut);
                },
                Step::Unpin(which) => if let Some(one) = known.get(which % count) {
                    core.unpin(one.id, now);
                },
                Step::Close(which) => if !known.is_empty() {
                    core.close(known.swap_remove(which % count).id);
                },
                Step::Wait(milliseconds) => {
                    now += ms(milliseconds);
                    for one in &mut known {
                        one.is_cut |= core.check(one.id, now).is_err();
                    }
                }
            }
            prop_assert_eq!(core.held(), known.iter().map(|one| one.bytes).sum::<usize>());
            prop_assert!(core.held() <= bytes_max);
        }
        known.iter().for_each(|one| drop(core.close(one.id)));
        prop_assert_eq!(core.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_by_what_is_given_back_and_by_time() {
    let budget = FairBudget::new(limits(8 * MIB), Gauge::noop());
    let mut first = budget.open(None, None);
    first.grow_to(6 * MIB).await.unwrap();
    let mut second = budget.open(None, None);
    let (grown, ()) = tokio::join!(second.grow_to(MIB), async {
        assert_eq!(first.cut().await, Cut::GaveWay, "when it has had its time");
        drop(first);
    });
    grown.unwrap();
    assert_eq!((budget.bytes(), second.bytes()), (MIB, MIB));
    second.pin(8 * MIB).unwrap();
    let mut third = budget.open(None, None);
    assert_eq!(third.grow_soon_to(MIB).await, Err(Lack::Full));
    drop((second, third));
    assert_eq!(budget.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_brings_nothing_is_told_without_being_asked() {
    let budget = FairBudget::new(limits(8 * MIB), Gauge::noop());
    let began = tokio::time::Instant::now();
    let stalled = budget.open(None, None);
    assert_eq!((stalled.cut().await, began.elapsed()), (Cut::TooSlow, Duration::from_secs(5)));
    let late = budget.open(None, Some(tokio::time::Instant::now() + Duration::from_secs(3)));
    assert_eq!((late.cut().await, began.elapsed()), (Cut::TimedOut, Duration::from_secs(8)));
}

#[test]
fn peers_are_networks_where_one_host_has_many_addresses() {
    let check = |one: &str, other: &str, same: bool| {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network(one) == network(other), same, "{one} {other}");
    };
    check("10.0.0.1", "10.0.0.2", false);
    check("::ffff:10.0.0.1", "10.0.0.1", true);
    check("2001:db8::1", "2001:db8::ffff:1", true);
    check("2001:db8::1", "2001:db8:0:1::1", false);
}
