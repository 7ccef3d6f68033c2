//! The life of one collector's socket.
//!
//! Two halves run side by side in one task: one reads, decodes and waits for room; the other writes pings and pongs.
//! A collector that waits for room must still be pinged: Telegraf gives a connection up after 30 s without one.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fairness::{Charge, Cut};
use crate::ingest::Ingest;
use crate::ingest::batch::{self, CollectorBatch, Options, Refusal, UNKNOWN_COLLECTOR, too_many_collectors};
use crate::ingest::params::Params;
use crate::ingest::registry::{ClaimError, Connection};
use crate::ingest::report::Report;
use crate::ingest::socket::receiving::Receiving;
use crate::ingest::socket::senders::Senders;
use crate::ops::clock::unix_ns;
use crate::ops::meters::{ConnectFailure, DropReason, LineRejection};
use crate::proto::frame::{self, Decoder, Event, FrameError, Opcode, Peer};
use crate::proto::message::CloseCode;

/// Bytes asked for in one read: 10,000 idle sockets hold 160 MiB at most, a flush of 1,000 metrics takes about ten.
const READ_BYTES: usize = 16 * 1024;
/// From our answer to the handshake until the socket is ours.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A ping that cannot be written for so long has nobody to read it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After our close frame: how long to go on reading what the peer had sent before it saw it.
const FAREWELL: Duration = Duration::from_secs(2);
/// Control frames waiting to be written; more pings than that need not all be answered (RFC 6455 §5.5.3).
const CONTROLS_MAX: usize = 8;

/// One collector's socket.
pub(super) struct Session {
    ingest: Arc<Ingest>,
    connection: Connection,
    params: Params,
    /// Holds a token for each accepted batch that the log does not have yet.
    unsettled: TaskTracker,
}

/// Why reading ended.
enum End {
    /// The peer is gone, or cannot be written to.
    Gone(Cow<'static, str>),
    /// The peer said goodbye, which is answered.
    PeerClosed(Option<u16>),
    /// This side says goodbye. What the peer sent before it knew is still taken.
    Goodbye(CloseCode, Cow<'static, str>),
    /// This side ends it, and takes no more.
    Refused(CloseCode, Cow<'static, str>),
}

/// What the writing half is asked to do.
enum Control {
    Frame(Vec<u8>),
    /// The last frame.
    Close(Vec<u8>),
}

impl Session {
    pub(super) fn new(ingest: Arc<Ingest>, connection: Connection, params: Params) -> Self {
        let unsettled = TaskTracker::new();
        // A closed tracker still gives out tokens; only waiting for an open one never ends.
        unsettled.close();
        Self { ingest, connection, params, unsettled }
    }

    /// Runs until the socket is closed and what it brought is accepted.
    pub(super) async fn run(self, upgrade: OnUpgrade) {
        match timeout(HANDSHAKE_TIMEOUT, upgrade).await {
            Ok(Ok(upgraded)) => self.serve(TokioIo::new(upgraded)).await,
            Ok(Err(_)) | Err(_) => {
                self.ingest.node.meters.connections_failed.of(ConnectFailure::Handshake).increment(1)
            }
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Send) {
        let meters = &self.ingest.node.meters;
        let remote = self.connection.origin().remote;
        let collector = self.params.collector.as_ref().map(|id| id.as_str());
        meters.collectors_connected.increment(1.0);
        tracing::info!(
            event = "collector_connected",
            collector,
            remote = remote.map(tracing::field::display),
            "a collector's socket is open"
        );
        let (read, write) = tokio::io::split(stream);
        let (control, controls) = mpsc::channel(CONTROLS_MAX);
        let broken = CancellationToken::new();
        let settings = &self.ingest.settings;
        let reader = Reader {
            session: &self,
            receiving: Receiving::new(self.ingest.receiving.clone(), remote, settings.message_timeout),
            senders: Senders::default(),
            stream: read,
            input: BytesMut::new(),
            decoder: Decoder::new(Peer::Client, settings.message_bytes_max).text_as_bytes(),
            control,
            broken: broken.clone(),
        };
        let writing = write_controls(write, controls, settings.ping_interval, &broken);
        let (end, ()) = tokio::join!(reader.run(), writing);
        meters.collectors_connected.decrement(1.0);
        tracing::info!(
            event = "collector_disconnected",
            collector,
            remote = remote.map(tracing::field::display),
            reason = end.describe(),
            "a collector's socket is closed"
        );
    }
}

/// The reading half.
struct Reader<'s, R> {
    session: &'s Session,
    senders: Senders,
    stream: R,
    input: BytesMut,
    decoder: Decoder,
    receiving: Receiving,
    control: mpsc::Sender<Control>,
    broken: CancellationToken,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn run(mut self) -> End {
        let mut end = self.serve().await;
        if let End::Goodbye(..) = end {
            // A quarter: with the farewell it fits into the half of a drain that is the sockets'.
            let deadline = Instant::now() + self.session.ingest.settings.write_timeout / 4;
            if let Err(other) = self.settle(deadline).await {
                end = other;
            }
        }
        if let Some(frame) = end.close_frame() {
            // Fails only when the writing half has given up, and then nobody would read it.
            let _ = self.control.send(Control::Close(frame)).await;
            self.farewell(&end, Instant::now() + FAREWELL).await;
        }
        end
    }

    async fn serve(&mut self) -> End {
        let (session, broken) = (self.session, self.broken.clone());
        let ingest = session.ingest.clone();
        loop {
            // Every branch may be cancelled at any point: `next` keeps all its state in the reader.
            let event = tokio::select! {
                biased;
                () = ingest.stopping.cancelled() => {
                    return End::Goodbye(CloseCode::Draining, "this node is going away: reconnect".into());
                }
                () = session.connection.lost().cancelled() => {
                    return End::Goodbye(CloseCode::CollectorConflict, "another connection took this collector id over".into());
                }
                () = session.connection.pulse().asked() => {
                    // When the queue is full of answers, one of them will do as well.
                    let _ = self.control.try_send(Control::Frame(control_frame(Opcode::Ping, &[])));
                    continue;
                }
                () = broken.cancelled() => return End::Gone("could not be written to".into()),
                event = self.next() => event,
            };
            let message = match event {
                Ok(Event::Binary(message)) => message,
                Ok(Event::Text(text)) => text.into_bytes(),
                Ok(Event::Ping(payload)) => {
                    let _ = self.control.try_send(Control::Frame(control_frame(Opcode::Pong, &payload)));
                    continue;
                }
                Ok(Event::Pong(_)) => continue,
                Ok(Event::Close { code, .. }) => return End::PeerClosed(code),
                Err(end) => return end,
            };
            self.session.connection.pulse().set_busy(true);
            let taken = self.session.take(message, &mut self.senders, self.receiving.take(), true).await;
            self.session.connection.pulse().set_busy(false);
            if let Err(end) = taken {
                return end;
            }
        }
    }

    /// The next event. May be cancelled: a read that is cancelled has taken nothing.
    async fn next(&mut self) -> Result<Event, End> {
        let ingest = &self.session.ingest;
        let pulse = self.session.connection.pulse();
        let idle = ingest.settings.idle_timeout;
        loop {
            let mut rest = &self.input[..];
            let event = self.decoder.decode(&mut rest)?;
            let left = rest.len();
            self.input.advance(self.input.len() - left);
            if let Some(event) = event {
                return Ok(event);
            }
            pulse.set_waiting(true);
            let followed = self.receiving.follow(&self.decoder).await;
            pulse.set_waiting(false);
            if let Err(cut) = followed {
                return Err(self.give_up(cut));
            }
            self.input.reserve(READ_BYTES);
            let read = tokio::select! {
                biased;
                cut = self.receiving.cut() => return Err(self.give_up(cut)),
                read = timeout(idle, self.stream.read_buf(&mut self.input)) => read,
            };
            match read {
                Ok(Ok(0)) => return Err(End::Gone("the connection ended without a close frame".into())),
                Ok(Ok(bytes)) => {
                    pulse.beat();
                    ingest.node.meters.bytes_received.increment(bytes as u64);
                }
                Ok(Err(error)) => return Err(End::Gone(error.to_string().into())),
                Err(_) => {
                    let reason = format!("nothing came for {} s, not even a pong", idle.as_secs_f64());
                    return Err(End::Refused(CloseCode::Idle, reason.into()));
                }
            }
        }
    }

    /// Gives a message up before its end. Others wait for its room, so it is given back before the goodbye.
    fn give_up(&mut self, cut: Cut) -> End {
        self.decoder = Decoder::new(Peer::Client, 0);
        self.input = BytesMut::new();
        drop(self.receiving.take());
        self.session.given_up(cut)
    }

    /// Before our goodbye: takes what the peer has sent already, and waits until the log has everything that this connection
    /// brought. Otherwise what the collector sends elsewhere after the close frame would overtake it.
    async fn settle(&mut self, deadline: Instant) -> Result<(), End> {
        let (session, broken) = (self.session, self.broken.clone());
        while Instant::now() < deadline {
            // Reading comes first: what has arrived is to be settled as well.
            let event = tokio::select! {
                biased;
                () = broken.cancelled() => return Err(End::Gone("could not be written to".into())),
                event = self.next() => event?,
                () = session.unsettled.wait() => return Ok(()),
                () = sleep_until(deadline) => return Ok(()),
            };
            let message = match event {
                Event::Binary(message) => message,
                Event::Text(text) => text.into_bytes(),
                Event::Ping(payload) => {
                    let _ = self.control.try_send(Control::Frame(control_frame(Opcode::Pong, &payload)));
                    continue;
                }
                Event::Pong(_) => continue,
                Event::Close { code, .. } => return Err(End::PeerClosed(code)),
            };
            self.session.take(message, &mut self.senders, self.receiving.take(), false).await?;
        }
        Ok(())
    }

    /// Reads on until the peer has seen our close frame: what is unread when a socket is closed makes the kernel reset
    /// the connection, and the close frame could be lost with it. Messages on their way are taken if they are welcome.
    /// Only reading is out of time at `deadline`; a message that was read still waits for its room. The time is looked at
    /// before each read, because a timeout does not cut off a peer that always has something ready.
    async fn farewell(&mut self, end: &End, deadline: Instant) {
        match end {
            End::Goodbye(..) => {
                while Instant::now() < deadline {
                    let message = match timeout_at(deadline, self.next()).await {
                        Ok(Ok(Event::Binary(message))) => message,
                        Ok(Ok(Event::Text(text))) => text.into_bytes(),
                        Ok(Ok(Event::Ping(_) | Event::Pong(_))) => continue,
                        Ok(Ok(Event::Close { .. }) | Err(_)) | Err(_) => return,
                    };
                    let _ = self.session.take(message, &mut self.senders, self.receiving.take(), false).await;
                }
            }
            End::Refused(..) => {
                while Instant::now() < deadline {
                    self.input.clear();
                    self.input.reserve(READ_BYTES);
                    if !matches!(
                        timeout_at(deadline, self.stream.read_buf(&mut self.input)).await,
                        Ok(Ok(1..))
                    ) {
                        return;
                    }
                }
            }
            End::Gone(_) | End::PeerClosed(_) => {}
        }
    }
}

impl Session {
    /// Accepts one message: decodes it, claims its collectors, and waits until there is room. Never cancelled half-way:
    /// the collector believes the message sent. What was `received` stays charged until there is.
    async fn take(
        &self,
        message: Vec<u8>,
        senders: &mut Senders,
        received: Option<Charge>,
        claim: bool,
    ) -> Result<(), End> {
        let ingest = &self.ingest;
        ingest.node.meters.messages_received.increment(1);
        let received_ns = unix_ns();
        let (envelope_bytes_max, bound_by) = ingest.envelope_bound();
        let options = Options {
            precision: self.params.precision,
            collector: self.params.collector.as_ref(),
            received_ns,
            envelope_bytes_max,
            envelope_bound_by: bound_by.as_deref(),
            collectors_max: ingest.settings.ids_per_connection_max,
        };
        let mut decoded = batch::decode(&message, &options);
        let bytes = message.len();
        drop(message);
        if claim {
            let mut excess = HashSet::new();
            // Agents that name nobody share one name, and none of them has it to itself.
            for batch in decoded.batches.iter().filter(|batch| batch.collector.as_str() != UNKNOWN_COLLECTOR)
            {
                let claimed = tokio::select! {
                    claimed = self.connection.claim_or_probe(&batch.collector, true) => claimed,
                    // A connection that loses an id in this very moment says goodbye, and so does every one of a node
                    // that goes away; but this message came before.
                    () = self.connection.lost().cancelled() => break,
                    () = ingest.stopping.cancelled() => break,
                };
                if let Err(error) = claimed {
                    if let ClaimError::TooMany { .. } = error {
                        excess.insert(batch.collector.clone());
                        continue;
                    }
                    if self.connection.lost().is_cancelled() {
                        break;
                    }
                    return Err(self.refuse(&error, &decoded.batches));
                }
            }
            // Their lines are refused, and their neighbours' taken.
            decoded.refuse(|draft| {
                excess.contains(&draft.channel.collector).then(|| Refusal {
                    kind: LineRejection::TooManyCollectors,
                    message: too_many_collectors(ingest.settings.ids_per_connection_max),
                })
            });
        }
        ingest.channels.admit(&mut decoded, Instant::now());
        let report = Report::new(&mut decoded, bytes, self.params.collector.as_ref());
        ingest.tell(&report, self.connection.origin(), true);
        self.connection.pulse().set_waiting(true);
        let batches = decoded.batches.into_iter().map(|batch| {
            let identity = senders.identity(&batch.collector);
            (batch, identity)
        });
        let received =
            received.unwrap_or_else(|| ingest.receiving.open(self.connection.origin().remote, None));
        ingest.accept(batches.collect(), received_ns, &self.unsettled, received).await;
        self.connection.pulse().set_waiting(false);
        Ok(())
    }

    /// Ends a connection whose message is given up before its end: it cannot go on with another one.
    fn given_up(&self, cut: Cut) -> End {
        self.ingest.node.meters.receives_cut.of(cut).increment(1);
        let settings = &self.ingest.settings;
        match cut {
            Cut::TooSlow => {
                let least = settings.receive_bytes_per_second_min;
                let reason = format!("a message brought less than {least} bytes a second: send smaller ones");
                End::Refused(CloseCode::Policy, reason.into())
            }
            Cut::TimedOut => {
                let most = settings.message_timeout.as_secs_f64();
                let reason = format!("a message was not complete within {most} s: send smaller ones");
                End::Refused(CloseCode::Policy, reason.into())
            }
            Cut::GaveWay => {
                let reason = "no room for all messages on their way, this was the slowest: send it again";
                End::Refused(CloseCode::TryLater, reason.into())
            }
        }
    }

    /// Ends a connection that does not get an id, and counts the message that asked for it: the agent believes it sent.
    fn refuse(&self, error: &ClaimError, batches: &[CollectorBatch]) -> End {
        let (reason, dropped, code) = match error {
            ClaimError::Held { .. } => {
                (ConnectFailure::Conflict, DropReason::Conflict, CloseCode::CollectorConflict)
            }
            ClaimError::Full | ClaimError::TooMany { .. } => {
                (ConnectFailure::Capacity, DropReason::Capacity, CloseCode::TryLater)
            }
        };
        self.ingest.node.meters.connections_failed.of(reason).increment(1);
        for batch in batches {
            self.ingest.writers.turn_away(&batch.collector, dropped, &batch.drafts, &error.to_string());
        }
        End::Refused(code, error.to_string().into())
    }
}

impl End {
    fn close_frame(&self) -> Option<Vec<u8>> {
        let payload = match self {
            Self::Gone(_) => return None,
            Self::PeerClosed(None) => Vec::new(),
            Self::PeerClosed(Some(code)) => frame::close_payload(*code, ""),
            Self::Goodbye(code, reason) | Self::Refused(code, reason) => {
                frame::close_payload(code.number(), reason)
            }
        };
        Some(control_frame(Opcode::Close, &payload))
    }

    fn describe(&self) -> String {
        match self {
            Self::Gone(reason) => reason.to_string(),
            Self::PeerClosed(None) => "closed by the collector".into(),
            Self::PeerClosed(Some(code)) => format!("closed by the collector with {code}"),
            Self::Goodbye(code, reason) | Self::Refused(code, reason) => {
                format!("closed with {}: {reason}", code.number())
            }
        }
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Refused(error.close_code(), error.to_string().into())
    }
}

fn control_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, opcode, payload);
    bytes
}

/// The writing half: pings at their interval, and what the reader asks for. Ends with the close frame, with the reader, or
/// (then `broken` is cancelled) when the peer takes nothing any more.
async fn write_controls(
    mut stream: impl AsyncWrite + Unpin,
    mut controls: mpsc::Receiver<Control>,
    ping_interval: Duration,
    broken: &CancellationToken,
) {
    let mut pings = interval_at(Instant::now() + ping_interval, ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let control = tokio::select! {
            control = controls.recv() => control,
            _ = pings.tick() => Some(Control::Frame(control_frame(Opcode::Ping, &[]))),
        };
        let (frame, last) = match control {
            Some(Control::Frame(frame)) => (frame, false),
            Some(Control::Close(frame)) => (frame, true),
            None => break,
        };
        // A write that is cut off half-way leaves a broken frame behind, so nothing may follow it.
        let written = timeout(WRITE_TIMEOUT, async {
            stream.write_all(&frame).await?;
            stream.flush().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            broken.cancel();
            return;
        }
        if last {
            break;
        }
    }
    // The end of our side, after the close frame; the peer may have gone already.
    let _ = timeout(WRITE_TIMEOUT, stream.shutdown()).await;
}
