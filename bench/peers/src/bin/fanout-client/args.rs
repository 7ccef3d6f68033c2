//! The command line.

use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use peers::hello::{self, Frame};

/// Opens many WebSocket connections to one server, counts what arrives, and prints `connected` and later one line of JSON
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
    #[arg(long = "hello", value_parser = hello::frame)]
    pub(crate) hellos: Vec<Frame>,
    /// A message every client sends each --keepalive-seconds: written as in --hello, or `pong`
    #[arg(long, default_value = "pong", value_parser = hello::frame)]
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
