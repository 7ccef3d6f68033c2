//! An independent parser, the `influxdb-line-protocol` crate, as oracle: what it accepts we accept, with equal content.
//!
//! Where it differs from what InfluxDB documents and does, and we follow InfluxDB:
//! - It accepts a comma in tag and field keys, and an equals sign in tag values, without a backslash. InfluxDB (`models`
//!   package, "missing tag value", "invalid tag format", "invalid field format") and Telegraf refuse them.
//! - It folds two backslashes in names into one. In InfluxDB only a delimiter can be escaped there, and a UNC path in a
//!   tag (as Telegraf's Windows plugins write it) keeps both.
//! - It refuses a name before whose closing delimiter two backslashes stand; in InfluxDB that delimiter is escaped.
//! - It lets a backslash hide a newline outside quotes. The documentation excludes newlines from names, and hiding one
//!   would cost the next line.
//! - It reads `1e999` as infinity, which no line protocol can hold.
//! - It accepts a tag's key twice, which InfluxDB refuses ("duplicate tags").
//! - It refuses `5.`, `.5`, a trailing space without a timestamp and CRLF, which InfluxDB and Telegraf accept.

use influxdb_line_protocol::{FieldValue as OracleValue, ParsedLine, parse_lines};
use proptest::prelude::*;

use super::*;

fn same_name(ours: &str, oracle: &str) -> bool {
    ours.replace("\\\\", "\\") == oracle
}

fn same_value(ours: &FieldValue<'_>, oracle: &OracleValue<'_>) -> bool {
    match (ours, oracle) {
        (Float(a), OracleValue::F64(b)) => a.to_bits() == b.to_bits(),
        (Integer(a), OracleValue::I64(b)) => a == b,
        (Unsigned(a), OracleValue::U64(b)) => a == b,
        (Boolean(a), OracleValue::Boolean(b)) => a == b,
        (FieldValue::String(a), OracleValue::String(b)) => &**a == b.as_str(),
        _ => false,
    }
}

fn check_same(ours: &Line<'_>, oracle: &ParsedLine<'_>) -> Result<(), TestCaseError> {
    prop_assert!(same_name(&ours.measurement(), &oracle.series.measurement));
    let oracle_tags = oracle.series.tag_set.clone().unwrap_or_default();
    prop_assert_eq!(ours.tags().count(), oracle_tags.len());
    for ((key, value), (oracle_key, oracle_value)) in ours.tags().zip(&oracle_tags) {
        prop_assert!(same_name(&key, oracle_key), "{} {}", key, oracle_key);
        prop_assert!(same_name(&value, oracle_value), "{} {}", value, oracle_value);
    }
    prop_assert_eq!(ours.fields().count(), oracle.field_set.len());
    for ((key, value), (oracle_key, oracle_value)) in ours.fields().zip(&oracle.field_set) {
        prop_assert!(same_name(&key, oracle_key), "{} {}", key, oracle_key);
        prop_assert!(same_value(&value, oracle_value), "{:?} {:?}", value, oracle_value);
    }
    prop_assert_eq!(ours.timestamp(), oracle.timestamp);
    Ok(())
}

/// Text that is a line often enough, made of everything that has a meaning somewhere.
fn nearly_a_line() -> impl Strategy<Value = String> {
    let name = || {
        prop_oneof![
            8 => "[a-d\"é\\]]{1,3}",
            4 => "([ab]|\\\\[,= \\\\n\"]){1,4}",
            1 => "([ab]|[,=]|\\\\[\\\\\n]){1,3}",
        ]
    };
    let value = || {
        prop_oneof![
            4 => "-?[0-9]{1,20}[iu]?",
            4 => "-?[0-9]{1,3}(\\.[0-9]{1,3})?([eE][-+]?[0-9]{1,3})?",
            2 => "[tTfF]|true|True|TRUE|false|False|FALSE",
            4 => "\"([ab ,=\né]|\\\\[\\\\\"na])*\"",
            1 => "[0-9aitu.-]{0,4}",
        ]
    };
    let time = prop_oneof![4 => "( {1,2}-?[0-9]{1,19} ?)?", 1 => "[ 0-9a]{0,3}"];
    (
        name(),
        prop::collection::vec((name(), name()), 0..3),
        prop::collection::vec((name(), value()), 1..4),
        time,
    )
        .prop_map(|(name, tags, fields, time)| {
            let mut line = name;
            tags.iter().for_each(|(key, value)| line += &format!(",{key}={value}"));
            for (index, (key, value)) in fields.iter().enumerate() {
                line += &format!("{}{key}={value}", if index == 0 { ' ' } else { ',' });
            }
            line + &time
        })
}

/// Whether InfluxDB refuses what the oracle accepts; see above.
fn refused_by_influxdb(kind: LineErrorKind) -> bool {
    use LineErrorKind::*;
    matches!(
        kind,
        MissingTagKey
            | MissingTagValue
            | MissingFieldKey
            | UnescapedEquals
            | RepeatedTag
            | MissingFieldValue
            | FloatOutOfRange
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_the_oracle_accepts_is_accepted_alike(text in prop::collection::vec(nearly_a_line(), 1..3)) {
        let text = text.join("\n");
        prop_assume!(!text.contains("\\\n"));
        let Ok(oracle) = parse_lines(&text).collect::<Result<Vec<_>, _>>() else { return Ok(()) };
        let ours: Vec<_> = lines(text.as_bytes()).collect();
        if ours.iter().any(|line| matches!(line, Err(e) if refused_by_influxdb(e.kind))) {
            return Ok(());
        }
        prop_assert_eq!(ours.len(), oracle.len());
        for (ours, oracle) in ours.iter().zip(&oracle) {
            prop_assert!(ours.is_ok(), "{:?}", ours);
            check_same(ours.as_ref().unwrap(), oracle)?;
        }
    }

    #[test]
    fn the_oracle_reads_what_we_write(metrics in prop::collection::vec(any_metric("[^\\p{Cc}\\\\]{1,6}|[a-c,= ]{1,4}|[a-c]\\\\[a-c]"), 1..4)) {
        let mut out = Vec::new();
        for metric in &metrics {
            write_metric(&mut out, metric).unwrap();
            out.push(b'\n');
        }
        let ours: Vec<_> = lines(&out).map(Result::unwrap).collect();
        let oracle: Vec<_> = parse_lines(std::str::from_utf8(&out).unwrap()).map(Result::unwrap).collect();
        prop_assert_eq!(ours.len(), metrics.len());
        prop_assert_eq!(oracle.len(), metrics.len());
        for (ours, oracle) in ours.iter().zip(&oracle) {
            check_same(ours, oracle)?;
        }
    }
}

#[test]
fn enough_of_the_generated_text_is_valid() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let accepted = (0..500)
        .filter(|_| {
            let text = nearly_a_line().new_tree(&mut runner).unwrap().current();
            parse_lines(&text).all(|line| line.is_ok()) && lines(text.as_bytes()).all(|line| line.is_ok())
        })
        .count();
    assert!(accepted > 100, "{accepted} of 500");
}
