//! The effective configuration as TOML: every key, where its value came from, no secret.

use std::fmt::Write as _;

use super::keys::{KEYS, Kind};
use super::layers::{Layer, shown_parsed};
use super::resolve::Loaded;

impl Loaded {
    /// TOML that a `--config` file could hold. Each value that is not built in says which layer gave it; secrets are
    /// `***`, which no key accepts, so a listing cannot become a password by accident.
    pub fn to_toml(&self) -> String {
        let mut text =
            format!("# The effective configuration of: telecast {}\n", self.settings.node.role.as_str());
        self.notes.iter().for_each(|note| {
            let _ = writeln!(text, "# note: {note}");
        });
        let mut section = "";
        // Ports have become part of the listening address.
        for key in KEYS.iter().filter(|key| !matches!(key.kind, Kind::Port)) {
            let (of, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            if of != section {
                let _ = write!(text, "\n[{of}]\n");
                section = of;
            }
            let _ = match self.values.get(key.name) {
                Some((value, Layer::BuiltIn)) => writeln!(text, "{name} = {}", shown_parsed(key.name, value)),
                Some((value, layer)) => {
                    writeln!(text, "{name} = {}  # {layer}", shown_parsed(key.name, value))
                }
                None => writeln!(text, "# {name} is not set"),
            };
        }
        text
    }
}
