//! An edge, from the log to its clients' sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(unreachable_pub, reason = "nobody imports a test")]

mod accounting;
mod bench;
mod delivery;
mod loss;
mod replay;
mod sessions;
mod snapshot;
#[path = "../support/state.rs"]
mod state;
mod unruly;
mod views;
mod walk;
