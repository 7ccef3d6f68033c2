use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::proto::channel::{CollectorId, escape_token};

fn channel(collector: &str, measurement: &str) -> Channel {
    Channel::new(CollectorId::new(collector).unwrap(), measurement)
}

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Tags as `a=1,b=2`.
fn passes(text: &str, tags: &str) -> bool {
    let tags: Vec<(&str, &str)> = tags.split(',').filter_map(|tag| tag.split_once('=')).collect();
    filter(text).matches_tags(|key| tags.iter().find(|(k, _)| *k == key).map(|(_, v)| Cow::Borrowed(*v)))
}

#[test]
fn the_last_dot_divides_collector_and_measurement() {
    for (text, collector, measurement, expected) in [
        ("web-01.cpu", "web-01", "cpu", true),
        ("web-01.cpu", "web-01", "mem", false),
        ("web-01.cpu", "web-02", "cpu", false),
        ("*.cpu", "anything at all", "cpu", true),
        ("*.cpu", "web-01", "cpu.total", false),
        ("web-01.>", "web-01", "disk.io", true),
        ("web-01.*", "web-01", "disk.io", true),
        ("web-01.>", "web-011", "cpu", false),
        (">", "x", "y", true),
        ("web.example.org.cpu", "web.example.org", "cpu", true),
        ("web.example.org.>", "web.example.org", "cpu", true),
        ("web.example.org.*", "web.example.org", "cpu", true),
        ("web.example.org", "web.example.org", "cpu", false),
        ("web%2Eexample%2Eorg.cpu", "web.example.org", "cpu", true),
        ("*.disk%2Eio", "web-01", "disk.io", true),
        ("rack%207.http%20requests", "rack 7", "http requests", true),
        ("rack%2a.cpu", "rack*", "cpu", true),
        ("Zürich.cpu", "Zürich", "cpu", true),
        ("web-01.%", "web-01", "", true),
        ("100%25.cpu", "100%", "cpu", true),
    ] {
        assert_eq!(filter(text).matches_channel(&channel(collector, measurement)), expected, "{text}");
    }
}

#[test]
fn predicates_ask_for_tags() {
    for (text, tags, expected) in [
        (">{cpu=cpu-total}", "cpu=cpu-total", true),
        (">{cpu=cpu-total}", "cpu=cpu0", false),
        (">{cpu=cpu-total}", "", false),
        (">{cpu!=cpu-total}", "cpu=cpu0", true),
        (">{cpu!=cpu-total}", "cpu=cpu-total", false),
        (">{cpu!=cpu-total}", "", true),
        (">{region=eu-*}", "region=eu-west", true),
        (">{region=eu-*}", "region=us-east", false),
        (">{host=*.example.*}", "host=web.example.org", true),
        (">{host=*a*b*}", "host=xaxbx", true),
        (">{host=*a*b*}", "host=xbxax", false),
        (">{host=ab*ba}", "host=aba", false),
        (">{host=ab*ba}", "host=abba", true),
        (">{host=*}", "host=x", true),
        (">{host=*}", "", false),
        (">{host!=*}", "host=x", false),
        (">{host!=*}", "", true),
        (">{a=1,b!=2}", "a=1,b=3", true),
        (">{a=1,b!=2}", "a=1,b=2", false),
        (">{ a = 1 , b != 2 }", "a=1", true),
        (">{path=/var/lib}", "path=/var/lib", true),
        (r#">{path="/my disk*"}"#, "path=/my disk 1", true),
        (r#">{path="a\*"}"#, "path=a*", true),
        (r#">{path="a\*"}"#, "path=ab", false),
        (r#">{path="\"\\{}"}"#, r#"path="\{}"#, true),
        (r#">{"my key"=x}"#, "my key=x", true),
    ] {
        assert_eq!(passes(text, tags), expected, "{text} on {tags}");
    }
}

#[test]
fn filters_that_ask_the_same_are_equal() {
    for (one, other) in [
        ("*.*", ">"),
        ("*.>", ">"),
        ("web-01.*", "web-01.>"),
        ("web.example.org.cpu", "web%2eexample%2Eorg.%63pu"),
        (">{b=2,a=1}", ">{a=1, b=2,a=1}"),
        (">{a=x**y}", ">{a=x*y}"),
        (r#">{"a"="x"}"#, ">{a=x}"),
    ] {
        assert_eq!(filter(one), filter(other));
        assert_eq!(filter(one).to_string(), filter(other).to_string());
    }
    assert!(filter("*.*").is_everything());
    assert!(!filter(">{a=b}").is_everything());
    assert!(!filter("*.cpu").is_everything());
}

#[test]
fn a_filter_is_written_back_readably() {
    for (text, written) in [
        ("web%2Eexample%2Eorg.cpu", "web.example.org.cpu"),
        ("%2Ea%2E%2Eb%2E.c%2Ed", "%2Ea.%2Eb%2E.c%2Ed"),
        ("Z%C3%BCrich%20rack.%", "Zürich%20rack.%"),
        ("web-01.>", "web-01.*"),
        (">{b!=x,\"a\"=\"y z\"}", ">{a=\"y z\",b!=x}"),
        ("*.>", ">"),
    ] {
        assert_eq!(filter(text).to_string(), written);
    }
}

#[test]
fn a_bad_filter_is_told_where_and_what_instead() {
    for (text, column, said) in [
        ("", 1, "write `*.*` for everything"),
        (" ", 1, "the filter is empty"),
        ("\t \u{a0}", 1, "the filter is empty"),
        ("*", 1, "write `*.*` for everything"),
        ("cpu", 1, "write `*.cpu` for the measurement `cpu`, or `cpu.*` for the collector"),
        (".cpu", 1, "a part is missing"),
        ("web-01.", 8, "a part is missing"),
        ("a..b", 3, "a part is missing"),
        (">.cpu", 1, "it comes last"),
        ("web-*.cpu", 5, "`*.cpu{host=web-*}`"),
        ("*.c>", 4, "(`%252A` or `%253E` in a URL)"),
        ("a\u{2028}b.c", 2, "is written `%E2%80%A8` in a name (`%25E2%2580%25A8` in a URL)"),
        ("\u{202e}cpu", 1, r"write `*.\u{202e}cpu` for"),
        ("*.disk.io", 1, "`%2E` for a dot inside the measurement"),
        ("*.*.cpu", 1, "two parts"),
        ("web.*.org.cpu", 5, "two parts"),
        ("web.*.cpu", 5, "two parts"),
        ("ü b.cpu", 2, "' ' is written `%20` in a name (`%2520` in a URL)"),
        ("a.b,c.d", 4, "several filters are passed one by one"),
        ("a.b}", 4, "'}' is written `%7D`"),
        ("a.b%2", 4, "write `%25` for the character itself"),
        ("a.%zz", 3, "write `%25` for the character itself"),
        ("a.%+1", 3, "write `%25` for the character itself"),
        ("é%é.b", 2, "write `%25` for the character itself"),
        ("a.%FF", 3, "not UTF-8"),
        ("%0A.cpu", 1, "control characters"),
        ("%.cpu", 1, "a collector id is not empty"),
        (">{}", 3, "the braces are empty"),
        (">{", 3, "a tag key belongs here"),
        (">{=x}", 3, "a tag key belongs here"),
        (">{a=1,}", 7, "a tag key belongs here"),
        (">{a}", 4, "`=` or `!=` belongs here"),
        (">{a~b}", 6, "`=` or `!=` belongs here"),
        (">{a=}", 5, "write `*` for any value"),
        (r#">{a=""}"#, 5, "write `*` for any value"),
        (">{a*=b}", 4, "a tag key is written in full"),
        (">{a=b c}", 7, "in double quotes"),
        (">{a=b", 6, "`,` or `}` belongs here"),
        (r#">{a="b}"#, 5, "this quote is not closed"),
        (r#">{a="\n"}"#, 6, "`\\` goes before"),
        (">{a=b}x", 7, "nothing may follow the closing brace"),
    ] {
        let error = text.parse::<Filter>().expect_err(text);
        let message = error.to_string();
        assert!(message.contains(said), "{text}: {message}");
        assert_eq!(error.column, column, "{text}: {message}");
    }
    let long = format!("{}.cpu", "x".repeat(FILTER_BYTES_MAX));
    assert_eq!(long.parse::<Filter>().unwrap_err().kind, FilterErrorKind::TooLong(FILTER_BYTES_MAX + 4));
    let long_id = format!("{}.cpu", "x".repeat(256));
    assert!(long_id.parse::<Filter>().unwrap_err().to_string().contains("at most 255 bytes"));
}

#[test]
fn a_set_passes_what_any_of_its_filters_passes() {
    let set = FilterSet::parse(["web-01.>", "*.cpu{cpu=cpu-total}", "web-01.cpu"]).unwrap();
    assert_eq!(set.to_string(), "*.cpu{cpu=cpu-total} web-01.*", "what another filter covers is left out");
    assert_eq!(set.matches_channel(&channel("web-01", "mem")), Match::Whole);
    assert_eq!(set.matches_channel(&channel("web-01", "cpu")), Match::Whole);
    assert_eq!(set.matches_channel(&channel("web-02", "cpu")), Match::Lines);
    assert_eq!(set.matches_channel(&channel("web-02", "mem")), Match::No);
    let cpu = |value: &'static str| move |key: &str| (key == "cpu").then_some(Cow::Borrowed(value));
    assert!(set.matches_line(&channel("web-02", "cpu"), cpu("cpu-total")));
    assert!(!set.matches_line(&channel("web-02", "cpu"), cpu("cpu0")));
    assert!(set.matches_line(&channel("web-01", "cpu"), cpu("cpu0")));
}

#[test]
fn a_set_without_filters_is_everything() {
    for texts in [&[][..], &[">"], &["*.*"], &["web-01.cpu", "*.*"]] {
        let set = FilterSet::parse(texts.iter().copied()).unwrap();
        assert!(set.is_everything());
        assert_eq!(set, FilterSet::default());
        assert_eq!(set.matches_channel(&channel("a", "b")), Match::Whole);
        assert!(set.matches_line(&channel("a", "b"), |_| None));
    }
}

#[test]
fn a_set_is_bounded_and_names_the_filter_it_refuses() {
    let texts: Vec<String> = (0..=FILTERS_MAX).map(|n| format!("c{n}.cpu")).collect();
    assert_eq!(
        FilterSet::parse(texts.iter().map(String::as_str)).unwrap_err(),
        FilterSetError::TooMany(FILTERS_MAX + 1)
    );
    assert!(FilterSet::parse(texts[1..].iter().map(String::as_str)).is_ok());
    let error = FilterSet::parse([">", "cpu"]).unwrap_err().to_string();
    assert!(error.starts_with("filter `cpu`: column 1: a filter is `<collector>.<measurement>`"), "{error}");
    for bytes in [65, 500, 5000] {
        let error = FilterSet::parse(["y".repeat(bytes).as_str()]).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }
}

/// Matches by trying every way, which is slow and plainly right.
fn naive_glob(pattern: &[char], value: &[char]) -> bool {
    match pattern.split_first() {
        None => value.is_empty(),
        Some(('*', rest)) => (0..=value.len()).any(|skipped| naive_glob(rest, &value[skipped..])),
        Some((first, rest)) => value.first() == Some(first) && naive_glob(rest, &value[1..]),
    }
}

proptest! {
    #[test]
    fn globs_match_like_the_naive_matcher(pattern in "[ab*]{1,8}", value in "[ab]{0,10}") {
        let (p, v): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
        let expected = naive_glob(&p, &v);
        let tag = |key: &str| (key == "k").then_some(Cow::Borrowed(value.as_str()));
        let is_filter = filter(&format!(">{{k={pattern}}}"));
        prop_assert_eq!(is_filter.matches_tags(tag), expected);
        let not_filter = filter(&format!(">{{k!={pattern}}}"));
        prop_assert_eq!(not_filter.matches_tags(tag), !expected);
    }

    #[test]
    fn any_channel_can_be_asked_for_alone(collector in "[^\\p{Cc}]{1,20}", measurement in ".{0,20}", other in ".{0,20}") {
        let asked = filter(&format!("{}.{}", escape_token(&collector), escape_token(&measurement)));
        prop_assert!(asked.matches_channel(&channel(&collector, &measurement)));
        prop_assert_eq!(asked.matches_channel(&channel(&collector, &other)), other == measurement);
        prop_assert_eq!(&filter(&asked.to_string()), &asked);
        prop_assert!(asked.to_string().len() <= escape_token(&collector).len() + 1 + escape_token(&measurement).len());
    }

    #[test]
    fn any_tag_can_be_asked_for(key in ".{1,12}", value in ".{1,12}") {
        let text = format!(">{{\"{}\"=\"{}\"}}", glob::escape_quoted(&key), glob::escape_quoted(&value));
        let asked = filter(&text);
        prop_assert!(asked.matches_tags(|k| (k == key).then_some(Cow::Borrowed(value.as_str()))));
        prop_assert_eq!(&filter(&asked.to_string()), &asked);
    }

    #[test]
    fn what_is_accepted_is_written_back_the_same(text in "[a%2E.*>{}=!,\" \\\\ü]{1,24}") {
        if let Ok(asked) = text.parse::<Filter>() {
            prop_assert!(asked.to_string().len() <= text.len());
            prop_assert_eq!(&filter(&asked.to_string()), &asked);
        }
    }

    #[test]
    fn dropping_covered_filters_changes_nothing(
        texts in prop::collection::vec("(a|b|\\*)\\.(a|b|\\*)(\\{k=(x|y|\\*)\\}|)", 0..6),
        collector in "a|b|c", measurement in "a|b|c", value in "x|y|z",
    ) {
        let set = FilterSet::parse(texts.iter().map(String::as_str)).unwrap();
        let channel = channel(&collector, &measurement);
        let tag = |key: &str| (key == "k").then_some(Cow::Borrowed(value.as_str()));
        let filters: Vec<Filter> = texts.iter().map(|text| filter(text)).collect();
        let passes = |f: &Filter| f.matches_channel(&channel) && f.matches_tags(tag);
        let expected = texts.is_empty() || filters.iter().any(passes);
        prop_assert_eq!(set.matches_line(&channel, tag), expected);
        match set.matches_channel(&channel) {
            Match::Whole => prop_assert!(expected),
            Match::No => prop_assert!(!expected),
            Match::Lines => {}
        }
    }

    #[test]
    fn any_text_is_answered_without_panic(text in ".{0,60}") {
        if let Err(error) = text.parse::<Filter>() {
            prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1);
        }
    }
}
