//! One connection at a time, from dialling to its loss.
//!
//! The client's own reconnecting is switched off. It keeps commands that were not written when a connection broke, and
//! sends them over the next one: of a batch whose first half was lost with the socket, the second half would be stored
//! first. Here a connection that breaks takes its queue with it, everything waiting for an answer fails at once, and
//! the next connection is a new client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ReconnectToServer, ServerAddr};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::broker::nats::login;
use crate::broker::nats::publish::AckInbox;
use crate::broker::nats::reconcile::{self, Updates};
use crate::broker::{BrokerError, Cause, Connection, EnvelopeLimit};
use crate::config::{LogSettings, NatsSettings};
use crate::sync::Locked;

/// A server that says nothing to three pings in a row is gone: 9 s, within the 10 s in which clients learn of it.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Messages the client holds for one subscription while our side is busy; above it, it drops silently.
const SUBSCRIPTION_MESSAGES_MAX: usize = 1 << 17;
/// Between two attempts to connect, or to put the streams in place: doubles from the first to the last.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Streams are looked at again this often, for an operator's changes that nothing else would show.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);
/// However often something looks wrong, streams are not looked at more often than this.
const RECHECK_PAUSE: Duration = Duration::from_millis(100);
/// Headers count as a part of a message. Ours: an id of at most a node's name and 40 digits, four of 40 bytes each.
const HEADER_BYTES_RESERVED: usize = 1024;
/// Where nobody listens: what the client is told to reconnect to.
const NOWHERE: &str = "127.0.0.1:0";

/// What all parts of the broker share.
pub(super) struct Link {
    pub(super) log: LogSettings,
    pub(super) nats: NatsSettings,
    pub(super) stop: CancellationToken,
    client_name: String,
    live: watch::Sender<Option<Arc<Live>>>,
    connection: watch::Sender<Connection>,
    /// Why nothing can be asked of the log just now; meaningless while connected.
    obstacle: Locked<BrokerError>,
    recheck: Notify,
    envelope_limit: Locked<Option<EnvelopeLimit>>,
    /// See [`crate::broker::Broker::clock_ahead_ns`]; [`i64::MIN`] before the first answer.
    clock_ahead_ns: AtomicI64,
}

/// One connection. Whoever holds it past its end gets errors, and looks for the next one.
pub(super) struct Live {
    pub(super) client: Client,
    pub(super) acks: AckInbox,
    /// Cancelled when the connection is lost.
    pub(super) closed: CancellationToken,
    address: String,
    complaint: Complaint,
}

/// What the server last said against us. It answers a forbidden request with that, and with nothing else.
type Complaint = Arc<Locked<Option<String>>>;

impl Live {
    /// For the end of a message about something that was not answered.
    pub(super) fn complaint(&self) -> String {
        let complaint = self.complaint.with(|complaint| complaint.clone());
        complaint.map_or_else(String::new, |complaint| format!(" (the server says: {complaint})"))
    }
}

impl Link {
    pub(super) fn new(
        nats: NatsSettings,
        log: LogSettings,
        client_name: String,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let reason = "not connected to NATS yet".to_owned();
        Arc::new(Self {
            log,
            nats,
            stop,
            client_name,
            live: watch::Sender::new(None),
            connection: watch::Sender::new(Connection::Disconnected { reason: reason.clone() }),
            obstacle: Locked::leaf(
                "why the log is not ready",
                BrokerError::retryable(Cause::Disconnected, reason),
            ),
            recheck: Notify::new(),
            envelope_limit: Locked::empty("the bound of envelopes"),
            clock_ahead_ns: AtomicI64::new(i64::MIN),
        })
    }

    /// Whether the log can be reached, as it changes.
    pub(super) fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }

    /// The connection, for requests that make sense only with streams in place.
    pub(super) fn ready(&self) -> Result<Arc<Live>, BrokerError> {
        let live = self.live.borrow().clone();
        let is_connected = self.connection.borrow().is_connected();
        match live {
            Some(live) if is_connected => Ok(live),
            _ => Err(match self.obstacle.with(|obstacle| obstacle.clone()) {
                // What was refused is a stream, and by no means what the caller has in hand: that may succeed later.
                BrokerError::Refused(reason) => BrokerError::retryable(Cause::Other, reason),
                obstacle => obstacle,
            }),
        }
    }

    /// See [`crate::broker::Broker::envelope_limit`].
    pub(super) fn envelope_limit(&self) -> Option<EnvelopeLimit> {
        self.envelope_limit.with(|limit| limit.clone())
    }

    /// Learns what the server of this connection takes, and the streams, if one has a bound.
    pub(super) fn note_envelope_limit(&self, live: &Live, stream_bytes_max: Option<u64>) {
        let limit = envelope_limit(live.client.max_payload(), stream_bytes_max);
        self.envelope_limit.with(|known| *known = Some(limit));
    }

    /// See [`crate::broker::Broker::clock_ahead_ns`].
    pub(super) fn clock_ahead_ns(&self) -> Option<i64> {
        Some(self.clock_ahead_ns.load(Ordering::Relaxed)).filter(|ahead| *ahead != i64::MIN)
    }

    /// A server answered with its clock, so long after it was asked.
    pub(super) fn note_clock(&self, asked: jiff::Timestamp, round_trip: Duration, server: jiff::Timestamp) {
        let midway = asked.as_nanosecond() + round_trip.as_nanos() as i128 / 2;
        let ahead = i64::try_from(midway - server.as_nanosecond()).unwrap_or(i64::MAX);
        self.clock_ahead_ns.store(ahead, Ordering::Relaxed);
    }

    /// The connection as it comes and goes, for subscriptions: those may begin before the streams are in place.
    pub(super) fn lives(&self) -> watch::Receiver<Option<Arc<Live>>> {
        self.live.subscribe()
    }

    /// Something looked as if a stream were not there: look soon.
    pub(super) fn recheck(&self) {
        self.recheck.notify_one();
    }

    /// Connects, and connects again, until told to stop.
    pub(super) async fn run(self: Arc<Self>, updates: Updates) {
        self.stop.run_until_cancelled(self.keep_connected(updates)).await;
        self.note(Err(BrokerError::retryable(Cause::Disconnected, "this process is stopping")));
        if let Some(live) = self.live.send_replace(None) {
            live.closed.cancel();
        }
    }

    async fn keep_connected(&self, mut updates: Updates) {
        let servers = match login::server_addresses(&self.nats.url) {
            Ok(servers) => servers,
            // Configuration is fixed for the life of the process, so there is nothing to try again.
            Err(unusable) => {
                return self.report_for_ever(BrokerError::Incompatible(unusable.to_string())).await;
            }
        };
        let mut retry = Retry::default();
        for server in servers.iter().cycle() {
            // Boxed: dialling holds 20 kB of options, and this task lives as long as the process.
            match Box::pin(self.dial(server)).await {
                Ok((live, acks)) => {
                    retry = Retry::default();
                    self.serve(Arc::new(live), acks, &mut updates).await;
                }
                Err(obstacle) => self.report(Err(obstacle)),
            }
            tokio::time::sleep(retry.next()).await;
        }
    }

    /// One connection's life: answers are handed out and streams looked after, until it is lost.
    async fn serve(&self, live: Arc<Live>, acks: async_nats::Subscriber, updates: &mut Updates) {
        tracing::info!(event = "nats_connected", server = live.address, "connected to NATS");
        let reason = format!("connected to {}, and waiting for its streams", live.address);
        self.note(Err(BrokerError::retryable(Cause::Disconnected, reason)));
        self.live.send_replace(Some(live.clone()));
        let end = tokio::select! {
            () = live.acks.hand_out(acks) => format!("the connection to {} was lost", live.address),
            () = self.look_after_streams(&live, updates) => "the state was deleted and created again".to_owned(),
        };
        // Readiness first: whoever sees the cancellation must not find the lost connection ready.
        let reason = format!("{end}{}", live.complaint());
        self.report(Err(BrokerError::retryable(Cause::Disconnected, reason)));
        live.closed.cancel();
    }

    /// Ends when the state's stream is another one: the connection is then given up, so that every watcher begins anew
    /// with the next one instead of comparing revisions of two streams.
    async fn look_after_streams(&self, live: &Arc<Live>, updates: &mut Updates) {
        let mut retry = Retry::default();
        let mut seen = None;
        loop {
            let wait = match reconcile::streams(self, live, *updates).await {
                Ok(state) => {
                    if *seen.get_or_insert_with(|| state.clone()) != state {
                        return;
                    }
                    *updates = Updates::Leave;
                    retry = Retry::default();
                    self.report(Ok(()));
                    RECHECK_INTERVAL
                }
                Err(obstacle) => {
                    self.report(Err(obstacle));
                    retry.next()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.recheck.notified() => tokio::time::sleep(RECHECK_PAUSE).await,
            }
        }
    }

    /// Tells everybody, and the log once per change.
    fn report(&self, outcome: Result<(), BrokerError>) {
        match self.note(outcome) {
            Some(Connection::Connected) => tracing::info!(event = "log_ready", "the log is ready"),
            Some(Connection::Disconnected { reason }) => {
                tracing::warn!(event = "log_not_ready", reason, "the log is not ready");
            }
            Some(Connection::Embedded) | None => {}
        }
    }

    /// Tells everybody, and returns what is new. By itself for steps on the way, which deserve no warning.
    fn note(&self, outcome: Result<(), BrokerError>) -> Option<Connection> {
        let connection = match outcome {
            Ok(()) => Connection::Connected,
            Err(obstacle) => {
                let reason = obstacle.to_string();
                self.obstacle.with(|current| *current = obstacle);
                Connection::Disconnected { reason }
            }
        };
        let changed = self.connection.send_if_modified(|current| {
            let changed = *current != connection;
            current.clone_from(&connection);
            changed
        });
        changed.then_some(connection)
    }

    async fn report_for_ever(&self, obstacle: BrokerError) {
        self.report(Err(obstacle));
        std::future::pending().await
    }

    async fn dial(&self, server: &ServerAddr) -> Result<(Live, async_nats::Subscriber), BrokerError> {
        let address = display(server);
        let unreachable = |error: String| {
            let reason = format!("NATS at {address} cannot be reached: {error}");
            BrokerError::retryable(Cause::Disconnected, reason)
        };
        let nowhere = nowhere(server).map_err(|error| unreachable(error.to_string()))?;
        let complaint = Arc::new(Locked::empty("what the server said last"));
        let options =
            self.options(complaint.clone(), server.clone(), nowhere.clone()).await.map_err(unreachable)?;
        let servers = vec![server.clone(), nowhere];
        let client = options.connect(servers).await.map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                let reason = login::refused(&self.nats, server, &address);
                BrokerError::retryable(Cause::Disconnected, reason)
            }
            _ => unreachable(error.to_string()),
        })?;
        check_version(&client.server_info().version, &address)?;
        let (acks, subscription) =
            AckInbox::subscribe(&client).await.map_err(|error| unreachable(error.to_string()))?;
        if client.connection_state() != State::Connected {
            return Err(unreachable("it closed the connection at once".into()));
        }
        let live = Live { client, acks, closed: CancellationToken::new(), address, complaint };
        Ok((live, subscription))
    }

    async fn options(
        &self,
        complaint: Complaint,
        server: ServerAddr,
        nowhere: ServerAddr,
    ) -> Result<ConnectOptions, String> {
        let mut options = ConnectOptions::new();
        // Read again for every connection: credentials that run out are replaced in place.
        options = login::with_credentials(options, &self.nats).await?;
        let dialled = AtomicBool::new(false);
        let choose = move || {
            let addr = if dialled.swap(true, Ordering::Relaxed) { nowhere.clone() } else { server.clone() };
            Some(ReconnectToServer { addr, delay: Some(Duration::ZERO) })
        };
        Ok(options
            .name(&self.client_name)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(self.nats.request_timeout))
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            // One attempt, at nowhere; then the client ends and its subscriptions with it. See the module.
            .max_reconnects(1)
            .reconnect_to_server_callback(move |_, _| std::future::ready(choose()))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    tracing::warn!(event = "nats_refused", %error, "NATS refused something");
                    complaint.with(|complaint| *complaint = Some(error.to_string()));
                }
                std::future::ready(())
            }))
    }
}

/// Waiting times between attempts.
#[derive(Default)]
struct Retry {
    last: Duration,
}

impl Retry {
    /// Twice the last one, and up to half of that again: nodes that lost a server together do not return together.
    fn next(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(RETRY_FIRST, RETRY_LAST);
        self.last.mul_f64(1.0 + fastrand::f64() / 2.0)
    }
}

/// Of the same family as `server`: the client does not mix WebSocket and plain addresses.
fn nowhere(server: &ServerAddr) -> std::io::Result<ServerAddr> {
    let scheme = if server.is_websocket() { "ws" } else { "nats" };
    format!("{scheme}://{NOWHERE}").parse()
}

/// Without user and password, which a URL may hold.
fn display(server: &ServerAddr) -> String {
    format!("{}:{}", server.host(), server.port())
}

/// Of the server's bound and the streams', whichever is smaller.
fn envelope_limit(max_payload: usize, stream_bytes_max: Option<u64>) -> EnvelopeLimit {
    let stream = stream_bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
    let (bytes, key) = match stream {
        Some(stream) if stream < max_payload => (stream, "max_msg_size of its stream"),
        _ => (max_payload, "max_payload of the server"),
    };
    EnvelopeLimit {
        bytes_max: bytes.saturating_sub(HEADER_BYTES_RESERVED).max(bytes / 2),
        why: format!("NATS takes messages of at most {bytes} bytes ({key}), headers included").into(),
    }
}

/// Message TTLs, which expiry of state needs, came with 2.11.
fn check_version(version: &str, address: &str) -> Result<(), BrokerError> {
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= (2, 11) {
        return Ok(());
    }
    Err(BrokerError::Incompatible(format!(
        "the NATS server at {address} has version {version}: upgrade it to 2.11 or newer"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> LogSettings {
        LogSettings {
            name: "telecast".into(),
            shards: 1,
            replicas: 1,
            storage: crate::config::Storage::File,
            max_age: Duration::from_secs(60),
            max_bytes: 1 << 20,
            duplicate_window: Duration::from_secs(60),
        }
    }

    fn nats() -> NatsSettings {
        NatsSettings {
            url: NOWHERE.into(),
            credentials_file: None,
            user: None,
            password: None,
            token: None,
            request_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn an_old_server_is_refused() {
        assert!(check_version("2.11.0", "x").is_ok());
        assert!(check_version("2.15.1-beta.2", "x").is_ok());
        assert!(check_version("3.0.0", "x").is_ok());
        let refused = check_version("2.10.22", "nats:4222").unwrap_err().to_string();
        assert!(refused.contains("nats:4222 has version 2.10.22: upgrade"), "{refused}");
    }

    #[test]
    fn passwords_in_urls_are_not_shown() {
        let servers = login::server_addresses("nats://user:secret@one:4223, two").unwrap();
        assert_eq!(servers.iter().map(display).collect::<Vec<_>>(), ["one:4223", "two:4222"]);
    }

    /// An account may have no room for another stream: that says nothing about the envelopes, which wait.
    #[test]
    fn a_refused_stream_is_no_verdict_on_what_waits_for_it() {
        let link = Link::new(nats(), log(), "test".into(), CancellationToken::new());
        link.note(Err(BrokerError::Refused("maximum number of streams reached".into())));
        let error = link.ready().err().unwrap();
        assert!(
            matches!(&error, BrokerError::Unavailable { reason, .. } if reason.contains("number of streams")),
            "{error}"
        );
    }

    #[test]
    fn the_smaller_bound_of_server_and_stream_is_the_envelopes_and_is_named() {
        let limit = envelope_limit(64 << 10, None);
        assert_eq!(limit.bytes_max, (64 << 10) - HEADER_BYTES_RESERVED);
        assert!(limit.why.contains("65536 bytes (max_payload"), "{}", limit.why);
        assert!(envelope_limit(64 << 10, Some(4096)).why.contains("4096 bytes (max_msg_size"));
        assert_eq!(envelope_limit(1000, Some(4096)).bytes_max, 500);
    }

    #[test]
    fn a_clock_is_compared_with_the_middle_of_a_round_trip() {
        let link = Link::new(nats(), log(), "test".into(), CancellationToken::new());
        assert_eq!(link.clock_ahead_ns(), None);
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        link.note_clock(at(189), Duration::from_secs(2), at(100));
        assert_eq!(link.clock_ahead_ns(), Some(90_000_000_000));
    }

    #[test]
    fn retries_become_rare_and_stay_bounded() {
        let mut retry = Retry::default();
        let waits: Vec<_> = (0..20).map(|_| retry.next()).collect();
        assert!(waits[0] < RETRY_FIRST * 2 && waits[19] >= RETRY_LAST && waits[19] <= RETRY_LAST * 3 / 2);
    }
}
