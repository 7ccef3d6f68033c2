//! Which pages of other origins may read from this node (Fetch standard, section 3.2 "CORS protocol").

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::ops::reply::wrong_method;

/// Browsers may remember a permission for so long; most do for two hours at most.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// What pages of other origins are allowed. By default nothing: what a node serves is for pages of its own origin.
#[derive(Clone, Debug, Default)]
pub struct Cors(Option<CorsLayer>);

impl Cors {
    /// Allows these origins, as the configuration has checked them; `*` is any.
    pub fn of(origins: &[String]) -> Self {
        let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        if origins.is_empty() {
            return Self(None);
        }
        let any = origins.iter().any(|origin| origin == "*");
        let origins = if any { AllowOrigin::any() } else { AllowOrigin::list(origins) };
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::HEAD])
            // What fetch has to be allowed to send for events; an EventSource sends the first without asking.
            .allow_headers([
                HeaderName::from_static("last-event-id"),
                header::CACHE_CONTROL,
                header::AUTHORIZATION,
            ])
            .expose_headers([HeaderName::from_static("x-next-offset"), header::RETRY_AFTER])
            .max_age(REMEMBERED);
        Self(Some(layer))
    }

    /// Allows it for these routes.
    pub fn apply<S: Clone + Send + Sync + 'static>(&self, routes: Router<S>) -> Router<S> {
        match &self.0 {
            // A fallback that comes later would take the place of the layer, which answers OPTIONS.
            Some(layer) => routes.method_not_allowed_fallback(wrong_method).layer(layer.clone()),
            None => routes,
        }
    }
}
