//! Messages of clients as they stand on command lines: `text:…` or `binary:…`, with `\r`, `\n`, `\\` and `\xNN` for bytes.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::websocket::{Opcode, masked_frame};

/// A masked frame, ready to be sent.
pub type Frame = Arc<[u8]>;

/// Reads a message, or `pong` for the frame of that name.
///
/// # Errors
/// When it does not say its kind, or has a backslash before anything else.
pub fn frame(text: &str) -> anyhow::Result<Frame> {
    if text == "pong" {
        return Ok(masked_frame(Opcode::Pong, b"").into());
    }
    let (opcode, payload) = message(text)?;
    Ok(masked_frame(opcode, &payload).into())
}

/// Reads a message.
///
/// # Errors
/// When it does not say its kind, or has a backslash before anything else.
pub fn message(text: &str) -> anyhow::Result<(Opcode, Vec<u8>)> {
    match text.split_once(':') {
        Some(("text", payload)) => Ok((Opcode::Text, unescaped(payload)?)),
        Some(("binary", payload)) => Ok((Opcode::Binary, unescaped(payload)?)),
        _ => bail!("a message is `text:…` or `binary:…`"),
    }
}

fn unescaped(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (byte, length) = match escape.as_bytes().first() {
            Some(b'r') => (b'\r', 1),
            Some(b'n') => (b'\n', 1),
            Some(b'\\') => (b'\\', 1),
            Some(b'x') => {
                let digits = escape.get(1..3).context("\\x takes two hexadecimal digits")?;
                (u8::from_str_radix(digits, 16).context("\\x takes two hexadecimal digits")?, 3)
            }
            _ => bail!("a backslash is followed by r, n, x or another backslash"),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(unescaped(r"SUB a\r\n\x00\xffé\\").unwrap(), b"SUB a\r\n\0\xff\xc3\xa9\\");
        for wrong in [r"\", r"\x1", r"\xé", r"\t"] {
            assert!(unescaped(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_message_says_its_kind() {
        assert_eq!(frame("text:{}").unwrap()[0], 0x81);
        assert_eq!(frame("binary:{}").unwrap()[0], 0x82);
        assert_eq!(frame("pong").unwrap()[0], 0x8a);
        assert!(frame("{}").is_err());
    }
}
