use proptest::prelude::*;

use super::*;

/// What a browser makes of a stream: written from the standard's rules for interpreting one, and from nothing of ours.
#[derive(Default)]
struct Browser {
    line: Vec<u8>,
    after_return: bool,
    data: String,
    last_id: String,
    retry: Option<u64>,
    /// Each with the id that `event.lastEventId` would be.
    got: Vec<(String, String)>,
}

impl Browser {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\r' | b'\n' => {
                    self.after_return = *byte == b'\r';
                    let line = String::from_utf8(std::mem::take(&mut self.line)).unwrap();
                    self.interpret(&line);
                }
                other => {
                    self.after_return = false;
                    self.line.push(*other);
                }
            }
        }
    }

    fn interpret(&mut self, line: &str) {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            if !data.is_empty() {
                self.got.push((self.last_id.clone(), data.strip_suffix('\n').unwrap_or(&data).to_owned()));
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.last_id = value.to_owned(),
            "retry" => self.retry = value.parse().ok().or(self.retry),
            "event" => panic!("an EventSource's onmessage gets no events with a type: {value}"),
            _ => {}
        }
    }
}

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
        let (mut events, mut seen, mut retry) = (Vec::new(), Vec::new(), None);
        for step in &steps {
            match step {
                Step::Event(id, data) => {
                    write_event(&mut wire, id.as_deref(), data.as_bytes());
                    events.push(Event { id: id.clone(), data: as_read(data).into_bytes() });
                    let before = seen.last().map_or(String::new(), |(id, _): &(String, String)| id.clone());
                    seen.push((id.clone().unwrap_or(before), as_read(data)));
                }
                Step::Retry(milliseconds) => {
                    write_retry(&mut wire, *milliseconds);
                    retry = Some(*milliseconds);
                }
                Step::Comment(text) => write_comment(&mut wire, text),
            }
        }
        let (mut browser, mut reader) = (Browser::default(), Reader::default());
        let (mut read, mut rest, mut cuts) = (Vec::new(), &wire[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            browser.take(now);
            reader.feed(now);
            read.extend(std::iter::from_fn(|| reader.next_event()));
            rest = later;
        }
        prop_assert_eq!(read, events);
        prop_assert_eq!(browser.got, seen);
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
