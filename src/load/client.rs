//! One client: its connection, its place in the log, its account.

use std::time::{Duration, Instant};

use mio::{Registry, Token};
use serde::Deserialize;

use super::account::Account;
use super::content::{Marks, Metrics};
use super::end::End;
use super::link::{Dial, Link, Read, source};
use super::scan::{Frame, Scanner};
use super::shared::Shared;
use super::tally::Tally;
use super::upgrade::Upgrade;
use crate::proto::frame::{Opcode, close_payload};
use crate::proto::message::CloseCode;

/// Reads of one client before others get their turn.
const READS_MAX: usize = 8;

/// A server that has said nothing for so many heartbeats is gone.
const SILENT_HEARTBEATS: u32 = 3;

/// Until a welcome says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What a client works with that is not its own.
pub(super) struct Surroundings<'a> {
    pub(super) shared: &'a Shared,
    pub(super) tally: &'a mut Tally,
    pub(super) marks: &'a Marks,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    number: usize,
    slow: bool,
    /// Connections so far; the next one goes to the target after the last one's.
    connections: usize,
    link: Option<Link>,
    scanner: Scanner,
    /// The last offset, as the server wrote it; empty before the first welcome.
    offset: Vec<u8>,
    account: Account,
    goodbye: Option<Duration>,
    /// The socket has said that nothing comes behind what it still holds.
    hung_up: bool,
    /// This connection has been welcomed.
    welcomed: bool,
    ever_welcomed: bool,
    /// Attempts without a welcome in a row.
    pub(super) failures: u32,
    /// It will not come back, for this reason.
    pub(super) stopped: Option<End>,
    began: Instant,
    /// What was sent before this was replayed.
    open_since_ns: u64,
    heard: Instant,
    silence_max: Duration,
}

/// Messages besides metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Said {
    Welcome {
        offset: String,
        heartbeat_ms: u64,
    },
    Heartbeat {
        offset: String,
    },
    Gap {
        from: String,
        to: String,
        reason: String,
    },
    Goodbye {
        offset: String,
        reconnect_after_ms: u64,
    },
    Error {
        code: String,
        message: String,
    },
    Stale,
    #[serde(other)]
    Other,
}

impl Client {
    pub(super) fn new(number: usize, slow: bool, now: Instant) -> Self {
        Self {
            number,
            slow,
            connections: 0,
            link: None,
            scanner: Scanner::new(),
            offset: Vec::new(),
            account: Account::default(),
            goodbye: None,
            hung_up: false,
            welcomed: false,
            ever_welcomed: false,
            failures: 0,
            stopped: None,
            began: now,
            open_since_ns: 0,
            heard: now,
            silence_max: HEARTBEAT * SILENT_HEARTBEATS,
        }
    }

    pub(super) fn is_slow(&self) -> bool {
        self.slow
    }

    pub(super) fn is_open(&self) -> bool {
        self.welcomed
    }

    /// Has ever been let in.
    pub(super) fn was_open(&self) -> bool {
        self.ever_welcomed
    }

    /// Begins a connection: to the next target, from where the client is.
    pub(super) fn connect(&mut self, shared: &Shared, registry: &Registry, token: Token) -> Result<(), End> {
        let at = (self.number + self.connections) % shared.addresses.len();
        let (target, to) = (&shared.plan.targets[at], shared.addresses[at]);
        self.connections += 1;
        self.began = Instant::now();
        self.scanner = Scanner::new();
        self.goodbye = None;
        self.hung_up = false;
        let filters: Vec<String> = shared.plan.filters.filters().iter().map(ToString::to_string).collect();
        let mut parameters: Vec<(&str, &str)> = filters.iter().map(|filter| ("filter", &**filter)).collect();
        match std::str::from_utf8(&self.offset) {
            Ok(offset) if !offset.is_empty() && !self.slow => parameters.push(("from", offset)),
            _ => {}
        }
        let request = target.request_target(&parameters);
        let upgrade = Upgrade::request(&target.authority(), &request, fastrand::u128(..));
        let source = source(to, self.number, shared.plan.sockets());
        self.link = Some(Link::begin(Dial { to, source, slow: self.slow }, upgrade, registry, token)?);
        Ok(())
    }

    /// The connection has ended; whether it was open.
    pub(super) fn disconnect(&mut self, end: End) -> bool {
        let link = self.link.take();
        if let (Some(link), End::Churn | End::Silent | End::HandshakeTimeout) = (link, end) {
            link.abort();
        }
        std::mem::take(&mut self.welcomed)
    }

    /// Waits for its handshake.
    pub(super) fn is_connecting(&self) -> bool {
        self.link.is_some() && !self.welcomed
    }

    /// Whether nothing has come for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.welcomed && !self.slow && now.saturating_duration_since(self.heard) > self.silence_max
    }

    /// Notes that the other side will send nothing more.
    pub(super) fn hang_up(&mut self) {
        self.hung_up = true;
    }

    /// Does what its socket allows. True when there may be more to read.
    pub(super) fn ready(&mut self, around: &mut Surroundings<'_>, buffer: &mut [u8]) -> Result<bool, End> {
        for _ in 0..READS_MAX {
            let Some(link) = &mut self.link else { return Ok(false) };
            link.flush()?;
            if self.slow && link.is_open() {
                // Who does not read learns of the end only like this.
                return if self.hung_up { Err(End::Lost) } else { Ok(false) };
            }
            match link.read(buffer)? {
                Read::Blocked => return Ok(false),
                Read::Head => {}
                Read::Opened { .. } if self.slow => self.welcome(around, HEARTBEAT),
                Read::Opened { read, behind } => self.take(&buffer[read - behind..read], around)?,
                Read::Frames(read) => {
                    self.take(&buffer[..read], around)?;
                    // A short read has emptied the socket; whatever comes later is another event. Not so the end of the
                    // connection: if that was there already, data and end were one event, and no other follows.
                    if read < buffer.len() && !self.hung_up {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether it has everything it will get of what was published.
    pub(super) fn is_settled(&self, published: &[u32], asked: &[bool]) -> bool {
        self.stopped.is_some() || (self.welcomed && (self.slow || self.account.is_complete(published, asked)))
    }

    /// Says goodbye, and closes the account.
    pub(super) fn leave(mut self) -> Account {
        if let Some(link) = self.link.as_mut().filter(|_| self.welcomed) {
            link.put(Opcode::Close, &close_payload(CloseCode::Normal.number(), ""));
            // Who does not take it is about to see the end of the connection anyway.
            let _ = link.flush();
        }
        if let Some(link) = self.link.take().filter(|_| self.slow) {
            link.abort();
        }
        self.account
    }

    fn take(&mut self, bytes: &[u8], around: &mut Surroundings<'_>) -> Result<(), End> {
        let now = Instant::now();
        self.heard = now;
        around.tally.bytes += bytes.len() as u64;
        let now_ns = around.shared.clock.unix_ns(now);
        let mut input = bytes;
        while let Some(frame) = self.scanner.next(&mut input).map_err(End::Protocol)? {
            match frame {
                Frame::Message(message) => match Metrics::parse(&message) {
                    Some(metrics) => self.metrics(&metrics, now_ns, around),
                    None => self.said(&message, around),
                },
                Frame::Ping(payload) => self.answer(Opcode::Pong, &payload)?,
                Frame::Close(code) => {
                    let echo = code.map_or_else(Vec::new, |code| close_payload(code, ""));
                    // The server may not wait for it.
                    let _ = self.answer(Opcode::Close, &echo);
                    return Err(End::Closed { code, reconnect_after: self.goodbye });
                }
            }
        }
        Ok(())
    }

    fn metrics(&mut self, metrics: &Metrics<'_>, now_ns: u64, around: &mut Surroundings<'_>) {
        let Surroundings { shared, tally, marks } = around;
        tally.deliveries += 1;
        self.offset.clear();
        self.offset.extend_from_slice(metrics.offset);
        let Some(collector) = shared.content.number(metrics.collector) else {
            tally.foreign += 1;
            match self.offset().and_then(|text| text.parse().ok()) {
                Some(offset) => tally.judge(self.account.take_foreign(offset)),
                None => tally.unreadable += 1,
            }
            return;
        };
        let mut proofs = metrics.proofs(marks).peekable();
        if proofs.peek().is_none() {
            tally.unreadable += 1;
        }
        for proof in proofs {
            tally.judge(self.account.take(collector, proof.count, &shared.asked));
            shared.confirm(collector, proof.count);
            if proof.sent_ns < self.open_since_ns {
                tally.replayed += 1;
            } else {
                tally.latency(now_ns.saturating_sub(proof.sent_ns));
            }
        }
    }

    fn said(&mut self, message: &[u8], around: &mut Surroundings<'_>) {
        match serde_json::from_slice(message) {
            Ok(Said::Welcome { offset, heartbeat_ms }) => {
                self.offset = offset.into_bytes();
                self.welcome(around, Duration::from_millis(heartbeat_ms));
            }
            Ok(Said::Heartbeat { offset }) => self.offset = offset.into_bytes(),
            Ok(Said::Goodbye { offset, reconnect_after_ms }) => {
                self.offset = offset.into_bytes();
                self.goodbye = Some(Duration::from_millis(reconnect_after_ms));
            }
            Ok(Said::Gap { from, to, reason }) => match (from.parse(), to.parse()) {
                (Ok(from), Ok(after)) => {
                    around.tally.gap(reason, self.account.take_gap(&from, &after, &around.shared.asked));
                    self.offset = to.into_bytes();
                }
                _ => around.tally.unreadable += 1,
            },
            Ok(Said::Error { code, message }) => {
                around.tally.complaint.get_or_insert_with(|| format!("{code}: {message}"));
            }
            Ok(Said::Stale) => around.tally.stale += 1,
            Ok(Said::Other) => {}
            Err(_) => around.tally.unreadable += 1,
        }
    }

    fn welcome(&mut self, around: &mut Surroundings<'_>, heartbeat: Duration) {
        let now = Instant::now();
        around.tally.connect(now.saturating_duration_since(self.began));
        around.tally.resumed += u64::from(self.ever_welcomed);
        self.open_since_ns = around.shared.clock.unix_ns(now);
        self.heard = now;
        self.silence_max = heartbeat.saturating_mul(SILENT_HEARTBEATS);
        self.welcomed = true;
        self.ever_welcomed = true;
        self.failures = 0;
    }

    fn offset(&self) -> Option<&str> {
        std::str::from_utf8(&self.offset).ok()
    }

    fn answer(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), End> {
        let Some(link) = &mut self.link else { return Ok(()) };
        link.put(opcode, payload);
        link.flush()
    }
}
