//! The head of a request while it comes: characters that the HTTP library refuses in a target are read as they are meant, and
//! what is wrong with a head is remembered for the answer.
//!
//! Filters hold `>`, `{` and `}`, and many programs send them as they are. In a target they can mean nothing but themselves, so
//! they are written as RFC 3986 wants them before the library sees them: `%3E`. Only the first line of a head is ever changed.

use std::fmt;

/// Characters that a URL has to encode (RFC 3986 section 2), and people do not.
const MEANT_AS_THEMSELVES: &[u8] = b"\"<>\\^`{|}";
/// Longest version of the protocol that is kept to name it: `HTTP/1.1`, and some more to see that it is none.
const VERSION_BYTES_MAX: usize = 16;
/// What a TLS client begins with: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads one head after the other, in the pieces in which they come.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    at: Position,
    line: usize,
    version: [u8; VERSION_BYTES_MAX],
    version_bytes: usize,
    fault: Option<Fault>,
    has_more: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the first byte; empty lines may come.
    #[default]
    Start,
    Method,
    Target,
    Version,
    LineStart,
    Name,
    Value,
    /// Behind the head, or behind what is wrong with it.
    End,
}

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not HTTP but the beginning of TLS.
    Tls,
    /// A byte that no method has.
    Method(u8),
    /// A byte that no target may hold, encoded or not.
    Target(u8),
    /// The first line has more than three words.
    TargetSpace,
    /// The first line ends without `HTTP/1.1`.
    Version,
    /// A byte that no header's name has, in this line.
    Name(usize, u8),
    /// A line without a colon.
    NoColon(usize),
    /// A line that begins with a space: folded values are obsolete.
    Folded(usize),
    /// A control character in a value.
    Value(usize, u8),
}

impl Scanner {
    /// A new head begins.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Whether more came than empty lines, which some clients send behind a body.
    pub(super) fn has_begun(&self) -> bool {
        self.at != Position::Start
    }

    /// Whether something came behind the head with it: a body, or the next head.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// What is wrong with the head, if it was seen.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Reads on. Returns what the library shall read instead of `bytes`, if that is something else.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut changed: Option<Vec<u8>> = None;
        for (index, byte) in bytes.iter().copied().enumerate() {
            if self.at == Position::End {
                self.has_more = self.fault.is_none();
                if let Some(changed) = &mut changed {
                    changed.extend_from_slice(&bytes[index..]);
                }
                break;
            }
            let encode = self.at == Position::Target && (byte >= 0x80 || MEANT_AS_THEMSELVES.contains(&byte));
            if encode {
                let changed = changed.get_or_insert_with(|| bytes[..index].to_vec());
                changed.extend_from_slice(format!("%{byte:02X}").as_bytes());
                continue;
            }
            if let Some(changed) = &mut changed {
                changed.push(byte);
            }
            self.step(byte);
        }
        changed
    }

    fn step(&mut self, byte: u8) {
        match (self.at, byte) {
            (Position::Start, b'\r' | b'\n') | (Position::End, _) => {}
            (Position::Start, TLS_HANDSHAKE) => self.wrong(Fault::Tls),
            (Position::Start | Position::Method, _) if is_token(byte) => self.at = Position::Method,
            (Position::Method, b' ') => self.at = Position::Target,
            (Position::Start | Position::Method, _) => self.wrong(Fault::Method(byte)),
            (Position::Target, b' ') => self.at = Position::Version,
            (Position::Target, b'\r' | b'\n') => self.wrong(Fault::Version),
            (Position::Target, _) if byte.is_ascii_control() => self.wrong(Fault::Target(byte)),
            (Position::Target, _) => {}
            (Position::Version, b'\n') => self.end_first_line(),
            (Position::Version, _) => {
                if let Some(place) = self.version.get_mut(self.version_bytes) {
                    *place = byte;
                    self.version_bytes += 1;
                }
                if byte == b' ' {
                    self.wrong(Fault::TargetSpace);
                }
            }
            (Position::LineStart, b'\n') => self.at = Position::End,
            (Position::LineStart, b'\r') => {}
            (Position::LineStart, b' ' | b'\t') => self.wrong(Fault::Folded(self.line)),
            (Position::LineStart | Position::Name, _) if is_token(byte) => self.at = Position::Name,
            (Position::Name, b':') => self.at = Position::Value,
            (Position::Name, b'\r' | b'\n') => self.wrong(Fault::NoColon(self.line)),
            (Position::LineStart | Position::Name, _) => self.wrong(Fault::Name(self.line, byte)),
            (Position::Value, b'\n') => self.next_line(),
            (Position::Value, b'\r' | b'\t') => {}
            (Position::Value, _) if byte.is_ascii_control() => self.wrong(Fault::Value(self.line, byte)),
            (Position::Value, _) => {}
        }
    }

    fn end_first_line(&mut self) {
        let version = self.version[..self.version_bytes].trim_ascii_end();
        if version.starts_with(b"HTTP/") { self.next_line() } else { self.wrong(Fault::Version) }
    }

    fn next_line(&mut self) {
        self.line += 1;
        self.at = Position::LineStart;
    }

    fn wrong(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.at = Position::End;
    }
}

impl Fault {
    /// Whether it is in the target, where encoding helps.
    pub(super) fn is_in_target(self) -> bool {
        matches!(self, Self::Target(_) | Self::TargetSpace)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls => f.write_str(
                "this listener speaks HTTP, and TLS was sent: use http:// and ws://, or a proxy in front that ends TLS",
            ),
            Self::Method(byte) => write!(f, "the method holds {}, which none does", Shown(*byte)),
            Self::Target(byte) => {
                write!(f, "the target holds {}: encode it as %{byte:02X}", Shown(*byte))
            }
            Self::TargetSpace => f.write_str("the target holds a space: encode it as %20"),
            Self::Version => f.write_str("the first line does not end with a version: send `METHOD TARGET HTTP/1.1`"),
            Self::Name(line, byte) => {
                write!(f, "the name of header {line} holds {}, which none may", Shown(*byte))
            }
            Self::NoColon(line) => write!(f, "header {line} has no colon: send `Name: value`"),
            Self::Folded(line) => {
                write!(f, "header {line} begins with a space: a value has one line (RFC 9112 section 5.2)")
            }
            Self::Value(line, byte) => {
                write!(f, "the value of header {line} holds {}: leave control characters out", Shown(*byte))
            }
        }
    }
}

/// A byte as people know it.
struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_graphic() {
            write!(f, "`{}`", char::from(self.0))
        } else {
            write!(f, "the byte 0x{:02x}", self.0)
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library reads, however the head is cut.
    fn read(head: &[u8]) -> (Vec<u8>, Option<Fault>) {
        let whole = in_pieces(head, head.len());
        for bytes in 1..head.len().min(8) {
            assert_eq!(in_pieces(head, bytes), whole, "in pieces of {bytes}");
        }
        whole
    }

    fn in_pieces(head: &[u8], bytes: usize) -> (Vec<u8>, Option<Fault>) {
        let mut scanner = Scanner::default();
        let pieces = head.chunks(bytes).map(|piece| scanner.read(piece).unwrap_or_else(|| piece.to_vec()));
        let read = pieces.collect::<Vec<_>>().concat();
        (read, scanner.fault())
    }

    #[test]
    fn characters_of_filters_are_read_as_they_are_meant() {
        let head = "GET /ws?filter=web-03.>&x=*.cpu{cpu=\"a|b\\c^d`e<é} HTTP/1.1\r\nHost: a\r\nX: <>{}\r\n\r\n{\"a\":1}";
        let wanted = "GET /ws?filter=web-03.%3E&x=*.cpu%7Bcpu=%22a%7Cb%5Cc%5Ed%60e%3C%C3%A9%7D HTTP/1.1\r\nHost: a\r\nX: <>{}\r\n\r\n{\"a\":1}";
        assert_eq!(read(head.as_bytes()), (wanted.as_bytes().to_vec(), None));
    }

    #[test]
    fn what_is_right_stays_as_it_is() {
        for head in [
            "\r\nGET /%3E?a=b HTTP/1.0\n\n",
            "POST / HTTP/1.1\r\nA: é\tb\r\n\r\n<>",
            "OPTIONS * HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(read(head.as_bytes()), (head.as_bytes().to_vec(), None), "{head}");
            assert_eq!(Scanner::default().read(head.as_bytes()), None, "{head} was copied");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (head, words) in [
            ("\x16\x03\x01", "TLS"),
            ("G{T / HTTP/1.1\r\n\r\n", "`{`"),
            ("GET /a\x1b HTTP/1.1\r\n\r\n", "%1B"),
            ("GET /a b HTTP/1.1\r\n\r\n", "%20"),
            ("GET /a\r\n\r\n", "HTTP/1.1"),
            ("GET /a HTTQ/1.1\r\n\r\n", "version"),
            ("GET / HTTP/1.1\r\nA: b\r\nB c: d\r\n\r\n", "name of header 2 holds the byte 0x20"),
            ("GET / HTTP/1.1\r\nABC\r\n\r\n", "header 1 has no colon"),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "header 2 begins with a space"),
            ("GET / HTTP/1.1\r\nA: b\x01\r\n\r\n", "0x01"),
        ] {
            let (bytes, fault) = read(head.as_bytes());
            assert_eq!(bytes, head.as_bytes(), "{head:?}");
            let text = fault.unwrap_or_else(|| panic!("nothing is wrong with {head:?}")).to_string();
            assert!(text.contains(words), "{head:?}: {text}");
        }
    }
}
