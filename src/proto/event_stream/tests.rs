use proptest::prelude::*;

use super::*;

#[allow(unreachable_pub, dead_code, reason = "shared with the black-box tests")]
#[path = "../../../tests/support/event_stream.rs"]
mod browser;

use browser::{EventStream, MessageEvent};

#[derive(Clone, Debug)]
enum Step {
    Event(Option<String>, String),
    Retry(u64),
    Comment(String),
}

fn step() -> impl Strategy<Value = Step> {
    let id = prop::option::of("[A-Za-z0-9_-]{1,64}");
    // Texts full of what the format itself is made of.
    let data = "(\\{\"type\":\"x\"\\}|# offset A|cpu v=\"|data: |id: 1|:| |é|\n|\r|\r\n){1,12}";
    prop_oneof![
        4 => (id, data).prop_map(|(id, data)| Step::Event(id, data)),
        1 => any::<u64>().prop_map(Step::Retry),
        1 => "[a-z: ]{0,20}".prop_map(Step::Comment),
    ]
}

fn as_read(data: &str) -> String {
    let lines = data.replace("\r\n", "\n").replace('\r', "\n");
    lines.strip_suffix('\n').unwrap_or(&lines).to_owned()
}

proptest! {
    #[test]
    fn browsers_and_our_reader_get_exactly_the_messages_however_the_bytes_are_cut(
        steps in prop::collection::vec(step(), 0..20),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let mut wire = Vec::new();
        let (mut events, mut seen) = (Vec::new(), Vec::new());
        let (mut retry, mut last_id) = (None, String::new());
        for step in &steps {
            match step {
                Step::Event(id, data) => {
                    write_event(&mut wire, id.as_deref(), data.as_bytes());
                    events.push(Event { id: id.clone(), data: as_read(data).into_bytes() });
                    let before = seen.last().map(|event: &MessageEvent| event.last_event_id.clone());
                    let last_event_id = id.clone().or(before).unwrap_or_default();
                    last_id.clone_from(&last_event_id);
                    seen.push(MessageEvent { last_event_id, data: as_read(data) });
                }
                Step::Retry(milliseconds) => {
                    write_retry(&mut wire, *milliseconds);
                    retry = Some(*milliseconds);
                }
                Step::Comment(text) => write_comment(&mut wire, text),
            }
        }
        let (mut browser, mut reader) = (EventStream::default(), Reader::default());
        let (mut got, mut read) = (Vec::new(), Vec::new());
        let (mut rest, mut cuts) = (&wire[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            got.extend(browser.take(now));
            reader.feed(now);
            read.extend(std::iter::from_fn(|| reader.next_event()));
            rest = later;
        }
        prop_assert_eq!(read, events);
        prop_assert_eq!(got, seen);
        prop_assert_eq!(browser.last_id, last_id);
        prop_assert_eq!(browser.retry, retry);
    }
}

#[test]
fn an_event_has_its_place_and_its_lines() {
    let mut out = Vec::new();
    write_retry(&mut out, 2_100);
    write_event(&mut out, Some("ARjq"), b"# offset ARjq\ncpu v=1 1\n");
    write_comment(&mut out, "ping");
    write_event(&mut out, None, b"{}");
    let wanted = "retry: 2100\n\nid: ARjq\ndata: # offset ARjq\ndata: cpu v=1 1\n\n: ping\n\ndata: {}\n\n";
    assert_eq!(String::from_utf8(out).unwrap(), wanted);
}
