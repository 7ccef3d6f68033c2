//! Claims about the log.

use std::collections::HashMap;
use std::time::Duration;

use telecast::broker::{BrokerError, LAST_CHANNELS_MAX, Outgoing, Published, ReadLimits, Stored};
use telecast::config::LogSettings;
use telecast::proto::channel::{Channel, CollectorId};
use telecast::proto::offset::Shard;
use tokio::sync::mpsc;

use crate::under_test::{PATIENCE, SHARD, UNLIMITED, UnderTest, batch, eventually, log, outgoing, texts};

fn sequences(published: &[Published]) -> Vec<u64> {
    published.iter().map(|published| published.sequence).collect()
}

fn duplicates(published: &[Published]) -> Vec<bool> {
    published.iter().map(|published| published.duplicate).collect()
}

async fn receive(tail: &mut mpsc::Receiver<Stored>) -> Stored {
    tokio::time::timeout(PATIENCE, tail.recv()).await.expect("in time").expect("a tail does not end")
}

pub async fn publishes_are_acked_in_order<T: UnderTest>() {
    let it = T::begin(log()).await;
    let first = it.broker().publish(SHARD, &batch("a", 500)).await.unwrap();
    assert_eq!(sequences(&first), (1..=500).collect::<Vec<_>>());
    let second = it.broker().publish(SHARD, &batch("b", 2)).await.unwrap();
    assert_eq!(second, [501, 502].map(|sequence| Published { sequence, duplicate: false }));
}

pub async fn what_is_read_is_what_was_published<T: UnderTest>() {
    let it = T::begin(log()).await;
    let sent = batch("a", 3);
    it.broker().publish(SHARD, &sent).await.unwrap();
    let stored = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap();
    assert_eq!(stored.len(), 3);
    for (sequence, (stored, sent)) in (1..).zip(stored.iter().zip(&sent)) {
        assert_eq!(stored.sequence, sequence);
        assert_eq!(stored.envelope, sent.envelope);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    assert!(stored.iter().all(|stored| (now - stored.stored_ns).abs() < PATIENCE.as_nanos() as i64));
    assert!(stored.is_sorted_by_key(|stored| stored.stored_ns));
}

pub async fn every_name_survives_the_log<T: UnderTest>() {
    let it = T::begin(log()).await;
    let mut tail = it.broker().tail(SHARD).await.unwrap();
    let names = [("a.b.c", "x.*"), (">", "*"), ("Zürich 7", "100 %"), ("%", "a\tb"), ("-_", "")];
    for (collector, measurement) in names {
        let mut one = outgoing(collector, "x");
        one.envelope.channel = Channel::new(CollectorId::new(collector).unwrap(), measurement);
        let published = it.broker().publish(SHARD, &[one.clone()]).await.unwrap();
        let stored = it.broker().read(SHARD, published[0].sequence, UNLIMITED).await.unwrap();
        assert_eq!(stored[0].envelope, one.envelope);
        assert_eq!(receive(&mut tail).await.envelope, one.envelope);
    }
}

pub async fn an_id_is_stored_once<T: UnderTest>() {
    let it = T::begin(log()).await;
    let first = it.broker().publish(SHARD, &batch("a", 3)).await.unwrap();
    let again = it.broker().publish(SHARD, &batch("a", 3)).await.unwrap();
    assert_eq!(sequences(&again), sequences(&first));
    assert_eq!(duplicates(&again), [true; 3]);
    assert_eq!(it.broker().bounds(SHARD).await.unwrap().last, 3);
}

pub async fn an_id_within_one_batch_is_stored_once<T: UnderTest>() {
    let it = T::begin(log()).await;
    let twice = [outgoing("a", "first"), outgoing("a", "second"), outgoing("b", "third")];
    let published = it.broker().publish(SHARD, &twice).await.unwrap();
    assert_eq!(sequences(&published), [1, 1, 2]);
    assert_eq!(duplicates(&published), [false, true, false]);
    let stored = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap();
    assert_eq!(texts(&stored), ["first", "third"]);
}

pub async fn an_id_may_return_after_the_window<T: UnderTest>() {
    let it = T::begin(LogSettings { duplicate_window: Duration::from_millis(500), ..log() }).await;
    it.broker().publish(SHARD, &batch("a", 1)).await.unwrap();
    eventually("the id is taken again", async || {
        let again = it.broker().publish(SHARD, &batch("a", 1)).await.unwrap();
        again == [Published { sequence: 2, duplicate: false }]
    })
    .await;
}

pub async fn a_batch_published_again_is_completed_and_not_doubled<T: UnderTest>() {
    let it = T::begin(log()).await;
    let whole = batch("a", 5);
    it.broker().publish(SHARD, &whole[..2]).await.unwrap();
    let again = it.broker().publish(SHARD, &whole).await.unwrap();
    assert_eq!(sequences(&again), [1, 2, 3, 4, 5]);
    assert_eq!(duplicates(&again), [true, true, false, false, false]);
}

pub async fn concurrent_batches_keep_their_own_order<T: UnderTest>() {
    let it = T::begin(log()).await;
    let broker = it.broker();
    let batches = (0..20).map(|n| batch(&format!("writer{n}"), 50)).collect::<Vec<_>>();
    let writers = batches.iter().map(|batch| broker.publish(SHARD, batch));
    for published in futures_util::future::join_all(writers).await {
        assert!(sequences(&published.unwrap()).is_sorted());
    }
    let stored = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap();
    let mut last: HashMap<String, u32> = HashMap::new();
    for text in texts(&stored) {
        let (writer, number) = text.split_once('-').unwrap();
        let last = last.entry(writer.to_owned()).or_default();
        assert_eq!(number.parse::<u32>().unwrap(), *last + 1);
        *last += 1;
    }
    assert!(last.len() == 20 && last.values().all(|count| *count == 50));
}

pub async fn an_empty_batch_is_no_work<T: UnderTest>() {
    let it = T::begin(log()).await;
    assert_eq!(it.broker().publish(SHARD, &[]).await.unwrap(), []);
}

pub async fn a_tail_sees_what_is_published_after_it<T: UnderTest>() {
    let it = T::begin(log()).await;
    it.broker().publish(SHARD, &batch("before", 3)).await.unwrap();
    let mut tail = it.broker().tail(SHARD).await.unwrap();
    let sent = batch("after", 300);
    it.broker().publish(SHARD, &sent).await.unwrap();
    for (sequence, sent) in (4..).zip(&sent) {
        let stored = receive(&mut tail).await;
        assert_eq!((stored.sequence, stored.envelope), (sequence, sent.envelope.clone()));
        assert!(stored.stored_ns > 1_700_000_000_000_000_000);
    }
}

pub async fn two_tails_see_the_same<T: UnderTest>() {
    let it = T::begin(log()).await;
    let (mut one, mut other) =
        (it.broker().tail(SHARD).await.unwrap(), it.broker().tail(SHARD).await.unwrap());
    it.broker().publish(SHARD, &batch("a", 10)).await.unwrap();
    for sequence in 1..=10 {
        assert_eq!(receive(&mut one).await.sequence, sequence);
    }
    drop(one);
    it.broker().publish(SHARD, &batch("b", 10)).await.unwrap();
    for sequence in 1..=20 {
        assert_eq!(receive(&mut other).await.sequence, sequence);
    }
}

pub async fn a_range_read_is_bounded_by_count<T: UnderTest>() {
    let it = T::begin(log()).await;
    it.broker().publish(SHARD, &batch("a", 100)).await.unwrap();
    let limits = ReadLimits { envelopes_max: 10, ..UNLIMITED };
    let stored = it.broker().read(SHARD, 21, limits).await.unwrap();
    assert_eq!(
        stored.iter().map(|stored| stored.sequence).collect::<Vec<_>>(),
        (21..=30).collect::<Vec<_>>()
    );
}

pub async fn a_range_read_is_bounded_by_bytes_and_makes_progress<T: UnderTest>() {
    let it = T::begin(log()).await;
    let text = "x".repeat(10_000);
    let sent: Vec<_> = (0..20).map(|n| outgoing(&n.to_string(), &text)).collect();
    it.broker().publish(SHARD, &sent).await.unwrap();
    let read = async |bytes_max| {
        let limits = ReadLimits { bytes_max, ..UNLIMITED };
        it.broker().read(SHARD, 1, limits).await.unwrap().len()
    };
    // Smaller than one envelope, and between the ends of two: the one that crosses the limit is still delivered.
    assert_eq!(read(1).await, 1);
    assert_eq!(read(35_000).await, 4);
    assert_eq!(read(1 << 20).await, 20);
}

pub async fn consecutive_reads_join_without_a_seam<T: UnderTest>() {
    let it = T::begin(log()).await;
    it.broker().publish(SHARD, &batch("a", 1000)).await.unwrap();
    let mut next = 1;
    let limits = ReadLimits { envelopes_max: 77, bytes_max: 400 };
    loop {
        let part = it.broker().read(SHARD, next, limits).await.unwrap();
        if part.is_empty() {
            break;
        }
        for stored in part {
            assert_eq!(stored.sequence, next);
            next += 1;
        }
    }
    assert_eq!(next, 1001);
}

pub async fn a_read_beyond_the_end_is_empty<T: UnderTest>() {
    let it = T::begin(log()).await;
    assert!(it.broker().read(SHARD, 1, UNLIMITED).await.unwrap().is_empty());
    assert!(it.broker().read(SHARD, 0, UNLIMITED).await.unwrap().is_empty());
    it.broker().publish(SHARD, &batch("a", 2)).await.unwrap();
    assert!(it.broker().read(SHARD, 3, UNLIMITED).await.unwrap().is_empty());
    assert!(it.broker().read(SHARD, 1 << 50, UNLIMITED).await.unwrap().is_empty());
    assert_eq!(it.broker().read(SHARD, 0, UNLIMITED).await.unwrap().len(), 2);
}

pub async fn a_read_before_the_first_skips_to_it<T: UnderTest>() {
    let it = T::begin(LogSettings { max_bytes: 100_000, ..log() }).await;
    fill(&it, 40).await;
    let bounds = it.broker().bounds(SHARD).await.unwrap();
    assert!(bounds.first > 2, "{bounds:?}");
    let stored = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap();
    assert_eq!(stored[0].sequence, bounds.first);
    assert_eq!(stored.last().unwrap().sequence, bounds.last);
}

pub async fn bytes_beyond_the_limit_drop_the_oldest<T: UnderTest>() {
    let it = T::begin(LogSettings { max_bytes: 100_000, ..log() }).await;
    fill(&it, 40).await;
    let bounds = it.broker().bounds(SHARD).await.unwrap();
    assert_eq!(bounds.last, 40);
    let kept = bounds.last - bounds.first + 1;
    assert!((8..=10).contains(&kept), "10 kB each, in 100 kB: {kept}");
}

async fn fill<T: UnderTest>(it: &T, count: usize) {
    let text = "x".repeat(9_900);
    let sent: Vec<_> = (0..count).map(|n| outgoing(&n.to_string(), &text)).collect();
    it.broker().publish(SHARD, &sent).await.unwrap();
}

pub async fn envelopes_beyond_their_age_are_dropped<T: UnderTest>() {
    let short = Duration::from_millis(500);
    let it = T::begin(LogSettings { max_age: short, duplicate_window: short, ..log() }).await;
    it.broker().publish(SHARD, &batch("a", 3)).await.unwrap();
    eventually("everything is too old", async || {
        let bounds = it.broker().bounds(SHARD).await.unwrap();
        (bounds.first, bounds.last) == (4, 3)
    })
    .await;
    assert!(it.broker().read(SHARD, 1, UNLIMITED).await.unwrap().is_empty());
    assert_eq!(it.broker().publish(SHARD, &batch("b", 1)).await.unwrap()[0].sequence, 4);
}

pub async fn an_empty_shard_begins_after_its_end<T: UnderTest>() {
    let it = T::begin(log()).await;
    let empty = it.broker().bounds(SHARD).await.unwrap();
    assert_eq!((empty.first, empty.last), (1, 0));
    it.broker().publish(SHARD, &batch("a", 3)).await.unwrap();
    let filled = it.broker().bounds(SHARD).await.unwrap();
    assert_eq!((filled.first, filled.last, filled.epoch), (1, 3, empty.epoch));
}

pub async fn reads_from_a_place_back_join_without_a_seam<T: UnderTest>() {
    let it = T::begin(log()).await;
    it.broker().publish(SHARD, &batch("a", 1000)).await.unwrap();
    let mut until = 990;
    let limits = ReadLimits { envelopes_max: 77, bytes_max: 400 };
    loop {
        let part = it.broker().read_back(SHARD, until, limits).await.unwrap();
        if part.is_empty() {
            break;
        }
        assert!(part.len() <= 77);
        for stored in part {
            assert_eq!(stored.sequence, until);
            until -= 1;
        }
    }
    assert_eq!(until, 0);
    let all = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap();
    let mut back =
        it.broker().read_back(SHARD, 2_000, ReadLimits { envelopes_max: 3, ..UNLIMITED }).await.unwrap();
    back.reverse();
    // Beyond the end, the newest there is.
    assert_eq!(texts(&back), texts(&all[1000 - back.len()..]));
    assert!(!back.is_empty() && back.len() <= 3);
}

pub async fn a_read_back_is_bounded_by_bytes_and_makes_progress<T: UnderTest>() {
    let it = T::begin(log()).await;
    let text = "x".repeat(10_000);
    let sent: Vec<_> = (0..20).map(|n| outgoing(&n.to_string(), &text)).collect();
    it.broker().publish(SHARD, &sent).await.unwrap();
    let read = async |bytes_max| {
        let limits = ReadLimits { bytes_max, ..UNLIMITED };
        let back = it.broker().read_back(SHARD, 20, limits).await.unwrap();
        assert_eq!(back[0].sequence, 20);
        back.len()
    };
    assert_eq!(read(1).await, 1);
    assert!((1..=4).contains(&read(35_000).await));
    assert_eq!(read(1 << 20).await, 20);
}

pub async fn a_read_back_ends_with_the_first_that_is_kept<T: UnderTest>() {
    let it = T::begin(log()).await;
    assert!(it.broker().read_back(SHARD, 7, UNLIMITED).await.unwrap().is_empty());
    let it = T::begin(LogSettings { max_bytes: 100_000, ..log() }).await;
    let text = "x".repeat(1_000);
    let sent: Vec<_> = (0..300).map(|n| outgoing(&n.to_string(), &text)).collect();
    it.broker().publish(SHARD, &sent).await.unwrap();
    let first = it.broker().bounds(SHARD).await.unwrap().first;
    assert!(first > 100);
    let back = it.broker().read_back(SHARD, 300, UNLIMITED).await.unwrap();
    assert_eq!(back.iter().map(|stored| stored.sequence).min(), Some(first));
    assert!(it.broker().read_back(SHARD, first - 1, UNLIMITED).await.unwrap().is_empty());
    assert!(it.broker().read_back(SHARD, 0, UNLIMITED).await.unwrap().is_empty());
}

pub async fn the_last_envelope_of_each_channel_is_found<T: UnderTest>() {
    let it = T::begin(log()).await;
    let broker = it.broker();
    assert!(broker.channels(SHARD, 5).await.unwrap().unwrap().is_empty());
    let names = [("a.b.c", "x.*"), (">", "*"), ("Zürich 7", "100 %"), ("%", "a\tb"), ("-_", "")];
    // Sequences 1 to 5, then 6 to 10, …: a channel's last one up to 12 is of the second round, or of the third.
    for round in 1..=4 {
        let batch = names.map(|(collector, measurement)| {
            let mut one = outgoing(&format!("{collector} {round}"), &format!("round {round}"));
            one.envelope.channel = Channel::new(CollectorId::new(collector).unwrap(), measurement);
            one
        });
        broker.publish(SHARD, &batch).await.unwrap();
    }
    let channels = broker.channels(SHARD, names.len()).await.unwrap().unwrap();
    assert_eq!(channels.len(), names.len());
    assert_eq!(broker.channels(SHARD, names.len() - 1).await.unwrap(), None, "more than were asked for");
    let last = broker.last(SHARD, &channels, 12).await.unwrap();
    assert_eq!(last.iter().map(|stored| stored.sequence).collect::<Vec<_>>(), [8, 9, 10, 11, 12]);
    let read = broker.read(SHARD, 8, UNLIMITED).await.unwrap();
    for (last, read) in last.iter().zip(&read) {
        assert_eq!((&last.envelope, last.stored_ns), (&read.envelope, read.stored_ns));
    }
    assert_eq!(broker.last(SHARD, &channels[..2], 20).await.unwrap().len(), 2);
    assert_eq!(broker.last(SHARD, &channels, 2).await.unwrap().len(), 2, "the others come later");
    assert!(broker.last(SHARD, &channels, 0).await.unwrap().is_empty());
    assert!(broker.last(SHARD, &[], 20).await.unwrap().is_empty());
}

pub async fn the_last_envelopes_of_more_channels_than_may_be_asked_for_are_refused<T: UnderTest>() {
    let it = T::begin(log()).await;
    let many: Vec<Outgoing> = (0..=LAST_CHANNELS_MAX)
        .map(|number| {
            let mut one = outgoing(&number.to_string(), "x v=1");
            one.envelope.channel = Channel::new(CollectorId::new(&number.to_string()).unwrap(), "x");
            one
        })
        .collect();
    it.broker().publish(SHARD, &many).await.unwrap();
    let channels = it.broker().channels(SHARD, usize::MAX).await.unwrap().unwrap();
    let refused = it.broker().last(SHARD, &channels, 1).await.unwrap_err();
    assert!(!refused.is_retryable() && refused.to_string().contains("at most 1024"), "{refused}");
    let last = it.broker().last(SHARD, &channels[..LAST_CHANNELS_MAX], many.len() as u64).await.unwrap();
    assert_eq!(last.len(), LAST_CHANNELS_MAX);
}

pub async fn the_newest_envelope_of_a_collector_is_found_with_its_id<T: UnderTest>() {
    let it = T::begin(log()).await;
    let id = |text: &str| CollectorId::new(text).unwrap();
    let newest = async |collector: &str| {
        let newest = it.broker().newest(SHARD, &id(collector)).await.unwrap();
        newest.map(|newest| (newest.sequence, newest.message_id))
    };
    let publish = async |collector: &str, measurement: &str, message_id: &str| {
        let mut one = outgoing(message_id, "x v=1 1");
        one.envelope.channel = Channel::new(id(collector), measurement);
        it.broker().publish(SHARD, &[one]).await.unwrap();
    };
    assert_eq!(newest("web").await, None);
    for (collector, measurement, message_id) in [
        ("web", "cpu", "a-0"),
        ("web", "mem", "a-1"),
        ("web.01", "cpu", "b: 0"),
        ("*", "a.b >", "c-0"),
        ("web2", "cpu", ""),
        ("web", "cpu", "a-0"),
    ] {
        publish(collector, measurement, message_id).await;
    }
    for (collector, found) in [
        ("web", Some((2, "a-1"))),
        ("web.01", Some((3, "b: 0"))),
        ("*", Some((4, "c-0"))),
        ("web2", Some((5, ""))),
        (">", None),
        ("we", None),
    ] {
        let found = found.map(|(sequence, id)| (sequence, id.to_owned()));
        assert_eq!(newest(collector).await, found, "{collector}");
    }
    publish("web", "cpu", "d-0").await;
    assert_eq!(newest("web").await, Some((6, "d-0".to_owned())));
}

pub async fn the_newest_envelope_ages_with_the_log<T: UnderTest>() {
    let it = T::begin(LogSettings { max_bytes: 64 << 10, ..log() }).await;
    let collector = CollectorId::new("web-01").unwrap();
    it.broker().publish(SHARD, &batch("a", 1)).await.unwrap();
    assert!(it.broker().newest(SHARD, &collector).await.unwrap().is_some());
    let mut large = outgoing("b", &"x".repeat(40 << 10));
    large.envelope.channel = Channel::new(CollectorId::new("other").unwrap(), "cpu");
    for number in 0..4 {
        large.message_id = format!("b-{number}");
        it.broker().publish(SHARD, &[large.clone()]).await.unwrap();
    }
    assert_eq!(it.broker().newest(SHARD, &collector).await.unwrap(), None);
}

pub async fn shards_are_separate<T: UnderTest>() {
    let it = T::begin(LogSettings { shards: 3, ..log() }).await;
    assert_eq!(it.broker().shards(), 3);
    let mut tail = it.broker().tail(Shard(2)).await.unwrap();
    it.broker().publish(Shard(1), &batch("one", 2)).await.unwrap();
    it.broker().publish(Shard(2), &batch("two", 1)).await.unwrap();
    assert_eq!(texts(&[receive(&mut tail).await]), ["two-1"]);
    assert_eq!(texts(&it.broker().read(Shard(1), 1, UNLIMITED).await.unwrap()), ["one-1", "one-2"]);
    assert_eq!(it.broker().bounds(SHARD).await.unwrap().last, 0);
}

pub async fn a_shard_that_does_not_exist_is_refused<T: UnderTest>() {
    let it = T::begin(log()).await;
    let refused = |error| matches!(error, BrokerError::Refused(reason) if reason.contains("log.shards is 1"));
    assert!(refused(it.broker().publish(Shard(1), &batch("a", 1)).await.unwrap_err()));
    assert!(refused(it.broker().tail(Shard(1)).await.unwrap_err()));
    assert!(refused(it.broker().read(Shard(1), 1, UNLIMITED).await.unwrap_err()));
    assert!(refused(it.broker().bounds(Shard(1)).await.unwrap_err()));
}

pub async fn a_recreated_shard_has_another_epoch<T: UnderTest>() {
    let it = T::begin(log()).await;
    let mut tail = it.broker().tail(SHARD).await.unwrap();
    it.broker().publish(SHARD, &batch("a", 3)).await.unwrap();
    let before = it.broker().bounds(SHARD).await.unwrap();
    it.recreate(SHARD).await;
    let after = it.broker().bounds(SHARD).await.unwrap();
    assert_ne!(after.epoch, before.epoch);
    assert_eq!((after.first, after.last), (1, 0));
    // The ids of the old incarnation are forgotten with it.
    assert_eq!(sequences(&it.broker().publish(SHARD, &batch("a", 2)).await.unwrap()), [1, 2]);
    for sequence in [1, 2, 3, 1, 2] {
        assert_eq!(receive(&mut tail).await.sequence, sequence);
    }
}

pub async fn the_connection_is_watched<T: UnderTest>() {
    let it = T::begin(log()).await;
    assert!(it.broker().connection().borrow().is_connected());
}
