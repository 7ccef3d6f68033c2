//! The thread that plays the collectors: it writes lines on time, whatever becomes of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::end::{End, Next};
use super::link::{Dial, Link, Read};
use super::plan::Publishing;
use super::scan::{Frame, Scanner};
use super::shared::{GLANCE, HANDSHAKE_TIMEOUT, Phase, Shared};
use super::upgrade::Upgrade;
use crate::proto::frame::{Opcode, close_payload};
use crate::proto::message::CloseCode;

/// Collectors that connect per second: few enough for any node.
const CONNECTS_PER_S: f64 = 1_000.0;

/// Bytes that may wait for a socket. Beyond it ingest holds back, and nothing more is written until it goes on.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Answers of ingest are errors in words.
const BUFFER_BYTES: usize = 16 * 1024;

/// Below this, sleeping is more exact than the poller, which counts in milliseconds.
const POLL_MIN: Duration = Duration::from_millis(2);

/// Shortest sleep: bounds what the pace of very many messages costs.
const SLEEP_MIN: Duration = Duration::from_micros(100);

/// Sockets are looked at this often even when there is always something to write.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// After a pause of the machine, messages of more than this time are not made up for.
const LATE_MAX: Duration = Duration::from_secs(1);

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    /// Collectors that are connected at the end.
    pub(super) connected: usize,
    /// Those of them that still had something to write then: what they count as sent, ingest has not got.
    pub(super) blocked: usize,
    pub(super) messages: u64,
    /// Messages whose turn came while their collector was away or held back.
    pub(super) held_back: u64,
    /// Ends of connections and attempts, by reason.
    pub(super) ends: BTreeMap<String, u64>,
    /// The first thing that ingest complained about.
    pub(super) complaint: Option<String>,
}

struct Collector {
    link: Option<Link>,
    scanner: Scanner,
    count: u32,
    /// What is in doubt up to here has been noted.
    doubted: u32,
    failures: u32,
    ever_open: bool,
    /// When to connect, or to give up on the handshake; none when neither.
    due: Option<Instant>,
}

/// See the module.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    publishing: Publishing,
    to: std::net::SocketAddr,
    poll: Poll,
    collectors: Vec<Collector>,
    published: Published,
    /// When publishing began, moved on when a part was given up.
    began: Option<Instant>,
    /// Turns since then.
    turns: u64,
    line: Vec<u8>,
}

impl Publisher {
    /// Makes the collectors; none connects before [`Publisher::run`].
    pub(super) fn new(
        shared: Arc<Shared>,
        publishing: Publishing,
        to: std::net::SocketAddr,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let collector = |number: usize| Collector {
            link: None,
            scanner: Scanner::new(),
            count: 0,
            doubted: 0,
            failures: 0,
            ever_open: false,
            due: Some(now + Duration::from_secs_f64(number as f64 / CONNECTS_PER_S)),
        };
        Ok(Self {
            collectors: (0..publishing.collectors).map(collector).collect(),
            poll: Poll::new()?,
            published: Published::default(),
            began: None,
            turns: 0,
            line: Vec::new(),
            shared,
            publishing,
            to,
        })
    }

    /// Works until the phase says that everybody leaves.
    pub(super) fn run(mut self) -> io::Result<Published> {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut looked = Instant::now();
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Ending {
                return Ok(self.end());
            }
            if phase == Phase::Running {
                self.publish(Instant::now());
            }
            let now = Instant::now();
            let wait = self.next_turn(phase).saturating_duration_since(now);
            if wait < POLL_MIN && now.saturating_duration_since(looked) < LOOK_INTERVAL {
                thread::sleep(wait.max(SLEEP_MIN));
                continue;
            }
            looked = now;
            let patience = if wait < POLL_MIN { Duration::ZERO } else { wait.min(GLANCE) - POLL_MIN / 2 };
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let number = event.token().0;
                if let Err(end) = self.ready(number, &mut buffer) {
                    self.ended(number, end);
                }
            }
            self.run_times(Instant::now());
            if self.shared.collectors_decided.load(Ordering::Acquire) && !self.has_anybody() {
                return Ok(self.end());
            }
            if phase == Phase::Settling && self.blocked().next().is_none() {
                self.shared.published_is_final.store(true, Ordering::Release);
            }
        }
    }

    /// When the next message has to be written, or anything has to be looked at.
    fn next_turn(&self, phase: Phase) -> Instant {
        match self.began {
            Some(began) if phase == Phase::Running => began + self.turn_after(self.turns),
            _ => Instant::now() + GLANCE,
        }
    }

    fn turn_after(&self, turns: u64) -> Duration {
        Duration::from_secs_f64(turns as f64 / self.publishing.messages_per_s)
    }

    /// Writes what is due, one collector after the other.
    fn publish(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let late = now.saturating_duration_since(began + self.turn_after(self.turns));
        if late > LATE_MAX {
            self.began = Some(began + late);
        }
        let since = now.saturating_duration_since(self.began.unwrap_or(now));
        let due = (since.as_secs_f64() * self.publishing.messages_per_s) as u64 + 1;
        let turns = self.turns..due.max(self.turns);
        self.turns = turns.end;
        let count = self.collectors.len() as u64;
        // A collector with several turns sends them together, as one that was late would.
        for turn in turns.clone() {
            self.write((turn % count) as usize, now);
        }
        for turn in turns.take(self.collectors.len()) {
            let number = (turn % count) as usize;
            let flushed = self.collectors[number].link.as_mut().map_or(Ok(()), Link::flush);
            if let Err(end) = flushed {
                self.ended(number, end);
            }
        }
    }

    fn write(&mut self, number: usize, now: Instant) {
        let collector = &mut self.collectors[number];
        let Some(link) = collector.link.as_mut().filter(|link| link.is_open()) else {
            self.published.held_back += 1;
            return;
        };
        if link.waiting_bytes() > WAITING_BYTES_MAX {
            self.published.held_back += 1;
            return;
        }
        collector.count += 1;
        self.line.clear();
        let sent_ns = self.shared.clock.unix_ns(now);
        self.shared.content.write_line(&mut self.line, number, collector.count, sent_ns);
        link.put(Opcode::Text, &self.line);
        self.shared.published[number].store(collector.count, Ordering::Release);
        self.published.messages += 1;
    }

    fn ready(&mut self, number: usize, buffer: &mut [u8]) -> Result<(), End> {
        let collector = &mut self.collectors[number];
        loop {
            let Some(link) = &mut collector.link else { return Ok(()) };
            link.flush()?;
            let mut input = match link.read(buffer)? {
                Read::Blocked => return Ok(()),
                Read::Head => continue,
                Read::Opened { read, behind } => {
                    collector.failures = 0;
                    collector.ever_open = true;
                    collector.due = None;
                    &buffer[read - behind..read]
                }
                Read::Frames(read) => &buffer[..read],
            };
            while let Some(frame) = collector.scanner.next(&mut input).map_err(End::Protocol)? {
                match frame {
                    Frame::Ping(payload) => link.put(Opcode::Pong, &payload),
                    Frame::Close(code) => return Err(End::Closed { code, reconnect_after: None }),
                    Frame::Message(words) => {
                        let words = || String::from_utf8_lossy(&words).into_owned();
                        self.published.complaint.get_or_insert_with(words);
                    }
                }
            }
        }
    }

    fn run_times(&mut self, now: Instant) {
        for number in 0..self.collectors.len() {
            let collector = &mut self.collectors[number];
            if collector.due.is_none_or(|due| due > now) {
                continue;
            }
            let outcome = match &collector.link {
                Some(_) => Err(End::HandshakeTimeout),
                None => self.connect(number, now),
            };
            if let Err(end) = outcome {
                self.ended(number, end);
            }
        }
        let undecided = |collector: &Collector| !collector.ever_open && collector.due.is_some();
        if !self.collectors.iter().any(undecided) {
            self.shared.collectors_decided.store(true, Ordering::Release);
        }
    }

    fn connect(&mut self, number: usize, now: Instant) -> Result<(), End> {
        let id = self.shared.content.collector(number);
        let target = &self.publishing.target;
        let request = target.request_target(&[("collector", &id)]);
        let upgrade = Upgrade::request(&target.authority(), &request, fastrand::u128(..));
        let dial = Dial { to: self.to, source: None, slow: false };
        let collector = &mut self.collectors[number];
        collector.scanner = Scanner::new();
        collector.due = Some(now + HANDSHAKE_TIMEOUT);
        collector.link = Some(Link::begin(dial, upgrade, self.poll.registry(), Token(number))?);
        Ok(())
    }

    /// Whoever has been in comes back; whoever never was has got the answer.
    fn ended(&mut self, number: usize, end: End) {
        *self.published.ends.entry(end.label()).or_default() += 1;
        let collector = &mut self.collectors[number];
        collector.link = None;
        collector.doubted = self.shared.doubt(number, collector.doubted);
        collector.due = match end.next(collector.failures) {
            Next::Again(pause) if collector.ever_open => {
                collector.failures += 1;
                Some(Instant::now() + pause)
            }
            _ => None,
        };
    }

    /// Some collector has been let in.
    fn has_anybody(&self) -> bool {
        self.collectors.iter().any(|collector| collector.ever_open)
    }

    /// Collectors whose messages are waiting for their socket. A handshake that waits is no message.
    fn blocked(&self) -> impl Iterator<Item = &Collector> {
        let waits = |link: &Link| link.is_open() && link.waiting_bytes() > 0;
        self.collectors.iter().filter(move |collector| collector.link.as_ref().is_some_and(waits))
    }

    fn end(mut self) -> Published {
        self.published.blocked = self.blocked().count();
        for link in self.collectors.iter_mut().filter_map(|collector| collector.link.as_mut()) {
            if link.is_open() {
                self.published.connected += 1;
                link.put(Opcode::Close, &close_payload(CloseCode::Normal.number(), ""));
                // Who does not take it sees the end of the connection anyway.
                let _ = link.flush();
            }
        }
        self.published
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::node::Node;
    use crate::load::plan::Plan;
    use crate::load::target::Target;

    #[test]
    fn a_collector_that_ingest_does_not_read_is_blocked_at_the_end() {
        let node = Node::listen();
        let target = Target::of_collectors(&node.address().to_string()).unwrap();
        let publishing = Publishing { target, collectors: 1, messages_per_s: 1.0, message_bytes: 100_000 };
        let shared = node.shared(Plan { publishing: Some(publishing.clone()), ..node.plan(0) });
        let mut publisher = Publisher::new(shared, publishing, node.address()).unwrap();
        let mut buffer = vec![0; BUFFER_BYTES];
        publisher.run_times(Instant::now());
        // There is no other socket to wait for, so trying again is as good as polling.
        let _peer = node.accept(|| publisher.ready(0, &mut buffer).unwrap());
        let is_open = |publisher: &Publisher| publisher.collectors[0].ever_open;
        while !is_open(&publisher) {
            publisher.ready(0, &mut buffer).unwrap();
        }
        assert_eq!(publisher.blocked().count(), 0);
        while publisher.blocked().next().is_none() {
            publisher.write(0, Instant::now());
            publisher.ready(0, &mut buffer).unwrap();
        }
        let published = publisher.end();
        assert_eq!((published.connected, published.blocked), (1, 1));
    }
}
