//! What operators see: metrics, health, readiness, status, logs, and the shape of errors; and `http`, what all roles listen with.
//!
//! Roles hand in what they know (meters); nothing here knows a role.

pub mod admin;
pub mod clock;
mod foreign;
pub mod health;
pub mod http;
pub mod listing;
pub mod log;
pub mod meters;
pub mod node;
pub mod paths;
pub mod process;
pub mod prometheus;
pub mod reply;
pub mod routes;
pub mod status;
pub mod telemetry;
pub mod version;
