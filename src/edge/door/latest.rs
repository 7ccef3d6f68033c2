//! `/api/metrics/latest`: the last values, in one answer.
//!
//! They are copied from the store once, and encoded while the answer goes out: what an answer holds is bounded by the store,
//! and one whose client takes nothing is given up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Refusal, content_type, parameters, refused};
use crate::edge::Edge;
use crate::edge::encode;
use crate::edge::series::{Extract, Group};
use crate::edge::snapshot::{BYTES_PER_SECOND_MIN, Held};
use crate::ops::meters::ConnectFailure;
use crate::ops::reply::ApiError;
use crate::proto::json;
use crate::proto::line;
use crate::proto::message::{Format, Rules, Subscription, write_influx_head, write_influx_incomplete};

/// Bytes that are encoded at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// A request waits so long for its turn: others copy last values, or have not taken theirs.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers with what there is.
pub(super) async fn answer(State(edge): State<Arc<Edge>>, method: Method, uri: Uri) -> Response {
    let result = latest(&edge, &method, &uri).await;
    edge.answer(result)
}

async fn latest(edge: &Edge, method: &Method, uri: &Uri) -> Result<Response, Refusal> {
    let rules = Rules { state: true, lines: true, own: &[] };
    let parameters = parameters(uri).map_err(refused)?;
    let subscription = Subscription::from_query(&parameters, rules).map_err(refused)?;
    let hub = edge.serving()?;
    let format = subscription.format;
    let headers = [
        (header::CONTENT_TYPE, content_type(format)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    if method == Method::HEAD {
        return Ok((headers, Body::empty()).into_response());
    }
    let snapshots = &edge.shared.snapshots;
    let turn = snapshots.extract(&edge.shared, hub, &subscription.filters, |extract| extract);
    let Ok(Ok(extract)) = tokio::time::timeout(TURN_TIMEOUT, turn).await else {
        let message = "too many answers are on their way already: try again, or ask for less with `filter`";
        return Err((ConnectFailure::Capacity, ApiError::unavailable("capacity", message, 2)));
    };
    let bytes = extract.groups.iter().map(|group| group.lines.len()).sum();
    let held = snapshots.hold(bytes);
    let (pieces, body) = mpsc::channel(1);
    // In all, so that nobody keeps what others wait for by reading a little now and then.
    let patience =
        edge.shared.settings.slow_client_timeout + Duration::from_secs((bytes / BYTES_PER_SECOND_MIN) as u64);
    edge.spawn_until_stopped(async move {
        let _ = tokio::time::timeout(patience, send(extract, format, pieces, held)).await;
    });
    Ok((StatusCode::OK, headers, Body::from_stream(stream(body))).into_response())
}

/// A piece of the answer; the end is said, so that an answer that was given up is none that is whole.
enum Piece {
    More(Bytes),
    End,
}

fn stream(pieces: mpsc::Receiver<Piece>) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    futures_util::stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Piece::More(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("the answer was given up")), None)),
        }
    })
}

/// Encodes the answer piece by piece, as fast as the client takes them.
async fn send(extract: Extract, format: Format, pieces: mpsc::Sender<Piece>, _held: Held) {
    let mut writing = Writing::begin(&extract, format);
    for group in extract.groups {
        for line in line::lines(&group.lines).filter_map(Result::ok) {
            writing.line(&group, &line);
            if writing.out.len() >= PIECE_BYTES {
                let piece = Piece::More(std::mem::take(&mut writing.out).into());
                if pieces.send(piece).await.is_err() {
                    return;
                }
            }
        }
    }
    for piece in [Piece::More(writing.finish().into()), Piece::End] {
        // Whoever is gone needs nothing more.
        let _ = pieces.send(piece).await;
    }
}

/// The answer in the making.
struct Writing {
    format: Format,
    out: Vec<u8>,
    separator: &'static [u8],
}

impl Writing {
    fn begin(extract: &Extract, format: Format) -> Self {
        let mut out = Vec::with_capacity(PIECE_BYTES);
        let offset = extract.at.offset.token();
        match format {
            Format::Json => {
                out.extend_from_slice(b"{\"offset\":\"");
                // An offset has no character that JSON would escape.
                out.extend_from_slice(offset.as_bytes());
                if let Some(why) = extract.incomplete {
                    out.extend_from_slice(b"\",\"incomplete\":\"");
                    out.extend_from_slice(why.as_str().as_bytes());
                }
                out.extend_from_slice(b"\",\"metrics\":[");
            }
            Format::Influx | Format::InfluxEscaped => {
                write_influx_head(&mut out, &offset);
                write_influx_incomplete(&mut out, extract.incomplete);
            }
        }
        Self { format, out, separator: b"{\"collector\":" }
    }

    fn line(&mut self, group: &Group, line: &line::Line<'_>) {
        match self.format {
            Format::Json => {
                self.out.extend_from_slice(self.separator);
                self.separator = b",{\"collector\":";
                json::write_string(&mut self.out, group.collector.as_str());
                self.out.push(b',');
                // Every line of the store has its time.
                json::write_members(&mut self.out, line, 0);
                self.out.push(b'}');
            }
            // Every line of the store has its time.
            Format::Influx | Format::InfluxEscaped => encode::write_line(&mut self.out, self.format, line, 0),
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.format == Format::Json {
            self.out.extend_from_slice(b"]}");
        }
        self.out
    }
}
