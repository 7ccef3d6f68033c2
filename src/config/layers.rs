//! Values by key, each parsed when it is read and remembered with the layer it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::keys::{Builtin, KEYS, Key, Kind, NODE_ID_BYTES_MAX};
use super::{Role, hosts, keys, lists, log_filter, mask_url, networks, origins};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// The table in this program.
    BuiltIn,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// Worked out from the machine or from other keys; says how.
    Derived(String),
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Derived(how) => f.write_str(how),
        }
    }
}

/// A key, as one layer writes it.
pub(super) struct Assignment {
    pub(super) key: &'static Key,
    pub(super) value: toml::Value,
    pub(super) layer: Layer,
}

/// A parsed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    Integer(u64),
    Switch(bool),
    Text(String),
}

/// The layers so far, the upper ones in force.
#[derive(Debug, Clone)]
pub(super) struct Values {
    entries: BTreeMap<&'static str, (Parsed, Layer)>,
    /// Keys above the built-in values, in the order in which they were given.
    given: Vec<&'static str>,
}

impl Values {
    /// The lowest layer.
    pub(super) fn builtin(role: Role) -> Self {
        let value_of = |key: &Key| match key.builtin {
            Builtin::Integer(number) => Some(Parsed::Integer(number)),
            Builtin::Switch(on) => Some(Parsed::Switch(on)),
            Builtin::Text(text) => Some(Parsed::Text(text.to_owned())),
            Builtin::ByRole(of) => of(role).map(|text| Parsed::Text(text.to_owned())),
            Builtin::Derived | Builtin::Unset => None,
        };
        let entries =
            KEYS.iter().filter_map(|key| Some((key.name, (value_of(key)?, Layer::BuiltIn)))).collect();
        Self { entries, given: Vec::new() }
    }

    /// Puts one value above what is there.
    pub(super) fn assign(&mut self, assignment: Assignment) -> Result<(), ConfigError> {
        let Assignment { key, value, layer } = assignment;
        match parse(key.kind, &value) {
            Ok(parsed) => self.put(key.name, parsed, layer),
            Err(expected) => {
                let value = shown(key.kind, &value);
                return Err(ConfigError::Value { key: key.name, value, layer, expected });
            }
        }
        Ok(())
    }

    /// Puts a value that is known to be good above what is there.
    pub(super) fn put(&mut self, key: &'static str, value: Parsed, layer: Layer) {
        self.entries.insert(key, (value, layer));
        self.given.push(key);
    }

    /// Which of two keys was given last: when they contradict each other, that is the one to talk about.
    pub(super) fn later(&self, left: &'static str, right: &'static str) -> &'static str {
        let last = self.given.iter().rev().find(|key| **key == left || **key == right);
        last.copied().unwrap_or(left)
    }

    /// A value and its layer, if any layer gave one.
    pub(super) fn get(&self, key: &str) -> Option<&(Parsed, Layer)> {
        self.entries.get(key)
    }

    /// Takes a value out, as if no layer had given one.
    pub(super) fn remove(&mut self, key: &str) -> Option<(Parsed, Layer)> {
        self.entries.remove(key)
    }

    /// A number that has to be there.
    pub(super) fn integer(&self, key: &'static str) -> Result<u64, ConfigError> {
        match self.get(key) {
            Some((Parsed::Integer(number), _)) => Ok(*number),
            _ => Err(ConfigError::Missing { key, how: "give a number" }),
        }
    }

    /// Whether it is on.
    pub(super) fn is_on(&self, key: &'static str) -> Result<bool, ConfigError> {
        match self.get(key) {
            Some((Parsed::Switch(on), _)) => Ok(*on),
            _ => Err(ConfigError::Missing { key, how: "give true or false" }),
        }
    }

    /// A text that has to be there.
    pub(super) fn text(&self, key: &'static str) -> Result<&str, ConfigError> {
        self.optional_text(key).ok_or(ConfigError::Missing { key, how: "give a text" })
    }

    /// A text that may be missing.
    pub(super) fn optional_text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some((Parsed::Text(text), _)) => Some(text),
            _ => None,
        }
    }

    /// The error that `key` cannot have its value, for a reason that [`parse`] cannot see.
    pub(super) fn refuse(&self, key: &'static str, expected: impl Into<String>) -> ConfigError {
        let (value, layer) = match self.get(key) {
            Some((value, layer)) => (shown_parsed(key, value), layer.clone()),
            None => ("(nothing)".to_owned(), Layer::BuiltIn),
        };
        ConfigError::Value { key, value, layer, expected: expected.into() }
    }
}

/// What a file says; `None` if it does not exist, which is an error for a file that is `required`.
pub(super) fn read_file(path: &Path, required: bool) -> Result<Option<Vec<Assignment>>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(None),
        Err(error) => {
            return Err(ConfigError::File {
                path: path.to_owned(),
                problem: format!("cannot be read: {error}"),
            });
        }
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let problem = format!("line {line} is not TOML: {}", error.message().replace('\n', " "));
        ConfigError::File { path: path.to_owned(), problem }
    })?;
    let mut found = Vec::new();
    flatten("", &table, path, &mut found)?;
    Ok(Some(found))
}

/// A listening address: `HOST:PORT`, `:PORT` or `PORT`, without a name server's help. `host` stands where none is
/// written.
pub(super) fn parse_listen(text: &str, host: IpAddr) -> Option<SocketAddr> {
    if let Ok(port) = text.trim_start_matches(':').parse() {
        return Some(SocketAddr::new(host, port));
    }
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?)),
        None => text.parse().ok(),
    }
}

/// As TOML, masked where it must be.
pub(super) fn shown_parsed(key: &str, value: &Parsed) -> String {
    let kind = keys::find(key).map_or(Kind::Text, |key| key.kind);
    match value {
        Parsed::Integer(number) => number.to_string(),
        Parsed::Switch(on) => on.to_string(),
        Parsed::Text(text) => shown(kind, &toml::Value::String(text.clone())),
    }
}

fn flatten(
    prefix: &str,
    table: &toml::Table,
    path: &Path,
    found: &mut Vec<Assignment>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match (keys::find(&name), value) {
            (Some(key), _) => {
                found.push(Assignment { key, value: value.clone(), layer: Layer::File(path.to_owned()) });
            }
            (None, toml::Value::Table(inner)) if is_section(&name) => flatten(&name, inner, path, found)?,
            (None, _) => {
                let nearest = keys::nearest(&name);
                return Err(ConfigError::UnknownKey {
                    key: name,
                    layer: Layer::File(path.to_owned()),
                    nearest,
                });
            }
        }
    }
    Ok(())
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn shown(kind: Kind, value: &toml::Value) -> String {
    match (kind, value) {
        (Kind::Secret, _) => "\"***\"".to_owned(),
        (Kind::NatsUrl, toml::Value::String(url)) => toml::Value::String(mask_url(url)).to_string(),
        // The start ends with one line, whatever was written.
        (_, value) => value.to_string().replace('\n', " "),
    }
}

/// Parses a value, or says what it would have to be.
fn parse(kind: Kind, value: &toml::Value) -> Result<Parsed, String> {
    match kind {
        Kind::Integer(min, max) => integer(value)
            .filter(|number| (min..=max).contains(number))
            .map(Parsed::Integer)
            .ok_or_else(|| format!("a whole number from {min} to {max}")),
        Kind::Port => integer(value)
            .filter(|port| *port <= u64::from(u16::MAX))
            .map(Parsed::Integer)
            .ok_or_else(|| "a port from 0 to 65535".to_owned()),
        Kind::OneOf(allowed) => integer(value)
            .filter(|number| allowed.contains(number))
            .map(Parsed::Integer)
            .ok_or_else(|| format!("one of {}", list(allowed.iter().map(u64::to_string)))),
        Kind::Switch => switch(value).map(Parsed::Switch).ok_or_else(|| "true or false".to_owned()),
        Kind::Listen if value.is_integer() => parse_text(kind, &value.to_string()),
        _ => match value {
            toml::Value::String(text) => parse_text(kind, text),
            _ => Err(expected_text(kind)),
        },
    }
}

fn parse_text(kind: Kind, text: &str) -> Result<Parsed, String> {
    let printable = !text.is_empty() && !text.chars().any(char::is_control);
    let word = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    let taken = match kind {
        Kind::Choice(words) => {
            words.iter().find(|word| word.eq_ignore_ascii_case(text)).map(|w| (*w).to_owned())
        }
        Kind::Name => (printable && text.len() <= 32 && text.chars().all(word)).then(|| text.to_owned()),
        Kind::NodeId => (printable && text.len() <= NODE_ID_BYTES_MAX && !text.contains(char::is_whitespace))
            .then(|| text.to_owned()),
        Kind::Listen => parse_listen(text, Ipv4Addr::UNSPECIFIED.into()).map(|_| text.to_owned()),
        // The empty address takes NATS away again that a lower layer has configured.
        Kind::NatsUrl => (text.is_empty() || is_nats_url(text)).then(|| text.to_owned()),
        // The empty list takes those away again that a lower layer has allowed.
        Kind::Origins => origins::normalise(text),
        Kind::Networks => lists::normalise(text, networks::spelled),
        Kind::Hosts => lists::normalise(text, hosts::spelled),
        Kind::LogFilter => log_filter::normalise(text).map(|_| text.to_ascii_lowercase()),
        Kind::Secret => (printable && text != "***").then(|| text.to_owned()),
        Kind::Text | Kind::Integer(..) | Kind::Switch | Kind::Port | Kind::OneOf(_) => {
            printable.then(|| text.to_owned())
        }
    };
    taken.map(Parsed::Text).ok_or_else(|| expected_text(kind))
}

fn expected_text(kind: Kind) -> String {
    match kind {
        Kind::Choice(words) => format!("one of {}", list(words.iter().map(|word| format!("\"{word}\"")))),
        Kind::Name => "1 to 32 letters, digits, - or _".to_owned(),
        Kind::NodeId => format!("1 to {NODE_ID_BYTES_MAX} bytes without spaces"),
        Kind::Listen => "HOST:PORT or PORT, with an IP address or localhost as HOST, like \"0.0.0.0:9090\"".to_owned(),
        Kind::NatsUrl => {
            "a NATS address like \"nats://localhost:4222\", several separated by commas".to_owned()
        }
        Kind::Origins => {
            "origins as browsers send them, without a path, like \"https://dash.example.com\", several separated by commas, or \"*\""
                .to_owned()
        }
        Kind::Networks => {
            "networks like \"10.0.0.0/8\" or \"fd00::/8\", or single addresses, several separated by commas".to_owned()
        }
        Kind::Hosts => "names or addresses of hosts without ports, several separated by commas".to_owned(),
        Kind::LogFilter => {
            "a level (error, warn, info, debug, trace, off) or directives like \"info,telecast::edge=debug\""
                .to_owned()
        }
        Kind::Secret => "the secret itself: a printable text, not the mask ***".to_owned(),
        Kind::Text | Kind::Integer(..) | Kind::Switch | Kind::Port | Kind::OneOf(_) => "a printable text".to_owned(),
    }
}

fn integer(value: &toml::Value) -> Option<u64> {
    match value {
        toml::Value::Integer(number) => u64::try_from(*number).ok(),
        toml::Value::String(text) => text.trim().replace('_', "").parse().ok(),
        _ => None,
    }
}

fn switch(value: &toml::Value) -> Option<bool> {
    match value {
        toml::Value::Boolean(on) => Some(*on),
        toml::Value::String(text) => text.trim().to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

fn is_nats_url(text: &str) -> bool {
    let one = |address: &str| {
        let rest = match address.split_once("://") {
            Some((scheme, rest)) => ["nats", "tls", "ws", "wss"].contains(&scheme).then_some(rest),
            None => Some(address),
        };
        rest.is_some_and(|rest| {
            !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
        })
    };
    text.split(',').all(|address| one(address.trim()))
}

fn list(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
