mod schedules;

use bytes::Bytes;

use super::*;
use crate::ingest::budget::Budget;
use crate::ingest::testing::{Bench, Mood, bench, settings};
use crate::ingest::writer::queue::Queue;
use crate::proto::channel::Channel;
use crate::proto::envelope::Stamp;
use crate::sync::model;

fn id(text: &str) -> CollectorId {
    CollectorId::new(text).unwrap()
}

fn draft(collector: &str, measurement: &str, lines: &str, own_timestamps: bool) -> Draft {
    let channel = Channel::new(id(collector), measurement);
    Draft { channel, lines: Bytes::copy_from_slice(lines.as_bytes()), metrics: 1, own_timestamps }
}

/// Submits one envelope per text to collector `a`; equal texts are new measurements.
async fn submit(bench: &Bench, texts: &[&str]) -> (Ticket, oneshot::Receiver<Outcome>) {
    let (tell, done) = oneshot::channel();
    (submit_for(bench, texts, Some(tell)).await, done)
}

async fn submit_for(bench: &Bench, texts: &[&str], done: Option<oneshot::Sender<Outcome>>) -> Ticket {
    let drafts = texts.iter().map(|text| draft("a", text, text, false)).collect();
    let grant = Budget::new(1 << 20, metrics::Gauge::noop()).grant(1).await;
    let job = Job { drafts, received_ns: 5, identity: Identity::New, grant, done, open: None };
    bench.ingest.writers.submit(&id("a"), job).unwrap()
}

#[tokio::test]
async fn batches_of_a_collector_are_stored_in_order_with_one_in_flight() {
    let bench = bench(settings());
    bench.broker.set(Mood::Silent);
    let mut waiting = Vec::new();
    for n in 0..20 {
        waiting.push(submit(&bench, &[&format!("m{n}-1"), &format!("m{n}-2")]).await.1);
    }
    bench.broker.begun(1).await;
    bench.broker.set(Mood::Well);
    for done in waiting {
        assert_eq!(done.await, Ok(Outcome::Stored));
    }
    let expected: Vec<String> = (0..20).flat_map(|n| [format!("m{n}-1"), format!("m{n}-2")]).collect();
    assert_eq!(bench.broker.lines().await, expected);
    assert_eq!(bench.broker.in_flight_most(), 1);
    let stamps: Vec<Stamp> =
        bench.broker.stored().await.iter().filter_map(|one| one.envelope.stamp).collect();
    assert!(stamps.iter().zip(1..).all(|(stamp, n)| stamp.sequence == n && stamp.received_ns == 5));
    assert!(stamps.windows(2).all(|pair| pair[0].revision == pair[1].revision));
    assert_eq!(bench.metric("ws_envelopes_published_total"), 40.0);
    assert_eq!(bench.metric("ws_lines_accepted_total"), 40.0);
}

/// The log stored the batch but its answer was lost: publishing again under other ids would store it twice, and letting
/// the next batch go ahead would turn the order round.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_neither_doubles_nor_reorders() {
    let bench = bench(settings());
    bench.broker.set(Mood::Forgetful);
    let first = submit(&bench, &["one", "two"]).await.1;
    let second = submit(&bench, &["three"]).await.1;
    bench.broker.begun(4).await;
    bench.broker.set(Mood::Well);
    assert_eq!(first.await, Ok(Outcome::Stored));
    assert_eq!(second.await, Ok(Outcome::Stored));
    assert_eq!(bench.broker.lines().await, ["one", "two", "three"]);
    assert_eq!(
        bench.metric("ws_lines_accepted_total"),
        3.0,
        "stored by this writer, if at the second attempt"
    );
    assert!(bench.metric("ws_publish_retries_total") >= 4.0);
}

#[tokio::test]
async fn a_refused_envelope_costs_neither_its_neighbours_nor_the_next_batch() {
    let bench = bench(settings());
    bench.broker.set(Mood::Refuses("bad"));
    let first = submit(&bench, &["one", "bad", "two"]).await.1;
    let second = submit(&bench, &["three"]).await.1;
    assert_eq!(first.await, Ok(Outcome::Refused("not this one".into())));
    assert_eq!(second.await, Ok(Outcome::Stored));
    assert_eq!(bench.broker.lines().await, ["one", "two", "three"]);
    assert_eq!(bench.metric("ws_envelopes_dropped_total{reason=\"refused\"}"), 1.0);
}

#[tokio::test]
async fn a_job_can_be_taken_back_until_its_turn_has_come() {
    let bench = bench(settings());
    bench.broker.set(Mood::Silent);
    let (begun, first) = submit(&bench, &["one"]).await;
    bench.broker.begun(1).await;
    let (waiting, second) = submit(&bench, &["two"]).await;
    let third = submit(&bench, &["three"]).await.1;
    assert!(!begun.withdraw());
    assert!(waiting.withdraw());
    assert!(!waiting.withdraw());
    bench.broker.set(Mood::Well);
    assert_eq!(first.await, Ok(Outcome::Stored));
    assert!(second.await.is_err());
    assert_eq!(third.await, Ok(Outcome::Stored));
    let stored = bench.broker.stored().await;
    let sequences: Vec<u64> = stored.iter().map(|one| one.envelope.stamp.unwrap().sequence).collect();
    assert_eq!(sequences, [1, 2], "no hole where the withdrawn job was");
}

#[tokio::test(start_paused = true)]
async fn an_idle_writer_ends_and_the_next_has_a_larger_revision() {
    let bench = bench(settings());
    submit(&bench, &["one"]).await.1.await.unwrap();
    assert_eq!(bench.ingest.writers.len(), 1);
    while !bench.ingest.writers.is_empty() {
        tokio::time::advance(WRITER_IDLE / 4).await;
    }
    submit(&bench, &["two"]).await.1.await.unwrap();
    let stored = bench.broker.stored().await;
    let stamps: Vec<Stamp> = stored.iter().map(|one| one.envelope.stamp.unwrap()).collect();
    assert!(stamps[1].revision > stamps[0].revision);
    assert_eq!(stamps[1].sequence, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_out_of_time_says_what_it_left() {
    let bench = bench(settings());
    bench.broker.set(Mood::Away);
    submit_for(&bench, &["one", "two"], None).await;
    let told = submit(&bench, &["told"]).await.1;
    submit_for(&bench, &["three"], None).await;
    bench.broker.begun(1).await;
    let left = bench.ingest.drain(Duration::from_secs(5)).await;
    assert_eq!(left, Left { batches: 2, bytes: "onetwothree".len() });
    assert!(told.await.is_err(), "whoever waits is told, and may write it elsewhere");
    assert_eq!(bench.metric("ws_envelopes_dropped_total{reason=\"shutdown\"}"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_every_accepted_batch() {
    let bench = bench(settings());
    bench.broker.set(Mood::Away);
    let done = submit(&bench, &["one"]).await.1;
    bench.broker.begun(1).await;
    let (left, ()) = tokio::join!(bench.ingest.drain(Duration::from_secs(60)), async {
        bench.broker.begun(3).await;
        bench.broker.set(Mood::Well);
    });
    assert_eq!(left, Left::default());
    assert_eq!(done.await, Ok(Outcome::Stored));
}

#[test]
fn retries_back_off_with_jitter_between_their_bounds() {
    for attempt in 1..200 {
        let pause = super::publish::backoff(attempt);
        assert!(
            pause >= Duration::from_millis(25) && pause <= Duration::from_secs(2),
            "{attempt}: {pause:?}"
        );
    }
}

fn job(name: &str) -> Job {
    let grant = Budget::new(1 << 20, metrics::Gauge::noop()).try_grant(1).unwrap();
    let drafts = vec![draft("a", name, name, false)];
    Job { drafts, received_ns: 5, identity: Identity::New, grant, done: None, open: None }
}

/// A writer ends when its queue is empty, in the very moment in which a job comes in: that job would wait for ever.
#[test]
fn no_job_meets_a_writer_that_has_gone_and_no_collector_has_two() {
    model::check(|| {
        let queues = Arc::new(Queues::default());
        let stored = Arc::new(Locked::empty("stored"));
        let senders = ["x", "y"].map(|name| {
            let (queues, stored) = (queues.clone(), stored.clone());
            model::spawn(move || {
                let tasks = TaskTracker::new();
                let mut writers = Vec::new();
                for _ in 0..2 {
                    if let Enqueued::First { queue, counted, .. } =
                        queues.enqueue(&id("a"), job(name), 1, &tasks)
                    {
                        let (queues, stored) = (queues.clone(), stored.clone());
                        writers.push(model::spawn(move || {
                            write_until_idle(&queues, &queue, &stored);
                            drop(counted);
                        }));
                    }
                }
                writers.into_iter().for_each(|writer| writer.join().unwrap());
            })
        });
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!((stored.with(|stored| stored.len()), queues.len()), (4, 0));
    });
}

fn write_until_idle(queues: &Queues, queue: &Queue, stored: &Locked<Vec<String>>) {
    loop {
        while let Some((job, _)) = queue.pop() {
            stored.with(|stored| stored.push(job.drafts[0].channel.measurement.to_string()));
        }
        if queues.retire(&id("a"), queue) {
            return;
        }
    }
}

/// A caller that gives up takes its job back, or the writer has begun it: never both, never neither.
#[test]
fn a_job_is_written_or_taken_back() {
    model::check(|| {
        let queue = Arc::new(Queue::default());
        let ticket = queue.push(job("x"));
        let writer = model::spawn(move || queue.pop().is_some());
        let withdrawn = ticket.withdraw();
        assert_ne!(writer.join().unwrap(), withdrawn);
    });
}
