//! The pure core, compiled once more under instrumentation; the targets are in `targets/`.

#[path = "../../src/proto/mod.rs"]
pub mod proto;
