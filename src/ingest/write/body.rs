//! The bytes of a write: bounded while they come, and while they are inflated.

use std::io::Read;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use flate2::bufread::GzDecoder;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use crate::fairness::Charge;
use crate::ingest::write::content_length;
use crate::ingest::write::error::WriteError;
use crate::ingest::{Ingest, remote};

/// Bytes that are inflated at a time.
const INFLATED_BYTES: usize = 64 * 1024;
/// A body that waited for room has so much longer.
const OVERTIME: Duration = Duration::from_millis(500);

/// How a body is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    Gzip,
}

/// A body as it was sent or inflated, and what is charged for it.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    charge: Charge,
}

/// Receives the body by `deadline`, and undoes its encoding.
pub(super) async fn read(ingest: &Ingest, request: Request, deadline: Instant) -> Result<Body, WriteError> {
    let bytes_max = ingest.settings.message_bytes_max;
    let encoding = encoding(request.headers())?;
    if content_length(request.headers()).is_some_and(|length| length > bytes_max) {
        return Err(WriteError::TooLarge(bytes_max));
    }
    let charge = ingest.receiving.open(remote(&request), Some(deadline));
    let mut body = Body { bytes: Vec::new(), charge };
    let received = async {
        body.receive(request.into_body(), bytes_max).await?;
        ingest.node.meters.messages_received.increment(1);
        ingest.node.meters.bytes_received.increment(body.bytes.len() as u64);
        if encoding == Encoding::Gzip { body.inflate(bytes_max).await } else { Ok(()) }
    };
    // Waiting for room does not count against a sender, but its own patience has an end.
    match timeout_at(deadline + OVERTIME, received).await {
        Ok(received) => received?,
        Err(_) => return Err(WriteError::Buffer(ingest.any_obstacle())),
    }
    Ok(body)
}

impl Body {
    /// Takes what comes, charged as it comes: what a sender announces costs nobody anything.
    async fn receive(&mut self, mut body: axum::body::Body, bytes_max: usize) -> Result<(), WriteError> {
        loop {
            let frame = tokio::select! {
                biased;
                cut = self.charge.cut() => return Err(WriteError::Cut(cut)),
                frame = body.frame() => frame,
            };
            let data = match frame {
                None => return Ok(()),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(WriteError::broken_body(&error)),
            };
            if self.bytes.len() + data.len() > bytes_max {
                return Err(WriteError::TooLarge(bytes_max));
            }
            self.charge.grow_soon_to(self.bytes.len() + data.len()).await?;
            self.bytes.extend_from_slice(&data);
        }
    }

    /// Undoes gzip, a step at a time: what comes out is charged like what came in, and beside it.
    async fn inflate(&mut self, bytes_max: usize) -> Result<(), WriteError> {
        let body = std::mem::take(&mut self.bytes);
        let mut inflating = Inflating::new(&body, bytes_max);
        while inflating.step()? {
            self.charge.grow_soon_to(body.len() + inflating.out.len()).await?;
            // A few bytes may inflate to much, and many members to nothing: others get their turn in between.
            tokio::task::consume_budget().await;
        }
        self.bytes = inflating.out;
        Ok(())
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

/// A body that is being inflated.
struct Inflating<'a> {
    rest: &'a [u8],
    /// Something was a member. Zeros alone are no gzip.
    begun: bool,
    member: Option<GzDecoder<&'a [u8]>>,
    out: Vec<u8>,
    bytes_max: usize,
}

impl<'a> Inflating<'a> {
    fn new(body: &'a [u8], bytes_max: usize) -> Self {
        Self { rest: body, begun: false, member: None, out: Vec::new(), bytes_max }
    }

    /// Inflates a little more of one member after the other, as gzip does: nothing is an empty body, and zeros behind the last
    /// member are padding. False at the end.
    fn step(&mut self) -> Result<bool, WriteError> {
        let mut member = match self.member.take() {
            Some(member) => member,
            None if self.rest.is_empty() => return Ok(false),
            None if self.begun && self.rest.iter().all(|byte| *byte == 0) => return Ok(false),
            None => GzDecoder::new(self.rest),
        };
        // One byte more than allowed tells "exactly full" from "too large".
        let most = (self.bytes_max + 1 - self.out.len()).min(INFLATED_BYTES);
        let inflated =
            member.by_ref().take(most as u64).read_to_end(&mut self.out).map_err(|error| {
                WriteError::bad_request("bad_gzip", format!("the body is no gzip: {error}"))
            })?;
        if self.out.len() > self.bytes_max {
            return Err(WriteError::TooLarge(self.bytes_max));
        }
        self.begun = true;
        if inflated == most {
            self.member = Some(member);
        } else {
            self.rest = member.into_inner();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn inflate(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, WriteError> {
        let mut inflating = Inflating::new(body, bytes_max);
        while inflating.step()? {}
        Ok(inflating.out)
    }

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
        assert!(matches!(inflate(&[0; 7], 10), Err(WriteError::BadRequest(_))), "gzip refuses it too");
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
