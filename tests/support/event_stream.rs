//! What a browser makes of an event stream: written from the standard's rules for interpreting one (WHATWG HTML, section
//! 9.2.6), and from nothing of ours.

/// See the module. What it is fed may be cut anywhere.
#[derive(Default)]
pub struct EventStream {
    line: Vec<u8>,
    after_return: bool,
    data: String,
    /// What an `EventSource` would send as `Last-Event-ID`: the id of the last event that came whole.
    pub last_id: String,
    /// The id of what is coming.
    next_id: String,
    /// After how many milliseconds it would come back.
    pub retry: Option<u64>,
    /// Lines that were comments.
    pub comments: Vec<String>,
}

/// One event, as `onmessage` gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageEvent {
    pub last_event_id: String,
    pub data: String,
}

impl EventStream {
    /// Takes bytes, and returns the events they complete.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<MessageEvent> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\r' | b'\n' => {
                    self.after_return = *byte == b'\r';
                    let line = String::from_utf8(std::mem::take(&mut self.line)).expect("UTF-8");
                    events.extend(self.interpret(&line));
                }
                other => {
                    self.after_return = false;
                    self.line.push(*other);
                }
            }
        }
        events
    }

    /// The connection has ended: an event without its end is none.
    pub fn forget_the_unfinished(&mut self) {
        self.line.clear();
        self.data.clear();
        self.after_return = false;
    }

    fn interpret(&mut self, line: &str) -> Option<MessageEvent> {
        if line.is_empty() {
            self.last_id.clone_from(&self.next_id);
            let data = std::mem::take(&mut self.data);
            let data = data.strip_suffix('\n')?.to_owned();
            return Some(MessageEvent { last_event_id: self.last_id.clone(), data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments.push(value.to_owned()),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.next_id = value.to_owned(),
            "retry" => self.retry = value.parse().ok().or(self.retry),
            "event" => panic!("onmessage gets no events with a type: {value}"),
            _ => {}
        }
        None
    }
}
