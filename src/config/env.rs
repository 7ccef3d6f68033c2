//! Which environment variable sets which key.

use super::error::ConfigError;
use super::keys;
use super::layers::{Assignment, Layer};

/// `TELECAST__EDGE__MAX_CONNECTIONS` sets `edge.max_connections`.
pub(super) const PREFIX: &str = "TELECAST__";

/// Short names that deployments already use, and the keys they set.
pub const SHORT_NAMES: &[(&str, &str)] = &[
    ("LOG_LEVEL", "telemetry.level"),
    ("LOG_FORMAT", "telemetry.format"),
    ("NATS_URL", "nats.url"),
    ("WS_MAX_CONNECTIONS", "edge.max_connections"),
    ("WS_WORKER_THREADS", "server.worker_threads"),
    ("WS_THROTTLE_MS", "edge.throttle_ms"),
    ("METRICS_PORT", "server.metrics_listen"),
    ("METRICS_ENABLED", "server.metrics_enabled"),
];

/// What the environment says: first the short names, then the full ones, which win. An empty variable counts as not set:
/// compose files pass `NATS_URL=${NATS_URL:-}` for "use the default".
pub(super) fn assignments(variables: &[(String, String)]) -> Result<Vec<Assignment>, ConfigError> {
    let set = || variables.iter().filter(|(_, value)| !value.is_empty());
    let short = set().filter_map(|(name, value)| {
        let (_, key) = SHORT_NAMES.iter().find(|(short, _)| short == name)?;
        Some((*key, name, value))
    });
    let mut found: Vec<Assignment> =
        short.filter_map(|(key, name, value)| Some(assignment(keys::find(key)?, name, value))).collect();
    for (name, value) in set() {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let key = path.to_lowercase().replace("__", ".");
        match keys::find(&key) {
            Some(key) => found.push(assignment(key, name, value)),
            None => {
                let nearest = keys::nearest(&key);
                return Err(ConfigError::UnknownKey { key, layer: Layer::Variable(name.clone()), nearest });
            }
        }
    }
    Ok(found)
}

fn assignment(key: &'static keys::Key, name: &str, value: &str) -> Assignment {
    Assignment { key, value: toml::Value::String(value.to_owned()), layer: Layer::Variable(name.to_owned()) }
}
