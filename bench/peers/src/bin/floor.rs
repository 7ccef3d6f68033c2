//! The lower bound: one thread that writes a ready frame to each client with one plain `write(2)`.
//!
//! It has no queue and no notion of a slow client: its sockets block. Whatever a server does beside that write comes on top of this.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use peers::pace::Pace;
use peers::stamp::{self, Stamp, now_ns};
use peers::websocket::{self, HEAD_BYTES_MAX, HEAD_END, Opcode};
use rustix::event::epoll;
use rustix::time::Timespec;
use socket2::{Domain, Socket, Type};

const LISTENER: u64 = u64::MAX;
const EVENTS_MAX: usize = 256;
const BACKLOG: i32 = 4096;

/// One thread, one write(2) of a prepared WebSocket frame per message and client
#[derive(Parser)]
struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// Messages per second to each client; `inf`: one after the other without a pause; 0: none, connections only
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Payload of a message in bytes
    #[arg(long, default_value_t = 512)]
    bytes: usize,
    /// Messages in one write: they wait for each other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    coalesce: u16,
    /// Send nothing until so many clients are there
    #[arg(long, default_value_t = 0)]
    await_clients: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut floor = Floor::listen(args.listen)?;
    let mut batch = Batch::new(args.bytes, usize::from(args.coalesce))?;
    eprintln!("floor listens on {}", args.listen);
    while floor.connected() < args.await_clients {
        floor.serve(None)?;
    }
    let mut pace = Pace::new(args.rate);
    loop {
        floor.serve(pace.wait(now_ns()))?;
        if let Some(stamp) = pace.take(now_ns())
            && let Some(frames) = batch.add(stamp)
        {
            floor.broadcast(frames);
        }
    }
}

/// Frames that go out with one write.
struct Batch {
    message: Vec<u8>,
    frames: Vec<u8>,
    count: usize,
    coalesce: usize,
}

impl Batch {
    fn new(bytes: usize, coalesce: usize) -> anyhow::Result<Self> {
        let message = stamp::message(Stamp { sent_ns: 0, number: 0 }, bytes)?;
        Ok(Self { message, frames: Vec::new(), count: 0, coalesce })
    }

    /// Adds a frame; gives all of them when they are complete.
    fn add(&mut self, stamp: Stamp) -> Option<&[u8]> {
        if self.count == self.coalesce {
            self.frames.clear();
            self.count = 0;
        }
        stamp::restamp(&mut self.message, stamp);
        websocket::write_frame(&mut self.frames, Opcode::Text, &self.message);
        self.count += 1;
        (self.count == self.coalesce).then_some(self.frames.as_slice())
    }
}

struct Floor {
    listener: TcpListener,
    epoll: rustix::fd::OwnedFd,
    /// Connected clients; places of those who left are taken by others.
    clients: Vec<Option<TcpStream>>,
    free: Vec<usize>,
    /// Requests that are not complete yet.
    handshakes: HashMap<usize, Vec<u8>>,
    events: Vec<epoll::Event>,
}

impl Floor {
    fn listen(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into()).with_context(|| format!("cannot listen on {address}"))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let events = Vec::with_capacity(EVENTS_MAX);
        Ok(Self {
            listener,
            epoll,
            clients: Vec::new(),
            free: Vec::new(),
            handshakes: HashMap::new(),
            events,
        })
    }

    /// Clients whose handshake is complete.
    fn connected(&self) -> usize {
        self.clients.len() - self.free.len() - self.handshakes.len()
    }

    fn broadcast(&mut self, frames: &[u8]) {
        for place in 0..self.clients.len() {
            if self.handshakes.contains_key(&place) {
                continue;
            }
            let Some(mut client) = self.clients[place].as_ref() else { continue };
            if client.write_all(frames).is_err() {
                self.remove(place);
            }
        }
    }

    /// Accepts, shakes hands and notices who left, until the next message is due.
    fn serve(&mut self, wait: Option<Duration>) -> anyhow::Result<()> {
        let timeout = wait.map(Timespec::try_from).transpose()?;
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => self.accept()?,
                place => self.readable(usize::try_from(place)?),
            }
        }
        self.events = events;
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    return Err(error).context("accept: raise the limit of descriptors (ulimit -n)");
                }
            };
            client.set_nodelay(true)?;
            let place = self.free.pop().unwrap_or(self.clients.len());
            let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
            epoll::add(&self.epoll, &client, epoll::EventData::new_u64(place as u64), flags)?;
            self.handshakes.insert(place, Vec::new());
            if place == self.clients.len() {
                self.clients.push(Some(client));
            } else {
                self.clients[place] = Some(client);
            }
        }
    }

    /// Sockets block, but one that epoll names has something to read.
    fn readable(&mut self, place: usize) {
        let Some(mut client) = self.clients[place].as_ref() else { return };
        let mut buffer = [0; 2048];
        let count = client.read(&mut buffer).unwrap_or(0);
        let Some(head) = self.handshakes.get_mut(&place) else {
            // After the handshake clients say nothing that matters.
            if count == 0 {
                self.remove(place);
            }
            return;
        };
        head.extend_from_slice(&buffer[..count]);
        if head.ends_with(HEAD_END) {
            let answer = websocket::accept(head).filter(|answer| client.write_all(answer.as_bytes()).is_ok());
            self.handshakes.remove(&place);
            if answer.is_none() {
                self.remove(place);
            }
        } else if count == 0 || head.len() > HEAD_BYTES_MAX {
            self.remove(place);
        }
    }

    /// Closing a socket takes it out of epoll as well.
    fn remove(&mut self, place: usize) {
        self.handshakes.remove(&place);
        if self.clients[place].take().is_some() {
            self.free.push(place);
        }
    }
}
