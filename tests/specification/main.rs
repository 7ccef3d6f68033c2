//! The specification and the program say the same: docs/openapi.yaml, docs/asyncapi.yaml and the examples of docs/protocol.md and
//! docs/clients.md, held to their standards, to the sources, and to what running servers answer.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

#[path = "../support/mod.rs"]
mod support;

mod alike;
mod channels;
mod coverage;
mod documents;
mod markdown;
mod nodes;
mod requests;
mod standards;
