//! What a flush gives to views.

use super::*;

#[test]
fn a_flush_has_the_newest_values_and_says_what_they_stand_for() {
    let mut stage = Stage::new(1, UNBOUNDED);
    stage.write(0, "a.cpu", "cpu v=0 1");
    let mut reader = stage.join("*.cpu", Format::Json);
    let mut influx = stage.join("*.cpu", Format::Influx);
    let begin = stage.head();
    stage.write(0, "a.cpu", "cpu v=1 1");
    stage.write(0, "b.cpu", "cpu v=2 1");
    stage.write(0, "a.mem", "mem v=3 1");
    stage.write(0, "a.cpu", "cpu v=4 2");
    assert_eq!(reader.texts(), [""; 0], "no envelope feeds it");
    stage.flush();
    let end = stage.head();
    assert_eq!(
        reader.texts(),
        [
            format!(
                r#"{{"type":"metrics","offset":"{begin}","from":"{begin}","conflated":0,"collector":"a","metrics":[{{"name":"cpu","tags":{{}},"fields":{{"v":4}},"timestamp":0}}]}}"#
            ),
            format!(
                r#"{{"type":"metrics","offset":"{end}","from":"{begin}","conflated":1,"collector":"b","metrics":[{{"name":"cpu","tags":{{}},"fields":{{"v":2}},"timestamp":0}}]}}"#
            )
        ]
    );
    assert_eq!(
        influx.texts(),
        [format!("# offset {end}\n# from {begin} conflated 1\ncpu v=4 2\ncpu v=2 1\n")]
    );
    // Without changes, and without changes that match, there is no message; the next one begins here all the same.
    stage.flush();
    stage.write(0, "a.mem", "mem v=5 3");
    stage.flush();
    assert!(reader.texts().is_empty());
    let begin = stage.head();
    stage.write(0, "a.cpu", "cpu v=6 4");
    stage.flush();
    let messages = reader.messages();
    assert_eq!((messages.len(), messages[0]["from"].as_str()), (1, Some(&*begin)));
    let fates = Fates { delivered: 3, filtered: 2, conflated: 1, gap: 0 };
    assert_eq!(reader.account(), Settled { published: 6, fates });
}

#[test]
fn a_session_begins_where_its_view_is_and_a_new_view_where_the_log_is() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let mut first = stage.join(">", Format::Json);
    stage.flush();
    stage.write(0, "a.cpu", "cpu v=1 1\ncpu,k=x v=1 1");
    // Of the same group or another one, but a view of its own: what came before it is not new to it.
    let mut second = stage.join("a.>", Format::Json);
    let mut same = stage.join(">", Format::Json);
    let middle = stage.head();
    stage.write(0, "a.cpu", "cpu v=2 2");
    stage.write(0, "a.cpu", "cpu v=3 2");
    stage.flush();
    let messages = first.messages();
    assert_eq!(values(&messages), ["a cpu 1", "a cpu 3"]);
    assert_eq!(messages[0]["conflated"], 2);
    assert_eq!(values(&same.messages()), values(&messages));
    let messages = second.messages();
    assert_eq!(values(&messages), ["a cpu 3"]);
    assert_eq!((&messages[0]["conflated"], messages[0]["from"].as_str()), (&Value::from(1), Some(&*middle)));
}

#[test]
fn a_hole_in_the_log_is_announced_before_what_came_behind_it() {
    let mut stage = Stage::new(2, UNBOUNDED);
    let mut reader = stage.join(">", Format::Json);
    let begin = stage.head();
    stage.write(0, "a.cpu", "cpu v=1 1");
    stage.write(0, "a.cpu", "cpu v=2 1");
    stage.lose(0, 5);
    let hole = stage.head();
    let mut later = stage.join("a.>", Format::Json);
    stage.write(0, "a.mem", "mem v=3 1");
    stage.write(0, "a.mem", "mem v=4 1");
    stage.flush();
    let messages = reader.messages();
    assert_eq!(
        messages[0],
        serde_json::json!({"type": "gap", "from": begin, "to": hole, "reason": "retention"})
    );
    assert_eq!(values(&messages[1..]), ["a cpu 2", "a mem 4"], "what is known is not held back");
    assert_eq!(messages[1]["from"].as_str(), Some(&*hole));
    assert_eq!(messages[1]["conflated"], 1, "counted behind the hole");
    assert_eq!(values(&later.messages()), ["a mem 4"], "who came behind the hole does not miss anything");
    let fates = Fates { delivered: 1, filtered: 0, conflated: 1, gap: 7 };
    assert_eq!(reader.account(), Settled { published: 9, fates });
    assert_eq!(later.account().fates, Fates { gap: 0, ..fates });
}

#[test]
fn a_log_that_is_another_one_is_a_reset_and_then_what_it_has() {
    for (epoch, last) in [(Epoch(2), 0), (Epoch(1), 1)] {
        let mut stage = Stage::new(1, UNBOUNDED);
        let mut reader = stage.join(">", Format::Json);
        stage.write(0, "a.cpu", "cpu v=1 1");
        stage.flush();
        assert_eq!(values(&reader.messages()), ["a cpu 1"]);
        stage.write(0, "b.cpu", "cpu v=2 1");
        stage.flush();
        assert_eq!(values(&reader.messages()), ["b cpu 2"]);
        let begin = stage.head();
        stage.write(0, "c.cpu", "cpu v=3 1");
        stage.hub.reset(Shard(0), epoch, last);
        let reset = stage.head();
        stage.sequences[0] = last;
        stage.write(0, "d.cpu", "cpu v=4 1");
        stage.flush();
        let messages = reader.messages();
        assert_eq!(
            messages[0],
            serde_json::json!({"type": "gap", "from": begin, "to": reset, "reason": "reset"})
        );
        assert_eq!(values(&messages[1..]), ["d cpu 4"]);
        reader.account();
        stage.write(0, "e.cpu", "cpu v=5 1");
        stage.flush();
        assert_eq!(values(&reader.messages()), ["e cpu 5"]);
        reader.account();
    }
}

/// It had moved the group on before it failed: what did not change again was missing at its clients, who were told nothing.
#[test]
fn a_flush_that_fails_is_a_gap_for_who_did_not_get_it() {
    for reset in [false, true] {
        let mut stage = Stage::new(1, UNBOUNDED);
        let mut reader = stage.join(">", Format::Json);
        stage.flush();
        let begin = stage.head();
        if reset {
            stage.hub.reset(Shard(0), Epoch(2), 0);
            stage.sequences[0] = 0;
        }
        stage.write(0, "a.cpu", "cpu v=1 1");
        let lost = stage.head();
        for (key, matcher) in &mut stage.groups {
            stage.hub.collect(*key, matcher).unwrap();
            stage.hub.lose_round(*key);
        }
        stage.write(0, "a.mem", "mem v=2 1");
        stage.flush();
        let reason = if reset { "reset" } else { "retention" };
        let messages = reader.messages();
        assert_eq!(
            messages[0],
            serde_json::json!({"type": "gap", "from": begin, "to": lost, "reason": reason})
        );
        assert_eq!(
            (values(&messages[1..]), &messages[1]["conflated"]),
            (vec!["a mem 2".to_owned()], &0.into())
        );
        reader.account();
        stage.write(0, "a.cpu", "cpu v=3 1");
        stage.flush();
        assert_eq!(values(&reader.messages()), ["a cpu 3"], "and goes on");
    }
}

#[test]
fn what_the_last_values_cannot_hold_for_an_interval_is_a_gap() {
    let mut stage = Stage::new(1, SnapshotSettings { series_max: 2, ..UNBOUNDED });
    let mut reader = stage.join(">", Format::Json);
    for host in 0..5 {
        stage.write(0, "a.cpu", &format!("cpu,host={host} v={host} 1"));
    }
    stage.flush();
    let messages = reader.messages();
    assert_eq!((&messages[0]["type"], &messages[0]["reason"]), (&"gap".into(), &"retention".into()));
    assert_eq!(messages[1]["from"], messages[0]["to"]);
    assert_eq!(values(&messages[1..]), ["a cpu 3", "a cpu 4"]);
    assert_eq!(messages[1].get("conflated"), None, "nobody knows how much of the gap was overwritten");
    assert_eq!(reader.account().fates, Fates { delivered: 2, filtered: 0, conflated: 0, gap: 3 });
}

#[test]
fn only_the_last_two_flushes_are_kept() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let mut slow = stage.join(">", Format::Json);
    for round in 0..3 {
        stage.write(0, "a.cpu", &format!("cpu v={round} 1"));
        stage.write(0, "b.cpu", &format!("cpu v={round} 1"));
        stage.flush();
        if round == 1 {
            assert_eq!(slow.seat.view().end() - slow.cursor, 4);
            assert!(!slow.seat.view().has_overtaken(slow.cursor));
        }
    }
    assert!(slow.seat.view().has_overtaken(slow.cursor));
    slow.cursor += 2;
    assert_eq!(values(&slow.messages()), ["a cpu 1", "b cpu 1", "a cpu 2", "b cpu 2"]);
}

#[test]
fn a_group_ends_with_its_last_view_and_views_are_spread_over_the_phases() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let readers: Vec<Reader> = (0..8).map(|n| stage.join(&format!("host-{n}.cpu"), Format::Json)).collect();
    stage.flush();
    assert_eq!(stage.groups.len(), usize::from(PHASES));
    drop(readers);
    stage.hub.tidy(&stage.meters);
    stage.flush();
    assert!(stage.groups.is_empty());
    let mut again = stage.join("host-1.cpu", Format::Json);
    stage.write(0, "host-1.cpu", "cpu v=1 1");
    stage.flush();
    assert_eq!(values(&again.messages()), ["host-1 cpu 1"]);
}

#[test]
fn many_values_come_in_messages_of_bounded_size_and_only_the_last_one_moves_on() {
    let mut stage = Stage::new(1, UNBOUNDED);
    let mut reader = stage.join(">", Format::Json);
    for host in 0..2_000 {
        stage.write(0, "a.cpu", &format!("cpu,host=host-{host} v={host},text=\"{}\" 1", "x".repeat(100)));
    }
    stage.flush();
    let texts = reader.texts();
    assert!((4..8).contains(&texts.len()) && texts.iter().all(|text| text.len() < 66_000), "{}", texts.len());
    let messages: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(values(&messages).len(), 2_000);
    let (last, others) = messages.split_last().unwrap();
    assert!(others.iter().all(|message| message["offset"] == message["from"]));
    assert_eq!((last["offset"].as_str(), &last["conflated"]), (Some(&*stage.head()), &0.into()));
}
