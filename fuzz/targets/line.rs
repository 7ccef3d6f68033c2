//! Any bytes as line protocol: nothing panics, an accepted line reads the same alone, and its metric survives writing and
//! reading, is JSON that an independent parser accepts, and is one physical line, reversibly, where it is escaped.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::json::write_metrics;
use telecast_fuzz::proto::line::{
    Line, Precision, Unwritable, lines, read_physical, write_metric, write_physical,
};

fuzz_target!(|input: &[u8]| {
    for line in lines(input).flatten() {
        assert!(lines(line.text().as_bytes()).eq([Ok(line)]), "a line depends on its neighbours");
        check_round_trip(&line);
        check_physical(&line);
        let mut json = Vec::new();
        write_metrics(&mut json, std::iter::once(line), 0);
        let parsed: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(parsed[0]["name"], *line.measurement());
    }
});

fn check_physical(line: &Line<'_>) {
    let mut escaped = Vec::new();
    write_physical(&mut escaped, line.text());
    let escaped = String::from_utf8(escaped).expect("UTF-8");
    let ends = |c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}');
    assert!(!escaped.contains(ends) && !escaped.starts_with('#'), "{escaped:?}");
    assert_eq!(read_physical(&escaped), line.text());
    let mut all = lines(escaped.as_bytes());
    let alone = all.next().expect("a line").expect("a valid line");
    assert!(all.next().is_none());
    assert_eq!(
        (alone.tags().count(), alone.fields().count(), alone.timestamp()),
        (line.tags().count(), line.fields().count(), line.timestamp())
    );
}

fn check_round_trip(line: &Line<'_>) {
    let metric = line.to_metric(Precision::Nanoseconds).expect("nanoseconds are always in range");
    // Control characters are accepted in names and written as two characters, like Telegraf does.
    let series_is_plain = !line.series().bytes().any(|byte| byte.is_ascii_control());
    let mut written = Vec::new();
    match write_metric(&mut written, &metric) {
        Ok(()) => {}
        // Two keys that differ in such a character only.
        Err(Unwritable::Tags) if !series_is_plain => return,
        Err(e) => panic!("what was a line has a line: {e}"),
    }
    let mut all = lines(&written);
    let again = all.next().expect("a line").expect("a valid line");
    assert!(all.next().is_none());
    if series_is_plain && line.fields().all(|(key, _)| !key.bytes().any(|byte| byte.is_ascii_control())) {
        assert_eq!(again.to_metric(Precision::Nanoseconds), Ok(metric));
    }
}
