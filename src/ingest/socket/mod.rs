//! `GET /ws/collector`: a collector's WebSocket, from the handshake to the goodbye.
//!
//! [`session`] is the life of one socket, `receiving` what it has begun to receive; frames are read and written by `proto::frame`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;

use crate::ingest::params::Params;
use crate::ingest::registry::{ClaimError, Connection, Origin, Transport};
use crate::ingest::socket::session::Session;
use crate::ingest::{Ingest, remote};
use crate::ops::http::handshake;
use crate::ops::meters::ConnectFailure;
use crate::ops::reply::ApiError;
use crate::proto::frame::{self, Opcode};
use crate::proto::message::CloseCode;

mod receiving;
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
    /// The handshake of a browser, which was good: its page sees nothing of an answer that is none to a handshake.
    page: Option<(handshake::Key, OnUpgrade)>,
}

/// What a socket needs to begin.
struct Admitted {
    connection: Connection,
    params: Params,
    place: OwnedSemaphorePermit,
}

/// The route.
pub(super) async fn upgrade(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    match accept(&ingest, request).await {
        Ok((key, upgrade, Admitted { connection, params, place })) => {
            let session = Session::new(ingest.clone(), connection, params);
            ingest.sockets.spawn(async move {
                session.run(upgrade).await;
                drop(place);
            });
            key.accept(None)
        }
        Err(Refusal { reason, error, page }) => {
            ingest.node.meters.connections_failed.of(reason).increment(1);
            let place = ingest.places.clone().try_acquire_owned();
            let (Some((key, upgrade)), Ok(place)) = (page, place) else { return handshake::refuse(error) };
            ingest.sockets.spawn(async move {
                handshake::close(upgrade, &last_frame(&error)).await;
                drop(place);
            });
            key.accept(None)
        }
    }
}

/// Closes for good, with what was wrong as the reason.
fn last_frame(error: &ApiError) -> Vec<u8> {
    let reason = format!("{}: {}", error.code, error.message);
    let mut frame = Vec::new();
    frame::encode(&mut frame, Opcode::Close, &frame::close_payload(CloseCode::Policy.number(), &reason));
    frame
}

async fn accept(
    ingest: &Ingest,
    mut request: Request,
) -> Result<(handshake::Key, OnUpgrade, Admitted), Refusal> {
    let key = handshake::check(request.method(), request.version(), request.headers(), HOW_TO_CONNECT)
        .map_err(|error| Refusal { reason: handshake::reason(&error), error, page: None })?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| {
        let message = "this connection cannot become a WebSocket: use HTTP/1.1";
        let error = ApiError::bad_request("bad_handshake", message);
        Refusal { reason: ConnectFailure::NotWebSocket, error, page: None }
    })?;
    let params = match Params::parse(request.uri(), request.headers()) {
        Ok(params) => params,
        Err(error) => {
            let page = request.headers().contains_key(header::ORIGIN).then_some((key, upgrade));
            return Err(Refusal { reason: ConnectFailure::BadRequest, error, page });
        }
    };
    let origin = Origin { transport: Transport::WebSocket, remote: remote(&request) };
    Ok((key, upgrade, admit(ingest, params, origin).await?))
}

/// Finds a place for a socket that is well asked for, and gives it the id it names.
async fn admit(ingest: &Ingest, params: Params, origin: Origin) -> Result<Admitted, Refusal> {
    let refuse = |reason, error| Refusal { reason, error, page: None };
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
