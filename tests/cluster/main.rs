//! The whole cluster as its users meet it: real `telecast` processes, a real nats-server, peers over real sockets.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

#[path = "../support/mod.rs"]
mod support;

mod crashes;
mod drain;
mod relay;
mod stage;
