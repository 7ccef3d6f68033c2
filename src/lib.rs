//! Telecast: live metrics, relayed.

pub mod app;
pub mod broker;
pub mod cli;
pub mod config;
pub mod demo;
pub mod edge;
pub mod ingest;
pub mod ops;
pub mod proto;
