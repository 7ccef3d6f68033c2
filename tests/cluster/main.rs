//! The whole cluster as its users meet it: real `telecast` processes, a real nats-server, peers over real sockets.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

#[path = "../support/mod.rs"]
mod support;

mod absence;
mod browser;
mod compression;
mod conflation;
mod cors;
mod crashes;
mod drain;
mod examples;
mod load;
mod mixed;
mod polls;
mod protocol;
mod proxy;
mod refusals;
mod relay;
mod repeats;
mod resume;
mod shards;
mod slow;
mod snapshot;
mod sse;
mod stage;
mod storing;
