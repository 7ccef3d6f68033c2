//! Addresses of other programs, at which senders arrive that were meant for them: what they want, and what to use here.

/// Paths of one program.
struct Foreign {
    /// The path, or its beginning where a slash follows.
    paths: &'static [&'static str],
    /// Whose they are.
    what: &'static str,
    /// What to do.
    advice: &'static str,
}

const FOREIGN: &[Foreign] = &[
    Foreign {
        paths: &["/v1/metrics", "/v1/traces", "/v1/logs", "/otlp", "/api/v1/otlp", "/opentelemetry"],
        what: "OTLP (OpenTelemetry)",
        advice: "let Telegraf take it (inputs.opentelemetry) and send it on to /api/v1/write or /ws/collector",
    },
    Foreign {
        paths: &[
            "/api/v1/push",
            "/api/prom/push",
            "/receive",
            "/api/v1/receive",
            "/prometheus",
            "/insert/0/prometheus",
        ],
        what: "Prometheus remote write",
        advice: "let Telegraf take it (inputs.http_listener_v2 with data_format = \"prometheusremotewrite\") and send it on",
    },
    Foreign {
        paths: &["/api/v1/import", "/insert"],
        what: "VictoriaMetrics",
        advice: "send line protocol to /write or /api/v2/write",
    },
    Foreign {
        paths: &["/api/put", "/api/query"],
        what: "OpenTSDB",
        advice: "send line protocol to /write; Telegraf's outputs can be outputs.http or outputs.websocket",
    },
    Foreign {
        paths: &["/loki/api", "/api/v1/logs"],
        what: "Loki",
        advice: "metrics only are relayed here: send logs to Loki",
    },
    Foreign {
        paths: &["/api/v1/series", "/api/v2/series", "/api/v1/check_run", "/intake"],
        what: "Datadog",
        advice: "let Telegraf or Vector take it and send line protocol to /api/v1/write",
    },
    Foreign {
        paths: &["/metrics/job", "/metrics/jobs"],
        what: "Prometheus' Pushgateway",
        advice: "let Telegraf scrape what is pushed (inputs.prometheus), or send line protocol to /api/v1/write",
    },
    Foreign {
        paths: &[
            "/api/v1/query",
            "/api/v1/query_range",
            "/api/v1/labels",
            "/api/v1/label",
            "/query",
            "/api/v2/query",
            "/api/v3/query_sql",
        ],
        what: "a query of a database",
        advice: "nothing is queried here; GET /api/metrics/latest has the last value of every series, /ws everything that comes",
    },
    Foreign {
        paths: &["/api/v3/write_lp"],
        what: "InfluxDB 3",
        advice: "send the same line protocol to /api/v2/write",
    },
    Foreign {
        paths: &["/api/v2/buckets", "/api/v2/orgs", "/api/v2/ready", "/api/v2/setup", "/api/v2/health"],
        what: "InfluxDB 2's administration",
        advice: "there are no buckets here; /ping says that writes are taken, /readyz whether this node is ready",
    },
    Foreign {
        paths: &["/services/collector", "/_bulk"],
        what: "Splunk or Elasticsearch",
        advice: "send line protocol or Telegraf JSON to /api/v1/write",
    },
];

/// What a sender at `path` wants and should do instead, if the path is another program's.
pub(super) fn of(path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    let below =
        |known: &str| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let found = FOREIGN.iter().find(|foreign| foreign.paths.iter().any(|known| below(known)))?;
    Some(format!("this is an address of {}: {}", found.what, found.advice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::paths::PATHS;

    #[test]
    fn addresses_of_other_programs_are_known_with_what_to_do() {
        for (path, word) in [
            ("/v1/metrics", "OTLP"),
            ("/api/v1/push", "remote write"),
            ("/api/v1/import/prometheus", "VictoriaMetrics"),
            ("/api/put", "OpenTSDB"),
            ("/loki/api/v1/push", "Loki"),
            ("/metrics/job/backup", "Pushgateway"),
            ("/api/v1/query/", "query"),
            ("/api/v3/write_lp", "/api/v2/write"),
        ] {
            assert!(of(path).unwrap_or_default().contains(word), "{path}: {:?}", of(path));
        }
    }

    #[test]
    fn no_address_of_ours_is_another_programs() {
        for known in PATHS {
            assert_eq!(of(known.path), None, "{}", known.path);
        }
        for near in ["/metrics/", "/api/v1/writes", "/v1/metric", "/queries", "/helth"] {
            assert_eq!(of(near), None, "{near}");
        }
    }
}
