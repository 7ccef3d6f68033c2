//! What operators may change while a node runs, for those who have `admin.token`.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use crate::config::Secret;
use crate::ops::reply::ApiError;
use crate::ops::telemetry::{self, Level, LevelError};

/// Directives for every module of the program are far shorter.
const LEVEL_BYTES_MAX: usize = 64 * 1024;

/// Its routes. Without a token they are closed.
pub fn router(token: Option<Secret>) -> Router {
    Router::new()
        .route("/admin/log-level", get(log_level).put(set_log_level))
        .layer(DefaultBodyLimit::max(LEVEL_BYTES_MAX))
        .route_layer(middleware::from_fn_with_state(token, only_with_token))
}

/// RFC 6750, section 2.1.
async fn only_with_token(
    State(token): State<Option<Secret>>,
    request: Request,
    next: Next,
) -> Result<Response, Response> {
    let Some(Secret(token)) = token else {
        let message = "this node has no admin.token (TELECAST__ADMIN__TOKEN), so nobody may do this";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "admin_closed", message).into_response());
    };
    let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    let is_right = match given.split_at_checked("Bearer ".len()) {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"Bearer ") => {
            // How long the comparison takes must not say how much of a guess is right.
            bool::from(given.ct_eq(token.as_bytes()))
        }
        _ => false,
    };
    if is_right {
        return Ok(next.run(request).await);
    }
    let message = "this needs the node's admin.token, as the header `Authorization: Bearer TOKEN`";
    let mut response = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(response)
}

async fn log_level() -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"level": level()?.current()})))
}

/// Takes what `LOG_LEVEL` takes, as the body's text. It holds until the next change or the end of the process.
async fn set_log_level(body: Result<Bytes, BytesRejection>) -> Result<Json<Value>, ApiError> {
    let body = body.map_err(|rejection| unread(&rejection))?;
    let (level, text) = (level()?, String::from_utf8_lossy(&body));
    let before = level.current();
    level.set(text.trim()).map_err(|error| match error {
        LevelError::NotALevel(_) => ApiError::bad_request("bad_level", error.to_string()),
        LevelError::NotOurs => not_ours(&error),
    })?;
    let now = level.current();
    tracing::warn!(event = "log_level_changed", before, now, "told to log at another level");
    Ok(Json(json!({"level": now})))
}

fn unread(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("a log level has at most {LEVEL_BYTES_MAX} bytes");
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message);
    }
    ApiError::bad_request("incomplete", format!("the body broke off: {rejection}: send it again"))
}

fn level() -> Result<&'static Level, ApiError> {
    telemetry::level().ok_or_else(|| not_ours(&LevelError::NotOurs))
}

fn not_ours(error: &LevelError) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "not_ours", error.to_string())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;

    /// The status of a request with this `Authorization`, at a node with this token.
    async fn status(token: Option<&str>, authorization: Option<&str>) -> StatusCode {
        let mut request = Request::builder().uri("/admin/log-level");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let router = router(token.map(|token| Secret(token.to_owned())));
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let asks = response.headers().contains_key(header::WWW_AUTHENTICATE);
        assert_eq!(asks, response.status() == StatusCode::UNAUTHORIZED);
        response.status()
    }

    #[tokio::test]
    async fn only_who_has_the_token_gets_in_and_without_one_nobody() {
        for authorization in [None, Some("Bearer "), Some("Bearer s3cret")] {
            assert_eq!(status(None, authorization).await, StatusCode::FORBIDDEN, "{authorization:?}");
        }
        for wrong in
            [None, Some(""), Some("Bearer"), Some("Bearer s3cre"), Some("Basic s3cret"), Some("s3cret")]
        {
            assert_eq!(status(Some("s3cret"), wrong).await, StatusCode::UNAUTHORIZED, "{wrong:?}");
        }
        for right in ["Bearer s3cret", "bearer s3cret"] {
            // No test owns the logs of this process.
            assert_eq!(status(Some("s3cret"), Some(right)).await, StatusCode::CONFLICT, "{right}");
        }
    }
}
