//! `/api/metrics/latest`: the last values, in one answer.
//!
//! All who ask the same at the same time take it from one encoding, each at its own pace; one that nobody takes is given up.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::taking::{TURN_TIMEOUT, Taking, no_turn};
use super::{Refusal, content_type, parameters, refused};
use crate::edge::Edge;
use crate::proto::message::{Rules, Subscription};

/// Answers with what there is.
pub(super) async fn answer(State(edge): State<Arc<Edge>>, method: Method, uri: Uri) -> Response {
    let result = latest(&edge, &method, &uri).await;
    edge.answer(result)
}

async fn latest(edge: &Edge, method: &Method, uri: &Uri) -> Result<Response, Refusal> {
    let rules = Rules { state: true, lines: true, own: &[] };
    let parameters = parameters(uri).map_err(refused)?;
    let subscription = Subscription::from_query(&parameters, rules).map_err(refused)?;
    let hub = edge.serving()?;
    let format = subscription.format;
    let headers = [
        (header::CONTENT_TYPE, content_type(format)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    if method == Method::HEAD {
        return Ok((headers, Body::empty()).into_response());
    }
    let snapshots = &edge.shared.snapshots;
    let answer = snapshots.answer(&edge.shared, hub, &subscription.filters, format);
    let Ok(Ok(answer)) = tokio::time::timeout(TURN_TIMEOUT, answer).await else {
        return Err(no_turn());
    };
    Ok((StatusCode::OK, headers, Body::new(Taking::new(answer.parts.clone(), None))).into_response())
}
