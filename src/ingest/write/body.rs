//! The bytes of a write: bounded while they come, and while they are inflated.

use std::io::Read;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

use crate::ingest::Ingest;
use crate::ingest::write::content_length;
use crate::ingest::write::error::WriteError;

/// How a body is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    Gzip,
}

/// Receives the body by `deadline`, and undoes its encoding.
pub(super) async fn read(ingest: &Ingest, request: Request, deadline: Instant) -> Result<Bytes, WriteError> {
    let bytes_max = ingest.settings.message_bytes_max;
    let encoding = encoding(request.headers())?;
    let announced = content_length(request.headers());
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(WriteError::TooLarge(bytes_max));
    }
    // Held while the body comes; what is then stored has its own place in the budget. A body that does not say how long it
    // is takes the place of the longest, so a few of them fill this budget: they wait for each other, which is short.
    let room = timeout_at(deadline, ingest.bodies.grant(announced.unwrap_or(bytes_max)));
    let _room = room.await.map_err(|_| WriteError::Buffer)?;
    let collected = timeout_at(deadline, Limited::new(request.into_body(), bytes_max).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(WriteError::TooLarge(bytes_max)),
        Ok(Err(error)) => return Err(WriteError::broken_body(error.as_ref())),
        Err(_) => return Err(WriteError::Incomplete("the body did not come in time".into())),
    };
    ingest.node.meters.messages_received.increment(1);
    ingest.node.meters.bytes_received.increment(body.len() as u64);
    match encoding {
        Encoding::Plain => Ok(body),
        // Done right here, without a pause: so no more bodies are inflated at once than there are worker threads, and
        // memory stays bounded whatever compressed bodies claim to be.
        Encoding::Gzip => inflate(&body, bytes_max).map(Bytes::from),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, WriteError> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Encoding::Plain) };
    let text = value.to_str().unwrap_or("").trim();
    match text.to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Encoding::Plain),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        _ => Err(WriteError::Encoding(String::from_utf8_lossy(value.as_bytes()).into_owned())),
    }
}

/// Every member, as gzip does: nothing is an empty body, and zeros behind the last member are padding.
fn inflate(mut body: &[u8], bytes_max: usize) -> Result<Vec<u8>, WriteError> {
    let mut inflated = Vec::new();
    while body.iter().any(|byte| *byte != 0) {
        // One byte more than allowed tells "exactly full" from "too large".
        let left = (bytes_max - inflated.len()) as u64 + 1;
        let mut member = GzDecoder::new(body).take(left);
        member
            .read_to_end(&mut inflated)
            .map_err(|error| WriteError::bad_request("bad_gzip", format!("the body is no gzip: {error}")))?;
        if inflated.len() > bytes_max {
            return Err(WriteError::TooLarge(bytes_max));
        }
        body = member.into_inner().into_inner();
    }
    Ok(inflated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_gzip_bomb_is_stopped_at_the_bound() {
        let bomb = gzip(&vec![b'0'; 64 << 20]);
        assert!(bomb.len() < 128 << 10);
        assert!(matches!(inflate(&bomb, 1 << 20), Err(WriteError::TooLarge(_))));
    }

    #[test]
    fn a_body_of_exactly_the_bound_passes_and_members_are_joined() {
        let mut body = gzip(b"ab");
        body.extend(gzip(b"cd"));
        assert_eq!(inflate(&body, 4).unwrap(), b"abcd");
        assert!(matches!(inflate(&body, 3), Err(WriteError::TooLarge(3))));
    }

    #[test]
    fn nothing_is_empty_and_zeros_behind_the_last_member_are_padding() {
        assert_eq!(inflate(b"", 10).unwrap(), b"");
        assert_eq!(inflate(&[0; 7], 10).unwrap(), b"");
        let mut body = gzip(b"ab");
        body.extend(gzip(b""));
        body.extend(gzip(b"cd"));
        body.extend([0; 1000]);
        assert_eq!(inflate(&body, 4).unwrap(), b"abcd");
        body.push(b'x');
        assert!(
            matches!(inflate(&body, 4), Err(WriteError::BadRequest(_))),
            "what is no padding is an error"
        );
    }

    #[test]
    fn many_small_members_are_one_look_at_each_byte() {
        let body = gzip(b"a").repeat(50_000);
        assert_eq!(inflate(&body, 1 << 20).unwrap().len(), 50_000);
    }

    #[test]
    fn a_cut_off_gzip_is_an_error_and_not_half_a_batch() {
        let body = gzip(b"cpu usage=1\n");
        assert!(matches!(inflate(&body[..body.len() - 3], 100), Err(WriteError::BadRequest(_))));
        assert!(matches!(inflate(b"cpu usage=1", 100), Err(WriteError::BadRequest(_))));
    }
}
