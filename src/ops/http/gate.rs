//! What every request meets before a route sees it, and every answer before it goes out.
//!
//! Requests: a host that is one, a client that has room, an origin that may do this. Answers: no guessing of content types, and
//! an end that reaches the sender even if the request's body was not wanted.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::body::{self, Answer, Rest, Tracked};
use super::exchange::{Exchange, Serving};
use super::forwarded::{self, Client};
use super::host;
use super::origins::Access;
use super::peers::Excess;
use super::{Policy, handshake};
use crate::ops::meters::RequestRefusal;
use crate::ops::reply::ApiError;

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Probes are answered where nobody else is: an orchestrator that gets none ends the process.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/health"];
/// Paths whose requests connect a client for good, as upgrades do.
const STREAMS: [&str; 1] = ["/sse"];
/// Seconds after which a peer that is over a limit may try again.
const RETRY_AFTER_S: u32 = 5;

/// The requests of one connection.
pub(super) struct Gate {
    pub(super) policy: Arc<Policy>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) router: Router,
    pub(super) remote: SocketAddr,
    /// Why this connection is turned away.
    pub(super) excess: Option<Excess>,
    /// Owns what reads bodies on that nobody wants.
    pub(super) tasks: TaskTracker,
}

impl Gate {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let (mut parts, incoming) = request.into_parts();
        let rest = Rest::of(&parts, &incoming);
        let serving = self.exchange.begin(incoming.is_end_stream());
        let tracked = Tracked::new(incoming, rest.clone());
        let result = self.admit(&mut parts, &serving);
        let mut response = match result {
            Ok(()) => {
                let request = Request::from_parts(parts, Body::new(tracked));
                self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
            }
            Err((reason, error)) => {
                drop(tracked);
                self.policy.refused(reason, self.remote, &error.message);
                error.into_response_at(parts.uri.path())
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.exchange.upgrade(&serving);
            return Ok(response);
        }
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        self.end_body(&rest, &mut response, &serving);
        if self.excess.is_some() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Body::new(Answer::new(body, serving))))
    }

    /// What is left of the request's body is read on to a bound, so that the sender gets to read the answer: closing with
    /// unread bytes resets the connection, and the answer may be lost with it.
    fn end_body(&self, rest: &Rest, response: &mut Response, serving: &Arc<Serving>) {
        let Some(incoming) = rest.take() else { return };
        let keeps = |incoming: &Incoming| self.excess.is_none() && rest.is_worth_reading(incoming);
        if let Some(incoming) = incoming.filter(keeps) {
            let (exchange, serving) = (self.exchange.clone(), serving.clone());
            self.tasks.spawn(async move {
                if !body::discard(incoming).await {
                    exchange.leave().cancel();
                }
                drop(serving);
            });
            return;
        }
        self.exchange.linger();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    fn admit(&self, parts: &mut Parts, serving: &Arc<Serving>) -> Result<(), (RequestRefusal, ApiError)> {
        host::check(parts.version, &parts.headers)
            .map_err(|message| (RequestRefusal::BadHost, ApiError::bad_request("bad_host", message)))?;
        self.check_host(parts)?;
        let is_probe =
            matches!(parts.method, Method::GET | Method::HEAD) && PROBES.contains(&parts.uri.path());
        if let Some(excess) = self.excess.filter(|_| !is_probe) {
            return Err(self.over(excess, self.remote.ip()));
        }
        let client = forwarded::client(&self.policy.trusted_proxies, self.remote.ip(), &parts.headers);
        let mut remote = self.remote;
        if let Client::Forwarded(address) = client {
            remote = SocketAddr::new(address, 0);
            if !is_probe {
                let connects = handshake::is_upgrade(&parts.headers) || STREAMS.contains(&parts.uri.path());
                let place = self.policy.peers.forwarded(address, connects);
                serving.hold(place.map_err(|excess| self.over(excess, address))?);
            }
        }
        parts.extensions.insert(ConnectInfo(remote));
        self.check_origin(parts)
    }

    fn check_host(&self, parts: &Parts) -> Result<(), (RequestRefusal, ApiError)> {
        let allowed = &self.policy.allowed_hosts;
        let named = host::of(&parts.headers, &parts.uri).map(host::name).unwrap_or_default();
        if allowed.is_empty() || allowed.contains(&named) {
            return Ok(());
        }
        let message = format!(
            "this node is not asked as {named:?}: use one of the names in `server.allowed_hosts`, or list this one there"
        );
        let error = ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", message);
        Err((RequestRefusal::HostNotAllowed, error))
    }

    /// Pages of other origins neither write nor open sockets. What they read is not shown to them; that is `Origins::apply`.
    fn check_origin(&self, parts: &Parts) -> Result<(), (RequestRefusal, ApiError)> {
        let is_socket = handshake::is_upgrade(&parts.headers);
        let reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let access = match (is_socket, reads) {
            (false, true) => return Ok(()),
            (true, true) if parts.uri.path() != super::COLLECTORS_SOCKET => Access::Read,
            _ => Access::Write,
        };
        let mut hosts: Vec<&str> = host::of(&parts.headers, &parts.uri).into_iter().collect();
        if self.policy.trusted_proxies.iter().any(|network| network.contains(self.remote.ip())) {
            hosts.extend(parts.headers.get(X_FORWARDED_HOST).and_then(|host| host.to_str().ok()));
        }
        self.policy.origins.check(access, &parts.headers, &hosts).map_err(|origin| {
            let (what, keys) = match access {
                Access::Read => ("open this socket", "server.cors_origins or server.allowed_origins"),
                Access::Write => ("write", "server.allowed_origins"),
            };
            let shown: String = origin.chars().take(120).collect();
            let message = format!(
                "a page of {shown} may not {what} here: list its origin in {keys}, or serve it from this node's own host"
            );
            let error = ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message);
            (RequestRefusal::Origin, error)
        })
    }

    fn over(&self, excess: Excess, address: IpAddr) -> (RequestRefusal, ApiError) {
        let error = match excess {
            Excess::AddressConnections(max) => too_many(format!(
                "{address} has its maximum of {max} connections (`server.connections_per_address_max`): close some; if it is a \
                 proxy, list it in `server.trusted_proxies`"
            )),
            Excess::AddressConnects(max) => too_many(format!(
                "{address} opens more than {max} connections a second (`server.connects_per_address_per_s_max`): keep them, and \
                 try again later; if it is a proxy, list it in `server.trusted_proxies`"
            )),
            Excess::Descriptors => {
                let message = "this node has its maximum of connections (`server.connections_max`): try again, or another node";
                ApiError::unavailable("capacity", message, RETRY_AFTER_S)
            }
        };
        (excess.into(), error)
    }
}

fn too_many(message: String) -> ApiError {
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", message);
    ApiError { retry_after_s: Some(RETRY_AFTER_S), ..error }
}
