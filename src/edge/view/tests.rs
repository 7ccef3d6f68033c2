use bytes::Bytes;

use super::*;
use crate::proto::offset::{Epoch, Shard};
use crate::sync::model;

fn offset(sequence: u64) -> Arc<Offset> {
    Arc::new(Offset::start(Epoch(1), 1).with(Shard(0), sequence))
}

fn view_of(indexes: impl IntoIterator<Item = Index>, bytes_max: usize) -> View {
    let key = ViewKey {
        filters: FilterSet::default(),
        format: Format::Json,
        wire: Wire::WebSocket,
        interval_ms: None,
    };
    let view = View::new(key, 10, offset(10), bytes_max, Account::new(1 << 20));
    for index in indexes {
        let bytes = Bytes::from(vec![0; 100]);
        view.push(Frame { index, offset: offset(index), bytes, own: true, passage: None }, 0);
    }
    view
}

fn indexes(pending: Pending) -> Vec<Index> {
    match pending {
        Pending::Frames(batch) => batch.frames().iter().map(|(index, _)| *index).collect(),
        Pending::Nothing => Vec::new(),
        Pending::Overtaken { .. } => panic!("overtaken"),
    }
}

#[test]
fn a_session_joins_behind_what_it_has_seen() {
    let view = view_of([11, 13, 17], 1 << 20);
    assert_eq!(view.join(9), None, "the view did not exist yet");
    for (seen, expected) in [(10, vec![11, 13, 17]), (12, vec![13, 17]), (13, vec![17]), (40, vec![])] {
        assert_eq!(indexes(view.pending(view.join(seen).unwrap(), 10, 1 << 20)), expected);
    }
}

#[test]
fn a_batch_is_bounded_in_frames_and_bytes() {
    let view = view_of(11..=20, 1 << 20);
    assert_eq!(indexes(view.pending(0, 3, 1 << 20)), [11, 12, 13]);
    assert_eq!(indexes(view.pending(4, 10, 250)), [15, 16]);
    assert_eq!(indexes(view.pending(9, 10, 1)), [20], "a frame larger than the bound still goes out");
}

#[test]
fn an_overtaken_cursor_learns_where_it_goes_on() {
    let view = view_of(11..=20, 5 * (100 + FRAME_OVERHEAD_BYTES));
    let Pending::Overtaken { cursor, offset: at, index } = view.pending(2, 10, 1000) else {
        panic!("five frames are left")
    };
    assert_eq!((cursor, index, at), (10, 20, offset(20)));
    assert_eq!(view.join(14), None);
    assert_eq!(indexes(view.pending(view.join(15).unwrap(), 10, 1 << 20)), [16, 17, 18, 19, 20]);
}

#[test]
fn frames_leave_with_their_entries() {
    let view = view_of(11..=20, 1 << 20);
    view.trim(18);
    assert_eq!(view.join(16), None);
    assert_eq!(indexes(view.pending(view.join(17).unwrap(), 10, 1 << 20)), [18, 19, 20]);
}

fn push(view: &View, index: Index, own: bool) {
    let bytes = Bytes::from(vec![0; 100]);
    view.push(Frame { index, offset: offset(index), bytes, own, passage: None }, 0);
}

#[test]
fn frames_are_bounded_over_all_views_and_a_busy_view_leaves_the_others_their_share() {
    let frame = 100 + FRAME_OVERHEAD_BYTES;
    let account = Account::new(30 * frame);
    let key = ViewKey {
        filters: FilterSet::default(),
        format: Format::Json,
        wire: Wire::WebSocket,
        interval_ms: None,
    };
    let view = || View::new(key.clone(), 0, offset(0), 1 << 20, account.clone());
    let (busy, calm, late) = (view(), view(), view());
    (1..=100).for_each(|index| push(&busy, index, true));
    assert_eq!(account.bytes(), 30 * frame, "what nobody else needs it may have");
    (101..=108).for_each(|index| push(&calm, index, true));
    (109..=200).for_each(|index| [&busy, &late].into_iter().for_each(|view| push(view, index, true)));
    assert!(account.bytes() <= 31 * frame);
    assert_eq!(calm.state.with(|state| state.frames.len()), 8);
    assert!([&busy, &late].into_iter().all(|view| view.state.with(|state| state.frames.len()) >= 10));
    (201..=300).for_each(|index| push(&busy, index, false));
    busy.state.with(|state| assert_eq!(state.bytes, state.frames.len() * FRAME_OVERHEAD_BYTES));
    drop((busy, calm, late));
    assert_eq!(account.bytes(), 0, "nothing is left on the account");
}

/// A writer that missed the one frame it was not told of would leave its clients waiting for the next.
#[test]
fn a_writer_that_looks_when_it_is_rung_for_misses_nothing_however_it_comes_and_goes() {
    const FRAMES: u64 = 5_000;
    let seen = AtomicU64::new(0);
    let view = view_of([], 1 << 30);
    let doorbell = Doorbell::new(3);
    let look = |cursor: &mut Cursor| {
        while let Pending::Frames(batch) = view.pending(*cursor, 16, 1 << 20) {
            *cursor += batch.frames().len() as u64;
        }
        seen.store(*cursor, Ordering::Release);
    };
    let watch = async {
        let (mut cursor, mut looks) = (0, 0);
        view.listen(doorbell.clone());
        look(&mut cursor);
        while cursor < FRAMES {
            doorbell.wait().await;
            for address in doorbell.take_grown() {
                assert_eq!(address, view.address());
                view.attend(doorbell.number);
                look(&mut cursor);
            }
            looks += 1;
            if looks % 7 == 0 {
                // Its last session leaves, and another comes.
                view.unlisten(doorbell.number);
                view.listen(doorbell.clone());
                look(&mut cursor);
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..FRAMES {
                // No frame before the last one was seen: none can make up for a ring that was missed before it.
                while seen.load(Ordering::Acquire) < index {
                    std::thread::yield_now();
                }
                push(&view, 11 + index, false);
                doorbell.ring_if_grown();
            }
        });
        let patience = std::time::Duration::from_secs(30);
        let watched = runtime.block_on(async { tokio::time::timeout(patience, watch).await });
        seen.store(FRAMES, Ordering::Release);
        watched.expect("a lost wake-up");
    });
}

/// As above, in every order of the steps: a lost wake-up would leave the writer asleep with a frame to send.
#[test]
fn a_writer_is_woken_for_every_frame_in_every_order() {
    model::check(|| {
        let (view, doorbell) = (Arc::new(view_of([], 1 << 30)), Doorbell::new(3));
        let pushed = view.clone();
        let pushing = {
            let doorbell = doorbell.clone();
            move || {
                for index in 0..2 {
                    push(&pushed, 11 + index, false);
                    doorbell.ring_if_grown();
                }
            }
        };
        view.listen(doorbell.clone());
        let hub = model::spawn(pushing);
        let mut cursor = 0;
        while cursor < 2 {
            model::block_on(doorbell.wait());
            for _ in doorbell.take_grown() {
                view.attend(doorbell.number);
                while let Pending::Frames(batch) = view.pending(cursor, 16, 1 << 20) {
                    cursor += batch.frames().len() as u64;
                }
            }
        }
        hub.join().unwrap();
    });
}
