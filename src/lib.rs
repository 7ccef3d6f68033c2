//! Telecast: live metrics, relayed.

pub mod broker;
pub mod config;
pub mod ops;
pub mod proto;
