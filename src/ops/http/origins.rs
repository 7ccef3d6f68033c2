//! Which web pages may do what at this node: one rule for sockets, writes and reads.
//!
//! A browser lets every page its user opens send requests to every address the user reaches, and says in `Origin` whose page it
//! was. Programs send none, and are not asked. A page may do what it wants at the node it came from (the same host and port in
//! `Origin` and `Host`); a page of this host at a node of this host, whatever their ports, as development servers have it; and
//! other pages what the configuration allows: `server.cors_origins` to read, `server.allowed_origins` to read and write.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower::{Layer as _, ServiceExt as _};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::ops::http::host;
use crate::ops::reply::wrong_method;

/// Browsers may remember a permission for so long; most do for two hours at most.
const REMEMBERED: Duration = Duration::from_secs(3_600);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a page wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To see metrics, over HTTP or a client's socket.
    Read,
    /// To send metrics, or to change something.
    Write,
}

/// Whose pages may do what.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    readers: Arc<[String]>,
    writers: Arc<[String]>,
}

impl Origins {
    /// As the configuration has checked them; `*` is any.
    pub fn new(cors: &[String], allowed: &[String]) -> Self {
        let readers: Vec<String> = cors.iter().chain(allowed).cloned().collect();
        Self { readers: readers.into(), writers: allowed.into() }
    }

    /// Refuses what a page must not do, with the origin it came from. `hosts` are the names this node was addressed by.
    pub fn check(&self, access: Access, headers: &HeaderMap, hosts: &[&str]) -> Result<(), String> {
        match headers.get(header::ORIGIN) {
            Some(origin) => {
                let origin = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
                if self.lists(access, &origin) || hosts.iter().any(|host| is_at_home(&origin, host)) {
                    return Ok(());
                }
                Err(origin)
            }
            // Some browsers leave the origin out for the sake of privacy, and none sends this from a program.
            None if headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site") => {
                Err("another site".to_owned())
            }
            None => Ok(()),
        }
    }

    /// Has pages read the answers of these routes, which browsers let them only where an answer says so (Fetch standard, section
    /// 3.2 "CORS protocol").
    pub fn apply<S: Clone + Send + Sync + 'static>(&self, access: Access, routes: Router<S>) -> Router<S> {
        let listed = self.list(access);
        if !listed.is_empty() {
            let any = listed.iter().any(|origin| origin == "*");
            let origins = self.clone();
            let allow = AllowOrigin::predicate(move |origin, parts| {
                origins.permits(access, origin, &parts.headers, &parts.uri)
            });
            let layer = layer(access, if any { AllowOrigin::any() } else { allow });
            // A fallback that comes later would take the place of the layer, which answers OPTIONS.
            return routes.method_not_allowed_fallback(wrong_method).layer(layer);
        }
        routes
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn_with_state((self.clone(), access), to_pages_at_home))
    }

    fn list(&self, access: Access) -> &[String] {
        match access {
            Access::Read => &self.readers,
            Access::Write => &self.writers,
        }
    }

    fn lists(&self, access: Access, origin: &str) -> bool {
        self.list(access).iter().any(|listed| listed == "*" || listed == origin)
    }

    fn permits(&self, access: Access, origin: &HeaderValue, headers: &HeaderMap, uri: &Uri) -> bool {
        let origin = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
        self.lists(access, &origin) || host::of(headers, uri).is_some_and(|host| is_at_home(&origin, host))
    }
}

/// Where no origin is listed, only pages of this host get headers, and everybody else answers without any.
async fn to_pages_at_home(
    State((origins, access)): State<(Origins, Access)>,
    request: Request,
    next: Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN);
    let origin = origin.filter(|origin| origins.permits(access, origin, request.headers(), request.uri()));
    match origin.cloned() {
        None => next.run(request).await,
        Some(origin) => {
            let layer = layer(access, AllowOrigin::exact(origin));
            layer.layer(next).oneshot(request).await.into_response()
        }
    }
}

fn layer(access: Access, origins: AllowOrigin) -> CorsLayer {
    let (methods, headers): (&[Method], &[HeaderName]) = match access {
        // What fetch has to be allowed to send for events; an EventSource sends the first without asking.
        Access::Read => (
            &[Method::GET, Method::HEAD],
            &[HeaderName::from_static("last-event-id"), header::CACHE_CONTROL, header::AUTHORIZATION],
        ),
        Access::Write => (
            &[Method::POST],
            &[
                header::CONTENT_TYPE,
                header::CONTENT_ENCODING,
                header::AUTHORIZATION,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("x-collector-id"),
            ],
        ),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(methods.to_vec())
        .allow_headers(headers.to_vec())
        .expose_headers([HeaderName::from_static("x-next-offset"), header::RETRY_AFTER])
        .max_age(REMEMBERED)
}

/// Whether the page is of the node itself, or both are on the host of the browser.
fn is_at_home(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Some((page, page_port)) = split_port(authority) else { return false };
    let host = host.to_ascii_lowercase();
    let Some((node, node_port)) = split_port(&host) else { return false };
    // A proxy that ends TLS passes on a `Host` without the port that the scheme implies.
    let is_same = page == node && page_port.unwrap_or(default) == node_port.unwrap_or(default);
    is_same || (is_loopback(page) && is_loopback(node))
}

/// Host and port; the colons of an IPv6 address are in brackets.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => Some((host, Some(port.parse().ok()?))),
        _ => Some((authority, None)),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(origins: &Origins, access: Access, origin: &str, host: &str) -> bool {
        let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_str(origin).unwrap())]);
        origins.check(access, &headers, &[host]).is_ok()
    }

    #[test]
    fn a_page_may_do_what_it_wants_where_it_came_from_and_nothing_elsewhere() {
        let none = Origins::default();
        for (origin, host, allowed) in [
            ("http://metrics.example:9090", "metrics.example:9090", true),
            ("https://Metrics.example", "metrics.EXAMPLE", true),
            ("https://metrics.example", "metrics.example:443", true),
            ("http://metrics.example", "metrics.example:9090", false),
            ("https://evil.example", "127.0.0.1:9090", false),
            ("https://evil.example", "metrics.example", false),
            ("http://metrics.example.evil.example", "metrics.example", false),
            ("null", "metrics.example", false),
            ("", "metrics.example", false),
            ("http://localhost:5173", "127.0.0.1:9090", true),
            ("http://127.0.0.1:27031", "127.0.0.1:27030", true),
            ("http://app.localhost:5173", "[::1]:9090", true),
            ("http://[::1]:5173", "localhost:9090", true),
            ("http://localhost:5173", "metrics.example", false),
            ("https://evil.example", "localhost:9090", false),
            ("http://localhost.evil.example", "localhost:9090", false),
            ("http://127.0.0.1.evil.example", "127.0.0.1", false),
            ("chrome-extension://localhost", "localhost", false),
        ] {
            for access in [Access::Read, Access::Write] {
                assert_eq!(may(&none, access, origin, host), allowed, "{origin} at {host}");
            }
        }
    }

    #[test]
    fn listed_pages_may_read_and_only_allowed_ones_write() {
        let (cors, allowed) = (["https://dash.example".to_owned()], ["https://admin.example".to_owned()]);
        let some = Origins::new(&cors, &allowed);
        for (origin, reads, writes) in [
            ("https://dash.example", true, false),
            ("https://admin.example", true, true),
            ("https://other.example", false, false),
        ] {
            assert_eq!(may(&some, Access::Read, origin, "node"), reads, "{origin}");
            assert_eq!(may(&some, Access::Write, origin, "node"), writes, "{origin}");
        }
        let any = Origins::new(&["*".to_owned()], &[]);
        assert!(may(&any, Access::Read, "https://evil.example", "node"));
        assert!(!may(&any, Access::Write, "https://evil.example", "node"));
    }

    #[test]
    fn a_program_sends_no_origin_and_passes_and_a_browser_without_one_is_known_by_its_site() {
        let none = Origins::default();
        assert!(none.check(Access::Write, &HeaderMap::new(), &["node"]).is_ok());
        for (site, passes) in [("cross-site", false), ("same-origin", true), ("none", true)] {
            let headers = HeaderMap::from_iter([(SEC_FETCH_SITE, HeaderValue::from_static(site))]);
            assert_eq!(none.check(Access::Write, &headers, &["node"]).is_ok(), passes, "{site}");
        }
    }
}
