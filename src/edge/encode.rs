//! From an envelope to a ready WebSocket frame, once per format, and from messages to frames of every form. Pure.

use bytes::{Buf as _, Bytes};

use crate::edge::ring::{Entry, Item};
use crate::edge::wire::Wire;
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::envelope::Envelope;
use crate::proto::event_stream;
use crate::proto::filter::{FilterSet, Match};
use crate::proto::frame::{self, Opcode};
use crate::proto::json;
use crate::proto::line::{self, Line};
use crate::proto::message::{self, CloseCode, Conflated, Format, GapReason, ServerMessage, SnapshotPart};
use crate::proto::offset::Offset;
use crate::proto::printable::printable;

/// The entry as it is for everybody whose filters take all of it.
pub(crate) fn whole(entry: &Entry, format: Format) -> Option<Bytes> {
    match &entry.item {
        Item::Envelope(stored) => {
            envelope(&stored.envelope, stored.stored_ns, &entry.offset, format, |_| true)
        }
        Item::Gap { from, reason } => Some(gap(Wire::WebSocket, from, &entry.offset, *reason)),
    }
}

/// The lines of an envelope that `filters` let through, at an offset that is the session's own.
pub(crate) fn filtered(
    envelope_: &Envelope,
    stored_ns: i64,
    offset: &Offset,
    filters: &FilterSet,
    format: Format,
) -> Option<Bytes> {
    match filters.matches_channel(&envelope_.channel) {
        Match::No => None,
        Match::Whole => envelope(envelope_, stored_ns, offset, format, |_| true),
        Match::Lines => envelope(envelope_, stored_ns, offset, format, |line| {
            filters.matches_line(&envelope_.channel, |key| line.tag(key))
        }),
    }
}

/// A gap announcement as a frame.
pub(crate) fn gap(wire: Wire, from: &Offset, to: &Offset, reason: GapReason) -> Bytes {
    server(wire, &ServerMessage::Gap { from: &from.token(), to: &to.token(), reason, snapshot: false })
}

/// The same where a snapshot at `to` follows.
pub(crate) fn gap_before_snapshot(wire: Wire, from: &Offset, to: &Offset, reason: GapReason) -> Bytes {
    server(wire, &ServerMessage::Gap { from: &from.token(), to: &to.token(), reason, snapshot: true })
}

/// A part of a snapshot: `metrics` of one collector, each as [`write_line`] writes it, with commas between them in JSON.
pub(crate) fn snapshot(
    format: Format,
    which: SnapshotPart<'_>,
    collector: &CollectorId,
    metrics: &[u8],
) -> Bytes {
    values(format, metrics, |out| match format {
        Format::Json => message::write_snapshot_open(out, which, collector.as_str()),
        Format::Influx | Format::InfluxEscaped => message::write_influx_snapshot_head(out, which),
    })
}

/// Newest values of one collector, each as [`write_line`] has written it, with commas between them in JSON.
pub(crate) fn newest(
    format: Format,
    token: &str,
    of: Conflated<'_>,
    collector: &CollectorId,
    metrics: &[u8],
) -> Bytes {
    values(format, metrics, |out| match format {
        Format::Json => message::write_conflated_open(out, token, of, collector.as_str()),
        Format::Influx | Format::InfluxEscaped => message::write_influx_conflated_head(out, token, of),
    })
}

fn values(format: Format, metrics: &[u8], write_head: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut draft = Draft::new(metrics.len() + 256);
    write_head(&mut draft.0);
    match format {
        Format::Json => {
            draft.0.push(b'[');
            draft.0.extend_from_slice(metrics);
            draft.0.extend_from_slice(b"]}");
        }
        Format::Influx | Format::InfluxEscaped => draft.0.extend_from_slice(metrics),
    }
    draft.finish()
}

/// Any message without metrics as a frame; as an event, its id is the place that it tells.
pub(crate) fn server(wire: Wire, message: &ServerMessage<'_>) -> Bytes {
    match wire {
        Wire::WebSocket | Wire::Deflated => {
            let mut draft = Draft::new(256);
            message.write(&mut draft.0);
            draft.finish()
        }
        Wire::Events => written(|out| event_stream::write_event(out, message.place(), &message.to_json())),
    }
}

/// A message as a server-sent event. `at` is where its reader would resume; without it, the reader stays where it was: so
/// is a message framed of which the reader has nothing without those that follow.
pub(crate) fn event(at: Option<&Offset>, message: &[u8]) -> Bytes {
    let id = at.map(Offset::token);
    let mut bytes = Vec::with_capacity(message.len() + 128);
    event_stream::write_event(&mut bytes, id.as_deref(), message);
    Bytes::from(bytes)
}

/// A message without metrics in every form, for sessions of every kind.
pub(crate) struct Said {
    frame: Bytes,
    event: Bytes,
}

impl Said {
    /// Says it.
    pub(crate) fn of(message: &ServerMessage<'_>) -> Self {
        Self { frame: server(Wire::WebSocket, message), event: server(Wire::Events, message) }
    }

    /// In the form that a session takes.
    pub(crate) fn on(&self, wire: Wire) -> Bytes {
        match wire {
            Wire::WebSocket | Wire::Deflated => self.frame.clone(),
            Wire::Events => self.event.clone(),
        }
    }
}

/// What shows that the server is there: a WebSocket's peer answers it, others do not.
pub(crate) fn ping(wire: Wire) -> Bytes {
    match wire {
        Wire::WebSocket | Wire::Deflated => control(Opcode::Ping, &[]),
        Wire::Events => written(|out| event_stream::write_comment(out, "ping")),
    }
}

/// The last that is written. Events have no close frame: their readers come back, and people read why in a comment.
pub(crate) fn close(wire: Wire, code: CloseCode, reason: &str) -> Bytes {
    let reason = if reason.is_empty() { code.meaning() } else { reason };
    match wire {
        Wire::WebSocket | Wire::Deflated => {
            control(Opcode::Close, &frame::close_payload(code.number(), &printable(reason)))
        }
        Wire::Events => {
            let line = printable(&format!("closed, {}: {reason}", code.number())).into_owned();
            written(|out| event_stream::write_comment(out, &line))
        }
    }
}

/// When to come back after the connection has ended; a WebSocket's peer is told in other ways.
pub(crate) fn retry(milliseconds: u64) -> Bytes {
    written(|out| event_stream::write_retry(out, milliseconds))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = Vec::with_capacity(256);
    write(&mut bytes);
    Bytes::from(bytes)
}

/// The frame of a message whose payload was compressed.
pub(crate) fn compressed(deflated: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(frame::HEADER_BYTES_MAX + deflated.len());
    frame::encode_compressed(&mut bytes, Opcode::Text, deflated);
    Bytes::from(bytes)
}

/// A ping, pong or close frame.
pub(crate) fn control(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(frame::HEADER_BYTES_MAX + payload.len());
    frame::encode(&mut bytes, opcode, payload);
    Bytes::from(bytes)
}

/// A frame in the making: room for the longest header before the payload, so that nothing is copied once the payload's
/// length is known.
struct Draft(Vec<u8>);

impl Draft {
    fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(frame::HEADER_BYTES_MAX + capacity);
        bytes.resize(frame::HEADER_BYTES_MAX, 0);
        Self(bytes)
    }

    fn finish(mut self) -> Bytes {
        let payload = self.0.len() - frame::HEADER_BYTES_MAX;
        let header = frame::header(Opcode::Text, payload);
        let start = frame::HEADER_BYTES_MAX - header.len();
        self.0[start..frame::HEADER_BYTES_MAX].copy_from_slice(&header);
        // Its room to spare would be held as long as the frame is, and counted nowhere.
        self.0.shrink_to_fit();
        let mut bytes = Bytes::from(self.0);
        bytes.advance(start);
        bytes
    }
}

fn envelope(
    envelope: &Envelope,
    stored_ns: i64,
    offset: &Offset,
    format: Format,
    keep: impl Fn(&Line<'_>) -> bool,
) -> Option<Bytes> {
    let mut lines = valid_lines(envelope).filter(keep).peekable();
    lines.peek()?;
    let received_ns = received_ns(envelope, stored_ns);
    let expected = match format {
        Format::Json => envelope.lines.len() * 2 + 128,
        Format::Influx | Format::InfluxEscaped => envelope.lines.len() + 64,
    };
    let mut draft = Draft::new(expected);
    write_head(&mut draft.0, format, &offset.token(), &envelope.channel);
    match format {
        Format::Json => {
            json::write_metrics(&mut draft.0, lines, received_ns);
            draft.0.push(b'}');
        }
        Format::Influx | Format::InfluxEscaped => {
            lines.for_each(|line| write_line(&mut draft.0, format, &line, received_ns));
        }
    }
    Some(draft.finish())
}

/// Lines that can be shown. Those that others wrote to the bus may be bad; ours never are, and ingest has counted its own
/// bad lines.
fn valid_lines(envelope: &Envelope) -> impl Iterator<Item = Line<'_>> {
    line::lines(&envelope.lines).filter_map(Result::ok)
}

/// All lines that can be shown.
pub(crate) fn lines(envelope: &Envelope) -> Vec<Line<'_>> {
    valid_lines(envelope).collect()
}

/// The time of lines that carry none.
pub(crate) fn received_ns(envelope: &Envelope, stored_ns: i64) -> i64 {
    envelope.stamp.map_or(stored_ns, |stamp| stamp.received_ns)
}

/// What stands before the lines of a frame with metrics.
pub(crate) fn write_head(out: &mut Vec<u8>, format: Format, token: &str, channel: &Channel) {
    match format {
        Format::Json => message::write_metrics_open(out, token, channel.collector.as_str()),
        Format::Influx | Format::InfluxEscaped => message::write_influx_head(out, token),
    }
}

/// One line, with the time of its arrival when others published it without one.
pub(crate) fn write_line(out: &mut Vec<u8>, format: Format, line: &Line<'_>, received_ns: i64) {
    match format {
        Format::Json => {
            out.push(b'{');
            json::write_members(out, line, received_ns);
            out.push(b'}');
        }
        Format::Influx | Format::InfluxEscaped => {
            if format == Format::InfluxEscaped {
                line::write_physical(out, line.text());
            } else {
                out.extend_from_slice(line.text().as_bytes());
            }
            if line.timestamp().is_none() {
                out.push(b' ');
                out.extend_from_slice(itoa::Buffer::new().format(received_ns).as_bytes());
            }
            out.push(b'\n');
        }
    }
}
