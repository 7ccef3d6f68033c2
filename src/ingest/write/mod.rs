//! `POST /api/v1/write`, `/api/v2/write` and `/write`: a batch over HTTP, answered when the log has it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::ingest::batch::{self, CollectorBatch, Foreign, Options, foreign};
use crate::ingest::params::Params;
use crate::ingest::registry::{Origin, Transport};
use crate::ingest::report::Report;
pub(super) use crate::ingest::write::error::WriteError;
use crate::ingest::writer::{Identity, Job, Outcome, Ticket};
use crate::ingest::{Ingest, budget, remote};
use crate::ops::clock::unix_ns;

mod body;
mod error;
#[cfg(test)]
mod tests;

/// Names a request, so that sending it again stores nothing twice.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// On the answer to a write that was stored: what its sender should know of it.
const WARNING: &str = "x-telecast-warning";

/// Longest idempotency key, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// A batch on its way, and the news of its end. Nobody is left to hear it once this is dropped, for lack of time or
/// because the caller hung up: the batch is then taken back, unless it was begun.
struct Waiting {
    ticket: Ticket,
    done: oneshot::Receiver<Outcome>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.ticket.withdraw();
    }
}

/// The routes.
pub(super) async fn write(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    match store(&ingest, request).await {
        Ok(warning) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            if let Some(warning) = warning {
                response.headers_mut().insert(WARNING, warning);
            }
            response
        }
        Err(error) => {
            ingest.node.meters.writes_failed.of(error.reason()).increment(1);
            if let WriteError::Cut(cut) = error {
                ingest.node.meters.receives_cut.of(cut).increment(1);
            }
            error.into_response()
        }
    }
}

/// `/ping`: InfluxDB's clients ask for it before they write, and read the version header.
pub(super) async fn ping(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        ingest.node.meters.writes_failed.of(WriteError::Method("GET, HEAD").reason()).increment(1);
        return WriteError::Method("GET, HEAD").into_response();
    }
    const VERSION: &str = concat!("telecast-", env!("CARGO_PKG_VERSION"));
    // As InfluxDB 1.x: any `verbose` but "", 0 and false asks for a version in words, which some clients insist on.
    let verbose = Query::<HashMap<String, String>>::try_from_uri(request.uri())
        .ok()
        .and_then(|query| query.get("verbose").cloned())
        .is_some_and(|value| !matches!(&*value, "" | "0" | "false"));
    let mut response = if verbose {
        Json(json!({"version": VERSION})).into_response()
    } else {
        StatusCode::NO_CONTENT.into_response()
    };
    let version = HeaderValue::from_static(VERSION);
    response.headers_mut().insert("x-influxdb-version", version);
    response
}

/// What the caller should know of what was stored, if anything.
async fn store(ingest: &Ingest, request: Request) -> Result<Option<HeaderValue>, WriteError> {
    if request.method() != Method::POST {
        return Err(WriteError::Method("POST"));
    }
    if ingest.stopping.is_cancelled() {
        return Err(WriteError::Draining);
    }
    let deadline = Instant::now() + ingest.settings.write_timeout;
    let params = Params::parse(request.uri(), request.headers()).map_err(WriteError::BadRequest)?;
    let key = idempotency_key(request.headers())?;
    let origin = Origin { transport: Transport::Http, remote: remote(&request) };
    if let Some(foreign) = foreign_type(request.headers()) {
        return Err(WriteError::Foreign(foreign.to_string()));
    }
    let body = body::read(ingest, request, deadline).await?;
    let received_ns = unix_ns();
    let (envelope_bytes_max, bound_by) = ingest.envelope_bound();
    let options = Options {
        precision: params.precision,
        collector: params.collector.as_ref(),
        received_ns,
        envelope_bytes_max,
        envelope_bound_by: bound_by.as_deref(),
        collectors_max: ingest.settings.ids_per_connection_max,
    };
    let mut decoded = batch::decode(&body.bytes, &options);
    ingest.channels.admit(&mut decoded, Instant::now());
    let report = Report::new(&mut decoded, body.bytes.len(), params.collector.as_ref());
    drop(body);
    let stored = if decoded.batches.is_empty() {
        report.nothing_taken()
    } else {
        submit(ingest, decoded.batches, received_ns, key, deadline).await
    };
    ingest.tell(&report, origin, stored.is_ok());
    stored.map(|()| report.warning())
}

/// Hands the batches to their writers and waits for all of them. Whatever ends the wait, what was not begun by then is
/// taken back, so that the caller's next attempt does not find its last one still in the way.
async fn submit(
    ingest: &Ingest,
    batches: Vec<CollectorBatch>,
    received_ns: i64,
    key: Option<Arc<str>>,
    deadline: Instant,
) -> Result<(), WriteError> {
    let total = batches.iter().map(|batch| budget::cost(batch.bytes())).sum();
    let mut room = ingest.budget.try_grant(total).ok_or_else(|| WriteError::Buffer(ingest.any_obstacle()))?;
    let mut waiting = Vec::with_capacity(batches.len());
    let mut collectors = Vec::with_capacity(batches.len());
    for CollectorBatch { collector, drafts } in batches {
        let (tell, done) = oneshot::channel();
        let bytes = drafts.iter().map(|draft| draft.lines.len()).sum();
        let grant = room.split(budget::cost(bytes));
        let identity = key.clone().map_or(Identity::Content, Identity::Key);
        let job = Job { drafts, received_ns, identity, grant, done: Some(tell), open: None };
        let ticket = ingest.writers.submit(&collector, job).map_err(|_| WriteError::Draining)?;
        waiting.push(Waiting { ticket, done });
        collectors.push(collector);
    }
    let mut refused = None;
    for (one, collector) in waiting.iter_mut().zip(&collectors) {
        match timeout_at(deadline, &mut one.done).await {
            Ok(Ok(Outcome::Stored)) => {}
            Ok(Ok(Outcome::Refused(reason))) => refused = Some(reason),
            // The writer ended with the node.
            Ok(Err(_)) => return Err(WriteError::Draining),
            Err(_) => return Err(WriteError::Timeout(ingest.obstacle(collector))),
        }
    }
    refused.map_or(Ok(()), |reason| Err(WriteError::Refused(reason)))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, WriteError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) => Ok(Some(Arc::from(text))),
        _ => Err(WriteError::bad_request(
            "bad_idempotency_key",
            format!("the header Idempotency-Key holds 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable characters"),
        )),
    }
}

/// Protobuf is no text: here content types do not lie, and what stands in the body cannot be told.
fn foreign_type(headers: &HeaderMap) -> Option<Foreign> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_protobuf = text("content-type").to_ascii_lowercase().contains("protobuf");
    let is_snappy = text("content-encoding").eq_ignore_ascii_case("snappy");
    let is_remote_write = headers.contains_key("x-prometheus-remote-write-version") || is_snappy;
    match is_protobuf {
        _ if is_remote_write => Some(foreign::REMOTE_WRITE),
        true => Some(foreign::OTLP),
        false => None,
    }
}

/// `Content-Length`, where there is one.
fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
