//! The door: from a request to a session.
//!
//! What every client has to meet is here, for all transports: parameters that can be read, a node that takes clients, room,
//! and a place in the log. `websocket` (with its `handshake`), `sse` and `poll` add what is their own, and hand the client
//! to a writer; `latest` answers by itself. Who is turned away is counted by reason, and gets an error that says what to do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use crate::edge::Edge;
use crate::edge::hub::Hub;
use crate::edge::resolve::{Place, resolve};
use crate::edge::writer::{Command, Joining};
use crate::ops::cors::Cors;
use crate::ops::meters::ConnectFailure;
use crate::ops::node::Admission;
use crate::ops::reply::ApiError;
use crate::proto::message::{Format, Subscription};

mod handshake;
mod latest;
mod poll;
mod sse;
mod websocket;

/// Why somebody is turned away, and what they are told.
type Refusal = (ConnectFailure, ApiError);

/// A client that may come in.
struct Admitted {
    place: Place,
    admission: Admission,
}

impl Edge {
    /// The routes of clients. Pages of other origins may read those that `cors` is for; browsers ask nobody before they open
    /// a WebSocket.
    pub fn router(self: &Arc<Self>, cors: &Cors) -> Router {
        let sockets =
            Router::new().route("/ws", any(websocket::connect)).route("/ws/clients", any(websocket::connect));
        let reads = Router::new()
            .route("/sse", get(sse::connect))
            .route("/api/metrics/poll", get(poll::answer))
            .route("/api/metrics/latest", get(latest::answer));
        sockets.merge(cors.apply(reads)).with_state(self.clone())
    }

    /// What clients are served from, if this node serves clients now.
    fn serving(&self) -> Result<&Arc<Hub>, Refusal> {
        if self.draining.load(Ordering::Relaxed) {
            let message = "this node is draining: connect again, another node will answer";
            return Err((ConnectFailure::Draining, ApiError::unavailable("draining", message, 1)));
        }
        let is_reached = self.shared.node.log.borrow().is_connected();
        let mut gates = self.gates.iter().chain([&self.warm]);
        let Some(hub) = self.hub.get().filter(|_| gates.all(|gate| gate.is_open())) else {
            if self.hub.get().is_none() && !is_reached {
                return Err(away("never since this node started"));
            }
            // What is still being read from the log is old: a client that wants what comes next must not get it.
            let message = "this node is still reading what the log holds: try again, or another node";
            return Err((ConnectFailure::NotReady, ApiError::unavailable("not_ready", message, 1)));
        };
        Ok(hub)
    }

    /// Lets a client in that wants `subscription`, if this node takes clients now.
    async fn admit(&self, subscription: &Subscription) -> Result<Admitted, Refusal> {
        let (node, hub) = (&self.shared.node, self.serving()?);
        let admission = node.admit().ok_or_else(|| {
            let message = format!(
                "this node has its maximum of {} clients: try again, or another node",
                node.clients_max
            );
            (ConnectFailure::Capacity, ApiError::unavailable("capacity", message, 5))
        })?;
        // Only for clients that have their place: finding an old one costs reads of the log.
        let (from, snapshots) = (subscription.from.clone(), subscription.snapshot);
        let place = resolve(&self.shared, hub, from, snapshots).await.map_err(|e| away(&e.to_string()))?;
        Ok(Admitted { place, admission })
    }

    /// Hands a client over to a writer. A writer that is gone takes none: the node has stopped.
    async fn hand_over(&self, joining: Joining) {
        let meters = &self.shared.node.meters;
        meters.connections_total.increment(1);
        meters.sessions.of(joining.transport).increment(1);
        let writer = &self.writers[fastrand::usize(..self.writers.len())];
        let _ = writer.send(Command::Join(Box::new(joining))).await;
    }

    /// Counts somebody who is turned away.
    fn refuse(&self, (reason, error): Refusal) -> ApiError {
        self.shared.node.meters.connections_failed.of(reason).increment(1);
        error
    }

    /// The answer over plain HTTP.
    fn answer(&self, result: Result<Response<Body>, Refusal>) -> Response {
        result.unwrap_or_else(|refusal| self.refuse(refusal).into_response())
    }
}

fn away(why: &str) -> Refusal {
    let message = format!("the log cannot be reached, so there is nothing to show yet: try again ({why})");
    (ConnectFailure::NotReady, ApiError::unavailable("log_unavailable", message, 2))
}

/// The parameters behind the `?`, in their order.
fn parameters(uri: &Uri) -> Result<Vec<(String, String)>, Refusal> {
    let parameters = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| bad_request("bad_parameter", error.body_text()))?;
    Ok(parameters.0)
}

/// What a request asks for. Its transport may have parameters of its `own`.
fn subscription(parameters: &[(String, String)], own: &[&str]) -> Result<Subscription, Refusal> {
    Subscription::from_query(parameters, own).map_err(|error| bad_request(error.code.as_str(), error.message))
}

/// What an answer in this format is called.
fn content_type(format: Format) -> HeaderValue {
    HeaderValue::from_static(match format {
        Format::Json => "application/json",
        Format::Influx => "text/plain; charset=utf-8",
    })
}

fn bad_request(code: &'static str, message: impl Into<String>) -> Refusal {
    (ConnectFailure::BadRequest, ApiError::bad_request(code, message))
}
