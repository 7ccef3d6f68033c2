//! The client for pages, so that a page needs nothing but a node: `import { connect } from "/telecast.js"`.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use xxhash_rust::xxh3::xxh3_64;

/// Built from `clients/js` by `npm run browser`, and kept here: a node is built without Node.
static SCRIPT: &str = include_str!("telecast.js");

/// Another one for another text: a page that loads it again after an upgrade gets the new one, and else next to nothing.
static ETAG: LazyLock<String> = LazyLock::new(|| format!("\"{:016x}\"", xxh3_64(SCRIPT.as_bytes())));

/// It holds no secret, so pages of any origin may load it; what they may read with it is another question.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
    (header::CACHE_CONTROL, "no-cache"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
];

/// Answers `GET /telecast.js`.
pub(super) async fn answer(request: HeaderMap) -> Response {
    let is_known = request.get_all(header::IF_NONE_MATCH).iter().any(|value| knows(value, &ETAG));
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { SCRIPT.into_response() };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(&ETAG) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// Whether a list of entity tags has this one (RFC 9110 section 13.1.2: compared weakly, proxies that compress make them weak).
fn knows(value: &HeaderValue, etag: &str) -> bool {
    let Ok(list) = value.to_str() else { return false };
    list.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == etag || one == "*")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_client_for_pages_is_a_module_that_any_page_may_load_and_is_not_sent_twice() {
        let response = answer(HeaderMap::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        assert_eq!(headers[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.ends_with(b"};\n") && !body.is_empty());

        for known in [headers[header::ETAG].to_str().unwrap(), "\"other\", W/", "*"] {
            let known = known.replace("W/", &format!("W/{}", headers[header::ETAG].to_str().unwrap()));
            let request = HeaderMap::from_iter([(header::IF_NONE_MATCH, known.parse().unwrap())]);
            let again = answer(request).await;
            assert_eq!(
                (again.status(), &again.headers()[header::ETAG]),
                (StatusCode::NOT_MODIFIED, &headers[header::ETAG])
            );
            assert!(again.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
        let request = HeaderMap::from_iter([(header::IF_NONE_MATCH, "\"other\"".parse().unwrap())]);
        assert_eq!(answer(request).await.status(), StatusCode::OK);
    }
}
