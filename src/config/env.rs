//! Which environment variable sets which key.

use super::error::ConfigError;
use super::keys;
use super::layers::{Assignment, Layer};

/// `TELECAST__EDGE__MAX_CONNECTIONS` sets `edge.max_connections`.
pub(super) const PREFIX: &str = "TELECAST__";

/// From this similarity on, a name with single underscores is taken for a mistake and not for somebody else's variable:
/// `edge_max_conections` scores 0.99, `edge_service_port` (which Kubernetes sets) 0.88.
const SIMILARITY_MIN: f64 = 0.95;

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
        let Some(path) = name.strip_prefix(PREFIX) else {
            refuse_single_underscore(name, value)?;
            continue;
        };
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

/// Refuses a name that sets nothing because it is written with one underscore where two belong.
///
/// Kubernetes describes a Service called `telecast-edge` to its pods by variables that look like this,
/// `TELECAST_EDGE_PORT=tcp://10.0.0.7:80`: an address is no value of a key that is short for a port.
fn refuse_single_underscore(name: &str, value: &str) -> Result<(), ConfigError> {
    let Some(path) = name.strip_prefix("TELECAST_") else { return Ok(()) };
    if value.starts_with("tcp://") || value.starts_with("udp://") {
        return Ok(());
    }
    let path = path.to_lowercase().replace("__", "_");
    let similarity = |key: &keys::Key| strsim::jaro_winkler(&path, &key.name.replace('.', "_"));
    let nearest = keys::KEYS.iter().max_by(|left, right| similarity(left).total_cmp(&similarity(right)));
    match nearest {
        Some(key) if similarity(key) >= SIMILARITY_MIN => {
            Err(ConfigError::Variable { name: name.to_owned(), meant: variable(key.name) })
        }
        _ => Ok(()),
    }
}

/// The variable that sets `key`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn assignment(key: &'static keys::Key, name: &str, value: &str) -> Assignment {
    Assignment { key, value: toml::Value::String(value.to_owned()), layer: Layer::Variable(name.to_owned()) }
}
