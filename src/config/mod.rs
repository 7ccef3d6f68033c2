//! The effective configuration: typed, bounded, complete. What is in here needs no further checks.
//!
//! [`load`] reads the layers, each above the one before: built-in values ([`keys`]), `config/default.toml`,
//! `config/<role>.toml`, the `--config` file, the environment, flags. Every value is parsed when it is read and remembers
//! its layer (`layers`), so an error says where to look; what the values mean together is decided once
//! (`resolve`). Nothing here starts, connects or logs anything.

use std::net::SocketAddr;
use std::time::Duration;

pub use env::SHORT_NAMES;
pub use error::ConfigError;
pub use log_filter::normalise as normalise_log_filter;
pub use networks::Network;
pub use resolve::{Inputs, Loaded, Machine, load};

mod env;
mod error;
mod hosts;
pub mod keys;
mod layers;
mod listing;
mod lists;
mod log_filter;
mod networks;
mod origins;
mod resolve;
#[cfg(test)]
mod tests;

/// Everything a process needs to know to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this process is.
    pub node: NodeSettings,
    /// Where it listens.
    pub server: ServerSettings,
    /// How it reaches NATS; `None` keeps the log in this process.
    pub nats: Option<NatsSettings>,
    /// The log's shape and retention.
    pub log: LogSettings,
    /// Taking metrics in.
    pub collector: CollectorSettings,
    /// Pushing metrics out.
    pub edge: EdgeSettings,
    /// Operators' access.
    pub admin: AdminSettings,
    /// Logs of this process.
    pub telemetry: TelemetrySettings,
}

/// Which work a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ingest and edge in one process.
    Standalone,
    /// Takes collectors.
    Ingest,
    /// Serves clients.
    Edge,
}

impl Role {
    /// Whether collectors may connect.
    pub fn ingests(self) -> bool {
        matches!(self, Self::Standalone | Self::Ingest)
    }

    /// Whether clients may connect.
    pub fn serves_clients(self) -> bool {
        matches!(self, Self::Standalone | Self::Edge)
    }

    /// As written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Ingest => "ingest",
            Self::Edge => "edge",
        }
    }
}

/// Who this process is.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Unique in the cluster; the host name unless configured.
    pub id: String,
    /// The work it does.
    pub role: Role,
}

/// Where a process listens and how long it waits for a peer.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Address of the public listener.
    pub listen: SocketAddr,
    /// Second listener for `/metrics` and the operations' routes, when configured (`METRICS_PORT`).
    pub metrics_listen: Option<SocketAddr>,
    /// Whether `/metrics` is served at all (`METRICS_ENABLED`).
    pub metrics_enabled: bool,
    /// A request's head must have arrived within this time after its first byte.
    pub header_timeout: Duration,
    /// Largest head of a request, in bytes.
    pub header_bytes_max: usize,
    /// A connection on which nothing is asked for so long is closed.
    pub idle_timeout: Duration,
    /// How many connections there may be.
    pub limits: ConnectionLimits,
    /// Peers whose word is taken for whom they forward.
    pub trusted_proxies: Vec<Network>,
    /// Runtime worker threads, and writer tasks of an edge (`WS_WORKER_THREADS`).
    pub worker_threads: usize,
    /// A runtime that has not turned for so long ends the process; none: nobody looks.
    pub watchdog_timeout: Option<Duration>,
    /// Origins whose pages may read from this node, as browsers spell them; `*` is any.
    pub cors_origins: Vec<String>,
    /// Origins whose pages may write too, and open every socket.
    pub allowed_origins: Vec<String>,
    /// Hosts that requests may name; empty if they may name any.
    pub allowed_hosts: Vec<String>,
}

/// How many connections there may be, of one address and of all.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// All connections of the process; what is left of its descriptors is for NATS, files and probes.
    pub connections_max: usize,
    /// Connections on which nothing has been asked yet.
    pub pending_max: usize,
    /// Open connections of one address.
    pub per_address_max: AddressLimit,
    /// New connections of one address in a second.
    pub connects_per_s_max: AddressLimit,
}

/// A limit per address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimit {
    /// `None` is none.
    pub max: Option<usize>,
    /// Whether it is for this host's own addresses as well: it is where the limit was configured.
    pub for_loopback: bool,
}

/// How to reach NATS.
#[derive(Clone)]
pub struct NatsSettings {
    /// Comma-separated server addresses.
    pub url: String,
    /// Credentials file, when the server wants one.
    pub credentials_file: Option<std::path::PathBuf>,
    /// User and password, when the server wants them.
    pub user: Option<String>,
    /// See `user`.
    pub password: Option<Secret>,
    /// Token, when the server wants one.
    pub token: Option<Secret>,
    /// A publish or a read without an answer for so long has failed.
    pub request_timeout: Duration,
}

impl std::fmt::Debug for NatsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsSettings")
            .field("url", &mask_url(&self.url))
            .field("credentials_file", &self.credentials_file)
            .field("user", &self.user)
            .field("password", &self.password)
            .field("token", &self.token)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// The same addresses without what stands before an `@`: a NATS URL may carry a password or a token there.
pub fn mask_url(url: &str) -> String {
    let mask_one = |address: &str| match address.rsplit_once('@') {
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://***@{host}"),
            None => format!("***@{host}"),
        },
        None => address.to_owned(),
    };
    url.split(',').map(mask_one).collect::<Vec<_>>().join(",")
}

/// A text that never appears in logs or listings.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Where JetStream keeps a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In the servers' memory.
    Memory,
}

/// The log's shape and retention.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Prefix of subjects and stream names: `telecast` unless several clusters share one NATS account.
    pub name: String,
    /// Number of streams.
    pub shards: u16,
    /// Copies JetStream keeps.
    pub replicas: usize,
    /// Where JetStream keeps them.
    pub storage: Storage,
    /// Envelopes older than this are dropped.
    pub max_age: Duration,
    /// Each shard's bytes; the oldest envelopes are dropped above it. Bounds the embedded log's memory too.
    pub max_bytes: u64,
    /// Equal message ids within this window are stored once.
    pub duplicate_window: Duration,
}

/// What happens when a second connection brings a collector id that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The newcomer is refused: 409, or close 4009.
    Refuse,
    /// The newcomer gets the id, the older connection is closed with 4009.
    TakeOver,
}

/// Taking metrics in.
#[derive(Clone, Debug)]
pub struct CollectorSettings {
    /// See [`OnConflict`].
    pub on_conflict: OnConflict,
    /// Largest message or request body, in bytes, after decompression.
    pub message_bytes_max: usize,
    /// Largest envelope, in bytes of lines; below the NATS server's `max_payload` (1 MiB) with room for headers.
    pub envelope_bytes_max: usize,
    /// Bytes of accepted but unacknowledged batches a node holds before it stops reading; as much again is for what is being
    /// received, or waits to be accepted.
    pub buffer_bytes_max: usize,
    /// How often a collector's socket is pinged.
    pub ping_interval: Duration,
    /// A socket from which nothing came for so long is closed.
    pub idle_timeout: Duration,
    /// An HTTP write that is not acknowledged by then is answered 503.
    pub write_timeout: Duration,
    /// A message that a socket has begun is complete by then.
    pub message_timeout: Duration,
    /// The least that a body or a message brings, on average over each `receive_window`.
    pub receive_bytes_per_second_min: u64,
    /// See `receive_bytes_per_second_min`.
    pub receive_window: Duration,
    /// Collectors whose metrics one connection, or one request, may bring.
    pub ids_per_connection_max: usize,
    /// See [`ChannelLimits`].
    pub channels: ChannelLimits,
}

/// How many channels a node takes in.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// In all.
    pub channels_max: usize,
    /// Of one collector.
    pub per_collector_max: usize,
    /// New ones of one collector per second, and at once.
    pub new_per_second_max: usize,
    /// A channel that was not written for so long counts no more: the log has forgotten it.
    pub age_max: Duration,
}

/// What happens to a client that cannot keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowClientPolicy {
    /// It gets a gap and goes on with what is new.
    Skip,
    /// It is disconnected (close 4008).
    Disconnect,
}

/// permessage-deflate, for clients that offer it.
#[derive(Clone, Debug)]
pub struct CompressionSettings {
    /// Offers are accepted.
    pub enabled: bool,
    /// From 1, the quickest, to 9, the most thorough.
    pub level: u32,
    /// Smaller messages stay as they are, in bytes.
    pub message_bytes_min: usize,
}

/// The last values of series, for snapshots.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSettings {
    /// Series kept at most; those updated least lately go first.
    pub series_max: usize,
    /// Bytes they may take.
    pub bytes_max: usize,
    /// A series that was not written for so long, by the log's time, is forgotten.
    pub age_max: Duration,
}

/// Pushing metrics out.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// Clients above this number are refused with 503.
    pub max_connections: usize,
    /// Minimum time between two flushes to sockets (`WS_THROTTLE_MS`).
    pub throttle: Duration,
    /// The kernel's send buffer of each client (`SO_SNDBUF`), in bytes.
    pub send_buffer_bytes: usize,
    /// Bytes of envelopes and frames an edge keeps for replay.
    pub ring_bytes_max: usize,
    /// Bytes a view may hold beside the ring: frames of its own, and its places of frames it shares.
    pub view_bytes_max: usize,
    /// Distinct views of the edge; more are refused.
    pub views_max: usize,
    /// Of these, those that clients of one address may have.
    pub views_per_address_max: usize,
    /// See [`SnapshotSettings`].
    pub snapshot: SnapshotSettings,
    /// After so long a start serves clients although last values from before it are still being read.
    pub warm_timeout: Duration,
    /// What happens to a client that cannot keep up.
    pub slow_client_policy: SlowClientPolicy,
    /// A client that takes nothing for so long is disconnected under either policy.
    pub slow_client_timeout: Duration,
    /// See [`CompressionSettings`].
    pub compression: CompressionSettings,
    /// Clients are told their offset, and pinged, at this interval.
    pub heartbeat: Duration,
    /// Largest message of a client, in bytes.
    pub client_message_bytes_max: usize,
    /// A message that a client has begun is complete by then.
    pub client_message_timeout: Duration,
    /// How many reads of old parts of the log may go on at the same time.
    pub replay_concurrency_max: usize,
    /// Bytes that all clients that catch up hold together.
    pub replay_bytes_max: usize,
    /// After SIGTERM: time to keep serving while balancers turn away.
    pub drain_grace: Duration,
    /// After that: time over which clients are sent away in waves.
    pub drain_waves: Duration,
}

/// Operators' access.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Bearer token of routes that change something; those routes are closed without one.
    pub token: Option<Secret>,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Pretty,
}

/// Logs of this process.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// A level, or a filter like `info,telecast::edge=debug` (`LOG_LEVEL`).
    pub level: String,
    /// See [`LogFormat`] (`LOG_FORMAT`).
    pub format: LogFormat,
}
