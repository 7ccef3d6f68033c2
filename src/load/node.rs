//! A node that a test plays: its peers are real sockets, and it does what the test says, when the test says it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::plan::{Output, Plan};
use super::shared::Shared;
use super::target::Target;
use super::upgrade::accept;
use crate::proto::frame::{Opcode, encode};

pub(super) struct Node {
    listener: TcpListener,
}

/// The node's end of one connection.
pub(super) struct Peer {
    stream: TcpStream,
}

impl Node {
    pub(super) fn listen() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// A plan for so many clients of this node, and nothing else.
    pub(super) fn plan(&self, clients: usize) -> Plan {
        Plan {
            targets: vec![Target::of_clients(&self.address().to_string()).unwrap()],
            filters: Default::default(),
            clients,
            slow: 0,
            connects_per_s: 1_000.0,
            duration: Duration::from_secs(1),
            churn: None,
            publishing: None,
            threads: 1,
            output: Output::Table,
        }
    }

    pub(super) fn shared(&self, plan: Plan) -> Arc<Shared> {
        Arc::new(Shared::new(plan, vec![self.address()]))
    }

    /// Takes the connection that has been begun, and answers its request when it has come. `step` lets the other side work.
    pub(super) fn accept(&self, mut step: impl FnMut()) -> Peer {
        self.listener.set_nonblocking(true).unwrap();
        let mut stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => step(),
            }
        };
        stream.set_nonblocking(true).unwrap();
        let (mut head, mut buffer) = (Vec::new(), [0; 1_024]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(read) => head.extend_from_slice(&buffer[..read]),
                Err(_) => step(),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let answer = format!("HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: {}\r\n\r\n", accept(key));
        stream.set_nonblocking(false).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        Peer { stream }
    }
}

impl Peer {
    pub(super) fn welcome(&mut self) {
        self.say(r#"{"type":"welcome","offset":"1.1","heartbeat_ms":15000}"#);
    }

    pub(super) fn say(&mut self, words: &str) {
        let mut frame = Vec::new();
        encode(&mut frame, Opcode::Text, words.as_bytes());
        self.stream.write_all(&frame).unwrap();
    }

    /// Ends the connection without a close frame.
    pub(super) fn hang_up(self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
    }
}
