//! An envelope's spelling on the bus: subject, headers, body. Pure.

use async_nats::header::{NATS_MESSAGE_ID, NATS_SEQUENCE, NATS_SUBJECT, NATS_TIME_STAMP};
use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;

use crate::broker::{Outgoing, Stored};
use crate::proto::channel::{CollectorId, escape_token};
use crate::proto::envelope::{Envelope, Stamp, channel_of_suffix, header, subject_suffix};
use crate::proto::offset::{Sequence, Shard};

const REVISION: HeaderName = HeaderName::from_static(header::REVISION);
const SEQUENCE: HeaderName = HeaderName::from_static(header::SEQUENCE);
const RECEIVED: HeaderName = HeaderName::from_static(header::RECEIVED);

/// Where ingest publishes: `<name>.in.<shard>.<collector>.<measurement>`.
pub(super) fn subject(name: &str, shard: Shard, outgoing: &Outgoing) -> String {
    format!("{name}.in.{}", subject_suffix(shard, &outgoing.envelope.channel))
}

/// All subjects of a collector: `<name>.in.<shard>.<collector>.*`.
pub(super) fn subjects_of(name: &str, shard: Shard, collector: &CollectorId) -> String {
    format!("{name}.in.{}.{}.*", shard.0, escape_token(collector.as_str()))
}

/// The stamp and the id. `None` when the id cannot be a header: it holds a line break.
pub(super) fn headers(outgoing: &Outgoing) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if !outgoing.message_id.is_empty() {
        headers.insert(NATS_MESSAGE_ID, outgoing.message_id.parse::<HeaderValue>().ok()?);
    }
    if let Some(stamp) = &outgoing.envelope.stamp {
        let mut digits = itoa::Buffer::new();
        headers.insert(REVISION, digits.format(stamp.revision));
        headers.insert(SEQUENCE, digits.format(stamp.sequence));
        headers.insert(RECEIVED, digits.format(stamp.received_ns));
    }
    Some(headers)
}

/// Reads a message of the live flow, or of a batch direct get. `None` for what is no stored message: it has no sequence.
pub(super) fn stored(message: Message) -> Option<Stored> {
    let headers = message.headers.as_ref()?;
    // Both ways say where the message was published; the subject it arrived on differs.
    let channel = channel_of_suffix(tokens_after_shard(headers.get_last(NATS_SUBJECT)?.as_str())?);
    let sequence = sequence(headers)?;
    let stored_at: jiff::Timestamp = headers.get_last(NATS_TIME_STAMP)?.as_str().parse().ok()?;
    let stored_ns = i64::try_from(stored_at.as_nanosecond()).ok()?;
    let stamp = stamp(headers);
    // A copy: the payload is a part of the connection's read buffer, which holds some 64 KiB of whatever came along with it,
    // as long as any part of it is held. Kept in the ring, it would keep what came and went for clients that catch up.
    let lines = Bytes::copy_from_slice(&message.payload);
    Some(Stored { sequence, stored_ns, envelope: Envelope { channel, stamp, lines } })
}

/// The sequence under which a stored message is delivered. A publisher may have set this header itself: the server's own
/// comes last, as with every header it adds.
pub(super) fn sequence(headers: &HeaderMap) -> Option<Sequence> {
    headers.get_last(NATS_SEQUENCE)?.as_str().parse().ok()
}

/// All three headers, or none: half a stamp is somebody else's header.
fn stamp(headers: &HeaderMap) -> Option<Stamp> {
    Some(Stamp {
        revision: headers.get(REVISION)?.as_str().parse().ok()?,
        sequence: headers.get(SEQUENCE)?.as_str().parse().ok()?,
        received_ns: headers.get(RECEIVED)?.as_str().parse().ok()?,
    })
}

/// `<collector>.<measurement>` of `<name>.in.<shard>.<collector>.<measurement>`; the name is one token.
fn tokens_after_shard(subject: &str) -> Option<&str> {
    subject.splitn(4, '.').nth(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::channel::Channel;

    fn outgoing(message_id: &str) -> Outgoing {
        let channel = Channel::new(CollectorId::new("web.01").unwrap(), "cpu");
        let stamp = Some(Stamp { revision: 3, sequence: 9, received_ns: -5 });
        let envelope = Envelope { channel, stamp, lines: Bytes::from_static(b"cpu value=1 1") };
        Outgoing { envelope, message_id: message_id.to_owned() }
    }

    /// As the server delivers it: with headers of its own.
    fn delivered(mut headers: HeaderMap, subject: &str) -> Message {
        headers.insert(NATS_SUBJECT, subject);
        headers.insert(NATS_SEQUENCE, "42");
        headers.insert(NATS_TIME_STAMP, "2026-11-22T04:02:12.231504101Z");
        Message {
            subject: "telecast.live.0.x".into(),
            reply: None,
            payload: Bytes::from_static(b"cpu value=1 1"),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn an_envelope_is_read_back_with_its_stamp() {
        let sent = outgoing("id");
        let subject = subject("telecast", Shard(3), &sent);
        assert_eq!(subject, "telecast.in.3.web%2E01.cpu");
        let stored = stored(delivered(headers(&sent).unwrap(), &subject)).unwrap();
        assert_eq!(stored.envelope, sent.envelope);
        assert_eq!((stored.sequence, stored.stored_ns), (42, 1_795_320_132_231_504_101));
    }

    #[test]
    fn a_foreign_message_is_an_envelope_without_a_stamp() {
        let mut half = HeaderMap::new();
        half.insert(REVISION, "3");
        let stored = stored(delivered(half, "telecast.in.0.web.example.org.cpu")).unwrap();
        assert_eq!(stored.envelope.stamp, None);
        assert_eq!(stored.envelope.channel.collector.as_str(), "web.example.org");
    }

    #[test]
    fn a_publisher_cannot_forge_its_place() {
        let mut message = delivered(HeaderMap::new(), "telecast.in.0.web.cpu");
        let own = message.headers.take().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(NATS_SEQUENCE, "7");
        for (name, values) in own.iter() {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
        message.headers = Some(headers);
        assert_eq!(stored(message).unwrap().sequence, 42);
    }

    #[test]
    fn what_names_no_channel_has_its_place_in_the_log_all_the_same() {
        let stored = stored(delivered(HeaderMap::new(), "telecast.in.0.cpu")).unwrap();
        assert_eq!(stored.envelope.channel.collector.as_str(), "unknown");
    }

    #[test]
    fn an_id_with_a_line_break_is_no_header() {
        assert!(headers(&outgoing("a\r\nEvil: header")).is_none());
        assert!(headers(&outgoing("")).unwrap().get(NATS_MESSAGE_ID).is_none());
    }
}
