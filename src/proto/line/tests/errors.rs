//! Every kind of error, with its place.

use super::super::LineErrorKind::{self, *};
use super::super::{LineError, LineFault, lines};

fn check(input: &str, line: usize, column: usize, kind: LineErrorKind) {
    let errors: Vec<_> = lines(input.as_bytes()).filter_map(Result::err).collect();
    assert_eq!(errors, [LineError { line, column, kind }], "{input:?}");
}

#[test]
fn every_error_names_its_place() {
    let table = [
        (",host=a v=1", 1, EmptyMeasurement),
        ("cpu", 4, MissingFields),
        ("cpu,host=a  ", 13, MissingFields),
        (r"cpu\ v=1", 9, MissingFields),
        ("cpu, v=1", 5, MissingTagKey),
        ("cpu,=a v=1", 5, MissingTagKey),
        ("cpu,a=b, v=1", 9, MissingTagKey),
        ("cpu,host v=1", 9, MissingTagValue),
        ("cpu,host= v=1", 10, MissingTagValue),
        ("cpu,a,b=c v=1", 6, MissingTagValue),
        ("cpu,host=", 10, MissingTagValue),
        ("cpu,a=b=c v=1", 8, UnescapedEquals),
        ("cpu,a=1,a=1 v=1", 9, RepeatedTag),
        ("cpu,b=1,a=2,c=3,b=4", 17, RepeatedTag),
        (r"cpu,a\ =1,b=2,a\ =1 v=1", 15, RepeatedTag),
        ("cpu =1", 5, MissingFieldKey),
        ("cpu v=1,", 9, MissingFieldKey),
        ("cpu v=1, 12", 9, MissingFieldKey),
        ("cpu v", 6, MissingFieldValue),
        ("cpu v=", 7, MissingFieldValue),
        ("cpu v= 12", 7, MissingFieldValue),
        ("cpu v=,w=1", 7, MissingFieldValue),
        ("cpu v,w=1", 6, MissingFieldValue),
        ("cpu v=1x", 7, BadNumber),
        ("cpu v=+1", 7, BadNumber),
        ("cpu v=-", 7, BadNumber),
        ("cpu v=.", 7, BadNumber),
        ("cpu v=1.2.3", 7, BadNumber),
        ("cpu v=1e", 7, BadNumber),
        ("cpu v=1.5i", 7, BadNumber),
        ("cpu v=1e3i", 7, BadNumber),
        ("cpu v=-1u", 7, BadNumber),
        ("cpu v=1ii", 7, BadNumber),
        ("cpu v=0x10", 7, BadNumber),
        ("cpu v=NaN", 7, NotFinite),
        ("cpu v=-inf,w=1", 7, NotFinite),
        ("cpu v=+Infinity", 7, NotFinite),
        ("cpu v=1e309", 7, FloatOutOfRange),
        ("cpu v=-1e999 1", 7, FloatOutOfRange),
        ("cpu v=9223372036854775808i", 7, IntegerOutOfRange),
        ("cpu v=-9223372036854775809i", 7, IntegerOutOfRange),
        ("cpu v=18446744073709551616u", 7, IntegerOutOfRange),
        ("cpu v=tRUE", 7, BadBoolean),
        ("cpu v=fine", 7, BadBoolean),
        ("cpu v=hello", 7, UnquotedString),
        ("cpu v='hello'", 7, UnquotedString),
        ("cpu v=\"hello", 7, UnterminatedString),
        ("cpu v=\"hello\\\"", 7, UnterminatedString),
        ("cpu v=\"hello\\", 7, UnterminatedString),
        ("cpu v=\"say \"hi\"\"", 13, TextAfterString),
        ("cpu v=1 now", 9, BadTimestamp),
        ("cpu v=1 12.5", 9, BadTimestamp),
        ("cpu v=1 -", 9, BadTimestamp),
        ("cpu v=1 w=2", 9, BadTimestamp),
        ("cpu v=1 9223372036854775808", 9, TimestampOutOfRange),
        ("cpu v=1 -9223372036854775809", 9, TimestampOutOfRange),
        ("cpu v=1 12 x", 12, TrailingText),
    ];
    for (input, column, kind) in table {
        check(input, 1, column, kind);
        check(&format!("{input}\r\n"), 1, column, kind);
        check(&format!("# one\n\nok v=\"a\nb\"\n  {input}\nok v=1"), 5, column + 2, kind);
    }
}

#[test]
fn an_error_after_a_string_with_newlines_names_the_raw_line_it_is_on() {
    check("log msg=\"a\nb\nç\",v=? 1", 3, 6, UnquotedString);
}

#[test]
fn errors_inside_a_wrongly_closed_string_keep_their_own_lines() {
    let places: Vec<_> =
        lines(b"x v=\"a\n?\nb\"c\nd,\n").map(|line| line.unwrap_err()).map(|e| (e.line, e.column)).collect();
    assert_eq!(places, [(3, 3), (2, 2), (3, 4), (4, 3)]);
}

#[test]
fn columns_count_characters() {
    check("größe v=?", 1, 9, UnquotedString);
}

#[test]
fn the_smallest_and_largest_times_are_no_errors() {
    for time in [i64::MIN, i64::MAX] {
        let input = format!("m v=1 {time}");
        let line = lines(input.as_bytes()).next().unwrap().unwrap();
        assert_eq!(line.timestamp(), Some(time));
    }
}

#[test]
fn faults_are_syntax_text_or_range() {
    assert_eq!(InvalidUtf8.rejection(), LineFault::Utf8);
    assert_eq!(TimestampOutOfRange.rejection(), LineFault::Range);
    assert_eq!(BadTimestamp.rejection(), LineFault::Syntax);
}
