//! Claims about JSON.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::proto::line::{LineFault, Precision, Unwritable, lines, write_metric};
use crate::proto::metric::{FieldValue, Metric};

/// What each metric of `input` is, with times in seconds: itself, or its error.
fn read(input: &str) -> Vec<Result<Metric<'_>, String>> {
    let metrics = decode(input.as_bytes(), Precision::Seconds).unwrap();
    metrics.into_iter().map(|metric| metric.map_err(|e| e.to_string())).collect()
}

/// The names of those that were read, and the numbers of those that were not.
fn names(input: &str) -> (Vec<String>, Vec<usize>) {
    let metrics = decode(input.as_bytes(), Precision::Seconds).unwrap();
    let bad = metrics.iter().filter_map(|metric| metric.as_ref().err().map(|e| e.index)).collect();
    (metrics.into_iter().flatten().map(|metric| metric.name.into_owned()).collect(), bad)
}

/// The error of the only metric of `input`.
fn error(input: &str) -> JsonErrorKind {
    let mut metrics = decode(input.as_bytes(), Precision::Seconds).unwrap();
    assert_eq!(metrics.len(), 1, "{input}");
    metrics.remove(0).unwrap_err().kind
}

/// The JSON of line protocol, parsed by an independent parser.
fn json_of(input: &str) -> Value {
    let mut out = Vec::new();
    write_metrics(&mut out, lines(input.as_bytes()).map(Result::unwrap), 1_700_000_000_999_999_999);
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
}

#[test]
fn a_telegraf_metric_is_read() {
    let input = r#"{"fields":{"usage":64.2,"n":3,"big":18446744073709551615,"low":-9223372036854775808,"up":true,
        "text":"a \"b\"\n","none":null},"name":"cpu","tags":{"host":"web-01"},"timestamp":1700000000}"#;
    let expected = Metric {
        name: "cpu".into(),
        tags: vec![("host".into(), "web-01".into())],
        fields: vec![
            ("usage".into(), FieldValue::Float(64.2)),
            ("n".into(), FieldValue::Whole(3)),
            ("big".into(), FieldValue::Whole(u64::MAX.into())),
            ("low".into(), FieldValue::Whole(i64::MIN.into())),
            ("up".into(), FieldValue::Boolean(true)),
            ("text".into(), FieldValue::String("a \"b\"\n".into())),
        ],
        timestamp_ns: Some(1_700_000_000_000_000_000),
    };
    assert_eq!(read(input), [Ok(expected)]);
}

/// One field of one type, however its values are written, and none loses a digit.
#[test]
fn numbers_of_json_are_floats_with_all_their_digits() {
    for (number, written) in [
        ("1.5", "1.5"),
        ("2", "2"),
        ("-7", "-7"),
        ("0", "0"),
        ("2.0", "2.0"),
        ("1e3", "1000.0"),
        ("9007199254740993", "9007199254740993"),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709551616", "1.8446744073709552e+19"),
    ] {
        let input = format!(r#"{{"name":"m","fields":{{"v":{number}}},"timestamp":1}}"#);
        let mut text = Vec::new();
        write_metric(&mut text, &read(&input)[0].clone().unwrap()).unwrap();
        assert_eq!(std::str::from_utf8(&text).unwrap(), format!("m v={written} 1000000000"));
        let line = lines(&text).next().unwrap().unwrap();
        assert!(matches!(line.fields().next().unwrap().1, FieldValue::Float(_)), "{number}");
        let shown = json_of(std::str::from_utf8(&text).unwrap())[0]["fields"]["v"].to_string();
        assert_eq!(shown, written, "a client gets the same digits");
    }
}

#[test]
fn a_tag_twice_costs_its_metric_and_of_a_field_twice_the_last_counts() {
    let metric =
        |tags: &str, fields: &str| format!(r#"{{"name":"m","tags":{{{tags}}},"fields":{{{fields}}}}}"#);
    for tags in [r#""a":"1","a":"2""#, r#""a":"1","b":"2","\u0061":"1""#] {
        let input = metric(tags, r#""v":1"#);
        assert_eq!(error(&input), JsonErrorKind::RepeatedTag("a".into()), "{input}");
    }
    let [good, bad] = [metric("", r#""v":1"#), metric(r#""a":"","a":"1""#, r#""v":1"#)];
    assert_eq!(names(&format!("[{good},{bad},{good}]")), (vec!["m".into(), "m".into()], vec![1]));
    let twice = metric("", r#""v":1,"w":2,"v":"x","v":null,"u":true"#);
    let text = |text: &'static str| FieldValue::String(text.into());
    assert_eq!(
        read(&metric("", r#""v":1,"w":2,"v":"x""#))[0].clone().unwrap().fields,
        [("v".into(), text("x")), ("w".into(), FieldValue::Whole(2))]
    );
    let fields = read(&twice)[0].clone().unwrap().fields;
    assert_eq!(fields, [("w".into(), FieldValue::Whole(2)), ("u".into(), FieldValue::Boolean(true))]);
    // Keys that line protocol can only write alike.
    let mut out = Vec::new();
    for tags in [r#""a":"1","a\\":"2""#, r#""a\nb":"1","a\\nb":"2""#] {
        let alike = metric(tags, r#""v":1"#);
        assert_eq!(write_metric(&mut out, &read(&alike)[0].clone().unwrap()), Err(Unwritable::Tags));
        assert!(out.is_empty());
    }
}

/// The members of every object in a text of JSON, however often they come.
fn members(text: &[u8]) -> Vec<Vec<String>> {
    struct Counted<'a>(&'a mut Vec<Vec<String>>);
    impl<'de> serde::de::DeserializeSeed<'de> for Counted<'_> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
            from.deserialize_any(self)
        }
    }
    impl<'de> serde::de::Visitor<'de> for Counted<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("JSON")
        }
        fn visit_bool<E>(self, _: bool) -> Result<(), E> {
            Ok(())
        }
        fn visit_i64<E>(self, _: i64) -> Result<(), E> {
            Ok(())
        }
        fn visit_u64<E>(self, _: u64) -> Result<(), E> {
            Ok(())
        }
        fn visit_f64<E>(self, _: f64) -> Result<(), E> {
            Ok(())
        }
        fn visit_str<E>(self, _: &str) -> Result<(), E> {
            Ok(())
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut all: A) -> Result<(), A::Error> {
            while all.next_element_seed(Counted(self.0))?.is_some() {}
            Ok(())
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut all: A) -> Result<(), A::Error> {
            let mut keys = Vec::new();
            while let Some(key) = all.next_key::<String>()? {
                keys.push(key);
                all.next_value_seed(Counted(self.0))?;
            }
            self.0.push(keys);
            Ok(())
        }
    }
    let mut found = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(text);
    serde::de::DeserializeSeed::deserialize(Counted(&mut found), &mut parser).unwrap();
    found
}

#[test]
fn no_object_has_a_member_twice() {
    let many: String = (0..100).map(|n| format!("f{n}={n},")).collect();
    for (fields, shown) in [
        ("v=1,v=2", json!({"v": 2})),
        ("v=1,w=1,v=2i,u=3,w=\"x\"", json!({"v": 2, "u": 3, "w": "x"})),
        (r"a\ b=1,a\ b=t", json!({"a b": true})),
        (&format!("{many}f7=0"), Value::Null),
    ] {
        let input = format!("m,t=1 {fields} 5");
        let mut out = Vec::new();
        write_metrics(&mut out, lines(input.as_bytes()).map(Result::unwrap), 0);
        for mut keys in members(&out) {
            let count = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), count, "{}", String::from_utf8_lossy(&out));
        }
        if !shown.is_null() {
            assert_eq!(json_of(&input)[0]["fields"], shown);
        }
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_json() {
    let metric = r#"{"name":"a","fields":{"v":1}}"#;
    for input in [
        format!("\u{feff}{metric}"),
        format!("\u{feff}\n[{metric}]\n"),
        format!("\u{feff}{{\"metrics\":[{metric}]}}"),
    ] {
        assert_eq!(names(&input), (vec!["a".into()], vec![]), "{input}");
    }
    let joined = format!("\u{feff}{metric}\n\u{feff}{metric}");
    assert_eq!(names(&joined).0.len(), 2);
}

#[test]
fn every_arrangement_of_metrics_is_read() {
    let [a, b, c] = ["a", "b", "c"].map(|name| format!(r#"{{"name":"{name}","fields":{{"v":1}}}}"#));
    let arrangements = [
        format!("{{\"metrics\":[{a},{b},{c}]}}"),
        format!(" {{ \"metrics\" : [ {a} , {b} , {c} ] }}\r\n"),
        format!("{{\"version\":{{\"metrics\":[]}},\"metrics\":[{a},{b},{c}],\"x\":1}}"),
        format!("[{a},{b},\n{c}]"),
        format!("{a}\n{b}\n{c}\n"),
        format!("{a}{b} {c}"),
        format!("{{\"metrics\":[{a}]}}\n[{b}]{c}"),
    ];
    for input in arrangements {
        assert_eq!(names(&input), (vec!["a".into(), "b".into(), "c".into()], vec![]), "{input}");
    }
    for empty in ["", " \n", "[]", "{\"metrics\":[]}", "[ ]"] {
        assert_eq!(names(empty), (vec![], vec![]), "{empty}");
    }
}

#[test]
fn a_bad_metric_never_costs_its_neighbours() {
    let good = |name: &str| format!(r#"{{"name":"{name}","fields":{{"v":1}}}}"#);
    let bad = [
        r#"{"name":"x","fields":{"v":[1]}}"#,
        r#"{"name":"x","fields":{"v":1e999}}"#,
        r#"{"name":"x","fields":{"v":nan}}"#,
        r#"{"name":"x","fields":{"v":"}]\"{["},}"#,
        r#"{"name":"x",,]}"#,
        r#"{"name":"x"]]]}"#,
        "{}",
        "7",
        "null",
        "\"x,]\"",
        "[[]]",
        "",
    ];
    for bad in bad {
        for (open, close) in [("[", "]"), ("{\"metrics\":[", "]}")] {
            let input = format!("{open}{},{bad},{}{close}", good("a"), good("b"));
            assert_eq!(names(&input), (vec!["a".into(), "b".into()], vec![1]), "{input}");
        }
        if bad.starts_with('{') {
            let input = format!("{}\n{bad}\n{}", good("a"), good("b"));
            assert_eq!(names(&input), (vec!["a".into(), "b".into()], vec![1]), "{input}");
        }
    }
}

#[test]
fn what_was_whole_before_a_cut_is_read() {
    let a = r#"{"metrics":[{"name":"a","fields":{"v":1}}"#;
    let b = r#",{"name":"b","fields":{"v":1}}"#;
    let input = format!("{a}{b}]}}");
    for end in 1..input.len() {
        let (names, bad) = names(&input[..end]);
        let whole: &[&str] =
            if end >= a.len() + b.len() { &["a", "b"] } else { &["a"][..usize::from(end >= a.len())] };
        assert_eq!(names, whole, "{}", &input[..end]);
        // Once the array is closed, nothing that counts is missing.
        assert_eq!(bad.len(), usize::from(end < input.len() - 1), "{}", &input[..end]);
    }
    assert_eq!(
        names(r#"{"name":"a","fields":{"v":1}} x {"name":"b","fields":{"v":1}}"#),
        (vec!["a".into()], vec![1])
    );
}

#[test]
fn every_error_says_what_to_do() {
    let with = |rest: &str| error(&format!("{{\"fields\":{{\"v\":1}}{rest}}}"));
    assert_eq!(with(""), JsonErrorKind::Name);
    assert_eq!(with(r#","name":"""#), JsonErrorKind::Name);
    assert_eq!(with(r#","name":7"#), JsonErrorKind::Name);
    assert_eq!(with(r#","name":"x","tags":[]"#), JsonErrorKind::Tags);
    assert_eq!(with(r#","name":"x","tags":{"t":1}"#), JsonErrorKind::TagValue("t".into()));
    assert_eq!(with(r#","name":"x","timestamp":"now""#), JsonErrorKind::Timestamp);
    assert_eq!(with(r#","name":"x","timestamp":1e300"#), JsonErrorKind::TimestampOutOfRange);
    assert_eq!(with(r#","name":"x","timestamp":9300000000"#), JsonErrorKind::TimestampOutOfRange);
    assert_eq!(with(r#","name":"x","timestamp":18446744073709551615"#), JsonErrorKind::TimestampOutOfRange);
    assert_eq!(error(r#"{"name":"x"}"#), JsonErrorKind::Fields);
    assert_eq!(error(r#"{"name":"x","fields":{"v":null}}"#), JsonErrorKind::Fields);
    assert_eq!(error(r#"{"name":"x","fields":{"v":{}}}"#), JsonErrorKind::FieldValue("v".into()));
    assert_eq!(error(r#"{"name":"x","#), JsonErrorKind::Truncated);
    assert_eq!(error("[7]"), JsonErrorKind::NotAnObject);
    assert!(matches!(error("{\"name\" 1}"), JsonErrorKind::Syntax(_)));
    assert_eq!(JsonErrorKind::TimestampOutOfRange.rejection(), LineFault::Range);

    let not_json = decode(b"cpu v=1", Precision::Seconds).unwrap_err();
    assert_eq!(
        not_json.to_string(),
        "metrics[0]: this is not Telegraf JSON: send an object, an array of objects, or {\"metrics\":[…]}"
    );
    let invalid = decode(b"[{\"name\":\"\xff\"}]", Precision::Seconds).unwrap();
    assert_eq!(invalid[0].as_ref().unwrap_err().kind, JsonErrorKind::InvalidUtf8);
    let long = format!(r#"{{"name":"x","fields":{{"{}":[]}}}}"#, "k".repeat(5000));
    assert_eq!(error(&long), JsonErrorKind::FieldValue("k".repeat(KEY_CHARACTERS_MAX)));
}

#[test]
fn fractions_of_a_timestamp_count() {
    let time = |text: &str, precision| {
        let input = format!(r#"{{"name":"x","fields":{{"v":1}},"timestamp":{text}}}"#);
        decode(input.as_bytes(), precision).unwrap().remove(0).unwrap().timestamp_ns
    };
    assert_eq!(time("1.5", Precision::Seconds), Some(1_500_000_000));
    assert_eq!(time("-1.5", Precision::Seconds), Some(-1_500_000_000));
    assert_eq!(time("1700000000123.0", Precision::Milliseconds), Some(1_700_000_000_123_000_000));
    assert_eq!(time("1700000000.25", Precision::Seconds), Some(1_700_000_000_250_000_000));
    assert_eq!(time("null", Precision::Seconds), None);
}

#[test]
fn nesting_is_never_too_deep() {
    let deep =
        format!(r#"[{{"name":"x","fields":{{"v":{}1{}}}}},7]"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(names(&deep), (vec![], vec![0, 1]));
    let open = "{\"a\":".repeat(100_000);
    assert_eq!(error(&open), JsonErrorKind::Truncated);
}

#[test]
fn clients_get_the_documented_shape() {
    let mut out = Vec::new();
    write_metrics(&mut out, lines(b"cpu,host=a u=1.5,n=3i,k=t 1700000000123999999\nm v=\"x\"").flatten(), -1);
    let expected = "[{\"name\":\"cpu\",\"tags\":{\"host\":\"a\"},\"fields\":{\"u\":1.5,\"n\":3,\"k\":true},\"timestamp\":1700000000123},\
         {\"name\":\"m\",\"tags\":{},\"fields\":{\"v\":\"x\"},\"timestamp\":-1}]";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    write_metrics(&mut out, std::iter::empty(), 0);
    assert_eq!(out, b"[]");
}

#[test]
fn every_number_of_line_protocol_becomes_json() {
    let pairs = [
        ("007", json!(7)),
        ("-007.50", json!(-7.50)),
        ("5.", json!(5)),
        (".5", json!(0.5)),
        ("-.5", json!(-0.5)),
        ("5.e3", json!(5e3)),
        ("00", json!(0)),
        ("0.0", json!(0.0)),
        ("1E+5", json!(1e5)),
        ("-9223372036854775808i", json!(i64::MIN)),
        ("18446744073709551615u", json!(u64::MAX)),
        ("000i", json!(0)),
    ];
    for (text, value) in pairs {
        assert_eq!(json_of(&format!("m v={text}"))[0]["fields"]["v"], value, "{text}");
    }
}

#[test]
fn text_is_escaped_for_json() {
    let metric = &json_of("a\\ \"b,t=\\\\x,u=é\u{1} k\\=\\,=\"\\\"\\\\ \n\t\r\u{0}\u{7f}\u{2028}\" 5")[0];
    assert_eq!(metric["name"], "a \"b");
    assert_eq!(metric["tags"], json!({"t": "\\\\x", "u": "é\u{1}"}));
    assert_eq!(metric["fields"], json!({"k=,": "\"\\ \n\t\r\u{0}\u{7f}\u{2028}"}));
}

fn any_value() -> impl Strategy<Value = FieldValue<'static>> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(FieldValue::Float),
        any::<i64>().prop_map(FieldValue::Integer),
        (1 << 63..=u64::MAX).prop_map(FieldValue::Unsigned),
        any::<bool>().prop_map(FieldValue::Boolean),
        "(?s).{0,12}".prop_map(|text| FieldValue::String(text.into())),
    ]
}

proptest! {
    #[test]
    fn metrics_survive_lines_and_json(
        name in "[^\\p{Cc}\\\\#\u{feff}]{1,6}",
        tags in prop::collection::btree_map("[^\\p{Cc}\\\\]{1,4}", "[^\\p{Cc}\\\\]{1,4}", 0..4),
        fields in prop::collection::btree_map("[^\\p{Cc}\\\\]{1,4}", any_value(), 1..5),
        timestamp_ms in -9_000_000_000_000i64..9_000_000_000_000,
    ) {
        let metric = Metric {
            name: name.into(),
            tags: tags.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            fields: fields.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            timestamp_ns: Some(timestamp_ms * 1_000_000),
        };
        let mut line = Vec::new();
        write_metric(&mut line, &metric).unwrap();
        let mut json = Vec::new();
        write_metrics(&mut json, lines(&line).map(Result::unwrap), 0);
        let decoded = decode(&json, Precision::Milliseconds).unwrap();
        // JSON does not tell whole numbers apart.
        let fields = metric.fields.into_iter().map(|(key, value)| match value {
            FieldValue::Integer(whole) => (key, FieldValue::Whole(whole.into())),
            FieldValue::Unsigned(whole) => (key, FieldValue::Whole(whole.into())),
            value => (key, value),
        });
        let metric = Metric { fields: fields.collect(), ..metric };
        prop_assert_eq!(decoded, vec![Ok(metric)]);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, text in "[\\[\\]{}\",: \\\\a-c0-9.e-]{0,40}") {
        let _ = decode(&bytes, Precision::Seconds);
        let _ = decode(text.as_bytes(), Precision::Seconds);
        let batch = format!("{{\"metrics\":[{text}]}}");
        let _ = decode(batch.as_bytes(), Precision::Nanoseconds);
    }

    #[test]
    fn strings_are_what_serde_reads(text in "(?s).*") {
        let mut out = Vec::new();
        write_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}
