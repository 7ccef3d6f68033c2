//! What clients offer in `Sec-WebSocket-Extensions`, and what is chosen of it (RFC 6455 section 9.1, RFC 7692 section 5).

const NAME: &str = "permessage-deflate";

/// The only window the compressor has, as a power of two: a client that asks for a smaller one cannot be served.
const WINDOW_BITS: u8 = 15;

/// The header is not written as RFC 6455 section 9.1 asks, which fails the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`Sec-WebSocket-Extensions` is not a list of extensions with parameters (RFC 6455 section 9.1): send \
     `permessage-deflate; client_max_window_bits`, for example, or leave the header out"
)]
pub struct MalformedOffers;

/// That a client's messages and ours may be compressed, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The client named a bound for our window, so the answer has to.
    names_window: bool,
}

impl Agreement {
    /// The value of the answer's `Sec-WebSocket-Extensions`.
    pub fn answer(self) -> &'static str {
        if self.names_window {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
        } else {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        }
    }
}

/// Chooses the first offer that can be honoured, over all lines of the header in their order. Unknown extensions and
/// offers with parameters that are unknown, repeated or out of range are passed over.
pub fn negotiate<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<Agreement>, MalformedOffers> {
    let mut chosen = None;
    for line in lines {
        let mut text = Text(line);
        loop {
            text.skip_spaces();
            // A list may have empty elements (RFC 9110 section 5.6.1).
            if !text.0.is_empty() && !text.0.starts_with(b",") {
                chosen = chosen.or(text.offer()?);
            }
            if text.0.is_empty() {
                break;
            }
            text.expect(b',')?;
        }
    }
    Ok(chosen)
}

/// The parameters of one offer.
#[derive(Default)]
struct Terms {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// With or without a value: any window of a client can be read.
    client_max_window_bits: bool,
}

impl Terms {
    /// False when the offer has to be declined (RFC 7692 section 7.1).
    fn add(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        let first = |seen: &mut bool| !std::mem::replace(seen, true);
        match (name, value) {
            (b"server_no_context_takeover", None) => first(&mut self.server_no_context_takeover),
            (b"client_no_context_takeover", None) => first(&mut self.client_no_context_takeover),
            (b"client_max_window_bits", None) => first(&mut self.client_max_window_bits),
            (b"client_max_window_bits", Some(bits)) => {
                window_bits(bits).is_some() && first(&mut self.client_max_window_bits)
            }
            (b"server_max_window_bits", Some(bits)) => {
                window_bits(bits).is_some_and(|bits| self.server_max_window_bits.replace(bits).is_none())
            }
            _ => false,
        }
    }

    fn agree(&self) -> Option<Agreement> {
        match self.server_max_window_bits {
            None => Some(Agreement { names_window: false }),
            Some(WINDOW_BITS) => Some(Agreement { names_window: true }),
            Some(_) => None,
        }
    }
}

/// 8 to 15, without leading zeros.
fn window_bits(digits: &[u8]) -> Option<u8> {
    match digits {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The rest of a line.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// One element of the list, with its parameters; none if it is not to be chosen.
    fn offer(&mut self) -> Result<Option<Agreement>, MalformedOffers> {
        let mut fits = self.token()? == NAME.as_bytes();
        let mut terms = Terms::default();
        loop {
            self.skip_spaces();
            if !self.0.starts_with(b";") {
                return Ok(terms.agree().filter(|_| fits));
            }
            self.expect(b';')?;
            self.skip_spaces();
            let name = self.token()?;
            self.skip_spaces();
            if !self.0.starts_with(b"=") {
                fits &= terms.add(name, None);
                continue;
            }
            self.expect(b'=')?;
            self.skip_spaces();
            if self.0.starts_with(b"\"") {
                let value = self.quoted()?;
                fits &= terms.add(name, Some(&value));
            } else {
                let value = self.token()?;
                fits &= terms.add(name, Some(value));
            }
        }
    }

    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn expect(&mut self, wanted: u8) -> Result<(), MalformedOffers> {
        match self.0.split_first() {
            Some((first, rest)) if *first == wanted => {
                self.0 = rest;
                Ok(())
            }
            _ => Err(MalformedOffers),
        }
    }

    fn token(&mut self) -> Result<&'a [u8], MalformedOffers> {
        let end = self.0.iter().position(|byte| !is_token(*byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        if token.is_empty() { Err(MalformedOffers) } else { Ok(token) }
    }

    /// What stands in quotes has to be a token all the same (RFC 6455 section 9.1).
    fn quoted(&mut self) -> Result<Vec<u8>, MalformedOffers> {
        self.expect(b'"')?;
        let mut value = Vec::new();
        loop {
            let (mut byte, mut rest) = self.0.split_first().ok_or(MalformedOffers)?;
            if *byte == b'"' {
                self.0 = rest;
                return if value.is_empty() { Err(MalformedOffers) } else { Ok(value) };
            }
            if *byte == b'\\' {
                (byte, rest) = rest.split_first().ok_or(MalformedOffers)?;
            }
            if !is_token(*byte) {
                return Err(MalformedOffers);
            }
            value.push(*byte);
            self.0 = rest;
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
