//! `GET /ws/collector`: a collector's WebSocket, from the handshake to the goodbye.
//!
//! [`session`] is the life of one socket; frames are read and written by `proto::frame`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;

use crate::ingest::params::Params;
use crate::ingest::registry::{ClaimError, Connection, Origin, Transport};
use crate::ingest::socket::session::Session;
use crate::ingest::{Ingest, remote};
use crate::ops::meters::ConnectFailure;
use crate::ops::reply::ApiError;

mod senders;
mod session;
#[cfg(test)]
mod tests;

/// Seconds after which a collector that was refused for lack of room may try again.
const RETRY_AFTER_S: u32 = 5;

/// What people are told who open the path with something else.
const HOW_TO_CONNECT: &str = "this path takes collectors over WebSocket: connect to ws://HOST:PORT/ws/collector \
     (Telegraf: outputs.websocket) and send line protocol or Telegraf JSON; for plain HTTP, POST to /api/v1/write";

/// Why a socket did not come to be.
struct Refusal {
    reason: ConnectFailure,
    error: ApiError,
}

/// What a socket needs to begin.
struct Admitted {
    connection: Connection,
    params: Params,
    place: OwnedSemaphorePermit,
}

/// The route.
pub(super) async fn upgrade(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    let refused = |refusal: Refusal| {
        ingest.node.meters.connections_failed.of(refusal.reason).increment(1);
        let status = refusal.error.status;
        let mut response = refusal.error.into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            _ => {}
        }
        response
    };
    let asked = check_handshake(&request).and_then(|()| read_params(&request));
    let origin = Origin { transport: Transport::WebSocket, remote: remote(&request) };
    let admitted = match admit(&ingest, asked, origin).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refused(refusal),
    };
    match fastwebsockets::upgrade::upgrade(request) {
        Ok((response, upgraded)) => {
            let Admitted { connection, params, place } = admitted;
            let session = Session::new(ingest.clone(), connection, params);
            ingest.sockets.spawn(async move {
                session.run(upgraded).await;
                drop(place);
            });
            response.map(Body::new)
        }
        Err(error) => refused(not_websocket(StatusCode::BAD_REQUEST, &error.to_string())),
    }
}

fn check_handshake(request: &Request) -> Result<(), Refusal> {
    if request.method() != Method::GET {
        return Err(not_websocket(StatusCode::METHOD_NOT_ALLOWED, "only GET is possible"));
    }
    if !fastwebsockets::upgrade::is_upgrade_request(request) {
        return Err(not_websocket(StatusCode::UPGRADE_REQUIRED, "no WebSocket handshake"));
    }
    if request.headers().get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(not_websocket(StatusCode::UPGRADE_REQUIRED, "only Sec-WebSocket-Version 13 is known"));
    }
    if !request.headers().contains_key(header::SEC_WEBSOCKET_KEY) {
        return Err(not_websocket(StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Key is missing"));
    }
    Ok(())
}

fn read_params(request: &Request) -> Result<Params, Refusal> {
    Params::parse(request.uri(), request.headers())
        .map_err(|error| Refusal { reason: ConnectFailure::BadRequest, error })
}

/// Finds a place for a socket that is well asked for, and gives it the id it names.
async fn admit(ingest: &Ingest, asked: Result<Params, Refusal>, origin: Origin) -> Result<Admitted, Refusal> {
    let params = asked?;
    let refuse = |reason, error| Refusal { reason, error };
    if ingest.stopping.is_cancelled() {
        let error =
            ApiError::unavailable("draining", "this node is going away: use another one", RETRY_AFTER_S);
        return Err(refuse(ConnectFailure::Draining, error));
    }
    let place = ingest.places.clone().try_acquire_owned().map_err(|_| {
        let error =
            ApiError::unavailable("full", "this node has no place for another collector", RETRY_AFTER_S);
        refuse(ConnectFailure::Capacity, error)
    })?;
    let connection = ingest.registry.connect(origin);
    if let Some(collector) = &params.collector {
        connection.claim_or_probe(collector, false).await.map_err(|error| match error {
            ClaimError::Held { .. } => {
                let message = format!(
                    "{error}: stop that agent, give this one its own id (X-Collector-Id or ?collector=), \
                     or set collector.on_conflict = \"take_over\""
                );
                refuse(
                    ConnectFailure::Conflict,
                    ApiError::new(StatusCode::CONFLICT, "collector_in_use", message),
                )
            }
            ClaimError::Full | ClaimError::TooMany { .. } => {
                let error = ApiError::unavailable("full", error.to_string(), RETRY_AFTER_S);
                refuse(ConnectFailure::Capacity, error)
            }
        })?;
    }
    Ok(Admitted { connection, params, place })
}

fn not_websocket(status: StatusCode, what: &str) -> Refusal {
    let message = format!("{what}: {HOW_TO_CONNECT}");
    Refusal { reason: ConnectFailure::NotWebSocket, error: ApiError::new(status, "not_websocket", message) }
}
