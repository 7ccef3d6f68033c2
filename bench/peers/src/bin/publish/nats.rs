//! Publishing to NATS with the plain protocol: cheaper than any client library, and nothing waits for an answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use peers::stamp::{FIRST_NUMBER, now_ns};

use crate::Publish;
use crate::payload::Shape;

/// A connection, and a thread that answers the server's pings.
pub(crate) struct Nats {
    socket: Arc<Mutex<TcpStream>>,
    subject: String,
    shape: Shape,
    run: u64,
    count: u64,
    command: Vec<u8>,
}

impl Nats {
    pub(crate) fn connect(server: SocketAddr, subject: &str, shape: Shape) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(server).with_context(|| format!("no NATS server at {server}"))?;
        socket.set_nodelay(true)?;
        socket.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n")?;
        let reading = BufReader::new(socket.try_clone()?);
        let socket = Arc::new(Mutex::new(socket));
        let writing = socket.clone();
        std::thread::spawn(move || listen(reading, &writing));
        Ok(Self { socket, subject: subject.to_owned(), shape, run: now_ns(), count: 0, command: Vec::new() })
    }

    /// What ingest writes beside an envelope: its place among those of the collector, when it came, and an id.
    fn telecast_headers(&self) -> String {
        let Self { run, count, .. } = self;
        let number = FIRST_NUMBER + count;
        let now_ns = now_ns();
        format!(
            "NATS/1.0\r\nNats-Msg-Id: {run:016x}{number:016x}\r\nTelecast-Revision: 1\r\nTelecast-Sequence: {number}\r\n\
             Telecast-Received: {now_ns}\r\n\r\n"
        )
    }
}

impl Publish for Nats {
    fn publish(&mut self, message: &[u8]) -> anyhow::Result<()> {
        let headers = if self.shape == Shape::Line { self.telecast_headers() } else { String::new() };
        let (subject, total) = (&self.subject, headers.len() + message.len());
        let command = if headers.is_empty() {
            format!("PUB {subject} {total}\r\n")
        } else {
            format!("HPUB {subject} {} {total}\r\n{headers}", headers.len())
        };
        self.command.clear();
        self.command.extend_from_slice(command.as_bytes());
        self.command.extend_from_slice(message);
        self.command.extend_from_slice(b"\r\n");
        self.count += 1;
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.write_all(&self.command).context("the NATS server went away")
    }
}

/// Answers pings. An error that the server tells is the end: whoever started this would wait for messages in vain.
fn listen(reading: BufReader<TcpStream>, writing: &Mutex<TcpStream>) {
    for line in reading.lines().map_while(Result::ok) {
        if line.starts_with("PING") {
            let mut socket = writing.lock().unwrap_or_else(PoisonError::into_inner);
            // One that is closed shows when it is written to.
            let _ = socket.write_all(b"PONG\r\n");
        } else if line.starts_with("-ERR") {
            eprintln!("publish: the NATS server says {line}");
            std::process::exit(1);
        }
    }
}
