//! What brings a session that is elsewhere to its view.

use super::*;
use crate::edge::conflate::resume;

/// What a session gets that comes to its view from `since`, part by part.
fn resumed(stage: &Stage, reader: &Reader, since: &Offset) -> Vec<resume::Part> {
    resumed_by(stage, reader, since, 64 * 1024)
}

fn resumed_by(stage: &Stage, reader: &Reader, since: &Offset, bytes_max: usize) -> Vec<resume::Part> {
    let (_, _, until) = reader.seat.view().place();
    let account = Arc::default();
    let mut since = Arc::new(since.clone());
    let mut at = since.clone();
    let mut parts = Vec::new();
    while since != until {
        let wanted = resume::Wanted { since, at, quiet: false, bytes_max };
        let part = resume::make(&stage.hub, reader.seat.view(), &stage.compressor, &account, wanted, &until);
        since = part.to.clone();
        at = part.at_end().clone();
        parts.push(part);
    }
    assert_eq!(at, until);
    parts
}

fn messages_of(part: &resume::Part) -> Vec<Value> {
    let batch = part.portion.as_ref().and_then(|portion| portion.batch.as_ref());
    let frames = batch.map(|batch| batch.frames()).unwrap_or_default();
    frames.iter().map(|(_, frame)| serde_json::from_slice(frame::payload(frame)).unwrap()).collect()
}

#[test]
fn a_resume_is_what_has_changed_since_up_to_the_place_of_the_view() {
    let mut stage = Stage::new(2, UNBOUNDED);
    let reader = stage.join("*.cpu", Format::Json);
    stage.write(0, "a.cpu", "cpu v=1 1");
    stage.write(1, "b.cpu", "cpu v=2 1");
    let since = (*stage.hub.head().offset).clone();
    stage.write(0, "c.cpu", "cpu v=3 1");
    stage.write(1, "b.cpu", "cpu v=4 1");
    stage.write(1, "b.cpu", "cpu v=5 1");
    stage.write(0, "c.mem", "mem v=6 1");
    stage.flush();
    let end = stage.head();
    // It has been written since, so it comes with the next flush and not before.
    stage.write(0, "c.cpu", "cpu v=7 1");
    let parts = resumed(&stage, &reader, &since);
    assert_eq!(parts.len(), 1);
    let messages = messages_of(&parts[0]);
    assert_eq!(values(&messages), ["b cpu 5"]);
    assert_eq!(messages[0]["from"].as_str(), Some(&*since.token()));
    assert_eq!((messages[0]["offset"].as_str(), messages[0].get("conflated")), (Some(&*end), None));
    // Another edge has met the shards in another order.
    let elsewhere = since.with(Shard(1), 3).with(Shard(0), 0);
    assert_eq!(values(&messages_of(&resumed(&stage, &reader, &elsewhere)[0])), ["a cpu 1"]);
}

#[test]
fn a_resume_of_much_comes_in_parts_that_each_end_at_a_place() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let reader = stage.join(">", Format::Json);
    let begin = (*stage.hub.head().offset).clone();
    for host in 0..4_000 {
        stage.write(0, "a.cpu", &format!("cpu,host=host-{host} v={host},text=\"{}\" 1", "x".repeat(60)));
    }
    stage.flush();
    let parts = resumed(&stage, &reader, &begin);
    assert!((2..8).contains(&parts.len()), "{}", parts.len());
    let mut at = begin.clone();
    let mut came = 0;
    for part in &parts {
        let messages = messages_of(part);
        assert!(messages.iter().all(|message| message["from"].as_str() == Some(&at.token())));
        at = messages.last().unwrap()["offset"].as_str().unwrap().parse().unwrap();
        assert_eq!(at, *part.to);
        came += values(&messages).len();
    }
    assert_eq!(came, 4_000);
    // For a socket that does not take as much at once: no less than an envelope each.
    assert_eq!(resumed_by(&stage, &reader, &begin, 1).len(), 4_000);
}

#[test]
fn a_resume_from_before_what_is_known_is_a_gap_and_then_everything_that_is() {
    let mut stage = Stage::new(1, SnapshotSettings { series_max: 2, ..UNBOUNDED });
    let reader = stage.join(">", Format::Json);
    let begin = (*stage.hub.head().offset).clone();
    for host in 0..4 {
        stage.write(0, "a.cpu", &format!("cpu,host={host} v={host} 1"));
    }
    stage.flush();
    let messages = messages_of(&resumed(&stage, &reader, &begin)[0]);
    let missing = begin.with(Shard(0), 2).token();
    assert_eq!(
        messages[0],
        serde_json::json!({"type": "gap", "from": begin.token(), "to": missing, "reason": "retention"})
    );
    assert_eq!(messages[1]["from"].as_str(), Some(&*missing));
    assert_eq!(values(&messages[1..]), ["a cpu 2", "a cpu 3"]);
}
