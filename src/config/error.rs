//! Why a configuration cannot be used. Every error ends the start; each is one line that names the key, where its value
//! came from and what to write instead. Secrets are masked before they get here.

use std::fmt;
use std::path::PathBuf;

use super::layers::Layer;

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// Nobody would ever read this key.
    UnknownKey {
        /// As written.
        key: String,
        /// Where.
        layer: Layer,
        /// A key that is spelled almost like it.
        nearest: Option<&'static str>,
    },
    /// A variable that is spelled almost like one that sets a key.
    Variable {
        /// As written.
        name: String,
        /// The one that sets the key.
        meant: String,
    },
    /// A value that its key cannot have, by itself or next to another key's value.
    Value {
        /// Which key.
        key: &'static str,
        /// As written; masked if it is secret.
        value: String,
        /// Where.
        layer: Layer,
        /// What it would have to be.
        expected: String,
    },
    /// A key that this role cannot do without.
    Missing {
        /// Which key.
        key: &'static str,
        /// How to give it.
        how: &'static str,
    },
    /// A file that cannot be read, or is no TOML.
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key, layer, nearest } => {
                write!(f, "{key} ({layer}): there is no such key")?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean {nearest}?"),
                    None => f.write_str("; `telecast config` lists every key"),
                }
            }
            Self::Variable { name, meant } => write!(
                f,
                "environment variable {name} sets no key: did you mean {meant}? Parts are separated by two underscores"
            ),
            Self::Value { key, value, layer, expected } => {
                write!(f, "{key} = {value} ({layer}): must be {expected}")
            }
            Self::Missing { key, how } => write!(f, "{key} is not set: {how}"),
            Self::File { path, problem } => write!(f, "{}: {problem}", path.display()),
        }
    }
}
