//! Every path of the program, what it is for, and which role serves it: the index for newcomers, and the way out of a wrong
//! address.

use serde::Serialize;

use crate::config::Role;
use crate::ops::foreign;

/// One path.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServedPath {
    /// As in a URL.
    pub path: &'static str,
    /// Method, or `WebSocket`.
    pub method: &'static str,
    /// In one line.
    pub purpose: &'static str,
    /// Who serves it.
    #[serde(skip)]
    pub audience: Audience,
}

/// For whom a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Operators: every role.
    Operators,
    /// Collectors: ingest and standalone.
    Collectors,
    /// Clients: edge and standalone.
    Clients,
}

impl ServedPath {
    /// Whether a node in `role` serves it.
    pub fn is_served_by(&self, role: Role) -> bool {
        match self.audience {
            Audience::Operators => true,
            Audience::Collectors => role.ingests(),
            Audience::Clients => role.serves_clients(),
        }
    }
}

/// Every path.
pub const PATHS: &[ServedPath] = &[
    client("/ws", "WebSocket", "live metrics as JSON; ?filter=web-01.cpu narrows, ?from=OFFSET resumes"),
    client("/ws/clients", "WebSocket", "the same as /ws"),
    client(
        "/sse",
        "GET",
        "the same as server-sent events, for EventSource and curl -N; Last-Event-ID resumes",
    ),
    client(
        "/api/metrics/poll",
        "GET",
        "the same by asking: ?from=OFFSET&timeout=25 answers when there is something",
    ),
    client("/api/metrics/latest", "GET", "the last value of every series; ?filter=*.cpu&format=influx"),
    client(
        "/telecast.js",
        "GET",
        "the client library for pages, as a module: import { connect } from \"/telecast.js\"",
    ),
    collector("/ws/collector", "WebSocket", "metrics in: line protocol or Telegraf JSON (outputs.websocket)"),
    collector("/api/v1/write", "POST", "metrics in: line protocol or Telegraf JSON (outputs.http)"),
    collector("/api/v2/write", "POST", "metrics in, as InfluxDB 2 takes them (outputs.influxdb_v2)"),
    collector("/write", "POST", "metrics in, as InfluxDB 1 takes them (outputs.influxdb)"),
    collector("/ping", "GET", "204 and a version: InfluxDB's clients ask before they write"),
    operator("/", "this list"),
    operator("/health", "health with its checks; 503 when unhealthy"),
    operator("/health/detailed", "the same, and which node in which state"),
    operator("/api/health", "health in one word, number of clients, version"),
    operator("/livez", "200 while the process turns: liveness probe"),
    operator("/readyz", "200 while new peers are welcome, 503 with the reasons otherwise: readiness probe"),
    operator("/version", "version and commit of this program"),
    operator("/metrics", "metrics of this process for Prometheus"),
    operator("/api/metrics/status", "the log, the collectors and the clients of this node"),
    operator("/admin/log-level", "what is logged; needs admin.token"),
    ServedPath {
        path: "/admin/log-level",
        method: "PUT",
        purpose: "log by another level from now on: what LOG_LEVEL takes, as the body; needs admin.token",
        audience: Audience::Operators,
    },
];

/// Whether senders write to `path`, InfluxDB's clients among them.
pub fn takes_writes(path: &str) -> bool {
    PATHS
        .iter()
        .any(|known| known.path == path && known.audience == Audience::Collectors && known.method == "POST")
}

/// What to try instead of `path`, which a listener of a node in `role` does not serve: why it is not here, if it is elsewhere;
/// else what is spelled like it; else the index.
pub fn directions(path: &str, role: Role) -> String {
    if let Some(known) = PATHS.iter().find(|known| known.path == path && known.is_served_by(role)) {
        let listener = match known.audience {
            Audience::Operators => "server.metrics_listen",
            Audience::Collectors | Audience::Clients => "server.listen",
        };
        return format!("it is on the other listener of this node (`{listener}`)");
    }
    if let Some(foreign) = foreign::of(path) {
        return foreign;
    }
    let path = path.trim_end_matches('/').to_ascii_lowercase();
    let path = path.as_str();
    if let Some(elsewhere) = PATHS.iter().find(|known| known.path == path && !known.is_served_by(role)) {
        let (peers, owner) = match elsewhere.audience {
            Audience::Collectors => ("collectors connect to", "ingest"),
            Audience::Clients | Audience::Operators => ("clients connect to", "edge"),
        };
        let role = role.as_str();
        return format!("this node is in the role {role}, and {peers} one in the role {owner}");
    }
    if let Some(known) = PATHS.iter().find(|known| known.path == path) {
        return format!("did you mean {}? GET / lists what is served here", known.path);
    }
    let near: Vec<&str> = nearest(path, role).into_iter().map(|known| known.path).collect();
    match near.as_slice() {
        [] => "GET / lists what is served here".to_owned(),
        near => format!("did you mean {}? GET / lists what is served here", near.join(" or ")),
    }
}

fn nearest(path: &str, role: Role) -> Vec<&'static ServedPath> {
    // Below this a suggestion is a guess; three at most, more is a list.
    const SIMILARITY_MIN: f64 = 0.8;
    const SUGGESTIONS_MAX: usize = 3;
    let mut near: Vec<(f64, &ServedPath)> = PATHS
        .iter()
        .filter(|known| known.path != "/" && known.is_served_by(role))
        .map(|known| (strsim::jaro_winkler(path, known.path), known))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .collect();
    near.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    near.into_iter().take(SUGGESTIONS_MAX).map(|(_, known)| known).collect()
}

const fn client(path: &'static str, method: &'static str, purpose: &'static str) -> ServedPath {
    ServedPath { path, method, purpose, audience: Audience::Clients }
}

const fn collector(path: &'static str, method: &'static str, purpose: &'static str) -> ServedPath {
    ServedPath { path, method, purpose, audience: Audience::Collectors }
}

const fn operator(path: &'static str, purpose: &'static str) -> ServedPath {
    ServedPath { path, method: "GET", purpose, audience: Audience::Operators }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_path_leads_to_the_right_one() {
        for (path, role, words) in [
            ("/ws/client", Role::Edge, "/ws/clients"),
            ("/heath", Role::Ingest, "/health"),
            ("/ws/collectors", Role::Standalone, "/ws/collector"),
            ("/metrics/", Role::Edge, "/metrics"),
            ("/ws/collector", Role::Edge, "one in the role ingest"),
            ("/ws", Role::Ingest, "one in the role edge"),
            ("/entirely-elsewhere", Role::Edge, "GET / lists"),
        ] {
            let text = directions(path, role);
            assert!(text.contains(words), "{path}: {text}");
        }
    }

    #[test]
    fn a_path_that_is_right_but_for_slash_and_case_is_the_only_suggestion() {
        for path in ["/ws/", "/WS", "/Ws/"] {
            assert_eq!(directions(path, Role::Edge), "did you mean /ws? GET / lists what is served here");
        }
    }

    #[test]
    fn what_the_other_listener_serves_is_said_to_be_there() {
        let text = directions("/metrics", Role::Edge);
        assert_eq!(text, "it is on the other listener of this node (`server.metrics_listen`)");
        let text = directions("/ws", Role::Edge);
        assert_eq!(text, "it is on the other listener of this node (`server.listen`)");
    }
}
