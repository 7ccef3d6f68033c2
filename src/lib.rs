//! Telecast: live metrics, relayed.

pub mod broker;
pub mod config;
pub mod demo;
pub mod ops;
pub mod proto;
