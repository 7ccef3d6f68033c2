use super::*;

const RECEIVED_NS: i64 = 1_700_000_000_000_000_000;

fn options() -> Options<'static> {
    Options {
        precision: None,
        collector: None,
        received_ns: RECEIVED_NS,
        envelope_bytes_max: 1024,
        collectors_max: 1_000,
        envelope_bound_by: None,
    }
}

/// `collector/measurement: lines` of every draft, in order.
fn drafts(decoded: &Decoded) -> Vec<String> {
    let all = decoded.batches.iter().flat_map(|batch| batch.drafts.iter().map(move |draft| (batch, draft)));
    all.map(|(batch, draft)| {
        assert_eq!(batch.collector, draft.channel.collector);
        let lines = std::str::from_utf8(&draft.lines).unwrap();
        format!("{}/{}: {lines}", batch.collector, draft.channel.measurement)
    })
    .collect()
}

#[track_caller]
fn check(bytes: &[u8], options: Options<'_>, expected: &[&str]) -> Decoded {
    let decoded = decode(bytes, &options);
    assert_eq!(drafts(&decoded), expected, "{:?}", decoded.first_errors);
    decoded
}

#[test]
fn lines_are_grouped_by_collector_and_measurement_in_order_of_first_appearance() {
    let decoded = check(
        b"cpu,host=a usage=1 1\nmem,host=a used=2i 2\ncpu,host=b usage=3 3\ncpu,host=a usage=4 4\r\n# comment\n\n",
        options(),
        &["a/cpu: cpu,host=a usage=1 1\ncpu,host=a usage=4 4", "a/mem: mem,host=a used=2i 2", "b/cpu: cpu,host=b usage=3 3"],
    );
    assert_eq!(decoded.accepted(), 4);
    assert_eq!(decoded.rejected.total(), 0);
    assert!(decoded.batches.iter().all(|batch| batch.drafts.iter().all(|draft| draft.own_timestamps)));
}

#[test]
fn a_line_in_nanoseconds_is_not_rewritten() {
    check(
        b"a\\ b,host=h\\,1,z=1 s=\"x\ny\",f=1e3  7 ",
        options(),
        &["h,1/a b: a\\ b,host=h\\,1,z=1 s=\"x\ny\",f=1e3  7"],
    );
}

#[test]
fn a_missing_time_is_the_time_of_receipt_and_marks_its_envelope() {
    let decoded = check(
        b"cpu u=1 5\ncpu u=2\nmem u=3 6",
        options(),
        &["unknown/cpu: cpu u=1 5\ncpu u=2 1700000000000000000", "unknown/mem: mem u=3 6"],
    );
    let own: Vec<bool> = decoded.batches[0].drafts.iter().map(|draft| draft.own_timestamps).collect();
    assert_eq!(own, [false, true]);
}

#[test]
fn times_are_scaled_and_one_out_of_range_costs_only_itself() {
    let options = Options { precision: Some(Precision::Seconds), ..options() };
    let decoded = check(
        b"cpu u=1 1700000000\ncpu u=2 1700000000000000000\ncpu u=3",
        options,
        &["unknown/cpu: cpu u=1 1700000000000000000\ncpu u=3 1700000000000000000"],
    );
    assert_eq!(decoded.rejected.of(LineRejection::Range), 1);
    assert_eq!(decoded.first_errors[0].line, 2);
    assert!(decoded.first_errors[0].message.contains("check the precision"));
}

#[test]
fn a_named_collector_is_stronger_than_host_tags() {
    let id = CollectorId::new("rack 7").unwrap();
    let options = Options { collector: Some(&id), ..options() };
    check(
        b"cpu,host=a u=1 1\ncpu,host=b u=2 2",
        options,
        &["rack 7/cpu: cpu,host=a u=1 1\ncpu,host=b u=2 2"],
    );
}

#[test]
fn a_host_tag_that_cannot_be_an_id_costs_its_line_and_says_what_to_do() {
    let long = "h".repeat(300);
    let text = format!("cpu,host={long} u=1 1\ncpu,host=a u=2 2\n{long} u=3 3");
    let decoded = check(text.as_bytes(), options(), &["a/cpu: cpu,host=a u=2 2"]);
    assert_eq!(decoded.rejected.total(), 2);
    assert!(decoded.first_errors[0].message.contains("X-Collector-Id"));
    assert_eq!((decoded.first_errors[1].line, decoded.rejected.of(LineRejection::TooLarge)), (3, 1));
}

#[test]
fn envelopes_are_split_at_their_bound_and_a_line_above_it_costs_only_itself() {
    let text = format!("m f=1 1\nm f=2 2\nm s=\"{}\" 3\nm f=4 4", "x".repeat(40));
    let options = Options { envelope_bytes_max: 16, ..options() };
    let decoded = check(text.as_bytes(), options, &["unknown/m: m f=1 1\nm f=2 2", "unknown/m: m f=4 4"]);
    assert_eq!(decoded.batches[0].drafts[0].metrics, 2);
    assert_eq!(decoded.rejected.of(LineRejection::TooLarge), 1);
    assert_eq!(decoded.first_errors[0].line, 3);
}

#[test]
fn nothing_is_left_of_a_collector_whose_every_line_is_too_large() {
    let options = Options { envelope_bytes_max: 4, ..options() };
    assert!(check(b"cpu,host=a usage=1 1", options, &[]).batches.is_empty());
}

#[test]
fn bad_lines_are_counted_by_kind_and_the_first_eight_described() {
    let mut text = b"cpu u=1 1\ncpu u=\ncpu \xff=1\ncpu u=2 2\n".to_vec();
    for _ in 0..20 {
        text.extend_from_slice(b"nothing\n");
    }
    text.extend_from_slice(b"cpu u=3 3\n");
    let decoded = check(&text, options(), &["unknown/cpu: cpu u=1 1\ncpu u=2 2\ncpu u=3 3"]);
    assert_eq!(decoded.rejected.of(LineRejection::Syntax), 21);
    assert_eq!(decoded.rejected.of(LineRejection::Utf8), 1);
    assert_eq!(decoded.first_errors.len(), ERRORS_DESCRIBED_MAX);
    assert_eq!(decoded.first_errors[0].line, 2);
    assert!(decoded.first_errors[0].to_string().starts_with("line 2, column "));
}

#[test]
fn telegraf_json_is_told_by_its_first_byte_in_all_its_forms() {
    let metric =
        r#"{"name":"cpu","tags":{"host":"a","cpu":"0"},"fields":{"u":1.5,"n":7},"timestamp":1700000000}"#;
    for text in [metric.to_string(), format!("\n [{metric}]"), format!(r#"{{"metrics":[{metric}]}}"#)] {
        let decoded = decode(text.as_bytes(), &options());
        assert_eq!(decoded.accepted(), 1, "{text}: {:?}", decoded.first_errors);
        let draft = &decoded.batches[0].drafts[0];
        assert_eq!(decoded.batches[0].collector.as_str(), "a");
        assert!(draft.own_timestamps);
        assert!(draft.lines.ends_with(b" 1700000000000000000"), "{:?}", draft.lines);
    }
}

#[test]
fn what_begins_like_json_and_reads_as_lines_is_lines() {
    for (text, expected) in [
        ("{a},host=h v=1 1", &["h/{a}: {a},host=h v=1 1"][..]),
        ("[a] v=1 1\nb v=2 2\nnonsense", &["unknown/[a]: [a] v=1 1", "unknown/b: b v=2 2"]),
        ("\u{feff}\n [ v=1 1", &["unknown/[: [ v=1 1"]),
    ] {
        check(text.as_bytes(), options(), expected);
    }
    // What is broken JSON is told so, and a batch with one good metric is JSON.
    let broken = check(br#"{"name":"m","fields":{"v":[1]}}"#, options(), &[]);
    assert!(broken.first_errors[0].message.contains("the field `v`"), "{}", broken.first_errors[0]);
    let partly = check(
        b"{\"name\":\"m\",\"fields\":{\"v\":1},\"timestamp\":1}\n{a} v=1 1",
        options(),
        &["unknown/m: m v=1 1000000000"],
    );
    assert!(partly.rejected.total() > 0);
}

#[test]
fn a_byte_order_mark_is_no_data() {
    let json = r#"{"name":"m","fields":{"v":1},"timestamp":1}"#;
    for (text, expected) in [
        (format!("\u{feff}{json}"), "unknown/m: m v=1 1000000000"),
        (format!("\n\u{feff} [{json}]"), "unknown/m: m v=1 1000000000"),
        ("\u{feff}m v=1 1\n\u{feff}m v=2 2".to_owned(), "unknown/m: m v=1 1\nm v=2 2"),
    ] {
        assert_eq!(check(text.as_bytes(), options(), &[expected]).rejected.total(), 0);
    }
    assert_eq!(check("\u{feff}".as_bytes(), options(), &[]).rejected.total(), 0);
}

#[test]
fn a_line_with_a_tag_twice_costs_only_itself_in_both_formats() {
    let lines = check(b"cpu,rack=r1,rack=r2 v=1 1\nmem v=2 2", options(), &["unknown/mem: mem v=2 2"]);
    assert_eq!((lines.rejected.of(LineRejection::Syntax), lines.first_errors[0].line), (1, 1));
    let host = check(b"cpu,host=a,host=b v=1 1", options(), &[]);
    assert!(host.first_errors[0].message.contains("twice"));
    let json = br#"[{"name":"m","tags":{"a":"1","a":"2"},"fields":{"v":1},"timestamp":1},
        {"name":"m","tags":{"a":"1","a\\":"2"},"fields":{"v":1},"timestamp":1},
        {"name":"n","fields":{"v":1,"v":2},"timestamp":1}]"#;
    let json = check(json, options(), &["unknown/n: n v=2 1000000000"]);
    assert_eq!(json.rejected.total(), 2);
}

#[test]
fn json_takes_its_precision_and_a_bad_entry_costs_only_itself() {
    let text = br#"[{"name":"m","fields":{"f":1.5},"timestamp":5},{"name":"m","fields":{}},{"name":"m","fields":{"f":2.5}}]"#;
    let options = Options { precision: Some(Precision::Milliseconds), ..options() };
    let decoded = check(text, options, &["unknown/m: m f=1.5 5000000\nm f=2.5 1700000000000000000"]);
    assert_eq!(decoded.rejected.of(LineRejection::Syntax), 1);
    assert!(decoded.first_errors[0].to_string().starts_with("entry 2: "), "{}", decoded.first_errors[0]);
    assert!(!decoded.batches[0].drafts[0].own_timestamps);
}

#[test]
fn an_empty_message_holds_nothing_bad() {
    for text in [&b""[..], b"\n\n", b"# only a comment\n"] {
        let decoded = check(text, options(), &[]);
        assert_eq!(decoded.rejected.total(), 0);
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        decode(&bytes, &options());
    }

    /// Every accepted line is in exactly one envelope, and every envelope holds what it says.
    #[test]
    fn accounting_is_exact(text in "(m|n)(,host=(a|b))?( [fg]=[0-9x]{1,3})( [0-9]{1,20})?(\n(m|n)(,host=(a|b))? f=[0-9]{1,30}( [0-9]{1,4})?){0,20}") {
        let bound = Options { envelope_bytes_max: 60, ..options() };
        let decoded = decode(text.as_bytes(), &bound);
        let lines = text.lines().count() as u64;
        proptest::prop_assert_eq!(decoded.accepted() + decoded.rejected.total(), lines);
        for batch in &decoded.batches {
            for draft in &batch.drafts {
                proptest::prop_assert!(draft.lines.len() <= 60);
                let parsed: Vec<_> = line::lines(&draft.lines).collect::<Result<_, _>>().unwrap();
                proptest::prop_assert_eq!(parsed.len() as u64, draft.metrics);
                for line in parsed {
                    proptest::prop_assert!(line.timestamp().is_some());
                    proptest::prop_assert_eq!(line.measurement(), &*draft.channel.measurement);
                }
            }
        }
    }
}

#[test]
fn a_host_tag_without_a_value_names_nobody() {
    check(
        br#"{"metrics":[{"name":"cpu","tags":{"host":""},"fields":{"u":1.5},"timestamp":1},
            {"name":"cpu","tags":{},"fields":{"u":2.5},"timestamp":2}]}"#,
        options(),
        &["unknown/cpu: cpu u=1.5 1000000000\ncpu u=2.5 2000000000"],
    );
}
