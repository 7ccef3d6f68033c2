//! Server-sent events, byte for byte (WHATWG HTML, section 9.2 "Server-sent events").
//!
//! Every event is of the default type, so that an `EventSource` gets all of them as `message`. Its id is the offset at which
//! its reader would resume; an event without one leaves the reader where it was.

use memchr::{memchr2, memmem};

/// Appends an event. The format has lines and no other bytes between them: a line feed, a carriage return or both in
/// `data` come out as one line feed, and one at its end not at all.
pub fn write_event(out: &mut Vec<u8>, id: Option<&str>, data: &[u8]) {
    out.reserve(data.len() + id.map_or(0, str::len) + 16);
    if let Some(id) = id {
        debug_assert!(!id.contains(['\r', '\n', '\0']), "such an id would be cut or ignored");
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.push(b'\n');
    }
    let mut rest = data;
    loop {
        let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let break_bytes = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = rest.get(end + break_bytes..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
    }
    out.push(b'\n');
}

/// Appends the time after which readers are to come back when the connection ends, from now on.
pub fn write_retry(out: &mut Vec<u8>, milliseconds: u64) {
    out.extend_from_slice(b"retry: ");
    out.extend_from_slice(itoa::Buffer::new().format(milliseconds).as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// Appends what readers skip. `text` is one line.
pub fn write_comment(out: &mut Vec<u8>, text: &str) {
    debug_assert!(!text.contains(['\r', '\n']), "what follows would be read");
    out.extend_from_slice(b": ");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// One event, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where its reader would resume, if it says so.
    pub id: Option<String>,
    /// Its lines, with line feeds between them.
    pub data: Vec<u8>,
}

/// Reads what this module writes; other servers' streams may be more than it understands.
#[derive(Debug, Default)]
pub struct Reader {
    unread: Vec<u8>,
    /// Where the end of the next event is to be looked for.
    searched: usize,
}

impl Reader {
    /// Takes bytes, however they were cut.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next whole event, if it is there; comments and times to come back are passed over.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let Some(end) = memmem::find(&self.unread[self.searched..], b"\n\n") else {
                // The first of the two may be here already.
                self.searched = self.unread.len().saturating_sub(1);
                return None;
            };
            let end = self.searched + end;
            let event = parse(&self.unread[..end]);
            self.unread.drain(..end + 2);
            self.searched = 0;
            if event.is_some() {
                return event;
            }
        }
    }
}

fn parse(block: &[u8]) -> Option<Event> {
    let mut id = None;
    let mut data: Option<Vec<u8>> = None;
    for line in block.split(|byte| *byte == b'\n') {
        if let Some(text) = line.strip_prefix(b"id: ") {
            id = Some(String::from_utf8_lossy(text).into_owned());
        } else if let Some(text) = line.strip_prefix(b"data: ") {
            match &mut data {
                None => data = Some(text.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(text);
                }
            }
        }
    }
    Some(Event { id, data: data? })
}

#[cfg(test)]
mod tests;
