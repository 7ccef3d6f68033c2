//! What servers say. Offsets come as text: an edge spells each once, for all its sessions.

use std::io::Write as _;

use super::client::Id;
use super::{ErrorCode, PROTOCOL_VERSION};
use crate::proto::json;
use crate::proto::printable::printable;

/// One message to a client, except those that carry metrics: see [`write_metrics_open`]
/// and [`write_conflated_open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// The first message of a session.
    Welcome {
        /// The edge's node id.
        node: &'a str,
        /// The session's own id.
        session: &'a str,
        /// Where the session begins; without it, the client has no place to resume from before it has the snapshot.
        offset: Option<&'a str>,
        /// A heartbeat comes at least this often.
        heartbeat_ms: u64,
        /// Series that the filters let through now, where that is known.
        matching: Option<u64>,
        /// Newest values come this often, if the client asked for an interval: see [`super::interval_served`].
        interval_ms: Option<u32>,
    },
    /// Everything up to `offset` has been sent or filtered out.
    Heartbeat {
        /// How far the session is.
        offset: &'a str,
    },
    /// The metrics after `from`, up to and including `to`, will not come.
    Gap {
        /// The last offset before the gap.
        from: &'a str,
        /// The last offset inside the gap; what follows it comes.
        to: &'a str,
        /// Why.
        reason: GapReason,
        /// A snapshot at `to` follows. Until its last part has come, the client resumes from `from`.
        snapshot: bool,
    },
    /// The log cannot be reached: silence does not mean that nothing happens.
    Stale {
        /// For how long already.
        since_ms: u64,
    },
    /// The log is reached again.
    Live,
    /// Something the client asked for was refused.
    Error {
        /// The refused message's id.
        id: Option<&'a Id>,
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: &'a str,
    },
    /// A message was accepted.
    Ack {
        /// Its id.
        id: Option<&'a Id>,
        /// Series that the filters let through now, where it has named some and that is known.
        matching: Option<u64>,
        /// As in a welcome.
        interval_ms: Option<u32>,
    },
    /// The answer to `ping`.
    Pong {
        /// The ping's id.
        id: Option<&'a Id>,
    },
    /// The connection is about to be closed by the server.
    Goodbye {
        /// Why.
        reason: GoodbyeReason,
        /// Where to resume, on any node. Without it, the client comes back as it came: it has not got its snapshot.
        offset: Option<&'a str>,
        /// When to come back.
        reconnect_after_ms: u64,
    },
}

/// Why a part of the log does not reach a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The log no longer holds it.
    Retention,
    /// The client was too slow.
    Slow,
    /// The log was created anew or went backwards.
    Reset,
    /// Lost before or inside the log.
    Source,
}

impl GapReason {
    /// As messages carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Slow => "slow",
            Self::Reset => "reset",
            Self::Source => "source",
        }
    }
}

/// Why a server sends a client away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GoodbyeReason {
    /// The node is going down.
    Draining,
    /// Other nodes have more room.
    Rebalance,
    /// The client takes too little for too long.
    Slow,
}

impl GoodbyeReason {
    /// As messages carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Rebalance => "rebalance",
            Self::Slow => "slow",
        }
    }
}

impl ServerMessage<'_> {
    /// Appends the message as one JSON object.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Welcome { node, session, offset, heartbeat_ms, matching, interval_ms } => {
                Object::open(out, "welcome")
                    .number("protocol", u64::from(PROTOCOL_VERSION))
                    .text("node", node)
                    .text("session", session)
                    .text_if("offset", *offset)
                    .number("heartbeat_ms", *heartbeat_ms)
                    .number_if("matching", *matching)
                    .number_if("interval_ms", interval_ms.map(u64::from))
                    .close()
            }
            Self::Heartbeat { offset } => Object::open(out, "heartbeat").text("offset", offset).close(),
            Self::Gap { from, to, reason, snapshot } => {
                let gap = Object::open(out, "gap")
                    .text("from", from)
                    .text("to", to)
                    .text("reason", reason.as_str());
                if *snapshot { gap.flag("snapshot") } else { gap }.close();
            }
            Self::Stale { since_ms } => Object::open(out, "stale").number("since_ms", *since_ms).close(),
            Self::Live => Object::open(out, "live").close(),
            Self::Error { id, code, message } => Object::open(out, "error")
                .id(*id)
                .text("code", code.as_str())
                .text("message", &printable(message))
                .close(),
            Self::Ack { id, matching, interval_ms } => {
                Object::open(out, "ack")
                    .id(*id)
                    .number_if("matching", *matching)
                    .number_if("interval_ms", interval_ms.map(u64::from))
                    .close();
            }
            Self::Pong { id } => Object::open(out, "pong").id(*id).close(),
            Self::Goodbye { reason, offset, reconnect_after_ms } => Object::open(out, "goodbye")
                .text("reason", reason.as_str())
                .text_if("offset", *offset)
                .number("reconnect_after_ms", *reconnect_after_ms)
                .close(),
        }
    }

    /// Where a client would resume that has read up to here, if the message tells.
    pub fn place(&self) -> Option<&str> {
        match self {
            Self::Welcome { offset, .. } | Self::Goodbye { offset, .. } => *offset,
            Self::Heartbeat { offset } => Some(offset),
            Self::Gap { to, snapshot, .. } => (!snapshot).then_some(to),
            Self::Stale { .. } | Self::Live | Self::Error { .. } | Self::Ack { .. } | Self::Pong { .. } => {
                None
            }
        }
    }

    /// The message as one JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.write(&mut out);
        out
    }
}

/// The `type` of a message as it was written here; line protocol has none.
pub fn kind(message: &[u8]) -> Option<&str> {
    let rest = message.strip_prefix(b"{\"type\":\"")?;
    let end = memchr::memchr(b'"', rest)?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// Appends a `metrics` message up to its array; the array and `}` have to follow.
pub fn write_metrics_open(out: &mut Vec<u8>, offset: &str, collector: &str) {
    Object::open(out, "metrics").text("offset", offset).text("collector", collector).name("metrics");
}

/// Which message of a snapshot one is. All have the place whose state they tell; a client is there when it has the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPart<'a> {
    /// The place.
    pub offset: &'a str,
    /// Counted from 1.
    pub part: usize,
    /// How many there are.
    pub parts: usize,
    /// Why last values may be missing, if they may.
    pub incomplete: Option<Incomplete>,
}

/// Why last values may be missing from what a node tells, although the log has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// The node has started lately, and is still reading them.
    Starting,
    /// There are more than the node keeps.
    Bounds,
}

impl Incomplete {
    /// As clients read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Bounds => "bounds",
        }
    }
}

/// Appends a `snapshot` message up to its array; the array and `}` have to follow.
pub fn write_snapshot_open(out: &mut Vec<u8>, which: SnapshotPart<'_>, collector: &str) {
    let object = Object::open(out, "snapshot")
        .text("offset", which.offset)
        .number("part", which.part as u64)
        .number("parts", which.parts as u64);
    let object = match which.incomplete {
        Some(why) => object.text("incomplete", why.as_str()),
        None => object,
    };
    object.text("collector", collector).name("metrics");
}

/// Appends the comment lines before a part of a snapshot in line protocol.
pub fn write_influx_snapshot_head(out: &mut Vec<u8>, which: SnapshotPart<'_>) {
    write_influx_head(out, which.offset);
    // Writing text into memory cannot fail.
    let _ = writeln!(out, "# snapshot {}/{}", which.part, which.parts);
    write_influx_incomplete(out, which.incomplete);
}

/// Appends the comment line that says why last values may be missing, if they may.
pub fn write_influx_incomplete(out: &mut Vec<u8>, incomplete: Option<Incomplete>) {
    if let Some(why) = incomplete {
        out.extend_from_slice(b"# incomplete ");
        out.extend_from_slice(why.as_str().as_bytes());
        out.push(b'\n');
    }
}

/// What metrics with an `interval` stand for: each series' newest value of a range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflated<'a> {
    /// The place behind which the range begins.
    pub from: &'a str,
    /// Metrics of the range that matched and are not sent, because a newer one of their series is; where they were counted.
    pub conflated: Option<u64>,
}

/// Appends a `metrics` message with newest values up to its array; the array and `}` have to follow.
pub fn write_conflated_open(out: &mut Vec<u8>, offset: &str, of: Conflated<'_>, collector: &str) {
    let object = Object::open(out, "metrics").text("offset", offset).text("from", of.from);
    let object = match of.conflated {
        Some(conflated) => object.number("conflated", conflated),
        None => object,
    };
    object.text("collector", collector).name("metrics");
}

/// Appends the comment lines before newest values in line protocol.
pub fn write_influx_conflated_head(out: &mut Vec<u8>, offset: &str, of: Conflated<'_>) {
    write_influx_head(out, offset);
    out.extend_from_slice(b"# from ");
    out.extend_from_slice(of.from.as_bytes());
    if let Some(conflated) = of.conflated {
        out.extend_from_slice(b" conflated ");
        out.extend_from_slice(itoa::Buffer::new().format(conflated).as_bytes());
    }
    out.push(b'\n');
}

/// Appends the comment line before the lines of a data frame in line protocol.
pub fn write_influx_head(out: &mut Vec<u8>, offset: &str) {
    out.extend_from_slice(b"# offset ");
    out.extend_from_slice(offset.as_bytes());
    out.push(b'\n');
}

/// A JSON object in the making, members in the order of the calls.
struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>, kind: &str) -> Self {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Self(out)
    }

    fn name(self, name: &str) -> Self {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self
    }

    fn text(self, name: &str, text: &str) -> Self {
        let object = self.name(name);
        json::write_string(object.0, text);
        object
    }

    fn text_if(self, name: &str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    fn flag(self, name: &str) -> Self {
        let object = self.name(name);
        object.0.extend_from_slice(b"true");
        object
    }

    fn number(self, name: &str, number: u64) -> Self {
        let object = self.name(name);
        object.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        object
    }

    fn number_if(self, name: &str, number: Option<u64>) -> Self {
        match number {
            Some(number) => self.number(name, number),
            None => self,
        }
    }

    fn id(self, id: Option<&Id>) -> Self {
        match id {
            None => self,
            Some(id) => {
                let object = self.name("id");
                // Writing text into memory cannot fail.
                let _ = write!(object.0, "{id}");
                object
            }
        }
    }

    fn close(self) {
        self.0.push(b'}');
    }
}
