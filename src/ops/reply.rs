//! The one shape of HTTP errors: `{"error":{"code","message"}}`, with a message that says what to do.

use axum::extract::OriginalUri;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::ops::paths::{self, PATHS};
use crate::proto::printable::{printable, printable_json};

/// An error a caller can act on.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// An error without a `Retry-After`.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        // Whatever of a peer's text is repeated in it, people read it on a terminal.
        let message = printable(&message.into()).into_owned();
        Self { status, code, message, retry_after_s: None }
    }

    /// The caller's fault: 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Not now: 503 and when to try again.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after_s: u32) -> Self {
        Self {
            retry_after_s: Some(retry_after_s),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }

    /// The answer to a request for `path`: those that write get it as [`ApiError::into_write_response`] has it.
    pub fn into_response_at(self, path: &str) -> Response {
        if paths::takes_writes(path) { self.into_write_response() } else { self.into_response() }
    }

    /// In the shape of InfluxDB's errors (its API 2.x), as its clients read them, with ours inside.
    pub fn into_write_response(self) -> Response {
        let body = json!({
            "code": influx_code(self.status),
            "message": self.message,
            "error": {"code": self.code, "message": self.message},
        });
        self.respond(body)
    }

    fn respond(self, body: Value) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// InfluxDB names a closed set of codes.
fn influx_code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not found",
        StatusCode::METHOD_NOT_ALLOWED => "method not allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "request too large",
        StatusCode::UNPROCESSABLE_ENTITY => "unprocessable entity",
        StatusCode::TOO_MANY_REQUESTS => "too many requests",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        _ => "invalid",
    }
}

/// The answer to a method that a path does not take, where the router chooses the method; handlers that take others refuse the
/// rest themselves. The router adds `Allow` to it.
pub async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    let path = uri.path();
    let is_put = PATHS.iter().any(|known| known.path == path && known.method == "PUT");
    let message =
        format!("{path} takes {}, not {method}", if is_put { "GET and PUT" } else { "GET and HEAD" });
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

/// An answer in JSON that may be shown as it is: names in it are whatever peers have sent.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_string(&self.0) {
            Ok(text) => {
                let json = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, json)], printable_json(&text).into_owned()).into_response()
            }
            // Only for a map whose keys are no texts, which none of ours are.
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message}});
        self.respond(body)
    }
}
