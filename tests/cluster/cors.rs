//! What pages of other origins may do.

use reqwest::header::HeaderMap;

use crate::support::telecast;

const READS: [&str; 6] = [
    "/sse",
    "/api/metrics/poll?timeout=0",
    "/api/metrics/status",
    "/health",
    "/api/health",
    "/health/detailed",
];
const DASH: (&str, &str) = ("origin", "https://dash.example.com");

fn allowed(headers: &HeaderMap) -> Option<&str> {
    headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text"))
}

#[tokio::test]
async fn by_default_no_page_of_another_origin_may_read() {
    let node = telecast::standalone().start().await;
    for path in READS {
        assert_eq!(allowed(&node.request("HEAD", path, &[DASH]).await.headers), None, "{path}");
        assert_eq!(node.request("OPTIONS", path, &[DASH]).await.status, 405, "{path}");
    }
}

#[tokio::test]
async fn pages_of_the_listed_origins_may_read_and_nothing_else() {
    let origins = "https://Dash.example.com:443, http://localhost:5173";
    let node = telecast::standalone().set("server.cors_origins", origins).start().await;
    let preflight =
        [DASH, ("access-control-request-method", "GET"), ("access-control-request-headers", "last-event-id")];
    for path in READS {
        let headers = node.request("HEAD", path, &[DASH]).await.headers;
        assert_eq!(allowed(&headers), Some("https://dash.example.com"), "{path}");
        assert!(
            headers["access-control-expose-headers"].to_str().unwrap().contains("x-next-offset"),
            "{path}"
        );
        assert!(headers["vary"].to_str().unwrap().contains("origin"), "{path}");
        let answer = node.request("OPTIONS", path, &preflight).await;
        assert_eq!(
            (answer.status, allowed(&answer.headers)),
            (200, Some("https://dash.example.com")),
            "{path}"
        );
        assert!(answer.headers["access-control-allow-headers"].to_str().unwrap().contains("last-event-id"));
        let stranger = [("origin", "https://evil.example.com")];
        assert_eq!(allowed(&node.request("HEAD", path, &stranger).await.headers), None, "{path}");
    }
    // Errors too, or a page could not tell why.
    assert!(allowed(&node.request("GET", "/sse?filter=x", &[DASH]).await.headers).is_some());
    for path in ["/metrics", "/api/v1/write", "/livez"] {
        assert_eq!(allowed(&node.request("GET", path, &[DASH]).await.headers), None, "{path}");
    }
}

#[tokio::test]
async fn a_star_is_everybody() {
    let node = telecast::standalone().set("server.cors_origins", "*").start().await;
    assert_eq!(allowed(&node.request("HEAD", "/sse", &[DASH]).await.headers), Some("*"));
}
