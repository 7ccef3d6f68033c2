//! One non-blocking connection, from the socket to an open WebSocket. Frames are its owner's.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::end::End;
use super::upgrade::Upgrade;
use crate::proto::frame::{Opcode, encode_masked};

/// Receive buffer of a client that never reads, in bytes: without a bound the kernel alone takes megabytes for it.
const SLOW_RECEIVE_BYTES: usize = 16 * 1024;

/// Clients per source address on loopback. Linux has 28,231 ports by default for one pair of addresses; searching for the
/// last of them is slow.
const CLIENTS_PER_SOURCE: usize = 10_000;

/// Source addresses on loopback: 127.0.1.1 and the ones after it, up to 127.0.1.250.
const SOURCES_MAX: usize = 250;

/// How a socket is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) to: SocketAddr,
    /// The source address, if the kernel shall not choose.
    pub(super) source: Option<IpAddr>,
    /// It will not be read, and shall not take much.
    pub(super) slow: bool,
}

/// Where client `number` of `clients` connects from: the kernel's choice, unless there are too many for one pair of addresses
/// on loopback, where any 127.x address will do.
pub(super) fn source(to: SocketAddr, number: usize, clients: usize) -> Option<IpAddr> {
    let many = clients > CLIENTS_PER_SOURCE;
    match to.ip() {
        IpAddr::V4(address) if address.is_loopback() && many => {
            let last = (number / CLIENTS_PER_SOURCE % SOURCES_MAX) as u8 + 1;
            Some(Ipv4Addr::new(127, 0, 1, last).into())
        }
        _ => None,
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    stage: Stage,
    /// Bytes that the socket has not taken yet.
    out: Vec<u8>,
}

#[derive(Debug)]
enum Stage {
    /// Connecting as well: until that is done, reads and writes are just blocked.
    Upgrading(Upgrade),
    Open,
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing more for now.
    Blocked,
    /// The handshake is not over.
    Head,
    /// The handshake is over; so many bytes at the end of what was read are behind it.
    Opened { read: usize, behind: usize },
    /// So many bytes of frames.
    Frames(usize),
}

impl Link {
    /// Begins to connect, and to ask for the upgrade as soon as that is done.
    pub(super) fn begin(
        dial: Dial,
        (request, upgrade): (Vec<u8>, Upgrade),
        registry: &Registry,
        token: Token,
    ) -> Result<Self, End> {
        let stream = connect(dial).map_err(|error| match error.kind() {
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => End::NoLocalAddress,
            kind => End::Socket(kind),
        })?;
        let mut stream = TcpStream::from_std(stream);
        // Registered once, edge-triggered: writability costs nothing afterwards unless a write was blocked.
        let registered = registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE);
        registered.map_err(|error| End::Socket(error.kind()))?;
        Ok(Self { stream, stage: Stage::Upgrading(upgrade), out: request })
    }

    /// The handshake is over.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Reads once into `buffer`.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Read, End> {
        let read = loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(End::Lost),
                Ok(read) => break read,
                Err(error) if is_blocked(&error) => return Ok(Read::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error.kind())),
            }
        };
        let Stage::Upgrading(upgrade) = &mut self.stage else { return Ok(Read::Frames(read)) };
        match upgrade.take(&buffer[..read])? {
            None => Ok(Read::Head),
            Some(behind) => {
                self.stage = Stage::Open;
                Ok(Read::Opened { read, behind })
            }
        }
    }

    /// Writes what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> Result<(), End> {
        let mut written = 0;
        let mut end = Ok(());
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(0) => end = Err(End::Lost),
                Ok(bytes) => {
                    written += bytes;
                    continue;
                }
                Err(error) if is_blocked(&error) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => end = Err(self.broken(error.kind())),
            }
            break;
        }
        self.out.drain(..written);
        if self.out.is_empty() {
            // Thousands of connections: what is not used is not kept.
            self.out.shrink_to(1_024);
        }
        end
    }

    /// Puts a frame behind what waits. [`Link::flush`] sends it.
    pub(super) fn put(&mut self, opcode: Opcode, payload: &[u8]) {
        encode_masked(&mut self.out, true, opcode, fastrand::u32(..).to_be_bytes(), payload);
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.out.len()
    }

    /// Ends the connection without a word, as a network that fails does: the server gets a reset.
    pub(super) fn abort(self) {
        // Without it the ports of thousands of departures would be blocked for a minute. If it fails, they are.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// A connection that broke is lost; one that never was has a reason.
    fn broken(&self, kind: ErrorKind) -> End {
        match self.stage {
            Stage::Open if kind == ErrorKind::ConnectionReset || kind == ErrorKind::BrokenPipe => End::Lost,
            _ => End::Socket(kind),
        }
    }
}

/// A socket that is still connecting is blocked for Linux, and not connected for others.
fn is_blocked(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

fn connect(dial: Dial) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(dial.to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if dial.slow {
        // Before connecting: the window is agreed on there.
        socket.set_recv_buffer_size(SLOW_RECEIVE_BYTES)?;
    }
    if let Some(source) = dial.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&dial.to.into()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        // What a non-blocking connect says while it goes on.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clients_on_loopback_come_from_several_addresses() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 9090));
        assert_eq!(source(loopback, 5, CLIENTS_PER_SOURCE), None);
        let from = |number| source(loopback, number, 25_000).map(|address| address.to_string());
        assert_eq!(from(0).as_deref(), Some("127.0.1.1"));
        assert_eq!(from(9_999).as_deref(), Some("127.0.1.1"));
        assert_eq!(from(24_999).as_deref(), Some("127.0.1.3"));
        assert_eq!(source(SocketAddr::from(([10, 0, 0, 1], 9090)), 0, 25_000), None);
        assert_eq!(source(SocketAddr::from(([0; 8], 9090)), 0, 25_000), None);
    }
}
