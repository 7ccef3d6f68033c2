//! What other protocols look like, for an answer that names them. Nothing of it is read: it is only asked when no line could be.

use crate::proto::line::BYTE_ORDER_MARK;

/// So much of a message is looked at, in bytes.
const SAMPLE_BYTES: usize = 4 * 1024;
/// So many of its lines.
const SAMPLE_LINES: usize = 20;

/// Another protocol, or another form of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it is called.
    pub name: &'static str,
    /// How to get it in all the same.
    pub advice: &'static str,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "this looks like {}, and line protocol or Telegraf JSON is taken here: {}",
            self.name, self.advice
        )
    }
}

/// Prometheus' remote write: protobuf in snappy.
pub const REMOTE_WRITE: Foreign = Foreign {
    name: "Prometheus remote write",
    advice: "let Telegraf take it (inputs.http_listener_v2 with data_format = \"prometheusremotewrite\") and send it on",
};
/// OpenTelemetry, in protobuf or JSON.
pub const OTLP: Foreign = Foreign {
    name: "OTLP (OpenTelemetry)",
    advice: "let Telegraf take it (inputs.opentelemetry) and send it on, or use the collector's influxdb exporter",
};
const EXPOSITION: Foreign = Foreign {
    name: "Prometheus text exposition",
    advice: "let Telegraf scrape it (inputs.prometheus) and send it on",
};
const STATSD: Foreign = Foreign {
    name: "statsd",
    advice: "let Telegraf take it (inputs.statsd, UDP or TCP 8125) and send it on",
};
const GRAPHITE: Foreign = Foreign {
    name: "Graphite plaintext",
    advice: "let Telegraf take it (inputs.socket_listener with data_format = \"graphite\") and send it on",
};
const OPENTSDB: Foreign = Foreign {
    name: "OpenTSDB",
    advice: "write `name,tag=value value=42 timestamp` instead of `put name timestamp 42 tag=value`",
};
const LOKI: Foreign =
    Foreign { name: "a push of logs to Loki", advice: "send logs to Loki; metrics only are relayed here" };
const DATADOG: Foreign =
    Foreign { name: "Datadog's series", advice: "let Telegraf or Vector take it and send line protocol on" };
const GZIP: Foreign =
    Foreign { name: "gzip", advice: "say so with the header Content-Encoding: gzip of a write" };
const ZSTD: Foreign = Foreign { name: "zstd", advice: "compress a write with gzip, or not at all" };
const SNAPPY: Foreign = Foreign { name: "snappy", advice: "compress a write with gzip, or not at all" };
const UTF_16: Foreign = Foreign { name: "UTF-16 text", advice: "send UTF-8" };
const PROTOBUF: Foreign = Foreign {
    name: "protobuf, as of OTLP or Prometheus remote write",
    advice: "let Telegraf take it (inputs.opentelemetry, inputs.http_listener_v2) and send it on",
};

/// What a message is that holds not one line.
pub fn recognise(bytes: &[u8]) -> Option<Foreign> {
    let magic: [(&[u8], Foreign); 5] = [
        (b"\x1f\x8b", GZIP),
        (b"\x28\xb5\x2f\xfd", ZSTD),
        (b"\xff\x06\x00\x00sNaPpY", SNAPPY),
        (b"\xff\xfe", UTF_16),
        (b"\xfe\xff", UTF_16),
    ];
    if let Some((_, foreign)) = magic.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(*foreign);
    }
    let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    let is_binary = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r');
    // The first field of both messages is the repeated one, with its length.
    if sample.first() == Some(&0x0a) && (sample.iter().any(is_binary) || std::str::from_utf8(bytes).is_err())
    {
        return Some(PROTOBUF);
    }
    let sample = sample.strip_prefix(BYTE_ORDER_MARK).unwrap_or(sample).trim_ascii_start();
    match sample.first()? {
        b'{' | b'[' => of_json(sample),
        _ => of_lines(&String::from_utf8_lossy(sample)),
    }
}

fn of_json(sample: &[u8]) -> Option<Foreign> {
    let members: [(&str, Foreign); 7] = [
        ("\"resourceMetrics\"", OTLP),
        ("\"resource_metrics\"", OTLP),
        ("\"resourceLogs\"", OTLP),
        ("\"resourceSpans\"", OTLP),
        ("\"streams\"", LOKI),
        ("\"series\"", DATADOG),
        ("\"metric\"", OPENTSDB),
    ];
    let found = members.iter().find(|(member, _)| memchr::memmem::find(sample, member.as_bytes()).is_some());
    found.map(|(_, foreign)| *foreign)
}

fn of_lines(sample: &str) -> Option<Foreign> {
    sample.lines().map(str::trim).filter(|line| !line.is_empty()).take(SAMPLE_LINES).find_map(of_line)
}

fn of_line(line: &str) -> Option<Foreign> {
    if ["# HELP ", "# TYPE ", "# UNIT ", "# EOF"].iter().any(|begin| line.starts_with(begin)) {
        return Some(EXPOSITION);
    }
    if line.starts_with("put ") {
        return Some(OPENTSDB);
    }
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    let is_number = |text: &str| text.parse::<f64>().is_ok();
    if let Some((name, rest)) = line.split_once('{')
        && let Some((_, value)) = rest.rsplit_once('}')
    {
        return (is_name(name) && value.split_whitespace().next().is_some_and(is_number))
            .then_some(EXPOSITION);
    }
    if let Some((_, rest)) = line.split_once(':')
        && let Some((value, kind)) = rest.split_once('|')
    {
        let kind = kind.split('|').next().unwrap_or_default();
        let known = matches!(kind, "c" | "g" | "ms" | "s" | "h" | "d" | "m");
        return (known && (is_number(value) || kind == "s")).then_some(STATSD);
    }
    let words: Vec<&str> = line.split_ascii_whitespace().take(4).collect();
    match words[..] {
        [path, value, time] if path.contains('.') && is_number(value) && is_number(time) => Some(GRAPHITE),
        [name, value] if is_name(name) && is_number(value) => Some(EXPOSITION),
        [name, value, time] if is_name(name) && is_number(value) && is_number(time) => Some(EXPOSITION),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, expected: Option<Foreign>) {
        assert_eq!(recognise(bytes.as_ref()), expected);
    }

    #[test]
    fn other_protocols_are_known_by_what_they_send() {
        check("# HELP up Is it up?\n# TYPE up gauge\nup{job=\"x\"} 1\n", Some(EXPOSITION));
        check("http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000", Some(EXPOSITION));
        check("process_open_fds 17\n", Some(EXPOSITION));
        check("go_gc_pause_seconds NaN 1700000000000", Some(EXPOSITION));
        check("page.views:1|c\nload:0.5|g|#env:prod\nusers:bob|s", Some(STATSD));
        check("glork:320|ms|@0.1", Some(STATSD));
        check("servers.web-01.cpu 42.5 1700000000", Some(GRAPHITE));
        check("put sys.cpu.user 1356998400 42.5 host=web01", Some(OPENTSDB));
        check(r#"{"resourceMetrics":[{"scopeMetrics":[]}]}"#, Some(OTLP));
        check(r#"{"streams":[{"stream":{},"values":[]}]}"#, Some(LOKI));
        check(r#"{"series":[{"metric":"a","points":[[1,2]]}]}"#, Some(DATADOG));
        check(r#"[{"metric":"sys.cpu","timestamp":1,"value":2}]"#, Some(OPENTSDB));
        check(b"\x0a\x1b\x0a\x0d\x0a\x08__name__\x12\x01x", Some(PROTOBUF));
        check(b"\x1f\x8b\x08\x00", Some(GZIP));
        check(b"\x28\xb5\x2f\xfdabc", Some(ZSTD));
        check(b"\xff\xfem\x00 \x00", Some(UTF_16));
    }

    #[test]
    fn broken_lines_and_json_are_not_taken_for_others() {
        for text in [
            "cpu",
            "cpu,host=a",
            "cpu usage=",
            "cpu,a=b c",
            "nonsense here and more",
            "m v=1 x",
            "a:b|c",
            "",
            "\n\n",
            "cpu v=1|c",
        ] {
            check(text, None);
        }
        for text in [r#"{"name":"m","fields":{}}"#, r#"{"name":"m","#, "[1,2]", "{a} v=?"] {
            check(text, None);
        }
        check(b"\xff\xff", None);
    }
}
