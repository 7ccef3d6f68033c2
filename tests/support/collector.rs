//! A collector that behaves like Telegraf's `outputs.websocket`, byte for byte.
//!
//! One flush is one masked binary frame of line protocol. Pings are answered with an empty pong. There are no acks: what was
//! written is believed sent, and a flush whose write failed is sent again, unchanged, over a new connection.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::wire;

/// What every row is made of.
pub const MEASUREMENTS: [&str; 3] = ["cpu", "mem", "disk"];
/// Rows go round these values of the tag `cpu`.
pub const CPUS: i64 = 4;
/// Between two attempts to send a flush.
const RETRY: Duration = Duration::from_millis(50);
/// 2026-01-01 in nanoseconds: where the clock of the rows begins.
const BEGINNING_NS: i64 = 1_767_225_600_000_000_000;

/// See the module. Rows are numbered from 0; each is one line per measurement, with the number in the field `n`.
pub struct Collector {
    id: String,
    /// Tried in turn.
    targets: Vec<SocketAddr>,
    turn: usize,
    link: Option<Link>,
    next: i64,
}

struct Link {
    write: Arc<Mutex<Writing>>,
    reading: JoinSet<()>,
}

struct Writing {
    half: OwnedWriteHalf,
    /// Nothing may follow a close frame: writes fail from then on, as in Telegraf's library.
    closed: bool,
}

impl Collector {
    /// A collector that has not connected yet.
    pub fn new(id: &str, targets: &[SocketAddr]) -> Self {
        Self { id: id.to_owned(), targets: targets.to_vec(), turn: 0, link: None, next: 0 }
    }

    /// As its metrics name it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The numbers of everything that was flushed.
    pub fn flushed(&self) -> Vec<i64> {
        (0..self.next).collect()
    }

    /// The newest number of each series of these measurements, as a [`super::ledger::Ledger`] has it.
    pub fn state(&self, measurements: &[&str]) -> BTreeMap<(String, String), i64> {
        let id = &self.id;
        let of_measurement = |measurement: &&str| {
            let series = |cpu: i64| format!("{measurement},cpu=cpu{cpu},host={id},region=eu-1");
            let newest = (self.next - CPUS).max(0)..self.next;
            newest.map(|number| ((id.clone(), series(number % CPUS)), number)).collect::<Vec<_>>()
        };
        measurements.iter().flat_map(of_measurement).collect()
    }

    /// Sends the next rows, over new connections as often as it takes.
    pub async fn flush(&mut self, rows: usize) {
        let lines = self.lines(rows);
        let frame = wire::masked(wire::BINARY, lines.as_bytes());
        let what = format!("a flush of {} from row {}", self.id, self.next);
        super::patiently(&what, async {
            while let Err(error) = self.attempt(&frame).await {
                eprintln!("{}: {error}; again", self.id);
                self.link = None;
                tokio::time::sleep(RETRY).await;
            }
        })
        .await;
        self.next += rows as i64;
    }

    /// Dies as by kill -9 in the middle of a flush: the kernel closes the socket behind half a frame.
    pub async fn die_in_the_middle(mut self, rows: usize) -> i64 {
        let frame = wire::masked(wire::BINARY, self.lines(rows).as_bytes());
        self.attempt(&frame[..frame.len() / 2]).await.expect("half a frame");
        self.next
    }

    /// The same agent, started again by its supervisor: it continues with `next`.
    pub fn reborn(id: &str, targets: &[SocketAddr], next: i64) -> Self {
        Self { next, ..Self::new(id, targets) }
    }

    /// Writes, over the connection there is or a new one.
    async fn attempt(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.link.is_none() {
            let target = self.targets[self.turn % self.targets.len()];
            self.turn += 1;
            self.link = Some(Link::open(target).await?);
        }
        let link = self.link.as_ref().expect("a link, just made");
        let mut writing = link.write.lock().await;
        if writing.closed {
            return Err(io::Error::other("the connection was closed"));
        }
        writing.half.write_all(bytes).await
    }

    /// As Telegraf serializes: tags sorted by key, `i` behind integers, nanoseconds, one line each.
    fn lines(&self, rows: usize) -> String {
        let id = &self.id;
        let line = |number: i64, measurement: &str| {
            let time = BEGINNING_NS + number * 1_000_000;
            let cpu = number % CPUS;
            format!("{measurement},cpu=cpu{cpu},host={id},region=eu-1 n={number}i,usage=12.5 {time}\n")
        };
        let numbers = self.next..self.next + rows as i64;
        numbers.flat_map(|number| MEASUREMENTS.map(|measurement| line(number, measurement))).collect()
    }
}

impl Link {
    async fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = wire::shake_hands(target, "/ws/collector").await?;
        stream.set_nodelay(true)?;
        let (read, half) = stream.into_split();
        let write = Arc::new(Mutex::new(Writing { half, closed: false }));
        let mut reading = JoinSet::new();
        reading.spawn(answer(read, write.clone()));
        Ok(Self { write, reading })
    }
}

/// Answers pings and a close until the connection ends.
async fn answer(mut read: OwnedReadHalf, write: Arc<Mutex<Writing>>) {
    while let Ok(frame) = wire::read_frame(&mut read).await {
        let mut writing = write.lock().await;
        let answer = match frame.opcode {
            wire::PING => wire::masked(wire::PONG, &[]),
            wire::CLOSE => {
                writing.closed = true;
                wire::masked(wire::CLOSE, &frame.payload[..frame.payload.len().min(2)])
            }
            _ => continue,
        };
        if writing.half.write_all(&answer).await.is_err() || frame.opcode == wire::CLOSE {
            break;
        }
    }
    let mut writing = write.lock().await;
    writing.closed = true;
    let _ = writing.half.shutdown().await;
}
