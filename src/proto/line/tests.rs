//! Claims about line protocol; those against an independent parser are in `oracle`.

mod errors;
mod oracle;
mod physical;

use std::borrow::Cow;
use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::proto::metric::FieldValue::{self, Boolean, Float, Integer, Unsigned};

/// The only line of `input`.
fn line(input: &str) -> Line<'_> {
    let mut all = lines(input.as_bytes());
    let line = all.next().unwrap().unwrap();
    assert_eq!(all.next(), None);
    line
}

/// What each line of `input` is: its text, or its error.
fn read(input: &[u8]) -> Vec<Result<&str, String>> {
    lines(input).map(|line| line.map(|line| line.text()).map_err(|e| e.to_string())).collect()
}

fn fields(input: &str) -> Vec<(String, FieldValue<'_>)> {
    line(input).fields().map(|(key, value)| (key.into_owned(), value)).collect()
}

fn tags(input: &str) -> Vec<(String, String)> {
    line(input).tags().map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn a_line_gives_its_parts() {
    let line = line("  cpu,host=web-01,region=eu   usage=64.2,n=3i   1700000000123456789 \r\n");
    assert_eq!(line.text(), "cpu,host=web-01,region=eu   usage=64.2,n=3i   1700000000123456789");
    assert_eq!(line.body(), "cpu,host=web-01,region=eu   usage=64.2,n=3i");
    assert_eq!(line.series(), "cpu,host=web-01,region=eu");
    assert_eq!(line.measurement(), "cpu");
    assert_eq!(line.tag("region").as_deref(), Some("eu"));
    assert_eq!(line.tag("rack"), None);
    assert_eq!(line.timestamp(), Some(1_700_000_000_123_456_789));
    let fields: Vec<_> = line.fields().collect();
    assert_eq!(fields, [("usage".into(), Float(64.2)), ("n".into(), Integer(3))]);
}

#[test]
fn every_form_of_a_value_is_read() {
    let forms = [
        ("1", Float(1.0)),
        ("-1.5", Float(-1.5)),
        ("5.", Float(5.0)),
        (".5", Float(0.5)),
        ("-.5", Float(-0.5)),
        ("007", Float(7.0)),
        ("1e9", Float(1e9)),
        ("1.5E-7", Float(1.5e-7)),
        ("1e+3", Float(1000.0)),
        ("1e-999", Float(0.0)),
        ("0i", Integer(0)),
        ("-9223372036854775808i", Integer(i64::MIN)),
        ("9223372036854775807i", Integer(i64::MAX)),
        ("0000000000000000000001i", Integer(1)),
        ("18446744073709551615u", Unsigned(u64::MAX)),
        ("t", Boolean(true)),
        ("T", Boolean(true)),
        ("true", Boolean(true)),
        ("True", Boolean(true)),
        ("TRUE", Boolean(true)),
        ("f", Boolean(false)),
        ("F", Boolean(false)),
        ("false", Boolean(false)),
        ("False", Boolean(false)),
        ("FALSE", Boolean(false)),
        (r#""""#, FieldValue::String("".into())),
        (r#""a b,c=d""#, FieldValue::String("a b,c=d".into())),
        (r#""say \"hi\" \\ \n""#, FieldValue::String(r#"say "hi" \ \n"#.into())),
        (r#""\\""#, FieldValue::String(r"\".into())),
        (r#""\\\"""#, FieldValue::String(r#"\""#.into())),
        ("\"two\nlines\"", FieldValue::String("two\nlines".into())),
        ("\"\\\n\"", FieldValue::String("\\\n".into())),
    ];
    for (text, value) in forms {
        for end in ["", " 7", ",x=1i", "\r\n", " \n"] {
            let input = format!("m v={text}{end}");
            assert_eq!(fields(&input)[0], ("v".to_owned(), value.clone()), "{input:?}");
        }
    }
}

#[test]
fn a_backslash_escapes_delimiters_and_is_itself_elsewhere() {
    let text = r"we\,at\ her\=x\n,a\,b\=c\ d=e\,f\=g\ h\i k\,l\=m\ n\o=1";
    assert_eq!(line(text).measurement(), r"we,at her\=x\n");
    assert_eq!(tags(text), owned(&[("a,b=c d", r"e,f=g h\i")]));
    assert_eq!(fields(text), [(r"k,l=m n\o".to_owned(), Float(1.0))]);
}

#[test]
fn only_the_backslash_right_before_a_delimiter_counts() {
    // A UNC path, as Telegraf writes it: every backslash is part of the value, the comma is escaped.
    let text = r"win,path=\\server\a\\,b v=1";
    assert_eq!(tags(text), owned(&[("path", r"\\server\a\,b")]));
}

#[test]
fn quotes_outside_field_values_are_plain_text() {
    let text = "m\",t\"=\"x k\"=1";
    assert_eq!(line(text).measurement(), "m\"");
    assert_eq!(tags(text), owned(&[("t\"", "\"x")]));
    assert_eq!(fields(text), [("k\"".to_owned(), Float(1.0))]);
}

#[test]
fn blank_lines_and_comments_are_skipped() {
    let input = b"\n\r\n  # a \"comment, f=\"\na v=1\r\n#last\n\t b v=2\n \n#";
    assert_eq!(read(input), [Ok("a v=1"), Ok("b v=2")]);
    assert_eq!(read(b""), []);
}

#[test]
fn a_newline_inside_quotes_does_not_end_the_line() {
    let input = b"log msg=\"one\ntwo v=1\n# three\" 1\ncpu v=1";
    assert_eq!(read(input), [Ok("log msg=\"one\ntwo v=1\n# three\" 1"), Ok("cpu v=1")]);
}

#[test]
fn a_bad_line_never_costs_its_neighbours() {
    let bad =
        ["x", "x v=", ",a=b v=1", "x v=\"open", "x v=\"a\"b\"", "x,t= v=1", "x v=1 2 3", "x v=nan", "x\\"];
    for bad in bad {
        let input = format!("a v=1\n{bad}\r\nb v=2\n{bad}\nc v=3 4");
        let good: Vec<_> = lines(input.as_bytes()).flatten().map(|line| line.text()).collect();
        assert_eq!(good, ["a v=1", "b v=2", "c v=3 4"], "{bad:?}");
        assert_eq!(lines(input.as_bytes()).filter(Result::is_err).count(), 2, "{bad:?}");
    }
}

#[test]
fn bytes_that_are_no_text_cost_one_line() {
    let input = b"a v=1\nb,t=\xff v=1\nc v=\"\xf0\x28\nx v=1\"\nd v=1\n\xfe\xff\ne v=\"\xc3\xa9\"";
    let utf8 = "this is not UTF-8 text";
    assert_eq!(
        read(input),
        [
            Ok("a v=1"),
            Err(format!("line 2, column 5: {utf8}")),
            // The second line of that string is no line of its own.
            Err(format!("line 3, column 6: {utf8}")),
            Ok("d v=1"),
            Err(format!("line 6, column 1: {utf8}")),
            Ok("e v=\"é\""),
        ]
    );
}

#[test]
fn text_inside_a_closed_string_is_never_read_as_a_line() {
    let input = b"log msg=\"x\nevil v=1\n\",n=bad\ngood v=1";
    let read = read(input);
    assert_eq!(read[1..], [Ok("good v=1")]);
    assert_eq!(read[0], Err("line 3, column 5: text in a field needs double quotes".to_owned()));
}

#[test]
fn a_line_with_a_tag_twice_is_refused_and_costs_no_neighbour() {
    let error = "a tag's key comes twice in this line: leave out one of them";
    for (bad, column) in [("m,a=1,a=2 v=1", 7), ("m,a=1,a=1 v=1", 7), ("m,b=1,c=2,a=3,c=4 v=1", 15)] {
        let input = format!("a v=1\n{bad} 5\nb v=2");
        let expected = format!("line 2, column {column}: {error}");
        assert_eq!(read(input.as_bytes()), [Ok("a v=1"), Err(expected), Ok("b v=2")]);
    }
    // Names that only begin or end alike, or differ in an escape, are different.
    let different = r"m,ab=1,a=2,b=3,aa=4,a\ =5,a\,=6,a\\,=7,A=8,a\b=9 v=1";
    assert_eq!(line(different).tags().count(), 9);
}

#[test]
fn a_line_of_very_many_tags_in_any_order_is_read_in_one_look_at_each() {
    let tags = |count: usize| (0..count).rev().map(|n| format!(",k{n:06}=v")).collect::<String>();
    let many = format!("m{} v=1", tags(40_000));
    assert_eq!(line(&many).tags().count(), 40_000);
    let twice = format!("m{},k000000=x v=1", tags(40_000));
    assert_eq!(lines(twice.as_bytes()).filter(Result::is_err).count(), 1);
}

#[test]
fn tabs_may_follow_the_space_before_fields_and_timestamp() {
    for input in ["cpu,a=b \tv=1 \t7", "cpu,a=b \t v=1  \t 7", "cpu,a=b  v=1 7"] {
        let line = line(input);
        assert_eq!(line.fields_text(), "v=1", "{input:?}");
        assert_eq!((line.series(), line.timestamp()), ("cpu,a=b", Some(7)));
        let alone = line.body().to_owned();
        assert_eq!(fields(&alone), [("v".to_owned(), Float(1.0))]);
    }
    assert_eq!(line("cpu v=1 \t").text(), "cpu v=1");
    // Only a space ends a name, and a value.
    assert_eq!(line("c\tpu,a=b\tc v=1").measurement(), "c\tpu");
    assert_eq!(tags("cpu,a=b\tc v=1"), owned(&[("a", "b\tc")]));
    for bad in ["cpu\tv=1", "cpu v=1\t7", "cpu v=1 7\t"] {
        assert!(lines(bad.as_bytes()).all(|line| line.is_err()), "{bad:?}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_line() {
    let mark = "\u{feff}";
    let joined = format!("{mark}a v=1\n{mark}# comment\n  {mark}b v=2\r\n{mark}\nc{mark} v=\"{mark}\"");
    assert_eq!(
        read(joined.as_bytes()),
        [Ok("a v=1"), Ok("b v=2"), Ok(&*format!("c{mark} v=\"{mark}\""))],
        "elsewhere it is a character"
    );
    let broken = format!("{mark}a v=?");
    assert!(read(broken.as_bytes())[0].as_ref().unwrap_err().starts_with("line 1, column "));
    assert_eq!(read(&mark.as_bytes()[..2]).len(), 1);
}

#[test]
fn precision_scales_to_nanoseconds_or_refuses() {
    for (name, unit) in [("ns", 1), ("n", 1), ("us", 1_000), ("u", 1_000), ("µ", 1_000), ("ms", 1_000_000)] {
        assert_eq!(name.parse::<Precision>().unwrap().to_nanoseconds(-3), Some(-3 * unit));
    }
    for (name, seconds) in [("s", 1), ("m", 60), ("h", 3600)] {
        assert_eq!(name.parse::<Precision>().unwrap().to_nanoseconds(2), Some(2 * seconds * 1_000_000_000));
    }
    assert_eq!(Precision::Seconds.to_nanoseconds(i64::MAX / 1_000_000_000 + 1), None);
    assert_eq!("days".parse::<Precision>(), Err(PrecisionError));
    assert_eq!(
        line("m v=1 99999999999").to_metric(Precision::Seconds),
        Err(LineErrorKind::TimestampOutOfRange)
    );
    assert_eq!(line("m v=1 2").to_metric(Precision::Seconds).unwrap().timestamp_ns, Some(2_000_000_000));
}

#[test]
fn what_has_no_line_is_refused_and_leaves_nothing_behind() {
    let metric = |name: &'static str, key: &'static str, value| Metric {
        name: name.into(),
        tags: vec![],
        fields: vec![(key.into(), value)],
        timestamp_ns: None,
    };
    let cases = [
        (metric("", "v", Float(1.0)), Unwritable::Name),
        (metric("\\", "v", Float(1.0)), Unwritable::Name),
        (metric("#cpu", "v", Float(1.0)), Unwritable::Name),
        (metric("cpu", "v", Float(f64::NAN)), Unwritable::Fields),
        (metric("cpu", "v", Float(f64::INFINITY)), Unwritable::Fields),
        (metric("cpu", "", Float(1.0)), Unwritable::Fields),
    ];
    for (metric, reason) in cases {
        let mut out = b"before".to_vec();
        assert_eq!(write_metric(&mut out, &metric), Err(reason));
        assert_eq!(out, b"before");
    }
}

#[test]
fn what_names_cannot_hold_is_written_as_telegraf_writes_it() {
    let metric = Metric {
        name: "a\nb\\".into(),
        tags: vec![("t\t".into(), "C:\\".into()), ("gone".into(), "".into()), ("\\".into(), "gone".into())],
        fields: vec![("v\r\x0c".into(), Boolean(true)), ("gone".into(), Float(f64::NAN))],
        timestamp_ns: Some(-1),
    };
    let mut out = Vec::new();
    write_metric(&mut out, &metric).unwrap();
    assert_eq!(std::str::from_utf8(&out).unwrap(), r"a\nb,t\t=C: v\r\f=true -1");
}

/// Values of every kind, without those floats that line protocol cannot hold.
pub(super) fn any_value() -> impl Strategy<Value = FieldValue<'static>> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Float),
        any::<i64>().prop_map(Integer),
        any::<u64>().prop_map(Unsigned),
        any::<bool>().prop_map(Boolean),
        "(?s).{0,12}".prop_map(|text| FieldValue::String(text.into())),
        "[\\\\\"\n, =é]{0,8}".prop_map(|text| FieldValue::String(text.into())),
    ]
}

/// One tag of each key, in the order of their first.
fn unrepeated(tags: Vec<(String, String)>) -> Vec<(Cow<'static, str>, Cow<'static, str>)> {
    let mut seen = HashSet::new();
    let tags = tags.into_iter().filter(|(key, _)| seen.insert(key.clone()));
    tags.map(|(key, value)| (key.into(), value.into())).collect()
}

/// Metrics whose names match `name`.
pub(super) fn any_metric(name: &'static str) -> impl Strategy<Value = Metric<'static>> {
    (
        name.prop_filter("no comment, no mark", |name| !name.starts_with(['#', '\u{feff}'])),
        prop::collection::vec((name, name), 0..4),
        prop::collection::vec((name, any_value()), 1..5),
        any::<Option<i64>>(),
    )
        .prop_map(|(name, tags, fields, timestamp_ns)| Metric {
            name: name.into(),
            tags: unrepeated(tags),
            fields: fields.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            timestamp_ns,
        })
}

proptest! {
    #[test]
    fn metrics_survive_writing_and_reading(metric in any_metric("([^\\p{Cc}]|[,= \\\\\"]){0,5}[^\\p{Cc}\\\\]")) {
        let mut out = Vec::new();
        write_metric(&mut out, &metric).unwrap();
        out.push(b'\n');
        let mut all = lines(&out);
        let line = all.next().unwrap().unwrap();
        prop_assert_eq!(line.to_metric(Precision::Nanoseconds).unwrap(), metric);
        prop_assert!(all.next().is_none());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        walk(&bytes)?;
    }

    #[test]
    fn nothing_like_a_line_panics(text in "([a-c]|[,= \\\\\"\n\r\t]|[-+.0-9eiutfTF#]|é){0,60}", at in 0usize..60, byte: u8) {
        let mut bytes = text.into_bytes();
        walk(&bytes)?;
        if let Some(slot) = bytes.get_mut(at) {
            *slot = byte;
        }
        walk(&bytes)?;
    }
}

/// Whatever a line is accepted as, its parts make it up, and it reads the same when it stands alone.
fn walk(bytes: &[u8]) -> Result<(), TestCaseError> {
    for line in lines(bytes).flatten() {
        prop_assert!(line.fields().count() > 0);
        prop_assert!(line.text().starts_with(line.body()));
        prop_assert!(line.body().starts_with(line.series()));
        prop_assert!(line.series().starts_with(line.measurement_escaped()));
        let alone: Vec<_> = lines(line.text().as_bytes()).collect();
        prop_assert_eq!(&alone[..], &[Ok(line)]);
        let body: Vec<_> = lines(line.body().as_bytes()).collect();
        prop_assert!(
            matches!(&body[..], [Ok(same)] if same.fields().eq(line.fields()) && same.tags().eq(line.tags()))
        );
    }
    Ok(())
}

#[test]
fn a_series_is_the_same_text_in_whatever_order_its_tags_come() {
    for (written, canonical) in [
        ("cpu v=1", "cpu"),
        ("cpu,a=1,b=2 v=1", "cpu,a=1,b=2"),
        ("cpu,b=2,a=1 v=1", "cpu,a=1,b=2"),
        (r"c\,pu,b=2\ 3,a\==1 v=1", r"c\,pu,a\==1,b=2\ 3"),
    ] {
        let canonical_ = line(written).canonical_series().into_owned();
        assert_eq!(canonical_, canonical);
        let tags: Vec<_> = series_tags(&canonical_).collect();
        let again = format!("{canonical_} v=1");
        assert_eq!(tags, line(&again).tags().collect::<Vec<_>>());
    }
    assert!(matches!(line("cpu,a=1,b=2 v=1").canonical_series(), std::borrow::Cow::Borrowed(_)));
}

#[test]
fn fields_of_several_lines_become_those_of_one() {
    for (older, newer, merged) in [
        ("a=1,b=2i", "a=3,b=4i", "a=3,b=4i"),
        ("a=1,b=2i", "b=4i,a=3", "a=3,b=4i"),
        ("load1=1,load5=2", "uptime=7i", "load1=1,load5=2,uptime=7i"),
        ("a=1", "b=\"x,y=z\",a=\"\"", "a=\"\",b=\"x,y=z\""),
        ("a=1", "a=2,a=3,b=4", "a=3,b=4"),
        ("a=1,b=2", "b=3", "a=1,b=3"),
    ] {
        let mut fields = older.to_owned();
        merge_fields(&mut fields, newer);
        assert_eq!(fields, merged);
    }
    assert_eq!(line("cpu,a=1   x=1,y=2  7").fields_text(), "x=1,y=2");
}
