//! The command line.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail};
use clap::Parser;
use peers::websocket::{Opcode, masked_frame};

/// Opens many WebSocket connections to one server, counts what arrives, and prints one line of JSON
#[derive(Parser)]
pub(crate) struct Args {
    /// The server
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// Path and query of the upgrade
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// One more header of the upgrade, like `Sec-WebSocket-Protocol: mqtt`; may be repeated
    #[arg(long = "header")]
    pub(crate) headers: Vec<String>,
    /// A message to send after the upgrade: `text:…` or `binary:…`, with `\r`, `\n`, `\\` and `\xNN` for bytes; may be repeated
    #[arg(long = "hello", value_parser = hello)]
    pub(crate) hellos: Vec<Frame>,
    /// A message every client sends each --keepalive-seconds: written as in --hello, or `pong`
    #[arg(long, default_value = "pong", value_parser = hello)]
    pub(crate) keepalive: Frame,
    /// How often: servers that ping take any message for an answer. 0: never
    #[arg(long, default_value_t = 10)]
    pub(crate) keepalive_seconds: u64,
    /// Connections
    #[arg(long, default_value_t = 100)]
    pub(crate) clients: usize,
    /// Handshakes under way at once: below the shortest accept queue of the servers
    #[arg(long, default_value_t = 100)]
    pub(crate) connecting: usize,
    /// Source addresses to connect from, in turn, separated by commas: each has its own ports. 14,000 connections need a second one
    #[arg(long, value_delimiter = ',')]
    pub(crate) addresses: Vec<IpAddr>,
    /// Seconds between the last handshake and the measured window
    #[arg(long, default_value_t = 2.0)]
    pub(crate) warmup: f64,
    /// Seconds of the measured window
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Expect no messages: only hold the connections
    #[arg(long)]
    pub(crate) idle: bool,
    /// Seconds without any progress of handshakes after which the rest counts as failed
    #[arg(long, default_value_t = 10.0)]
    pub(crate) patience: f64,
    /// A process of the server whose CPU time over the window, and memory before and after connecting, are told; may be repeated
    #[arg(long = "watch")]
    pub(crate) watched: Vec<u32>,
}

/// A masked frame, ready to be sent.
pub(crate) type Frame = std::sync::Arc<[u8]>;

fn hello(text: &str) -> anyhow::Result<Frame> {
    let (opcode, payload) = match text.split_once(':') {
        Some(("text", payload)) => (Opcode::Text, payload),
        Some(("binary", payload)) => (Opcode::Binary, payload),
        None if text == "pong" => (Opcode::Pong, ""),
        _ => bail!("a message is `text:…` or `binary:…`"),
    };
    Ok(masked_frame(opcode, &unescaped(payload)?).into())
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
        assert_eq!(hello("text:{}").unwrap()[0], 0x81);
        assert_eq!(hello("binary:{}").unwrap()[0], 0x82);
        assert_eq!(hello("pong").unwrap()[0], 0x8a);
        assert!(hello("{}").is_err());
    }
}
