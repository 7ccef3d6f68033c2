//! Many clients in one thread, cheaper than any server they read from.
//!
//! All sockets read into one buffer, in which stamps are searched and nothing else is looked at: neither frames nor protocols. So
//! a peer that batches and one that does not cost the client the same. Pings are not answered one by one; each client speaks up
//! regularly instead, which servers take for the same.

mod account;
mod args;
mod connection;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use peers::process::{Cpu, resident_kib};
use peers::stamp::{Reader, now_ns};
use peers::websocket;
use rustix::event::epoll;
use rustix::time::Timespec;
use serde::Serialize;

use crate::account::{Account, Place, Summary};
use crate::args::Args;
use crate::connection::{Connection, Progress};

const EVENTS_MAX: usize = 1024;
const READ_BYTES_MAX: usize = 256 * 1024;
/// However slowly handshakes get on, this is the end of it.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// How often time is looked at when nothing arrives.
const TICK: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Outcome {
    connected: usize,
    /// Connections that never opened or ended before the window did, and why.
    failed: BTreeMap<String, usize>,
    connect_seconds: f64,
    seconds: f64,
    #[serde(flatten)]
    summary: Summary,
    client_cpu: Cpu,
    /// CPU of the watched processes over the window.
    server_cpu: Cpu,
    /// Resident memory of the watched processes: without connections, and with them at the end of the window.
    server_kib_before: u64,
    server_kib_after: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let outcome = Fleet::new(&args)?.run()?;
    println!("{}", serde_json::to_string(&outcome)?);
    anyhow::ensure!(outcome.connected > 0, "no connection was opened to {}", args.server);
    Ok(())
}

struct Fleet<'a> {
    args: &'a Args,
    request: Vec<u8>,
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
    reader: Reader,
    connections: Vec<Option<Connection>>,
    places: Vec<Place>,
    account: Account,
    opened: usize,
    failed: BTreeMap<String, usize>,
    keepalive_next: Instant,
    progress_at: Instant,
}

impl<'a> Fleet<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            args,
            request: websocket::request(&args.server.to_string(), &args.path, &args.headers),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_MAX),
            reader: Reader::new(READ_BYTES_MAX),
            connections: Vec::with_capacity(args.clients),
            places: vec![Place::default(); args.clients],
            account: Account::new()?,
            opened: 0,
            failed: BTreeMap::new(),
            keepalive_next: now,
            progress_at: now,
        })
    }

    fn run(mut self) -> anyhow::Result<Outcome> {
        let args = self.args;
        let server_kib_before = resident_kib(&args.watched)?;
        let started = Instant::now();
        self.connect_all()?;
        let connect_seconds = started.elapsed().as_secs_f64();
        // Whoever publishes begins now.
        println!("connected");

        self.turn_until(Instant::now() + Duration::from_secs_f64(args.warmup))?;
        let own = [std::process::id()];
        let (client, server) = (Cpu::of(&own)?, Cpu::of(&args.watched)?);
        let begin = Instant::now();
        self.account.begin(self.places.iter_mut());
        self.turn_until(begin + Duration::from_secs_f64(args.seconds))?;
        let seconds = begin.elapsed().as_secs_f64();
        let server_cpu = Cpu::of(&args.watched)? - server;
        let client_cpu = Cpu::of(&own)? - client;

        let open = self.connections.iter().zip(&self.places);
        let places: Vec<Place> = open.filter_map(|(open, place)| open.as_ref().map(|_| *place)).collect();
        Ok(Outcome {
            connected: places.len(),
            failed: self.failed,
            connect_seconds,
            seconds,
            summary: self.account.summary(&places),
            client_cpu,
            server_cpu,
            server_kib_before,
            server_kib_after: resident_kib(&args.watched)?,
        })
    }

    fn connect_all(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        self.progress_at = started;
        while self.opened + self.failures() < self.args.clients {
            let settled = self.opened + self.failures();
            while self.connections.len() < self.args.clients
                && self.connections.len() < settled + self.args.connecting
            {
                self.connect_one()?;
            }
            self.turn(TICK)?;
            let patience = Duration::from_secs_f64(self.args.patience);
            if self.progress_at.elapsed() > patience || started.elapsed() > CONNECT_MAX {
                self.give_up();
            }
        }
        Ok(())
    }

    fn connect_one(&mut self) -> anyhow::Result<()> {
        let index = self.connections.len();
        let addresses = &self.args.addresses;
        let from = addresses.get(index % addresses.len().max(1)).copied();
        match Connection::start(self.args.server, from, &self.request) {
            Ok(connection) => {
                let data = epoll::EventData::new_u64(index as u64);
                epoll::add(&self.epoll, &connection.socket, data, epoll::EventFlags::IN).context("epoll")?;
                self.connections.push(Some(connection));
            }
            Err(error) => {
                self.connections.push(None);
                self.failure(error.to_string());
            }
        }
        Ok(())
    }

    /// Handshakes that did not get on count as failed, as do those that were never begun.
    fn give_up(&mut self) {
        let missing = self.args.clients - self.opened - self.failures();
        *self.failed.entry("no answer to the handshake".to_owned()).or_default() += missing;
    }

    fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    fn failure(&mut self, why: String) {
        self.progress_at = Instant::now();
        *self.failed.entry(why).or_default() += 1;
    }

    fn turn_until(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(TICK))?;
        }
    }

    /// One round of reading whatever is there.
    fn turn(&mut self, wait: Duration) -> anyhow::Result<()> {
        let timeout = Timespec::try_from(wait)?;
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for event in events.drain(..) {
            self.readable(usize::try_from(event.data.u64())?);
        }
        self.events = events;
        self.keep_alive();
        Ok(())
    }

    fn readable(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        let was_open = connection.is_open();
        match connection.readable(&mut self.reader, &self.args.hellos) {
            Progress::Waits => {}
            Progress::Opened => {
                self.opened += 1;
                self.progress_at = Instant::now();
            }
            Progress::Read(count) => {
                // One look at the clock for all that was read at once: it arrived no later.
                let now_ns = now_ns();
                let (account, place) = (&mut self.account, &mut self.places[index]);
                account.read(count);
                self.reader
                    .stamps(count, &mut connection.tail, |stamp| account.delivered(place, stamp, now_ns));
            }
            Progress::Ended(why) => {
                self.opened -= usize::from(was_open);
                self.connections[index] = None;
                self.failure(why);
            }
        }
    }

    fn keep_alive(&mut self) {
        if self.args.keepalive_seconds == 0 || Instant::now() < self.keepalive_next {
            return;
        }
        self.keepalive_next = Instant::now() + Duration::from_secs(self.args.keepalive_seconds);
        for connection in self.connections.iter_mut().flatten().filter(|connection| connection.is_open()) {
            // One that is gone shows when it is read.
            let _ = connection.send(&self.args.keepalive);
        }
    }
}
