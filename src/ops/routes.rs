//! The operations' routes, the same on every role, and the answers for wrong addresses.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{Role, Secret};
use crate::ops::admin;
use crate::ops::health::{self, Health, Status};
use crate::ops::http::{Access, Origins};
use crate::ops::listing;
use crate::ops::node::Node;
use crate::ops::paths::{PATHS, ServedPath, directions};
use crate::ops::prometheus::{CONTENT_TYPE, Exporter};
use crate::ops::reply::{ApiError, Json, wrong_method};
use crate::ops::status::{self, ReadinessInputs};
use crate::ops::version;
use crate::proto::printable::printable_json;

/// What operators are served.
#[derive(Clone)]
pub struct Operations {
    /// The node they ask about.
    pub node: Arc<Node>,
    /// None where metrics are off.
    pub exporter: Option<Exporter>,
    /// What they need to change something.
    pub admin_token: Option<Secret>,
}

/// Everything for operators. Merged with the roles' routers; [`with_fallbacks`] comes last.
pub fn router(operations: Operations, origins: &Origins) -> Router {
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(operations.clone());
    let admin = admin::router(operations.admin_token.clone());
    public_router(operations, origins).merge(metrics).merge(admin)
}

/// The same without what has its own listener when `server.metrics_listen` is set.
pub fn public_router(operations: Operations, origins: &Origins) -> Router {
    let probes =
        Router::new().route("/", get(index)).route("/livez", get(alive)).route("/readyz", get(ready));
    let reads = Router::new()
        .route("/health", get(health))
        .route("/health/detailed", get(health_detailed))
        .route("/api/health", get(health_summary))
        .route("/version", get(version_of_program))
        .route("/api/metrics/status", get(metrics_status));
    probes.merge(origins.apply(Access::Read, reads)).with_state(operations)
}

/// Answers for paths and methods that nothing serves. Comes after every merge: a method fallback only reaches routes that are
/// there already, and two routers with fallbacks cannot be merged.
pub fn with_fallbacks(router: Router, role: Role) -> Router {
    router.method_not_allowed_fallback(wrong_method).fallback(
        move |OriginalUri(uri): OriginalUri| async move {
            wrong_path(uri.path(), role).into_response_at(uri.path())
        },
    )
}

#[derive(Serialize)]
struct Index {
    service: &'static str,
    version: &'static str,
    node: String,
    role: &'static str,
    paths: Vec<ServedPath>,
}

async fn index(State(Operations { node, .. }): State<Operations>) -> Json<Index> {
    let paths = PATHS.iter().filter(|known| known.is_served_by(node.role)).copied().collect();
    Json(Index {
        service: "telecast",
        version: version::NUMBER,
        node: node.id.clone(),
        role: node.role.as_str(),
        paths,
    })
}

async fn health(State(Operations { node, .. }): State<Operations>) -> Response {
    let health = assess(&node);
    (status_of(&health), Json(health)).into_response()
}

async fn health_detailed(State(Operations { node, .. }): State<Operations>) -> Response {
    let health = assess(&node);
    (status_of(&health), Json(status::detailed(&node, health))).into_response()
}

async fn health_summary(State(Operations { node, .. }): State<Operations>) -> Response {
    let health = assess(&node);
    (status_of(&health), Json(status::summary(&node, &health))).into_response()
}

async fn version_of_program() -> Json<Value> {
    Json(json!({"service": "telecast", "version": version::NUMBER, "commit": version::COMMIT}))
}

async fn alive() -> Json<Value> {
    Json(json!({"alive": true}))
}

async fn ready(State(Operations { node, .. }): State<Operations>) -> Response {
    let readiness = status::readiness(&ReadinessInputs::of(&node));
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness)).into_response()
}

async fn metrics(State(Operations { node, exporter, .. }): State<Operations>) -> Response {
    match exporter {
        Some(exporter) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], exporter.render(&node)).into_response(),
        None => {
            let message = "metrics are off on this node (`server.metrics_enabled`)";
            ApiError::new(StatusCode::NOT_FOUND, "metrics_off", message).into_response()
        }
    }
}

/// Which part of the collectors is asked for.
#[derive(Deserialize)]
struct Paging {
    limit: Option<String>,
    after: Option<String>,
}

async fn metrics_status(State(Operations { node, .. }): State<Operations>, uri: Uri) -> Response {
    let paging = Query::<Paging>::try_from_uri(&uri)
        .map_err(|error| ApiError::bad_request("bad_query", format!("the query cannot be read: {error}")));
    let paging = paging.and_then(|Query(Paging { limit, after })| Ok((page_rows(limit.as_deref())?, after)));
    let (limit, after) = match paging {
        Ok(paging) => paging,
        Err(error) => return error.into_response(),
    };
    let listing = node.listings.latest(&node).await;
    let page = listing.page(after.as_deref(), limit);
    let mut status = status::metrics_status(&node);
    listing.describe(&page, &mut status);
    // The rows come last, and are not copied.
    let mut head = printable_json(&Value::Object(status).to_string()).into_owned();
    head.pop();
    head.push_str(",\"collectors\":[");
    let parts = [Bytes::from(head), page.rows, Bytes::from_static(b"]}")];
    let body = Body::from_stream(stream::iter(parts.map(Ok::<_, Infallible>)));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn page_rows(limit: Option<&str>) -> Result<usize, ApiError> {
    let Some(limit) = limit else { return Ok(listing::PAGE_ROWS) };
    let rows = limit.parse().ok().filter(|rows| (1..=listing::PAGE_ROWS_MAX).contains(rows));
    rows.ok_or_else(|| {
        let max = listing::PAGE_ROWS_MAX;
        let message = format!("`limit` is a number of collectors from 1 to {max}, and not {limit:?}; for more, ask again with `after`");
        ApiError::bad_request("bad_parameter", message)
    })
}

fn assess(node: &Node) -> Health {
    health::assess(&health::Inputs::of(node))
}

/// Degraded is a word for people: a probe that got 503 for it would take a working node out of service.
fn status_of(health: &Health) -> StatusCode {
    match health.status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn wrong_path(path: &str, role: Role) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!("nothing is served at {path}: {}", directions(path, role)),
    )
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use serde_json::Map;
    use tokio::sync::watch;
    use tower::ServiceExt as _;

    use super::*;
    use crate::broker::Connection;
    use crate::ops::listing::{Collectors, Row};
    use crate::ops::meters::{CATALOGUE, Described, Meters};
    use crate::ops::node::{Lifecycle, StatusSection};
    use crate::ops::prometheus;
    use crate::proto::channel::CollectorId;

    /// A standalone node with its routes, and the switch of its log.
    fn node() -> (Arc<Node>, watch::Sender<Connection>, Router) {
        let exporter = prometheus::install(Role::Standalone).unwrap();
        let (switch, log) = watch::channel(Connection::Connected);
        let node = Node::new("node-1".to_owned(), Role::Standalone, Meters::register(), log, 2);
        let operations = Operations { node: node.clone(), exporter: Some(exporter), admin_token: None };
        let router = with_fallbacks(router(operations, &Origins::default()), Role::Standalone);
        (node, switch, router)
    }

    async fn ask(router: &Router, method: &str, path: &str) -> (StatusCode, axum::http::HeaderMap, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn json_of(router: &Router, path: &str) -> (StatusCode, Value) {
        let (status, _, body) = ask(router, "GET", path).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    #[tokio::test]
    async fn every_listed_operators_path_answers_and_every_route_is_listed() {
        let (_node, _switch, router) = node();
        for known in PATHS.iter().filter(|known| known.audience == crate::ops::paths::Audience::Operators) {
            assert_ne!(ask(&router, "GET", known.path).await.0, StatusCode::NOT_FOUND, "{}", known.path);
        }
        let (_, index) = json_of(&router, "/").await;
        assert_eq!(index["paths"].as_array().unwrap().len(), PATHS.len());
    }

    #[tokio::test]
    async fn metrics_hold_every_name_of_the_catalogue_in_the_text_format() {
        let (node, _switch, router) = node();
        node.set_lifecycle(Lifecycle::Running);
        let (status, headers, body) = ask(&router, "GET", "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[header::CONTENT_TYPE], "text/plain; version=0.0.4");
        for Described { name, kind, .. } in CATALOGUE {
            assert!(body.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind} in:\n{body}");
            assert!(body.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
        for line in ["ws_server_state{state=\"running\"} 1", "ws_server_state{state=\"draining\"} 0"] {
            assert!(body.lines().any(|found| found == line), "{line} is not in:\n{body}");
        }
        let build = body.lines().find(|line| line.starts_with("ws_build_info{")).unwrap();
        assert!(
            ["version=", "commit=", "role=\"standalone\"", "} 1"].iter().all(|part| build.contains(part)),
            "{build}"
        );
        assert!(body.contains("process_cpu_seconds_total"), "{body}");
    }

    #[tokio::test]
    async fn metrics_that_are_off_say_so() {
        let (node, _switch, _router) = node();
        let operations = Operations { node, exporter: None, admin_token: None };
        let router = with_fallbacks(router(operations, &Origins::default()), Role::Standalone);
        let (status, _, body) = ask(&router, "GET", "/metrics").await;
        assert!(
            status == StatusCode::NOT_FOUND && body.contains("server.metrics_enabled"),
            "{status} {body}"
        );
    }

    #[tokio::test]
    async fn a_lost_log_is_unhealthy_and_not_ready_and_alive() {
        let (node, switch, router) = node();
        node.set_lifecycle(Lifecycle::Running);
        assert_eq!(json_of(&router, "/readyz").await.0, StatusCode::OK);
        switch.send(Connection::Disconnected { reason: "no route to host".to_owned() }).unwrap();
        for path in ["/health", "/health/detailed", "/api/health", "/readyz"] {
            assert_eq!(json_of(&router, path).await.0, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        }
        assert_eq!(json_of(&router, "/livez").await.0, StatusCode::OK);
        let (_, body) = json_of(&router, "/health").await;
        assert!(body["errors"][0].as_str().unwrap().contains("no route to host"));
        let (_, status) = json_of(&router, "/api/metrics/status").await;
        assert_eq!(status["log"], json!({"connected": false, "reason": "no route to host"}));
    }

    #[tokio::test]
    async fn readiness_follows_gates_capacity_and_drain() {
        let (node, _switch, router) = node();
        let gate = node.add_gate("the ring");
        node.set_lifecycle(Lifecycle::Running);
        assert_eq!(json_of(&router, "/readyz").await.1["reasons"], json!(["waiting for the ring"]));
        gate.set(true);
        let places = [node.admit(), node.admit()];
        assert_eq!(json_of(&router, "/readyz").await.1["reasons"], json!(["full: 2 of 2 clients"]));
        drop(places);
        assert_eq!(json_of(&router, "/readyz").await.0, StatusCode::OK);
        node.set_lifecycle(Lifecycle::Draining);
        assert_eq!(json_of(&router, "/readyz").await.1["state"], "draining");
        assert_eq!(json_of(&router, "/health").await.0, StatusCode::OK, "draining is no illness");
    }

    #[tokio::test]
    async fn health_summary_and_details_name_the_node() {
        let (node, _switch, router) = node();
        let _place = node.admit();
        let (_, summary) = json_of(&router, "/api/health").await;
        assert_eq!(
            (&summary["clients"], &summary["node"], &summary["role"]),
            (&json!(1), &json!("node-1"), &json!("standalone"))
        );
        let (_, _, detailed) = ask(&router, "GET", "/health/detailed").await;
        assert!(
            detailed.starts_with(r#"{"status":"healthy","healthy":true,"checks":{"nats":"#),
            "{detailed}"
        );
        assert!(detailed.contains(r#""node":"node-1","role":"standalone","state":"starting""#), "{detailed}");
    }

    struct Section;

    impl StatusSection for Section {
        fn describe(&self, status: &mut Map<String, Value>) {
            status.insert("node".to_owned(), json!("an impostor"));
        }

        fn collectors(&self) -> Option<Collectors> {
            let row = |n| Row {
                id: CollectorId::new(&format!("web-{n:02}")).unwrap(),
                connected: Some(n == 1),
                about: json!({}),
            };
            Some(Collectors { rows: (1..=3).map(row).collect(), any_connected: Some(true) })
        }
    }

    #[tokio::test]
    async fn roles_add_to_the_status_and_cannot_hide_the_node() {
        let (node, _switch, router) = node();
        let (_, status) = json_of(&router, "/api/metrics/status").await;
        assert_eq!((&status["collector_connected"], &status["collectors"]), (&json!(false), &json!([])));
        node.add_status(Arc::new(Section));
        let (_, status) = json_of(&router, "/api/metrics/status").await;
        assert_eq!((&status["collector_connected"], &status["node"]), (&json!(true), &json!("node-1")));
    }

    #[tokio::test]
    async fn the_status_gives_its_collectors_page_by_page() {
        let (node, _switch, router) = node();
        node.add_status(Arc::new(Section));
        let ids = |status: &Value| {
            let rows = status["collectors"].as_array().unwrap().clone();
            rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (_, all) = json_of(&router, "/api/metrics/status").await;
        assert_eq!(ids(&all), ["web-01", "web-02", "web-03"]);
        assert_eq!((&all["collectors_total"], &all["collectors_next"]), (&json!(3), &Value::Null));
        assert_eq!(all["collectors"][1], json!({"id": "web-02", "connected": false}));
        let (_, first) = json_of(&router, "/api/metrics/status?limit=2").await;
        assert_eq!((ids(&first).len(), &first["collectors_next"]), (2, &json!("web-02")));
        let (_, second) = json_of(&router, "/api/metrics/status?limit=2&after=web-02").await;
        assert_eq!((ids(&second), &second["collectors_next"]), (vec!["web-03".to_owned()], &Value::Null));
        for limit in ["0", "1001", "all", ""] {
            let (status, error) = json_of(&router, &format!("/api/metrics/status?limit={limit}")).await;
            assert_eq!((status, &error["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("bad_parameter")));
        }
    }

    #[tokio::test]
    async fn wrong_addresses_get_an_error_that_shows_the_way() {
        let (_node, _switch, router) = node();
        let (status, _, body) = ask(&router, "GET", "/helth?x=1").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(body.starts_with(r#"{"error":{"code":"unknown_path","message":"nothing is served at /helth: did you mean /health"#), "{body}");
        let (status, headers, body) = ask(&router, "POST", "/health").await;
        assert_eq!(
            (status, &headers[header::ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET,HEAD".parse().unwrap())
        );
        assert!(
            body.contains(r#""code":"wrong_method","message":"/health takes GET and HEAD, not POST""#),
            "{body}"
        );
    }
}
