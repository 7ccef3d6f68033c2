//! Every key of the configuration, in the order in which it is listed: what it may be, and its built-in value.
//!
//! `config/default.toml` explains each of them; a test holds that file to this table.

use super::Role;
use crate::proto::offset::SHARDS_MAX;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Dotted: `edge.slow_client.policy`. The environment writes it `TELECAST__EDGE__SLOW_CLIENT__POLICY`.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is when no layer says otherwise.
    pub builtin: Builtin,
}

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A whole number, both ends included.
    Integer(u64, u64),
    /// One of a few numbers.
    OneOf(&'static [u64]),
    /// `true` or `false`.
    Switch,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Printable text.
    Text,
    /// Letters, digits, `-` and `_`: it becomes part of subjects and stream names.
    Name,
    /// Printable text without spaces: it identifies a node wherever nodes are listed.
    NodeId,
    /// `HOST:PORT`, `:PORT` or `PORT`; HOST is an IP address or `localhost`.
    Listen,
    /// A TCP port.
    Port,
    /// One or more NATS addresses.
    NatsUrl,
    /// Origins of web pages, or `*`.
    Origins,
    /// Networks, as `ADDRESS/BITS`.
    Networks,
    /// Names of hosts, without ports.
    Hosts,
    /// A level or filter directives.
    LogFilter,
    /// Printable text that is never shown.
    Secret,
}

/// What a key is when no layer says otherwise.
#[derive(Debug, Clone, Copy)]
pub enum Builtin {
    /// A number.
    Integer(u64),
    /// On or off.
    Switch(bool),
    /// A text.
    Text(&'static str),
    /// A text that depends on the role, or nothing.
    ByRole(fn(Role) -> Option<&'static str>),
    /// Worked out from the machine or from other keys.
    Derived,
    /// Nothing.
    Unset,
}

/// Longest node id, in bytes: it is a key of the cluster's state and a column of every listing.
pub const NODE_ID_BYTES_MAX: usize = 64;

/// What NATS servers accept as one message unless configured otherwise.
pub const NATS_PAYLOAD_BYTES_MAX: u64 = 1 << 20;

/// Kept free below [`NATS_PAYLOAD_BYTES_MAX`]: headers count towards it, and ours stay below 4 KiB.
pub const NATS_HEADER_BYTES_RESERVED: u64 = 64 << 10;

/// The log's size per shard on NATS: at 1,000 collectors × 10 envelopes × 300 bytes a second, six minutes.
pub const LOG_BYTES_NATS: u64 = 1 << 30;

/// The embedded log's size: it is this process's own memory, so a sixteenth of the other; one host's ~3 kB a second fit
/// for the whole default hour six times over.
pub const LOG_BYTES_EMBEDDED: u64 = 64 << 20;

const DAY_S: u64 = 86_400;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every key.
pub const KEYS: &[Key] = &[
    derived("node.id", Kind::NodeId),
    by_role("server.listen", Kind::Listen, listen_of),
    unset("server.metrics_listen", Kind::Listen),
    Key { name: "server.metrics_enabled", kind: Kind::Switch, builtin: Builtin::Switch(true) },
    unset("server.port", Kind::Port),
    integer("server.header_timeout_ms", 100, 600_000, 10_000),
    integer("server.header_bytes_max", 8 << 10, MIB, 32 << 10),
    integer("server.idle_timeout_ms", 1_000, 3_600_000, 180_000),
    derived("server.connections_max", Kind::Integer(16, 10_000_000)),
    unset("server.connections_per_address_max", Kind::Integer(0, 10_000_000)),
    unset("server.connects_per_address_per_s_max", Kind::Integer(0, 1_000_000)),
    integer("server.pending_connections_max", 16, 1_000_000, 4_096),
    unset("server.trusted_proxies", Kind::Networks),
    integer("server.worker_threads", 0, 1_024, 0),
    integer("server.watchdog_timeout_ms", 0, 3_600_000, 30_000),
    unset("server.cors_origins", Kind::Origins),
    unset("server.allowed_origins", Kind::Origins),
    unset("server.allowed_hosts", Kind::Hosts),
    unset("ingest.port", Kind::Port),
    by_role("nats.url", Kind::NatsUrl, nats_url_of),
    unset("nats.credentials_file", Kind::Text),
    unset("nats.user", Kind::Text),
    unset("nats.password", Kind::Secret),
    unset("nats.token", Kind::Secret),
    integer("nats.request_timeout_ms", 1_000, 60_000, 15_000),
    text("log.name", Kind::Name, "telecast"),
    integer("log.shards", 1, SHARDS_MAX as u64, 1),
    Key { name: "log.replicas", kind: Kind::OneOf(&[1, 3, 5]), builtin: Builtin::Integer(1) },
    text("log.storage", Kind::Choice(&["file", "memory"]), "file"),
    integer("log.max_age_s", 1, 365 * DAY_S, 3_600),
    Key { name: "log.max_bytes", kind: Kind::Integer(MIB, 1 << 50), builtin: Builtin::Derived },
    integer("log.duplicate_window_s", 1, DAY_S, 120),
    text("collector.on_conflict", Kind::Choice(&["refuse", "take_over"]), "refuse"),
    integer("collector.message_bytes_max", 1_024, 256 * MIB, 4 * MIB),
    integer(
        "collector.envelope_bytes_max",
        1_024,
        NATS_PAYLOAD_BYTES_MAX - NATS_HEADER_BYTES_RESERVED,
        512 << 10,
    ),
    integer("collector.buffer_bytes_max", MIB, 64 * GIB, 64 * MIB),
    integer("collector.ping_interval_ms", 100, 600_000, 10_000),
    integer("collector.idle_timeout_ms", 200, 3_600_000, 30_000),
    integer("collector.write_timeout_ms", 100, 600_000, 10_000),
    integer("collector.ids_per_connection_max", 1, 10_000, 1_000),
    integer("collector.channels_max", 1, 100_000_000, 200_000),
    integer("collector.channels_per_collector_max", 1, 100_000_000, 20_000),
    integer("collector.new_channels_per_second_max", 1, 100_000_000, 10_000),
    integer("collector.message_timeout_ms", 100, 3_600_000, 30_000),
    integer("collector.receive_bytes_per_second_min", 0, GIB, 1_024),
    integer("collector.receive_window_ms", 100, 600_000, 5_000),
    unset("edge.port", Kind::Port),
    integer("edge.max_connections", 1, 10_000_000, 10_000),
    integer("edge.throttle_ms", 0, 60_000, 0),
    integer("edge.send_buffer_bytes", 8 << 10, 16 * MIB, 128 << 10),
    integer("edge.ring_bytes_max", MIB, 256 * GIB, 64 * MIB),
    integer("edge.view_bytes_max", MIB, 64 * GIB, 16 * MIB),
    integer("edge.views_max", 1, 1_000_000, 4_000),
    integer("edge.views_per_address_max", 1, 1_000_000, 2_000),
    integer("edge.heartbeat_ms", 1_000, 300_000, 15_000),
    integer("edge.client_message_bytes_max", 256, MIB, 16 << 10),
    integer("edge.client_message_timeout_ms", 100, 600_000, 10_000),
    integer("edge.replay_concurrency_max", 1, 1_024, 8),
    integer("edge.replay_bytes_max", MIB, 64 * GIB, 32 * MIB),
    integer("edge.drain_grace_ms", 0, 600_000, 5_000),
    integer("edge.drain_waves_ms", 0, 600_000, 5_000),
    text("edge.slow_client.policy", Kind::Choice(&["skip", "disconnect"]), "skip"),
    integer("edge.slow_client.timeout_ms", 1_000, 3_600_000, 60_000),
    text("edge.compression.mode", Kind::Choice(&["on", "off"]), "on"),
    integer("edge.compression.level", 1, 9, 1),
    integer("edge.compression.message_bytes_min", 16, MIB, 256),
    integer("edge.snapshot.series_max", 1, 100_000_000, 200_000),
    integer("edge.snapshot.bytes_max", MIB, 64 * GIB, 64 * MIB),
    integer("edge.snapshot.max_age_s", 1, 365 * DAY_S, 3_600),
    integer("edge.snapshot.warm_timeout_ms", 0, 600_000, 10_000),
    unset("admin.token", Kind::Secret),
    text("telemetry.level", Kind::LogFilter, "info"),
    text("telemetry.format", Kind::Choice(&["auto", "json", "pretty"]), "auto"),
];

/// The key with this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that is spelled most like `name`, if one is close.
pub fn nearest(name: &str) -> Option<&'static str> {
    // Below this similarity a guess confuses more than it helps (`edge.max_conections` scores 0.99).
    const SIMILARITY_MIN: f64 = 0.85;
    KEYS.iter()
        .map(|key| (strsim::jaro_winkler(name, key.name), key.name))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

fn listen_of(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Standalone | Role::Ingest => "0.0.0.0:9090",
        Role::Edge => "0.0.0.0:3002",
    })
}

/// A standalone process keeps its log itself; the others are parts of a cluster and look for NATS where it usually is.
fn nats_url_of(role: Role) -> Option<&'static str> {
    match role {
        Role::Standalone => None,
        Role::Ingest | Role::Edge => Some("nats://localhost:4222"),
    }
}

const fn integer(name: &'static str, min: u64, max: u64, builtin: u64) -> Key {
    assert!(min <= builtin && builtin <= max, "a built-in value is within its own bounds");
    Key { name, kind: Kind::Integer(min, max), builtin: Builtin::Integer(builtin) }
}

const fn text(name: &'static str, kind: Kind, builtin: &'static str) -> Key {
    Key { name, kind, builtin: Builtin::Text(builtin) }
}

const fn by_role(name: &'static str, kind: Kind, builtin: fn(Role) -> Option<&'static str>) -> Key {
    Key { name, kind, builtin: Builtin::ByRole(builtin) }
}

const fn derived(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, builtin: Builtin::Derived }
}

const fn unset(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, builtin: Builtin::Unset }
}
