//! What is published: the stamp, and as much around it as the size asks for. Pure.

use peers::stamp::{Stamp, message};

/// What Telecast writes around the fields of a line when it sends it as JSON to clients: the longest its offset gets included.
const JSON_AROUND_BYTES: usize = r#"{"type":"metrics","offset":"ARjqRMSyPbpgAQL8IoUT","collector":"bench","metrics":[{"name":"load","tags":{"host":"bench"},"fields":{},"timestamp":1795323075000}]}"#.len();
/// A field as collectors have them: `,"usage_001":12.3456789012` in JSON, the same less its quotes in a line.
const FIELD_JSON_BYTES: usize = r#","usage_001":12.3456789012"#.len();
const PAD_JSON_BYTES: usize = r#","p":"""#.len();

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// A JSON object, delivered as it is.
    Json,
    /// Line protocol that Telecast sends to clients as JSON of that size.
    Line,
}

/// A message of a shape and size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload {
    pub(crate) shape: Shape,
    pub(crate) bytes: usize,
}

impl Payload {
    pub(crate) fn with(self, stamp: Stamp) -> anyhow::Result<Vec<u8>> {
        match self.shape {
            Shape::Json => message(stamp, self.bytes),
            Shape::Line => Ok(line(stamp, self.bytes).into_bytes()),
        }
    }
}

/// A line whose JSON has `bytes` bytes, or as few as it can have if that is more.
fn line(stamp: Stamp, bytes: usize) -> String {
    let Stamp { sent_ns, number } = stamp;
    let mut line = format!("load,host=bench sent_ns={sent_ns:019}i,seq={number:010}i");
    let mut left = bytes.saturating_sub(JSON_AROUND_BYTES + stamp.text().len());
    let mut field = 0;
    while left >= FIELD_JSON_BYTES + PAD_JSON_BYTES && field < 999 {
        field += 1;
        line.push_str(&format!(",usage_{field:03}={}.3456789012", 10 + field % 90));
        left -= FIELD_JSON_BYTES;
    }
    if let Some(pad) = left.checked_sub(PAD_JSON_BYTES) {
        line.push_str(&format!(",p=\"{}\"", "x".repeat(pad)));
    }
    line.push_str(&format!(" {sent_ns}"));
    line
}

#[cfg(test)]
mod tests {
    use peers::stamp::FIRST_NUMBER;

    use super::*;

    const STAMP: Stamp = Stamp { sent_ns: 1_795_329_435_000_000_000, number: FIRST_NUMBER };

    /// What the edge makes of a line, in the plainest way.
    fn as_json(line: &str) -> String {
        let [_, fields, timestamp] = line.split(' ').collect::<Vec<_>>()[..] else { unreachable!() };
        let fields: Vec<_> = fields
            .split(',')
            .map(|field| {
                let (key, value) = field.split_once('=').unwrap();
                format!("\"{key}\":{}", value.trim_end_matches('i'))
            })
            .collect();
        format!(
            r#"{{"type":"metrics","offset":"ARjqRMSyPbpgAQL8IoUT","collector":"bench","metrics":[{{"name":"load","tags":{{"host":"bench"}},"fields":{{{}}},"timestamp":{}}}]}}"#,
            fields.join(","),
            &timestamp[..13]
        )
    }

    #[test]
    fn a_lines_json_has_the_size_asked_for() {
        for bytes in (250..600).chain([4096, 20_000]) {
            let json = as_json(&line(STAMP, bytes));
            assert!(json.contains(&STAMP.text()));
            // Between nothing and the shortest pad there is nothing to choose from.
            assert!(json.len() <= bytes && json.len() + PAD_JSON_BYTES > bytes, "{bytes}: {}", json.len());
        }
    }

    #[test]
    fn the_smallest_line_is_a_stamp() {
        let json = as_json(&line(STAMP, 128));
        assert_eq!(json.len(), JSON_AROUND_BYTES + STAMP.text().len());
    }
}
