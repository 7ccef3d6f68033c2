use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::proto::filter::FilterSet;
use crate::proto::offset::{Epoch, Offset};
use crate::proto::printable::is_unprintable;

fn offset() -> Offset {
    Offset { epoch: Epoch(7), sequences: [42].into_iter().collect() }
}

fn parse(text: &str) -> Result<ClientMessage, MessageError> {
    ClientMessage::parse(text.as_bytes())
}

fn query(parameters: &[(&str, &str)]) -> Result<Subscription, MessageError> {
    let owned: Vec<_> =
        parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Subscription::from_query(&owned, Rules::default())
}

#[track_caller]
fn check_refused(text: &str, code: ErrorCode, said: &str) {
    let error = parse(text).expect_err(text);
    assert_eq!(error.code, code, "{text}: {error}");
    assert!(error.message.contains(said), "{text}: {error}");
}

#[test]
fn server_messages_are_written_exactly() {
    let id = Id::Number(1);
    let text_id = Id::Text("a\"b".into());
    for (message, expected) in [
        (
            ServerMessage::Welcome {
                node: "edge-1",
                session: "s\n",
                offset: Some("AQ"),
                heartbeat_ms: 15_000,
                matching: Some(0),
                interval_ms: None,
            },
            r#"{"type":"welcome","protocol":1,"node":"edge-1","session":"s\n","offset":"AQ","heartbeat_ms":15000,"matching":0}"#,
        ),
        (ServerMessage::Heartbeat { offset: "AQ" }, r#"{"type":"heartbeat","offset":"AQ"}"#),
        (
            ServerMessage::Gap { from: "A", to: "B", reason: GapReason::Slow, snapshot: false },
            r#"{"type":"gap","from":"A","to":"B","reason":"slow"}"#,
        ),
        (ServerMessage::Stale { since_ms: 10_500 }, r#"{"type":"stale","since_ms":10500}"#),
        (ServerMessage::Live, r#"{"type":"live"}"#),
        (
            ServerMessage::Error { id: Some(&id), code: ErrorCode::BadFilter, message: "say \"x\"" },
            r#"{"type":"error","id":1,"code":"bad_filter","message":"say \"x\""}"#,
        ),
        (
            ServerMessage::Error { id: None, code: ErrorCode::TooLarge, message: "m" },
            r#"{"type":"error","code":"too_large","message":"m"}"#,
        ),
        (
            ServerMessage::Ack { id: Some(&id), matching: Some(7), interval_ms: None },
            r#"{"type":"ack","id":1,"matching":7}"#,
        ),
        (
            ServerMessage::Ack { id: None, matching: None, interval_ms: Some(150) },
            r#"{"type":"ack","interval_ms":150}"#,
        ),
        (ServerMessage::Pong { id: Some(&text_id) }, r#"{"type":"pong","id":"a\"b"}"#),
        (
            ServerMessage::Goodbye {
                reason: GoodbyeReason::Draining,
                offset: Some("AQ"),
                reconnect_after_ms: 4200,
            },
            r#"{"type":"goodbye","reason":"draining","offset":"AQ","reconnect_after_ms":4200}"#,
        ),
        // Before a session has its snapshot, its client has no place to resume from.
        (
            ServerMessage::Welcome {
                node: "edge-1",
                session: "s",
                offset: None,
                heartbeat_ms: 1,
                matching: None,
                interval_ms: Some(1_000),
            },
            r#"{"type":"welcome","protocol":1,"node":"edge-1","session":"s","heartbeat_ms":1,"interval_ms":1000}"#,
        ),
        (
            ServerMessage::Gap { from: "A", to: "B", reason: GapReason::Slow, snapshot: true },
            r#"{"type":"gap","from":"A","to":"B","reason":"slow","snapshot":true}"#,
        ),
        (
            ServerMessage::Goodbye { reason: GoodbyeReason::Slow, offset: None, reconnect_after_ms: 1 },
            r#"{"type":"goodbye","reason":"slow","reconnect_after_ms":1}"#,
        ),
    ] {
        assert_eq!(String::from_utf8(message.to_json()).unwrap(), expected);
    }
}

#[test]
fn data_frames_begin_with_their_offset() {
    let mut out = Vec::new();
    write_metrics_open(&mut out, "AQ", "rack \"7\"");
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"type":"metrics","offset":"AQ","collector":"rack \"7\"","metrics":"#
    );
    let mut out = Vec::new();
    write_influx_head(&mut out, "AQ");
    assert_eq!(out, b"# offset AQ\n");
}

#[test]
fn parts_of_a_snapshot_say_which_they_are() {
    let which = SnapshotPart { offset: "AQ", part: 1, parts: 3, incomplete: None };
    let mut out = Vec::new();
    write_snapshot_open(&mut out, which, "web-01");
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"type":"snapshot","offset":"AQ","part":1,"parts":3,"collector":"web-01","metrics":"#
    );
    let mut out = Vec::new();
    write_influx_snapshot_head(&mut out, which);
    assert_eq!(out, b"# offset AQ\n# snapshot 1/3\n");
    for (incomplete, text) in [(Incomplete::Starting, "starting"), (Incomplete::Bounds, "bounds")] {
        let which = SnapshotPart { incomplete: Some(incomplete), ..which };
        let (mut json, mut influx) = (Vec::new(), Vec::new());
        write_snapshot_open(&mut json, which, "web-01");
        write_influx_snapshot_head(&mut influx, which);
        let json = String::from_utf8(json).unwrap();
        assert!(json.contains(&format!(r#""parts":3,"incomplete":"{text}","#)), "{json}");
        assert_eq!(influx, format!("# offset AQ\n# snapshot 1/3\n# incomplete {text}\n").as_bytes());
    }
}

#[test]
fn data_frames_of_newest_values_say_what_they_stand_for() {
    let json = |of| {
        let mut out = Vec::new();
        write_conflated_open(&mut out, "AR", of, "web-01");
        String::from_utf8(out).unwrap()
    };
    let influx = |of| {
        let mut out = Vec::new();
        write_influx_conflated_head(&mut out, "AR", of);
        String::from_utf8(out).unwrap()
    };
    let counted = Conflated { from: "AQ", conflated: Some(7) };
    assert_eq!(
        json(counted),
        r#"{"type":"metrics","offset":"AR","from":"AQ","conflated":7,"collector":"web-01","metrics":"#
    );
    assert_eq!(influx(counted), "# offset AR\n# from AQ conflated 7\n");
    let uncounted = Conflated { from: "AQ", conflated: None };
    assert_eq!(
        json(uncounted),
        r#"{"type":"metrics","offset":"AR","from":"AQ","collector":"web-01","metrics":"#
    );
    assert_eq!(influx(uncounted), "# offset AR\n# from AQ\n");
}

#[test]
fn subscribe_says_what_is_to_change() {
    let filters = FilterSet::parse(["*.cpu", "web-01.>"]).unwrap();
    assert_eq!(
        parse(
            r#"{"type":"subscribe","id":"x","filter":["web-01.>","*.cpu"],"from":"-30s","format":"influx"}"#
        ),
        Ok(ClientMessage::Subscribe {
            id: Some(Id::Text("x".into())),
            change: SubscriptionChange {
                filters: Some(filters.clone()),
                from: Some(From::Ago(Duration::from_secs(30))),
                format: Some(Format::Influx),
                ..Default::default()
            },
        })
    );
    let ClientMessage::Subscribe { id: None, change } =
        parse(r#"{"type":"subscribe","filter":"*.cpu"}"#).unwrap()
    else {
        panic!("no id was sent");
    };
    let before =
        Subscription { format: Format::Influx, from: Some(From::Earliest), filters, ..Default::default() };
    let after = change.apply(&before);
    assert_eq!(after.filters.to_string(), "*.cpu");
    assert_eq!(
        (after.format, after.from),
        (Format::Influx, None),
        "what is left out stays; a place does not"
    );
    assert_eq!(SubscriptionChange::default().apply(&before).filters, before.filters);
}

#[test]
fn null_members_are_left_out() {
    let text = r#"{"type":"subscribe","id":null,"filter":null,"from":null,"snapshot":false,"interval":0,"format":null}"#;
    let change = SubscriptionChange { snapshot: Some(false), interval_ms: Some(0), ..Default::default() };
    assert_eq!(change.clone().apply(&Subscription::default()), Subscription::default());
    assert_eq!(parse(text), Ok(ClientMessage::Subscribe { id: None, change }));
}

#[test]
fn replay_and_ping_carry_their_id() {
    let text = format!(r#"{{"type":"replay","id":7,"from":"{}"}}"#, offset());
    assert_eq!(
        parse(&text),
        Ok(ClientMessage::Replay { id: Some(Id::Number(7)), from: From::Offset(offset()), snapshot: None })
    );
    assert_eq!(parse(r#"{"type":"ping","id":-1}"#), Ok(ClientMessage::Ping { id: Some(Id::Number(-1)) }));
    assert_eq!(parse(r#"{"type":"ping"}"#), Ok(ClientMessage::Ping { id: None }));
}

#[test]
fn a_bad_message_is_told_what_is_known() {
    use ErrorCode::*;
    let long_id = format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(65));
    for (text, code, said) in [
        ("hello", BadMessage, "not JSON"),
        ("[1]", BadMessage, "a message is a JSON object, this is an array"),
        ("{}", BadMessage, "`type` is missing"),
        (r#"{"type":1}"#, BadMessage, "`type` is a string, this is a number"),
        (
            r#"{"type":"unsubscribe"}"#,
            BadMessage,
            "`unsubscribe` is unknown: a client sends `subscribe`, `replay` or `ping`",
        ),
        (
            r#"{"type":"subscribe","filters":"*.cpu"}"#,
            BadMessage,
            "no member `filters` (did you mean `filter`?): it has `type`, `id`, `filter`, `from`",
        ),
        (r#"{"type":"ping","from":"latest"}"#, BadMessage, "`ping` has no member `from`"),
        (r#"{"type":"ping","id":1.5}"#, BadMessage, "`id` is a whole number or a string of at most 64 bytes"),
        (r#"{"type":"ping","id":{}}"#, BadMessage, "`id` is a whole number"),
        (&long_id, BadMessage, "at most 64 bytes"),
        (r#"{"type":"subscribe","filter":[]}"#, BadFilter, "the list of filters is empty"),
        (r#"{"type":"subscribe","filter":""}"#, BadFilter, "the filter is empty"),
        (r#"{"type":"subscribe","filter":[" "]}"#, BadFilter, "the filter is empty"),
        (r#"{"type":"subscribe","filter":["*.cpu",""]}"#, BadFilter, "the filter is empty"),
        (r#"{"type":"subscribe","filter":7}"#, BadFilter, "a string or an array of strings, not a number"),
        (r#"{"type":"subscribe","filter":["a.b",null]}"#, BadFilter, "not null"),
        (r#"{"type":"subscribe","filter":"cpu"}"#, BadFilter, "filter `cpu`: column 1: a filter is"),
        (r#"{"type":"subscribe","from":3}"#, BadFrom, "`from` is a string, not a number"),
        (r#"{"type":"replay"}"#, BadFrom, "`replay` needs `from`"),
        (
            r#"{"type":"subscribe","format":"xml"}"#,
            BadFormat,
            "`xml` is unknown: there are `json`, `influx`, `influx-escaped`, `influx-raw`",
        ),
        (
            r#"{"type":"subscribe","interval":-1}"#,
            BadInterval,
            "whole number of milliseconds from 100 to 3600000, or 0 for every value, not `-1`",
        ),
        (r#"{"type":"subscribe","interval":1.5}"#, BadInterval, "not `1.5`"),
        (r#"{"type":"subscribe","snapshot":"yes"}"#, BadSnapshot, "true or false, not `yes`"),
        (
            r#"{"type":"subscribe","snapshot":true,"from":"earliest"}"#,
            BadSnapshot,
            "does not go with `from` = `earliest`: leave out one of them",
        ),
        (r#"{"type":"replay","snapshot":true,"from":"-5m"}"#, BadSnapshot, "`from` = a time span"),
        (r#"{"type":"subscribe","interval":99}"#, BadInterval, "from 100 to 3600000"),
        (r#"{"type":"subscribe","interval":3600001}"#, BadInterval, "from 100 to 3600000"),
    ] {
        check_refused(text, code, said);
    }
}

#[test]
fn an_error_carries_the_id_whenever_it_can_be_read() {
    for (text, id) in [
        (r#"{"id":5,"type":"nope"}"#, Some(Id::Number(5))),
        (r#"{"type":"subscribe","filter":"cpu","id":"q"}"#, Some(Id::Text("q".into()))),
        (r#"{"type":"replay","snapshot":true,"from":"earliest","id":3}"#, Some(Id::Number(3))),
        (r#"{"id":5}"#, Some(Id::Number(5))),
        (r#"{"id":5"#, None),
    ] {
        assert_eq!(parse(text).unwrap_err().id, id, "{text}");
    }
}

#[test]
fn a_session_begins_where_from_says() {
    for (text, expected) in [
        ("latest", From::Latest),
        ("earliest", From::Earliest),
        ("-30s", From::Ago(Duration::from_secs(30))),
        ("-5m", From::Ago(Duration::from_secs(300))),
        ("-500ms", From::Ago(Duration::from_millis(500))),
        ("-1h", From::Ago(Duration::from_secs(3600))),
        ("-0s", From::Ago(Duration::ZERO)),
    ] {
        assert_eq!(text.parse(), Ok(expected));
    }
    assert_eq!(offset().token().parse(), Ok(From::Offset(offset())));
    for text in [
        "",
        "now",
        "-",
        "-s",
        "-30",
        "-3d",
        "-1.5s",
        "--1s",
        "30s",
        "-99999999999999999999s",
        "-9999999999999999h",
    ] {
        let error = text.parse::<From>().expect_err(text);
        assert_eq!(error.code, ErrorCode::BadFrom);
        assert!(
            error.message.contains("`latest`, `earliest`, or a time span like `-30s`"),
            "{text}: {error}"
        );
    }
}

#[test]
fn a_request_may_say_it_all_in_its_parameters() {
    assert_eq!(query(&[]), Ok(Subscription::default()));
    let token = offset().token();
    let asked = query(&[
        ("filter", "*.cpu"),
        ("token", "secret"),
        ("filter", "web-01.>"),
        ("from", &token),
        ("format", "influx"),
        ("snapshot", "false"),
        ("interval", "1000"),
    ]);
    assert_eq!(
        asked,
        Ok(Subscription {
            filters: FilterSet::parse(["web-01.>", "*.cpu"]).unwrap(),
            from: Some(From::Offset(offset())),
            snapshot: false,
            interval_ms: Some(1000),
            format: Format::Influx,
        })
    );
    assert_eq!(query(&[("interval", "0")]).unwrap().interval_ms, None, "every value");
}

#[test]
fn a_bad_parameter_is_named() {
    use ErrorCode::*;
    for (parameters, code, said) in [
        (
            &[("filters", "x")][..],
            BadParameter,
            "`filters` is unknown (did you mean `filter`?): there are `filter`, `from`, `lastEventId`, `snapshot`",
        ),
        (&[("from", "latest"), ("from", "latest")], BadParameter, "`from` is given twice"),
        (&[("filter", "cpu")], BadFilter, "write `*.cpu`"),
        (&[("from", "yesterday")], BadFrom, "`yesterday` is no offset"),
        (&[("format", "")], BadFormat, "there are `json`, `influx`"),
        (&[("colour", "red")], BadParameter, "`colour` is unknown: there are"),
        (&[("_filter", "*.cpu")], BadParameter, "`_filter` is unknown (did you mean `filter`?)"),
        (&[("Filter", "*.cpu")], BadParameter, "`Filter` is unknown (did you mean `filter`?)"),
        (&[("filter", "")], BadFilter, "the filter is empty"),
        (&[("filter", "*.cpu"), ("filter", "  ")], BadFilter, "the filter is empty"),
        (&[("interval", "1s")], BadInterval, "not `1s`"),
        (&[("interval", "10")], BadInterval, "from 100 to 3600000, or 0 for every value, not `10`"),
        (&[("snapshot", "1")], BadSnapshot, "true or false"),
        (&[("snapshot", "true"), ("from", "-1s")], BadSnapshot, "or give an offset"),
        (&[("a\u{1b}[31m", "")], BadParameter, r"`a\u{1b}[31m` is unknown"),
        (&[("a\u{202e}b", "")], BadParameter, r"`a\u{202e}b` is unknown"),
        (&[("filter", "a\u{202e}b")], BadFilter, r"filter `a\u{202e}b`: column 1"),
    ] {
        let error = query(parameters).unwrap_err();
        assert_eq!(error.code, code, "{parameters:?}: {error}");
        assert!(error.message.contains(said), "{parameters:?}: {error}");
    }
}

#[test]
fn what_event_sources_and_caches_add_to_a_url_is_understood() {
    let (token, older) =
        (offset().token(), Offset { sequences: [1].into_iter().collect(), ..offset() }.token());
    for name in [
        "lastEventId",
        "lastEventID",
        "LastEventId",
        "last-event-id",
        "Last-Event-ID",
        "Last-Event-Id",
        "LAST-EVENT-ID",
        "last_event_id",
        "lasteventid",
        "evs_last_event_id",
    ] {
        for parameters in [
            &[(name, &*token)][..],
            &[("from", "-5m"), (name, &token), ("snapshot", "true")],
            &[(name, &token), ("from", "nonsense that no longer counts")],
            // Added once more each time, or left empty in the beginning.
            &[("lastEventId", &older), (name, &token)],
            &[(name, &token), (name, "")],
        ] {
            let asked = query(parameters).unwrap_or_else(|error| panic!("{parameters:?}: {error}"));
            assert_eq!(asked.from, Some(From::Offset(offset())), "{parameters:?}");
        }
        assert_eq!(query(&[("from", "latest"), (name, "")]).unwrap().from, Some(From::Latest), "{name}");
        assert_eq!(query(&[(name, "17")]).unwrap_err().code, ErrorCode::BadFrom, "{name}");
    }
    for name in [
        "_",
        "__",
        "_t",
        "_ts",
        "_dc",
        "_=",
        "_cb",
        "_cacheBust",
        "cb",
        "t",
        "ts",
        "r",
        "v",
        "rnd",
        "rand",
        "random",
        "nocache",
        "no-cache",
        "no_cache",
        "noCache",
        "cache",
        "cachebuster",
        "cacheBuster",
        "cache-buster",
        "cache_bust",
        "bust",
        "nonce",
        "timestamp",
        "zx",
        "evs_preamble",
        "padding",
    ] {
        for value in ["", "1732800000000", "0.123", "a&b"] {
            let asked = query(&[("filter", "*.cpu"), (name, value), (name, value)]);
            let asked = asked.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((asked.filters.to_string(), asked.from), ("*.cpu".to_owned(), None), "{name}");
        }
    }
}

#[test]
fn a_request_is_held_to_the_rules_of_its_answer() {
    let read = |parameters: &[(&str, &str)], rules| {
        let owned: Vec<_> =
            parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Subscription::from_query(&owned, rules)
    };
    let lines = Rules { lines: true, ..Rules::default() };
    for (asked, of_frames, of_lines) in [
        ("json", Format::Json, Format::Json),
        ("influx", Format::Influx, Format::InfluxEscaped),
        ("influx-escaped", Format::InfluxEscaped, Format::InfluxEscaped),
        ("influx-raw", Format::Influx, Format::Influx),
    ] {
        assert_eq!(query(&[("format", asked)]).unwrap().format, of_frames, "{asked}");
        assert_eq!(read(&[("format", asked)], lines).unwrap().format, of_lines, "{asked}");
    }
    let state = Rules { state: true, lines: true, own: &[] };
    assert!(read(&[("filter", "*.cpu"), ("token", "x"), ("_", "1")], state).is_ok());
    for (name, said) in [
        (
            "from",
            "`from` means nothing to this answer, which is the state of now: there are `filter`, `format`, `token`",
        ),
        ("snapshot", "`snapshot` means nothing to this answer"),
        ("formt", "`formt` is unknown (did you mean `format`?): there are `filter`, `format`, `token`"),
        ("lastEventId", "`lastEventId` means nothing to this answer"),
    ] {
        let error = read(&[(name, "x")], state).unwrap_err();
        assert_eq!(error.code, ErrorCode::BadParameter);
        assert!(error.message.contains(said), "{error}");
    }
    let poll = Rules { lines: true, own: &["timeout"], ..Rules::default() };
    assert!(read(&[("timeout", "1")], poll).is_ok());
    let error = read(&[("timout", "1")], poll).unwrap_err();
    assert!(error.message.contains("(did you mean `timeout`?)"), "{error}");
}

#[test]
fn close_codes_are_distinct_and_may_be_sent() {
    let numbers: Vec<u16> = CloseCode::ALL.iter().map(|code| code.number()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    for code in CloseCode::ALL {
        assert_eq!(CloseCode::from_number(code.number()), Some(code));
        assert!(code.meaning().len() <= crate::proto::frame::CLOSE_REASON_BYTES_MAX);
    }
    assert_eq!(CloseCode::from_number(1005), None);
    assert_eq!(CloseCode::Draining.reconnect(), Reconnect::Resume);
    let finals: Vec<_> =
        CloseCode::ALL.into_iter().filter(|code| code.reconnect() == Reconnect::No).collect();
    assert_eq!(finals, [CloseCode::Policy], "what a proxy may send as well ends no client");
}

proptest! {
    #[test]
    fn any_bytes_are_answered_with_a_short_error(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Err(error) = ClientMessage::parse(&bytes) {
            prop_assert!(error.message.len() < 600, "{}", error);
        }
    }

    #[test]
    fn ids_come_back_as_they_were(number: i64, text in ".{0,16}") {
        for id in [Id::Number(number), Id::Text(text)] {
            let ping = format!(r#"{{"type":"ping","id":{id}}}"#);
            prop_assert_eq!(parse(&ping), Ok(ClientMessage::Ping { id: Some(id.clone()) }));
        }
    }

    #[test]
    fn server_messages_are_json_whatever_they_quote(text in ".{0,40}") {
        let id = Id::Text(text.clone());
        let message = ServerMessage::Error { id: Some(&id), code: ErrorCode::BadMessage, message: &text };
        let value: serde_json::Value = serde_json::from_slice(&message.to_json()).unwrap();
        prop_assert_eq!(value["message"].as_str(), Some(&*printable(&text)));
        prop_assert!(!message.to_json().iter().any(u8::is_ascii_control));
        prop_assert!(!String::from_utf8(message.to_json()).unwrap().contains(is_unprintable));
        prop_assert_eq!(value["id"].as_str(), Some(text.as_str()));
    }
}
