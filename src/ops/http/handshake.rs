//! The server's side of the WebSocket handshake (RFC 6455 section 4.2), with answers that help: the same for clients and
//! collectors.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ops::meters::ConnectFailure;
use crate::ops::reply::ApiError;
use crate::proto::deflate::{self, Agreement};

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The WebSocket subprotocol of version 1. Browsers cannot send headers, so a client with a token offers it as a second one
/// beside this, `telecast.token.<base64url>`, which is never selected: that would echo it.
///
/// A browser that offered any fails the connection when none is selected (WHATWG WebSockets, "establish a WebSocket
/// connection"), so this one always is.
const SUBPROTOCOL: &str = "telecast.v1";

/// A client that is refused has so long to read why, and to hang up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The error code of a request that is no handshake.
const WEBSOCKET_REQUIRED: &str = "websocket_required";
/// The error code of a request that would be a handshake, but is not a good one.
const BAD_HANDSHAKE: &str = "bad_handshake";

/// What a well-formed request says that its answer depends on.
pub(crate) struct Key {
    nonce: HeaderValue,
    /// The client offers [`SUBPROTOCOL`].
    subprotocol: bool,
}

/// Whether a request asks for a WebSocket, well or badly.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    lists(headers, &header::UPGRADE, "websocket")
}

/// Checks that a request asks for a WebSocket, in a way this server speaks. `how` tells what to do instead, if it does not.
pub(crate) fn check(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    how: &str,
) -> Result<Key, ApiError> {
    if !is_upgrade(headers) || !lists(headers, &header::CONNECTION, "upgrade") {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let message = format!("only GET is possible here, not {method}: {how}");
            return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, WEBSOCKET_REQUIRED, message));
        }
        return Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, WEBSOCKET_REQUIRED, how));
    }
    if method != Method::GET {
        let message = "a WebSocket handshake is a GET request (RFC 6455 section 4.1)";
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, BAD_HANDSHAKE, message));
    }
    if version < Version::HTTP_11 {
        let message =
            "a WebSocket handshake needs HTTP/1.1 (RFC 6455 section 4.1); nginx: `proxy_http_version 1.1;`";
        return Err(ApiError::bad_request(BAD_HANDSHAKE, message));
    }
    if only(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let message = "this server speaks WebSocket version 13: send `Sec-WebSocket-Version: 13`";
        return Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, BAD_HANDSHAKE, message));
    }
    match only(headers, &header::SEC_WEBSOCKET_KEY) {
        Some(key) if STANDARD.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16) => {
            // Names of subprotocols are compared as they are (RFC 6455 section 4.1).
            let subprotocol = items(headers, &header::SEC_WEBSOCKET_PROTOCOL).any(|item| item == SUBPROTOCOL);
            Ok(Key { nonce: key.clone(), subprotocol })
        }
        _ => {
            let message = "`Sec-WebSocket-Key` must be there once, as a nonce of 16 bytes in base64 (RFC 6455 section 4.1)";
            Err(ApiError::bad_request(BAD_HANDSHAKE, message))
        }
    }
}

/// What a well-formed request offers of compression and this server takes, if it takes any.
pub(crate) fn compression(headers: &HeaderMap, enabled: bool) -> Result<Option<Agreement>, ApiError> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter().map(HeaderValue::as_bytes);
    // Read in any case: what is malformed does not become right by not being wanted.
    let agreed =
        deflate::negotiate(lines).map_err(|error| ApiError::bad_request(BAD_HANDSHAKE, error.to_string()))?;
    Ok(agreed.filter(|_| enabled))
}

impl Key {
    /// The answer that turns the connection into a WebSocket.
    pub(crate) fn accept(&self, compression: Option<Agreement>) -> Response {
        let digest = Sha1::new().chain_update(self.nonce.as_bytes()).chain_update(GUID).finalize();
        let accept = HeaderValue::from_str(&STANDARD.encode(digest)).unwrap_or(HeaderValue::from_static(""));
        let headers: [(HeaderName, HeaderValue); 3] = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        let mut add =
            |name, value| drop(response.headers_mut().insert(name, HeaderValue::from_static(value)));
        if let Some(agreement) = compression {
            add(header::SEC_WEBSOCKET_EXTENSIONS, agreement.answer());
        }
        if self.subprotocol {
            add(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        }
        response
    }
}

/// The error as the answer to a request that should have been a handshake.
pub(crate) fn refuse(error: ApiError) -> Response {
    let (status, handshake) = (error.status, error.code == BAD_HANDSHAKE);
    let mut response = error.into_response();
    let mut add = |name, value| drop(response.headers_mut().insert(name, HeaderValue::from_static(value)));
    if status == StatusCode::UPGRADE_REQUIRED {
        // RFC 9110 section 15.5.22: the answer names the protocol.
        add(header::UPGRADE, "websocket");
        add(header::CONNECTION, "upgrade");
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        add(header::ALLOW, "GET");
    }
    if handshake {
        // RFC 6455 section 4.4.
        add(header::SEC_WEBSOCKET_VERSION, "13");
    }
    response
}

/// Says the last of a socket whose handshake was accepted only for that, and closes it: an error goes out as these frames.
pub(crate) async fn close(upgrade: OnUpgrade, frames: &[u8]) {
    let told = async {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = TokioIo::new(upgraded);
        if socket.write_all(frames).await.is_err() || socket.shutdown().await.is_err() {
            return;
        }
        // What is unread when the socket is dropped would reset the connection before the client has read this.
        let mut rest = [0; 512];
        while matches!(socket.read(&mut rest).await, Ok(1..)) {}
    };
    // A client that does not hang up by then is hung up.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, told).await;
}

/// Why a handshake did not come to be, as it is counted.
pub(crate) fn reason(error: &ApiError) -> ConnectFailure {
    if error.code == WEBSOCKET_REQUIRED { ConnectFailure::NotWebSocket } else { ConnectFailure::BadRequest }
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a comma-separated header holds `token`, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(token))
}

/// The items of a comma-separated header.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let key = check(&Method::GET, Version::HTTP_11, &headers(&GOOD), "")
            .map_err(|error| error.message)
            .unwrap();
        let response = key.accept(None);
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!response.headers().contains_key("sec-websocket-extensions"));
    }

    #[test]
    fn the_subprotocol_is_selected_where_it_is_offered_and_nothing_else_ever_is() {
        let selected = |offers: &[&'static str]| {
            let mut pairs = GOOD.to_vec();
            pairs.extend(offers.iter().map(|offer| ("sec-websocket-protocol", *offer)));
            // Several lines of one header: `collect` would keep the last.
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let key =
                check(&Method::GET, Version::HTTP_11, &headers, "").map_err(|error| error.message).unwrap();
            key.accept(None).headers().get("sec-websocket-protocol").cloned()
        };
        for offers in
            [&["telecast.v1"][..], &["x, telecast.v1 ,telecast.token.c2VjcmV0"], &["x", "telecast.v1"]]
        {
            assert_eq!(selected(offers).unwrap(), "telecast.v1", "{offers:?}");
        }
        for offers in [&[][..], &["telecast.v2"], &["Telecast.V1"], &["telecast.token.c2VjcmV0"]] {
            assert_eq!(selected(offers), None, "{offers:?}");
        }
    }

    /// The status of what this request is told.
    fn refused(method: &Method, version: Version, pairs: &[(&'static str, &'static str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let error = check(method, version, &headers, "").err().unwrap();
        let status = error.status.as_u16();
        let response = refuse(error);
        assert_eq!(response.headers().contains_key("upgrade"), status == 426);
        assert_eq!(response.headers().contains_key("allow"), status == 405);
        status
    }

    #[test]
    fn a_request_that_is_none_is_told_what_to_do() {
        let v11 = Version::HTTP_11;
        for (left_out, status) in [(0, 426), (1, 426), (2, 426), (3, 400)] {
            let mut pairs = GOOD.to_vec();
            pairs.remove(left_out);
            assert_eq!(refused(&Method::GET, v11, &pairs), status, "without {}", GOOD[left_out].0);
        }
        assert_eq!(refused(&Method::POST, v11, &GOOD), 405);
        assert_eq!(refused(&Method::POST, v11, &[]), 405);
        assert_eq!(refused(&Method::HEAD, v11, &[]), 426);
        assert_eq!(refused(&Method::GET, Version::HTTP_10, &GOOD), 400);
    }

    #[test]
    fn a_version_or_a_key_is_there_once_and_right() {
        let v11 = Version::HTTP_11;
        let with = |name, value| [&GOOD[..], &[(name, value)]].concat();
        assert_eq!(refused(&Method::GET, v11, &with("sec-websocket-version", "13")), 426);
        assert_eq!(refused(&Method::GET, v11, &with("sec-websocket-key", GOOD[3].1)), 400);
        for (at, name, value, status) in [
            (2, "sec-websocket-version", "8", 426),
            (2, "sec-websocket-version", "13, 8", 426),
            (3, "sec-websocket-key", "dGhlIHNhbXBsZQ==", 400),
            (3, "sec-websocket-key", "", 400),
            (3, "sec-websocket-key", "not base64 at all!!!!!!!", 400),
        ] {
            let mut pairs = GOOD.to_vec();
            pairs[at] = (name, value);
            assert_eq!(refused(&Method::GET, v11, &pairs), status, "{name}: {value}");
        }
    }
}
