//! The door: from a request to a session.
//!
//! What every client has to meet is here, for all transports: parameters that can be read, a node that takes clients, room,
//! and a place in the log. `websocket`, `sse` and `poll` add what is their own, and hand the client
//! to a writer; `latest` and `script` answer by themselves. Who is turned away is counted by reason, and gets an error that says what to do.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use crate::edge::Edge;
use crate::edge::hub::Hub;
use crate::edge::resolve::{Place, resolve};
use crate::edge::shares::{Client, TooManyViews};
use crate::edge::view::{Seat, ViewKey};
use crate::edge::wire::Wire;
use crate::edge::writer::{Command, Joining};
use crate::ops::http::{Access, Origins};
use crate::ops::meters::ConnectFailure;
use crate::ops::node::Admission;
use crate::ops::reply::ApiError;
use crate::proto::filter::keep_escapes;
use crate::proto::message::{ErrorCode, Format, MessageError, Subscription};

mod latest;
mod poll;
mod script;
mod sse;
mod taking;
mod websocket;

pub(crate) use websocket::REFUSALS_MAX;

/// Why somebody is turned away, and what they are told.
type Refusal = (ConnectFailure, ApiError);

/// Where a request comes from, as the listener says.
struct Address(Option<SocketAddr>);

impl Address {
    fn of(extensions: &Extensions) -> Self {
        Self(extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0))
    }
}

impl<S: Sync> FromRequestParts<S> for Address {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// A client that may come in.
struct Admitted {
    seat: Seat,
    place: Place,
    admission: Admission,
}

impl Edge {
    /// The routes of clients. Pages of other origins may read them as far as `origins` says; whose pages may open sockets, the
    /// listener sees to.
    pub fn router(self: &Arc<Self>, origins: &Origins) -> Router {
        let sockets =
            Router::new().route("/ws", any(websocket::connect)).route("/ws/clients", any(websocket::connect));
        let reads = Router::new()
            .route("/sse", get(sse::connect))
            .route("/api/metrics/poll", get(poll::answer))
            .route("/api/metrics/latest", get(latest::answer));
        let script = Router::new().route("/telecast.js", get(script::answer));
        sockets.merge(script).merge(origins.apply(Access::Read, reads)).with_state(self.clone())
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
    async fn admit(
        &self,
        subscription: &Subscription,
        wire: Wire,
        address: Address,
    ) -> Result<Admitted, Refusal> {
        let (node, hub) = (&self.shared.node, self.serving()?);
        let admission = node.admit().ok_or_else(|| {
            let message = format!(
                "this node has its maximum of {} clients: try again, or another node",
                node.clients_max
            );
            (ConnectFailure::Capacity, ApiError::unavailable("capacity", message, 5))
        })?;
        let key = ViewKey::of(subscription, wire);
        let seat = hub.seat(&key, Client::at(address.0), None).map_err(|excess| {
            node.meters.views_refused.of(excess.reason()).increment(1);
            (ConnectFailure::Views, too_many(excess))
        })?;
        // Only for clients that have their place: finding an old one costs reads of the log.
        let (from, snapshots) = (subscription.from.clone(), subscription.snapshot);
        let place = resolve(&self.shared, hub, from, snapshots).await.map_err(|e| away(&e.to_string()))?;
        Ok(Admitted { seat, place, admission })
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

/// One address can do something about it, or has to wait; a node that is full is one of several.
fn too_many(excess: TooManyViews) -> ApiError {
    let (status, retry_after_s) = match excess {
        TooManyViews::OfNode(_) => (StatusCode::SERVICE_UNAVAILABLE, 5),
        TooManyViews::OfAddress(_) => (StatusCode::TOO_MANY_REQUESTS, 10),
        TooManyViews::TooFast(_) => (StatusCode::TOO_MANY_REQUESTS, 1),
    };
    let code = ErrorCode::TooManyViews.as_str();
    ApiError { retry_after_s: Some(retry_after_s), ..ApiError::new(status, code, excess.to_string()) }
}

/// The parameters behind the `?`, in their order.
fn parameters(uri: &Uri) -> Result<Vec<(String, String)>, MessageError> {
    let query = uri.query().unwrap_or_default();
    let kept = query.split('&').map(|pair| match pair.strip_prefix("filter=") {
        Some(value) => Cow::Owned(format!("filter={}", keep_escapes(value))),
        None => Cow::Borrowed(pair),
    });
    let kept = kept.collect::<Vec<_>>().join("&");
    let kept = format!("/?{kept}").parse();
    let parameters = Query::<Vec<(String, String)>>::try_from_uri(kept.as_ref().unwrap_or(uri))
        .map_err(|error| MessageError::new(ErrorCode::BadParameter, error.body_text()))?;
    Ok(parameters.0)
}

/// What is answered to a request that says something wrong.
fn refused(error: MessageError) -> Refusal {
    bad_request(error.code.as_str(), error.message)
}

/// What an answer in this format is called.
fn content_type(format: Format) -> HeaderValue {
    HeaderValue::from_static(match format {
        Format::Json => "application/json",
        Format::Influx | Format::InfluxEscaped => "text/plain; charset=utf-8",
    })
}

fn bad_request(code: &'static str, message: impl Into<String>) -> Refusal {
    (ConnectFailure::BadRequest, ApiError::bad_request(code, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::filter::{FilterSet, Match};
    use crate::proto::message::Rules;

    fn filters_of(query: &str) -> FilterSet {
        let parameters = parameters(&format!("/ws?{query}").parse().unwrap()).unwrap();
        let subscription = Subscription::from_query(&parameters, Rules::default());
        subscription.unwrap_or_else(|error| panic!("{query}: {error}")).filters
    }

    fn matches(query: &str, collector: &str, measurement: &str) -> bool {
        let channel = Channel::new(CollectorId::new(collector).unwrap(), measurement);
        filters_of(query).matches_channel(&channel) != Match::No
    }

    /// As JavaScript's `encodeURIComponent` does it, except for the characters of `kept`.
    fn encoded(text: &str, kept: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || kept.contains(char::from(byte));
        text.bytes().fold(String::new(), |url, byte| match plain(byte) {
            true => url + &char::from(byte).to_string(),
            false => url + &format!("%{byte:02X}"),
        })
    }

    const COMPONENT: &str = "-_.!~*'()";

    #[test]
    fn a_filter_that_is_typed_into_a_url_means_what_it_says() {
        for (query, collector, measurement) in [
            ("filter=*.disk%2Eio", "web-01", "disk.io"),
            ("filter=*.disk%252Eio", "web-01", "disk.io"),
            ("filter=%2A.disk%2eio", "web-01", "disk.io"),
            ("filter=web-01.disk%2Eio", "web-01", "disk.io"),
            ("filter=web-01.disk%2Eio%7Bpath%3D/%7D", "web-01", "disk.io"),
            ("filter=a.b&filter=web-01.disk%2Eio{path=/}", "web-01", "disk.io"),
            ("filter=web%2Eexample%2Eorg.cpu", "web.example.org", "cpu"),
            // Software that writes every dot like that.
            ("filter=web%2D01%2Ecpu", "web-01", "cpu"),
            ("filter=%2A%2Edisk%252Eio", "web-01", "disk.io"),
            ("filter=rack%207.http%20requests", "rack 7", "http requests"),
            ("filter=rack%25207.cpu", "rack 7", "cpu"),
            ("filter=100%25.cpu", "100%", "cpu"),
            ("filter=100%2525.cpu", "100%", "cpu"),
            ("filter=Z%C3%BCrich.cpu", "Zürich", "cpu"),
            ("filter=%252A.cpu", "*", "cpu"),
            ("filter=web-01.%25", "web-01", ""),
        ] {
            assert!(matches(query, collector, measurement), "{query}: {}", filters_of(query));
            assert!(!matches(query, "other", "other"), "{query}");
        }
        let set = filters_of("filter=*.cpu{host=%22web%2Eexample%20org%25%22}");
        assert_eq!(set.to_string(), "*.cpu{host=\"web.example org%\"}", "a tag's value has no escapes");
    }

    #[test]
    fn a_filter_that_needs_another_escape_in_a_url_is_told_that_one() {
        for (query, said) in [
            ("filter=web-%2A.cpu", "`%252A`"),
            ("filter=a+b.cpu", "`%2520`"),
            ("filter=a.b%2Cc", "`%252C`"),
            ("filter=a.b%22", "`%2522`"),
            ("filter=%20", "the filter is empty"),
            ("filter=+%20+", "the filter is empty"),
            ("filter=", "the filter is empty"),
            ("filter=*.disk.io", "`%2E` for a dot inside the measurement"),
        ] {
            let parameters = parameters(&format!("/ws?{query}").parse().unwrap()).unwrap();
            let error = Subscription::from_query(&parameters, Rules::default()).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadFilter, "{query}");
            assert!(error.message.contains(said), "{query}: {}", error.message);
        }
    }

    proptest! {
        /// Encoded as a URL wants it, and as it stands where nothing has to be.
        #[test]
        fn any_filter_goes_through_a_url(
            collector in "[a-z0-9.% *>,\"ü]{1,8}", measurement in "[a-z0-9.% *>,\"ü]{1,8}", value in "[a-z.%2E ]{1,6}",
        ) {
            let name = |text: &str| {
                let reserved = |c: char| !c.is_alphanumeric();
                text.chars().map(|c| if reserved(c) { format!("%{:02X}", u32::from(c)) } else { c.to_string() }).collect::<String>()
            };
            let text = format!("{}.{}", name(&collector), name(&measurement));
            let filter = FilterSet::parse([text.as_str()]).unwrap();
            for kept in [COMPONENT, "", "-_.~"] {
                prop_assert_eq!(&filters_of(&format!("filter={}", encoded(&text, kept))), &filter, "{}", text);
            }
            let tagged = format!("{text}{{k=\"{value}\"}}");
            let filter = FilterSet::parse([tagged.as_str()]).unwrap();
            prop_assert_eq!(&filters_of(&format!("filter={}", encoded(&tagged, COMPONENT))), &filter, "{}", tagged);
        }
    }
}
