//! From layers to settings: reads them in order, fills in what follows from the machine, and refuses values that cannot
//! stand next to each other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::env;
use super::error::ConfigError;
use super::keys::{self, LOG_BYTES_EMBEDDED, LOG_BYTES_NATS};
use super::layers::{Assignment, Layer, Parsed, Values, parse_listen, read_file};
use super::{
    AddressLimit, AdminSettings, ChannelLimits, CollectorSettings, CompressionSettings, ConnectionLimits,
    EdgeSettings, LogFormat, LogSettings, NatsSettings, NodeSettings, OnConflict, Role, Secret,
    ServerSettings, Settings, SlowClientPolicy, SnapshotSettings, Storage, TelemetrySettings,
};
use super::{Network, lists};

/// Everything a configuration is made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The work the process is to do.
    pub role: Role,
    /// Where `default.toml` and `<role>.toml` may be.
    pub folder: PathBuf,
    /// Whether the folder was asked for by name: then it has to exist.
    pub folder_required: bool,
    /// `--config`: this file has to exist.
    pub file: Option<PathBuf>,
    /// The environment.
    pub variables: Vec<(String, String)>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--nats`.
    pub nats: Option<String>,
    /// `--node`.
    pub node: Option<String>,
    /// What the machine offers.
    pub machine: Machine,
}

/// What the machine offers to this process.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name in the network.
    pub host_name: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Files and sockets this process may have open.
    pub descriptors: u64,
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// For the program.
    pub settings: Settings,
    /// What an operator should know: values that were lowered or have no effect.
    pub notes: Vec<String>,
    /// The files that were read, in the order of their layers.
    pub files: Vec<PathBuf>,
    pub(super) values: Values,
}

impl Loaded {
    /// The error that a key cannot have its value, for a reason that only another part of the program can see.
    pub fn refuse(&self, key: &'static str, expected: impl Into<String>) -> ConfigError {
        self.values.refuse(key, expected)
    }
}

/// Descriptors that are not for clients: NATS, listeners, the log's files, scrapes and probes, room to refuse politely.
const DESCRIPTORS_RESERVED: u64 = 256;

/// Of these, descriptors that are no connection's at all, or of one that is only told that there is no room (40); a machine that
/// allows very few gives half.
const DESCRIPTORS_FOR_FILES: u64 = 96;

/// One address gets a quarter of the places: four of them fill a node, a single one leaves most for others. An office behind
/// one address is smaller; a proxy belongs into `server.trusted_proxies`.
const ADDRESS_SHARE: u64 = 4;

/// However few places there are, a browser with some tabs and its preconnections must fit.
const CONNECTIONS_PER_ADDRESS_MIN: u64 = 64;

/// A quarter of the default's 10,000 clients, all behind one address, are back five seconds after a restart.
const CONNECTS_PER_ADDRESS_PER_S: u64 = 500;

/// A frame of one envelope must fit into a view and the ring. JSON takes about four times the bytes of line protocol; twice
/// that leaves room for a neighbour.
const FRAMES_PER_ENVELOPE: u64 = 8;

/// Reads every layer and puts the settings together.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigError> {
    let mut notes = Vec::new();
    let mut values = Values::builtin(inputs.role);
    let (layers, files) = read_layers(inputs)?;
    for layer in layers {
        overlay(&mut values, inputs.role, layer, &mut notes)?;
    }
    derive(&mut values, &inputs.machine, &mut notes)?;
    check_relations(&values)?;
    let settings = settings(&values, inputs)?;
    Ok(Loaded { settings, notes, files, values })
}

fn read_layers(inputs: &Inputs) -> Result<(Vec<Vec<Assignment>>, Vec<PathBuf>), ConfigError> {
    if inputs.folder_required && !inputs.folder.is_dir() {
        return Err(ConfigError::File {
            path: inputs.folder.clone(),
            problem: "is no folder: TELECAST_CONFIG_DIR names the one that holds default.toml and ROLE.toml"
                .to_owned(),
        });
    }
    let role_file = inputs.folder.join(format!("{}.toml", inputs.role.as_str()));
    let candidates = [(inputs.folder.join("default.toml"), false), (role_file, false)];
    let named = inputs.file.iter().map(|file| (file.clone(), true));
    let (mut layers, mut files) = (Vec::new(), Vec::new());
    for (path, required) in candidates.into_iter().chain(named) {
        let Some(layer) = read_file(&path, required)? else { continue };
        layers.push(layer);
        files.push(path);
    }
    layers.push(env::assignments(&inputs.variables)?);
    let flags = [
        ("server.listen", "--listen", &inputs.listen),
        ("nats.url", "--nats", &inputs.nats),
        ("node.id", "--node", &inputs.node),
    ];
    let flag = |(key, flag, value): (&str, &'static str, &Option<String>)| {
        let value = toml::Value::String(value.clone()?);
        Some(Assignment { key: keys::find(key)?, value, layer: Layer::Flag(flag) })
    };
    layers.push(flags.into_iter().filter_map(flag).collect());
    Ok((layers, files))
}

/// Puts a layer above the others. A port is short for the listening address with this port, so it has to take effect in its
/// own layer: a `--listen` above it still wins.
fn overlay(
    values: &mut Values,
    role: Role,
    layer: Vec<Assignment>,
    notes: &mut Vec<String>,
) -> Result<(), ConfigError> {
    for assignment in layer {
        values.assign(assignment)?;
    }
    for (key, owner) in
        [("server.port", None), ("ingest.port", Some(Role::Ingest)), ("edge.port", Some(Role::Edge))]
    {
        let Some((Parsed::Integer(port), layer)) = values.remove(key) else { continue };
        if owner.is_none_or(|owner| owner == role) {
            let host = listen(values, "server.listen")?.ip();
            let port = u16::try_from(port).unwrap_or(u16::MAX);
            values.put("server.listen", Parsed::Text(SocketAddr::new(host, port).to_string()), layer);
        } else if role == Role::Standalone {
            notes.push(format!("{key} ({layer}) has no effect on a standalone node: use server.port"));
        }
    }
    Ok(())
}

/// Fills in what no layer can know, and lowers what the machine cannot give.
fn derive(values: &mut Values, machine: &Machine, notes: &mut Vec<String>) -> Result<(), ConfigError> {
    if values.get("node.id").is_none() {
        let id = keys::find("node.id").map(|key| Assignment {
            key,
            value: toml::Value::String(machine.host_name.clone()),
            layer: Layer::Derived("the host name".to_owned()),
        });
        id.map_or(Ok(()), |assignment| values.assign(assignment))?;
    }
    if values.get("log.max_bytes").is_none() {
        let (bytes, how) = match values.optional_text("nats.url") {
            Some(url) if !url.is_empty() => (LOG_BYTES_NATS, "1 GiB with NATS"),
            _ => (LOG_BYTES_EMBEDDED, "64 MiB of this process's memory without NATS"),
        };
        values.put("log.max_bytes", Parsed::Integer(bytes), Layer::Derived(how.to_owned()));
    }
    let places = machine.descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(machine.descriptors / 2).max(1);
    let wanted = values.integer("edge.max_connections")?;
    if wanted > places {
        let limit = machine.descriptors;
        let how = format!("lowered from {wanted}: this process may open {limit} files (ulimit -n)");
        notes.push(format!("edge.max_connections = {places}, {how}"));
        values.put("edge.max_connections", Parsed::Integer(places), Layer::Derived(how));
    }
    derive_connections(values, machine)?;
    if values.integer("server.worker_threads")? == 0 {
        let threads = Parsed::Integer(machine.cores.max(1) as u64);
        values.put("server.worker_threads", threads, Layer::Derived("one per core".to_owned()));
    }
    Ok(())
}

/// How many connections there may be, of what this process may open.
fn derive_connections(values: &mut Values, machine: &Machine) -> Result<(), ConfigError> {
    let limit = machine.descriptors;
    let most = (limit - DESCRIPTORS_FOR_FILES.min(limit / 2)).max(1);
    if !matches!(values.get("server.connections_max"), Some((Parsed::Integer(max), _)) if *max <= most) {
        let how = format!("what is left of the {limit} files this process may open (ulimit -n)");
        values.put("server.connections_max", Parsed::Integer(most), Layer::Derived(how));
    }
    let most = values.integer("server.connections_max")? / 2;
    let wanted = values.integer("server.pending_connections_max")?;
    if wanted > most {
        let how = format!("lowered from {wanted}: half of server.connections_max");
        values.put("server.pending_connections_max", Parsed::Integer(most), Layer::Derived(how));
    }
    Ok(())
}

/// Refuses values that are possible alone and impossible together.
fn check_relations(values: &Values) -> Result<(), ConfigError> {
    let at_most = |small: &'static str, large: &'static str, factor: u64| {
        let (small_value, large_value) = (values.integer(small)?, values.integer(large)?);
        if small_value.saturating_mul(factor) <= large_value {
            return Ok(());
        }
        Err(if values.later(small, large) == small {
            let of = if factor == 1 { String::new() } else { format!("1/{factor} of ") };
            values.refuse(small, format!("at most {} ({of}{large})", large_value / factor))
        } else {
            let of = if factor == 1 { String::new() } else { format!("{factor} × ") };
            values.refuse(large, format!("at least {} ({of}{small})", small_value.saturating_mul(factor)))
        })
    };
    at_most("collector.envelope_bytes_max", "collector.message_bytes_max", 1)?;
    at_most("collector.message_bytes_max", "collector.buffer_bytes_max", 1)?;
    at_most("collector.envelope_bytes_max", "edge.ring_bytes_max", FRAMES_PER_ENVELOPE)?;
    at_most("collector.envelope_bytes_max", "edge.view_bytes_max", FRAMES_PER_ENVELOPE)?;
    at_most("edge.views_per_address_max", "edge.views_max", 1)?;
    // Two pings, so that one lost pong does not cost the connection.
    at_most("collector.ping_interval_ms", "collector.idle_timeout_ms", 2)?;
    at_most("edge.heartbeat_ms", "edge.slow_client.timeout_ms", 1)?;
    // JetStream refuses a stream that forgets messages before their ids.
    at_most("log.duplicate_window_s", "log.max_age_s", 1)?;
    // A batch without an answer is sent again: its id must still be known then.
    let window_ms = values.integer("log.duplicate_window_s")? * 1_000;
    let retry_ms = 2 * values.integer("nats.request_timeout_ms")?;
    if window_ms < retry_ms {
        return Err(values.refuse(
            "log.duplicate_window_s",
            format!("at least {} (twice nats.request_timeout_ms)", retry_ms.div_ceil(1_000)),
        ));
    }
    let embedded = values.optional_text("nats.url").is_none_or(str::is_empty);
    if embedded && values.integer("log.replicas")? > 1 {
        return Err(values.refuse("log.replicas", "1 without NATS: the embedded log has one copy"));
    }
    match (values.get("nats.user").is_some(), values.get("nats.password").is_some()) {
        (true, false) => Err(values.refuse("nats.user", "accompanied by nats.password")),
        (false, true) => Err(values.refuse("nats.password", "accompanied by nats.user")),
        _ => Ok(()),
    }
}

/// The directives that the level stands for.
fn level(values: &Values) -> Result<String, ConfigError> {
    let text = values.text("telemetry.level")?;
    Ok(super::normalise_log_filter(text).unwrap_or_else(|| text.to_owned()))
}

fn settings(values: &Values, inputs: &Inputs) -> Result<Settings, ConfigError> {
    Ok(Settings {
        node: NodeSettings { id: values.text("node.id")?.to_owned(), role: inputs.role },
        server: server(values)?,
        nats: nats(values, inputs.role)?,
        log: log(values)?,
        collector: collector(values)?,
        edge: edge(values)?,
        admin: AdminSettings { token: secret(values, "admin.token") },
        telemetry: TelemetrySettings {
            level: level(values)?,
            format: match values.text("telemetry.format")? {
                "json" => LogFormat::Json,
                "pretty" => LogFormat::Pretty,
                _ => LogFormat::Auto,
            },
        },
    })
}

fn server(values: &Values) -> Result<ServerSettings, ConfigError> {
    let public = listen(values, "server.listen")?;
    let metrics_listen = match values.optional_text("server.metrics_listen") {
        Some(text) => parse_listen(text, public.ip()),
        None => None,
    };
    if metrics_listen == Some(public) && public.port() != 0 {
        return Err(values.refuse("server.metrics_listen", "another address than server.listen"));
    }
    let list = |key| values.optional_text(key).unwrap_or_default();
    Ok(ServerSettings {
        listen: public,
        metrics_listen,
        metrics_enabled: values.is_on("server.metrics_enabled")?,
        header_timeout: millis(values, "server.header_timeout_ms")?,
        header_bytes_max: size(values, "server.header_bytes_max")?,
        idle_timeout: millis(values, "server.idle_timeout_ms")?,
        limits: limits(values)?,
        trusted_proxies: Network::list(list("server.trusted_proxies")),
        worker_threads: size(values, "server.worker_threads")?,
        watchdog_timeout: watchdog_timeout(values)?,
        cors_origins: lists::split(list("server.cors_origins")),
        allowed_origins: lists::split(list("server.allowed_origins")),
        allowed_hosts: lists::split(list("server.allowed_hosts")),
    })
}

fn limits(values: &Values) -> Result<ConnectionLimits, ConfigError> {
    let share = values.integer("edge.max_connections")? / ADDRESS_SHARE;
    let share = share.max(CONNECTIONS_PER_ADDRESS_MIN);
    Ok(ConnectionLimits {
        connections_max: size(values, "server.connections_max")?,
        pending_max: size(values, "server.pending_connections_max")?,
        per_address_max: address_limit(values, "server.connections_per_address_max", share),
        connects_per_s_max: address_limit(
            values,
            "server.connects_per_address_per_s_max",
            CONNECTS_PER_ADDRESS_PER_S,
        ),
    })
}

/// Zero takes a limit away. Without a configured one, connections from this host itself have none: who can open them could
/// stop the process as well, and load tests and proxies beside a node come from there.
fn address_limit(values: &Values, key: &'static str, otherwise: u64) -> AddressLimit {
    let given = values.integer(key).ok();
    let max = usize::try_from(given.unwrap_or(otherwise)).unwrap_or(usize::MAX);
    AddressLimit { max: Some(max).filter(|max| *max > 0), for_loopback: given.is_some() }
}

/// None for 0. Shorter than a second, it would end nodes of a machine that has no CPU to give for a moment.
fn watchdog_timeout(values: &Values) -> Result<Option<Duration>, ConfigError> {
    const KEY: &str = "server.watchdog_timeout_ms";
    match values.integer(KEY)? {
        0 => Ok(None),
        1..1_000 => Err(values.refuse(KEY, "0, which turns it off, or at least 1000")),
        timeout => Ok(Some(Duration::from_millis(timeout))),
    }
}

fn nats(values: &Values, role: Role) -> Result<Option<NatsSettings>, ConfigError> {
    let Some(url) = values.optional_text("nats.url").filter(|url| !url.is_empty()) else {
        return match role {
            Role::Standalone => Ok(None),
            Role::Ingest | Role::Edge => Err(ConfigError::Missing {
                key: "nats.url",
                how: "an ingest or edge node needs NATS: give --nats nats://HOST:4222, or run `telecast standalone`",
            }),
        };
    };
    Ok(Some(NatsSettings {
        url: url.to_owned(),
        credentials_file: values.optional_text("nats.credentials_file").map(PathBuf::from),
        user: values.optional_text("nats.user").map(str::to_owned),
        password: secret(values, "nats.password"),
        token: secret(values, "nats.token"),
        request_timeout: millis(values, "nats.request_timeout_ms")?,
    }))
}

fn log(values: &Values) -> Result<LogSettings, ConfigError> {
    Ok(LogSettings {
        name: values.text("log.name")?.to_owned(),
        shards: u16::try_from(values.integer("log.shards")?).unwrap_or(u16::MAX),
        replicas: size(values, "log.replicas")?,
        storage: if values.text("log.storage")? == "memory" { Storage::Memory } else { Storage::File },
        max_age: seconds(values, "log.max_age_s")?,
        max_bytes: values.integer("log.max_bytes")?,
        duplicate_window: seconds(values, "log.duplicate_window_s")?,
    })
}

fn collector(values: &Values) -> Result<CollectorSettings, ConfigError> {
    Ok(CollectorSettings {
        on_conflict: match values.text("collector.on_conflict")? {
            "take_over" => OnConflict::TakeOver,
            _ => OnConflict::Refuse,
        },
        message_bytes_max: size(values, "collector.message_bytes_max")?,
        envelope_bytes_max: size(values, "collector.envelope_bytes_max")?,
        buffer_bytes_max: size(values, "collector.buffer_bytes_max")?,
        ping_interval: millis(values, "collector.ping_interval_ms")?,
        idle_timeout: millis(values, "collector.idle_timeout_ms")?,
        write_timeout: millis(values, "collector.write_timeout_ms")?,
        ids_per_connection_max: size(values, "collector.ids_per_connection_max")?,
        channels: ChannelLimits {
            channels_max: size(values, "collector.channels_max")?,
            per_collector_max: size(values, "collector.channels_per_collector_max")?,
            new_per_second_max: size(values, "collector.new_channels_per_second_max")?,
            age_max: seconds(values, "log.max_age_s")?,
        },
        message_timeout: millis(values, "collector.message_timeout_ms")?,
        receive_bytes_per_second_min: values.integer("collector.receive_bytes_per_second_min")?,
        receive_window: millis(values, "collector.receive_window_ms")?,
    })
}

fn edge(values: &Values) -> Result<EdgeSettings, ConfigError> {
    Ok(EdgeSettings {
        max_connections: size(values, "edge.max_connections")?,
        throttle: millis(values, "edge.throttle_ms")?,
        send_buffer_bytes: size(values, "edge.send_buffer_bytes")?,
        ring_bytes_max: size(values, "edge.ring_bytes_max")?,
        view_bytes_max: size(values, "edge.view_bytes_max")?,
        views_max: size(values, "edge.views_max")?,
        views_per_address_max: size(values, "edge.views_per_address_max")?,
        snapshot: SnapshotSettings {
            series_max: size(values, "edge.snapshot.series_max")?,
            bytes_max: size(values, "edge.snapshot.bytes_max")?,
            age_max: seconds(values, "edge.snapshot.max_age_s")?,
        },
        warm_timeout: millis(values, "edge.snapshot.warm_timeout_ms")?,
        slow_client_policy: match values.text("edge.slow_client.policy")? {
            "disconnect" => SlowClientPolicy::Disconnect,
            _ => SlowClientPolicy::Skip,
        },
        slow_client_timeout: millis(values, "edge.slow_client.timeout_ms")?,
        compression: CompressionSettings {
            enabled: values.text("edge.compression.mode")? == "on",
            level: u32::try_from(values.integer("edge.compression.level")?).unwrap_or(u32::MAX),
            message_bytes_min: size(values, "edge.compression.message_bytes_min")?,
        },
        heartbeat: millis(values, "edge.heartbeat_ms")?,
        client_message_bytes_max: size(values, "edge.client_message_bytes_max")?,
        client_message_timeout: millis(values, "edge.client_message_timeout_ms")?,
        replay_concurrency_max: size(values, "edge.replay_concurrency_max")?,
        replay_bytes_max: size(values, "edge.replay_bytes_max")?,
        drain_grace: millis(values, "edge.drain_grace_ms")?,
        drain_waves: millis(values, "edge.drain_waves_ms")?,
    })
}

fn listen(values: &Values, key: &'static str) -> Result<SocketAddr, ConfigError> {
    let host = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    parse_listen(values.text(key)?, host).ok_or_else(|| values.refuse(key, "HOST:PORT"))
}

fn millis(values: &Values, key: &'static str) -> Result<Duration, ConfigError> {
    values.integer(key).map(Duration::from_millis)
}

fn seconds(values: &Values, key: &'static str) -> Result<Duration, ConfigError> {
    values.integer(key).map(Duration::from_secs)
}

fn size(values: &Values, key: &'static str) -> Result<usize, ConfigError> {
    usize::try_from(values.integer(key)?).map_err(|_| values.refuse(key, "a size this machine can address"))
}

fn secret(values: &Values, key: &str) -> Option<Secret> {
    values.optional_text(key).map(|text| Secret(text.to_owned()))
}
