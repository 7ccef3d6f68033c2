//! What operators see: metrics, health, readiness, status, logs, and the shape of errors.
//!
//! Roles hand in what they know (meters); nothing here knows a role.

pub mod meters;
pub mod node;
pub mod process;
pub mod reply;
pub mod telemetry;
