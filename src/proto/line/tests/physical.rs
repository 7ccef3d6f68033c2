//! Claims about lines that are one line for every reader.

use proptest::prelude::*;

use super::*;

fn physical(text: &str) -> String {
    let mut out = Vec::new();
    write_physical(&mut out, text);
    String::from_utf8(out).unwrap()
}

#[test]
fn what_ends_a_line_for_some_reader_is_escaped_and_nothing_else() {
    for (text, escaped) in [
        ("cpu,host=a\\ b v=1,s=\"x y\\\"z\\\\\" 17", "cpu,host=a\\ b v=1,s=\"x y\\\"z\\\\\" 17"),
        ("m s=\"a\n# offset FORGED\nm v=2 1\" 1", "m s=\"a\\u000a# offset FORGED\\u000am v=2 1\" 1"),
        ("m s=\"a\r\nb\"", "m s=\"a\\u000d\\u000ab\""),
        (
            "m s=\"\u{b}\u{c}\u{1c}\u{85}\u{2028}\u{2029}\"",
            "m s=\"\\u000b\\u000c\\u001c\\u0085\\u2028\\u2029\"",
        ),
        ("m,t=a\u{1b}[31m v=1", "m,t=a\\u001b[31m v=1"),
        ("m s=\"C:\\users\\x\"", "m s=\"C:\\u005cusers\\x\""),
        ("m s=\"\\\\u000a\"", "m s=\"\\\\u005cu000a\""),
        ("m s=\"é â\u{2027} \t\"", "m s=\"é â\u{2027} \t\""),
        ("m s=\"a\\\nb\"", "m s=\"a\\\\u000ab\""),
    ] {
        assert_eq!(physical(text), escaped);
        assert_eq!(read_physical(escaped), text);
    }
    assert_eq!(
        read_physical("\\u12 \\ud800 \\uzzzz\\u"),
        "\\u12 \\ud800 \\uzzzz\\u",
        "nothing that was written here"
    );
}

/// A reader that takes any of these for the end of a line: Python's `str.splitlines`, and so most HTTP libraries.
const ENDS: [char; 10] =
    ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];

proptest! {
    #[test]
    fn any_text_comes_back_from_one_line(text in "([a-z]|[\\\\u0-9\"]|[\n\r\u{b}\u{85}\u{2028}\t\u{7f}]|.){0,40}") {
        let escaped = physical(&text);
        prop_assert!(!escaped.contains(ENDS) && !escaped.contains(|c: char| c.is_control() && c != '\t'), "{escaped:?}");
        prop_assert_eq!(read_physical(&escaped), text);
    }

    /// Whatever a string holds, a reader of the physical lines finds no line and no comment that is not there.
    #[test]
    fn no_value_forges_a_line(
        strings in prop::collection::vec("(\n# offset AQ\n|m v=1 1|\\\\u000a|[\n\r\u{2028}\\\\ #\"]|[a-z]){0,12}", 1..4),
        tag in "[a-z\\\\\u{b}\u{85}\u{2029}\r]{0,6}[a-z]",
    ) {
        let mut all = Vec::new();
        for text in &strings {
            let metric = Metric {
                name: "m".into(),
                tags: vec![("t".into(), tag.as_str().into())],
                fields: vec![("s".into(), FieldValue::String(text.as_str().into()))],
                timestamp_ns: Some(1),
            };
            write_metric(&mut all, &metric).unwrap();
            all.push(b'\n');
        }
        let mut out = Vec::new();
        for line in lines(&all) {
            write_physical(&mut out, line.unwrap().text());
            out.push(b'\n');
        }
        let out = String::from_utf8(out).unwrap();
        let physical: Vec<&str> = out.split(ENDS).filter(|line| !line.is_empty()).collect();
        prop_assert_eq!(physical.len(), strings.len(), "{}", out);
        for (physical, text) in physical.iter().zip(&strings) {
            let raw = read_physical(physical).into_owned();
            let metric = line(&raw).to_metric(Precision::Nanoseconds).unwrap();
            prop_assert_eq!(&metric.fields[0].1, &FieldValue::String(text.as_str().into()));
            // Left as it is, it is a line of the same shape.
            let unread = line(physical).to_metric(Precision::Nanoseconds).unwrap();
            prop_assert_eq!((unread.tags.len(), unread.fields.len(), unread.timestamp_ns), (1, 1, Some(1)));
        }
    }
}
