//! Telecast: live metrics, relayed.

pub mod broker;
pub mod config;
pub mod ingest;
pub mod ops;
pub mod proto;
