//! Metrics as JSON: Telegraf's own form on the way in, the clients' form on the way out.

mod decode;
mod encode;
mod split;
#[cfg(test)]
mod tests;

pub use decode::{JsonError, JsonErrorKind, KEY_CHARACTERS_MAX, decode};
pub use encode::{write_members, write_metrics, write_string};
