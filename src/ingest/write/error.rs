//! Why a write was not stored, in a shape that InfluxDB's clients read as well as ours.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::fairness::{Cut, Lack};
use crate::ops::http;
use crate::ops::meters::WriteFailure;
use crate::ops::reply::ApiError;

/// Seconds after which a write that found no room, or no log, may be tried again.
const RETRY_AFTER_S: u32 = 2;

/// Why a write was not stored.
#[derive(Debug)]
pub(in crate::ingest) enum WriteError {
    /// A parameter or header cannot be read.
    BadRequest(ApiError),
    /// Not one metric could be read; the first errors.
    BadBody(String),
    /// All lines are well-formed or not, and none is taken: there are too many collectors or channels. The first errors.
    TooMany(String),
    /// The same, of another protocol's data.
    Foreign(String),
    /// More than so many bytes.
    TooLarge(usize),
    /// An unknown content encoding.
    Encoding(String),
    /// The body did not come as a whole.
    Incomplete(String),
    /// The body came too slowly, or had to make room for others.
    Cut(Cut),
    /// No room until the log has taken more; why it does not, if that is known.
    Buffer(Option<String>),
    /// The log did not answer in time; why, if that is known.
    Timeout(Option<String>),
    /// The log will never take it.
    Refused(String),
    /// The node is going away.
    Draining,
    /// The methods that are possible.
    Method(&'static str),
}

impl WriteError {
    pub(super) fn bad_request(code: &'static str, message: String) -> Self {
        Self::BadRequest(ApiError::bad_request(code, message))
    }

    /// A body whose end did not come, or that contradicts its own framing.
    pub(super) fn broken_body(error: &(dyn std::error::Error + 'static)) -> Self {
        match http::malformed(error) {
            Some(what) => {
                Self::bad_request("bad_chunks", format!("the body is not what its head says: {what}"))
            }
            None => Self::Incomplete(format!("the body broke off: {error}")),
        }
    }

    /// As it is counted.
    pub(super) fn reason(&self) -> WriteFailure {
        match self {
            Self::BadRequest(_) => WriteFailure::BadRequest,
            Self::BadBody(_) => WriteFailure::BadBody,
            Self::Foreign(_) => WriteFailure::Foreign,
            Self::TooMany(_) => WriteFailure::TooMany,
            Self::TooLarge(_) => WriteFailure::TooLarge,
            Self::Encoding(_) => WriteFailure::Encoding,
            Self::Incomplete(_) => WriteFailure::Incomplete,
            Self::Cut(_) => WriteFailure::Slow,
            Self::Buffer(_) => WriteFailure::Buffer,
            Self::Timeout(_) => WriteFailure::Timeout,
            Self::Refused(_) => WriteFailure::Refused,
            Self::Draining => WriteFailure::Draining,
            Self::Method(_) => WriteFailure::Method,
        }
    }

    fn into_error(self) -> ApiError {
        match self {
            Self::BadRequest(error) => error,
            Self::BadBody(errors) => {
                ApiError::bad_request("bad_lines", format!("no line could be read: {errors}"))
            }
            Self::TooMany(errors) => {
                let message = format!("no line is taken: {errors}");
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_channels", message)
            }
            Self::Foreign(what) => ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "foreign_format", what),
            Self::TooLarge(bytes_max) => {
                let message = format!(
                    "a write has at most {bytes_max} bytes after decompression: send smaller batches"
                );
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            }
            Self::Encoding(encoding) => {
                let message = format!("Content-Encoding {encoding:?} is not known: use gzip or none");
                ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_encoding", message)
            }
            Self::Incomplete(what) => {
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "incomplete", format!("{what}: send it again"))
            }
            Self::Cut(cut) => cut_error(cut),
            Self::Buffer(obstacle) => {
                let message = match obstacle {
                    Some(obstacle) => format!("this node's buffer is full ({obstacle}): send it again later"),
                    None => "the log is slow or away and this node's buffer is full: send it again later"
                        .to_owned(),
                };
                ApiError::unavailable("buffer_full", message, RETRY_AFTER_S)
            }
            Self::Timeout(obstacle) => {
                let message = match obstacle {
                    Some(obstacle) => format!("not stored in time ({obstacle}): send it again later"),
                    None => "the log did not answer in time: send it again later".to_owned(),
                };
                ApiError::unavailable("log_unavailable", message, RETRY_AFTER_S)
            }
            Self::Refused(reason) => {
                let message = format!("the log does not take this: {reason}");
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", message)
            }
            Self::Draining => {
                let message = "this node is going away: send it to another one";
                ApiError::unavailable("draining", message, RETRY_AFTER_S)
            }
            Self::Method(allowed) => {
                let message =
                    format!("only {allowed} is possible here; to write, POST line protocol or Telegraf JSON");
                ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            }
        }
    }
}

/// Not 408: Telegraf's InfluxDB outputs drop what is refused with any 4xx but 429.
fn cut_error(cut: Cut) -> ApiError {
    match cut {
        Cut::TooSlow => {
            let message = "the body came too slowly (collector.receive_bytes_per_second_min): send it again, faster or in \
                           smaller batches";
            ApiError::unavailable("too_slow", message, RETRY_AFTER_S)
        }
        Cut::TimedOut => {
            let message = "the body was not complete in time (collector.write_timeout_ms): send it again, faster or in \
                           smaller batches";
            ApiError::unavailable("timed_out", message, RETRY_AFTER_S)
        }
        Cut::GaveWay => {
            let message = "there was no room for all bodies on their way, and this was the slowest: send it again later";
            ApiError::unavailable("gave_way", message, RETRY_AFTER_S)
        }
    }
}

impl From<Lack> for WriteError {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Cut(cut) => Self::Cut(cut),
            Lack::Full => Self::Buffer(None),
        }
    }
}

impl IntoResponse for WriteError {
    fn into_response(self) -> Response {
        let allowed = if let Self::Method(allowed) = self { Some(allowed) } else { None };
        let encoding = matches!(self, Self::Encoding(_));
        let mut response = self.into_error().into_write_response();
        let headers = response.headers_mut();
        if let Some(allowed) = allowed {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        if encoding {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}
