//! What the programs of the comparison share.
//!
//! Every peer delivers messages that hold a *stamp*: when the message was due and its number, in a fixed number of bytes. The one
//! client finds stamps in the raw bytes of a socket, so that it neither knows nor pays for how a peer frames and batches.
//!
//! * [`stamp`]: the bytes that are counted, and the reader that finds them however reads cut them.
//! * [`broadcast`]: the messages of peers that are written here and run on tokio.
//! * [`pace`]: when the next message is due.
//! * [`websocket`]: just enough of RFC 6455 for both sides.
//! * [`hello`]: messages as they stand on command lines.
//! * [`process`]: CPU time and memory of processes, from `/proc`.

pub mod broadcast;
pub mod hello;
pub mod pace;
pub mod process;
pub mod stamp;
pub mod websocket;
