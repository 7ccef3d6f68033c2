//! The stamp inside every message: `"sent_ns":1795329435000000000,"seq":1000000001`. JSON as it stands, and of fixed width.

use std::time::{SystemTime, UNIX_EPOCH};

use memchr::memmem::Finder;

const MARKER: &[u8] = b"\"sent_ns\":";
const BETWEEN: &[u8] = b",\"seq\":";
const TIME_DIGITS: usize = 19;
const NUMBER_DIGITS: usize = 10;
const TIME_AT: usize = MARKER.len();
const NUMBER_AT: usize = TIME_AT + TIME_DIGITS + BETWEEN.len();
/// Bytes of a stamp.
pub const STAMP_BYTES: usize = NUMBER_AT + NUMBER_DIGITS;
/// Numbers begin here, so that all have the same width and none a leading zero, which JSON forbids.
pub const FIRST_NUMBER: u64 = 1_000_000_000;

/// Nanoseconds since 1970. All programs run on one machine, so clocks agree.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// When a message was due, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since 1970.
    pub sent_ns: u64,
    /// Counts the messages of one publisher, from [`FIRST_NUMBER`].
    pub number: u64,
}

impl Stamp {
    /// The stamp as it is in a message.
    pub fn text(self) -> String {
        let Self { sent_ns, number } = self;
        format!("\"sent_ns\":{sent_ns:019},\"seq\":{number:010}")
    }
}

/// A JSON object of exactly `bytes` bytes with a stamp in it: what peers deliver that leave the message to its publisher.
///
/// # Errors
/// When `bytes` has no room for a stamp.
pub fn message(stamp: Stamp, bytes: usize) -> anyhow::Result<Vec<u8>> {
    let head = format!("{{{},\"pad\":\"", stamp.text());
    let overhead = head.len() + 2;
    anyhow::ensure!(bytes >= overhead, "a message has at least {overhead} bytes (its stamp), not {bytes}");
    let mut message = head.into_bytes();
    message.resize(bytes - 2, b'x');
    message.extend_from_slice(b"\"}");
    Ok(message)
}

/// Overwrites the stamp of a message that [`message`] made.
pub fn restamp(message: &mut [u8], stamp: Stamp) {
    message[1..=STAMP_BYTES].copy_from_slice(stamp.text().as_bytes());
}

/// Bytes of an unfinished stamp at the end of a socket's last read.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    bytes: [u8; STAMP_BYTES],
    length: u8,
}

impl Default for Tail {
    fn default() -> Self {
        Self { bytes: [0; STAMP_BYTES], length: 0 }
    }
}

/// One buffer for all sockets: the tail of the socket at hand goes in front of what is read.
pub struct Reader {
    buffer: Vec<u8>,
    finder: Finder<'static>,
}

impl Reader {
    /// A reader that takes up to `bytes` of a socket at once.
    pub fn new(bytes: usize) -> Self {
        Self { buffer: vec![0; STAMP_BYTES + bytes], finder: Finder::new(MARKER) }
    }

    /// Where the next read goes.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[STAMP_BYTES..]
    }

    /// Shows every stamp that ends within the `count` bytes just read, in order, and keeps in `tail` what may be the beginning of one.
    pub fn stamps(&mut self, count: usize, tail: &mut Tail, mut each: impl FnMut(Stamp)) {
        let kept = usize::from(tail.length);
        let begin = STAMP_BYTES - kept;
        self.buffer[begin..STAMP_BYTES].copy_from_slice(&tail.bytes[..kept]);
        let bytes = &self.buffer[begin..STAMP_BYTES + count];
        // Less than a marker is no match and has to be kept all the same.
        let mut rest = bytes.len().saturating_sub(MARKER.len() - 1);
        let mut from = 0;
        while let Some(found) = self.finder.find(&bytes[from..]) {
            let at = from + found;
            let Some(stamp) = bytes.get(at..at + STAMP_BYTES) else {
                rest = at;
                break;
            };
            if let Some(stamp) = parse(stamp) {
                each(stamp);
            }
            from = at + MARKER.len();
            rest = rest.max(from);
        }
        let kept = &bytes[rest..];
        tail.bytes[..kept.len()].copy_from_slice(kept);
        tail.length = u8::try_from(kept.len()).unwrap_or(0);
    }
}

fn parse(bytes: &[u8]) -> Option<Stamp> {
    if &bytes[TIME_AT + TIME_DIGITS..NUMBER_AT] != BETWEEN {
        return None;
    }
    let sent_ns = number(&bytes[TIME_AT..TIME_AT + TIME_DIGITS])?;
    let number = number(&bytes[NUMBER_AT..])?;
    Some(Stamp { sent_ns, number })
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |sum, digit| {
        digit.is_ascii_digit().then(|| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(count: u64) -> Vec<Stamp> {
        (0..count)
            .map(|index| Stamp { sent_ns: 1_795_329_435_000_000_000 + index, number: FIRST_NUMBER + index })
            .collect()
    }

    #[test]
    fn a_stamp_counts_once_wherever_reads_cut_it() {
        let sent = stamps(3);
        let mut stream = b"\x81\x7e\x00\x80{\"sent_ns\":\"sent_ns\":12".to_vec();
        sent.iter().for_each(|stamp| stream.extend(message(*stamp, 100).unwrap()));
        for cut in 1..=stream.len() {
            let (mut reader, mut tail, mut seen) = (Reader::new(4096), Tail::default(), Vec::new());
            for piece in stream.chunks(cut) {
                reader.space()[..piece.len()].copy_from_slice(piece);
                reader.stamps(piece.len(), &mut tail, |stamp| seen.push(stamp));
            }
            assert_eq!(seen, sent, "reads of {cut} bytes");
        }
    }

    #[test]
    fn a_message_has_the_size_asked_for_and_takes_another_stamp() {
        let [first, second] = stamps(2)[..] else { unreachable!() };
        for bytes in [128, 512, 4096] {
            let mut made = message(first, bytes).unwrap();
            assert_eq!(made.len(), bytes);
            restamp(&mut made, second);
            assert_eq!(made, message(second, bytes).unwrap());
        }
        assert!(message(first, STAMP_BYTES).is_err());
    }
}
