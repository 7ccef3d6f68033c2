//! One connection, from its handshake on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use peers::hello::Frame;
use peers::stamp::{Reader, Tail};
use peers::websocket::{HEAD_BYTES_MAX, HEAD_END};
use socket2::{Domain, Socket, Type};

/// What a readable socket came to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing yet.
    Waits,
    /// The handshake is complete.
    Opened,
    /// So many bytes are in the reader.
    Read(usize),
    /// It ended; why, for people.
    Ended(String),
}

/// A socket, and what of its answer or of a stamp is unfinished.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    /// The answer to the handshake; nothing after it.
    head: Option<Vec<u8>>,
    pub(crate) tail: Tail,
}

impl Connection {
    /// Connects and sends the request. On one machine that never waits long, so that it may block.
    pub(crate) fn start(server: SocketAddr, from: Option<IpAddr>, request: &[u8]) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        socket.connect(&server.into())?;
        socket.set_tcp_nodelay(true)?;
        let mut socket = TcpStream::from(socket);
        socket.write_all(request)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, head: Some(Vec::new()), tail: Tail::default() })
    }

    /// Takes what a readable socket has. Level-triggered: what does not fit comes the next time.
    pub(crate) fn readable(&mut self, reader: &mut Reader, hellos: &[Frame]) -> Progress {
        let count = match self.socket.read(reader.space()) {
            Ok(0) if self.head.is_some() => return Progress::Ended("closed during the handshake".into()),
            Ok(0) => return Progress::Ended("closed by the server".into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waits,
            Err(error) => return Progress::Ended(error.to_string()),
        };
        match self.head.take() {
            None => Progress::Read(count),
            Some(head) => self.answered(head, count, reader, hellos),
        }
    }

    fn answered(
        &mut self,
        mut head: Vec<u8>,
        count: usize,
        reader: &mut Reader,
        hellos: &[Frame],
    ) -> Progress {
        head.extend_from_slice(&reader.space()[..count]);
        let Some(end) = memchr::memmem::find(&head, HEAD_END) else {
            if head.len() > HEAD_BYTES_MAX {
                return Progress::Ended("the answer to the handshake is too long".into());
            }
            self.head = Some(head);
            return Progress::Waits;
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
            return Progress::Ended(format!("refused: {}", String::from_utf8_lossy(status)));
        }
        // What came with the answer are the first frames: a stamp may begin in them.
        let first = &head[end + HEAD_END.len()..];
        reader.space()[..first.len()].copy_from_slice(first);
        reader.stamps(first.len(), &mut self.tail, |_| {});
        match hellos.iter().try_for_each(|hello| self.send(hello)) {
            Ok(()) => Progress::Opened,
            Err(error) => Progress::Ended(error.to_string()),
        }
    }

    /// Whether the handshake is complete.
    pub(crate) fn is_open(&self) -> bool {
        self.head.is_none()
    }

    /// Sends a small message: there is room for it, or the connection is of no use.
    pub(crate) fn send(&mut self, frame: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(frame)
    }
}
