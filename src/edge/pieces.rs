//! Lines, each encoded at most once per format, and the frames that views with tag predicates take of an envelope's. Pure.
//!
//! A thousand views that take different lines of an envelope share the work of encoding them: what is left per view is
//! to copy its lines behind a header. Nothing of this outlives the moment in which an entry is handed to the views.

use std::ops::Range;

use bytes::Bytes;

use crate::broker::Stored;
use crate::edge::encode;
use crate::edge::ring::Entry;
use crate::proto::filter::Share;
use crate::proto::frame::{self, Opcode};
use crate::proto::line::Line;
use crate::proto::message::Format;
use crate::proto::offset::Offset;

/// What views get of one entry.
pub(crate) struct Pieces<'a> {
    entry: &'a Entry,
    stored: &'a Stored,
    formats: [Option<Encoded>; Format::COUNT],
}

/// Lines in one format, each encoded the first time somebody wants it.
pub(crate) struct Encoded {
    format: Format,
    received_ns: i64,
    /// What every frame of the lines begins with, then lines as they were asked for.
    bytes: Vec<u8>,
    head_bytes: usize,
    /// Where each line is; nowhere yet, if that is empty.
    spans: Vec<Range<usize>>,
}

impl<'a> Pieces<'a> {
    /// Of `entry`, which is the envelope `stored`.
    pub(crate) fn new(entry: &'a Entry, stored: &'a Stored) -> Self {
        Self { entry, stored, formats: [const { None }; Format::COUNT] }
    }

    /// The frame of one share. `lines` are the envelope's, if they had to be read: without them, only the whole can be
    /// had. `None` when there is nothing to show.
    pub(crate) fn frame(
        &mut self,
        share: Share<'_>,
        format: Format,
        lines: Option<&[Line<'_>]>,
    ) -> Option<Bytes> {
        let Self { entry, stored, formats } = self;
        let encoded = |lines: &[Line<'_>]| Encoded::of(stored, &entry.offset, format, lines.len());
        let slot = &mut formats[format as usize];
        match (share, lines) {
            (Share::Whole, None) => entry.frame(format, |entry| encode::whole(entry, format)),
            (Share::Whole, Some(lines)) => entry.frame(format, |_| {
                let all = 0..lines.len() as u32;
                (!lines.is_empty()).then(|| slot.get_or_insert_with(|| encoded(lines)).frame(&[all], lines))
            }),
            (Share::Lines(runs), lines) => {
                lines.map(|lines| slot.get_or_insert_with(|| encoded(lines)).frame(runs, lines))
            }
        }
    }
}

impl Encoded {
    /// Of so many lines that have their times, none of which anybody has asked for yet.
    pub(crate) fn new(format: Format, lines: usize) -> Self {
        Self { format, received_ns: 0, bytes: Vec::new(), head_bytes: 0, spans: vec![0..0; lines] }
    }

    /// One of them.
    pub(crate) fn line(&mut self, number: usize, line: &Line<'_>) -> &[u8] {
        let span = self.span(number, line);
        &self.bytes[span]
    }

    fn of(stored: &Stored, offset: &Offset, format: Format, lines: usize) -> Self {
        let mut bytes = Vec::with_capacity(stored.envelope.lines.len() + 128);
        encode::write_head(&mut bytes, format, &offset.token(), &stored.envelope.channel);
        let head_bytes = bytes.len();
        let received_ns = encode::received_ns(&stored.envelope, stored.stored_ns);
        Self { format, received_ns, bytes, head_bytes, spans: vec![0..0; lines] }
    }

    /// Copies the lines of `runs` behind a header: the same bytes as if they had been encoded for this frame.
    fn frame(&mut self, runs: &[Range<u32>], lines: &[Line<'_>]) -> Bytes {
        let numbers = || runs.iter().cloned().flatten().map(|number| number as usize);
        let mut payload = self.head_bytes;
        let mut count = 0;
        for number in numbers() {
            payload += self.span(number, &lines[number]).len();
            count += 1;
        }
        let (open, between, close): (&[u8], &[u8], &[u8]) = match self.format {
            Format::Json => (b"[", b",", b"]}"),
            Format::Influx | Format::InfluxEscaped => (b"", b"", b""),
        };
        payload += open.len() + between.len() * (count - 1) + close.len();
        let header = frame::header(Opcode::Text, payload);
        let mut bytes = Vec::with_capacity(header.len() + payload);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&self.bytes[..self.head_bytes]);
        let mut separator = open;
        for number in numbers() {
            bytes.extend_from_slice(separator);
            bytes.extend_from_slice(&self.bytes[self.spans[number].clone()]);
            separator = between;
        }
        bytes.extend_from_slice(close);
        debug_assert_eq!(bytes.len(), header.len() + payload);
        Bytes::from(bytes)
    }

    fn span(&mut self, number: usize, line: &Line<'_>) -> Range<usize> {
        if self.spans[number].is_empty() {
            let start = self.bytes.len();
            encode::write_line(&mut self.bytes, self.format, line, self.received_ns);
            self.spans[number] = start..self.bytes.len();
        }
        self.spans[number].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::ring::{Item, Ring};
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::envelope::Envelope;
    use crate::proto::filter::{FilterIndex, FilterSet};
    use crate::proto::offset::{Epoch, Shard};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn entry(lines: &str) -> Arc<Entry> {
        let channel = Channel::new(CollectorId::new("web \"1\"").unwrap(), "cpu");
        let envelope = Envelope { channel, stamp: None, lines: Bytes::copy_from_slice(lines.as_bytes()) };
        let mut ring = Ring::new(Offset::start(Epoch(1), 1), 1 << 20);
        ring.push(Shard(0), Stored { sequence: 1, stored_ns: 1_700_000_000_000_000_000, envelope })
    }

    proptest! {
        /// Sessions that catch up get their frames encoded one by one: the same log must read the same to them.
        #[test]
        fn a_share_is_the_same_bytes_as_if_it_were_encoded_alone(
            lines in prop::collection::vec("cpu(,k=(x|y|z))?(,l=x)? v=(1i|\"a\\\\\"b\"|.5)( 17)?|bad line|", 0..8),
            texts in prop::collection::vec("\\*\\.cpu(\\{k!?=(x|y|\\*)(,l=x)?\\})?", 1..8),
        ) {
            let entry = entry(&lines.join("\n"));
            let Item::Envelope(stored) = &entry.item else { unreachable!() };
            let mut index = FilterIndex::default();
            let mut wanted = Vec::new();
            for text in &texts {
                for format in [Format::Json, Format::Influx, Format::InfluxEscaped] {
                    let filters = FilterSet::parse([text.as_str()]).unwrap();
                    index.insert(&filters, wanted.len());
                    let alone = encode::filtered(&stored.envelope, stored.stored_ns, &entry.offset, &filters, format);
                    wanted.push((alone, format));
                }
            }
            let lines = encode::lines(&stored.envelope);
            let mut pieces = Pieces::new(&entry, stored);
            let mut got = vec![None; wanted.len()];
            for (number, share) in index.find(&stored.envelope.channel, || &lines) {
                got[*number] = pieces.frame(share, wanted[*number].1, Some(&lines));
            }
            let wanted: Vec<_> = wanted.into_iter().map(|(frame, _)| frame).collect();
            prop_assert_eq!(got, wanted);
        }
    }

    #[test]
    fn a_frame_holds_no_more_than_it_counts() {
        for format in [Format::Json, Format::Influx, Format::InfluxEscaped] {
            let text = format!("cpu,k=x v=\"{}\" 1", "x".repeat(4_000));
            let bytes = encode::whole(&entry(&text), format).unwrap().try_into_mut().unwrap();
            assert!(bytes.capacity() < bytes.len() + 16, "{} for {}", bytes.capacity(), bytes.len());
        }
    }

    #[test]
    fn who_takes_all_lines_shares_the_frame_of_the_ring() {
        let entry = entry("cpu,k=x v=1 1\ncpu,k=y v=2 2");
        let Item::Envelope(stored) = &entry.item else { unreachable!() };
        let lines = encode::lines(&stored.envelope);
        let mut pieces = Pieces::new(&entry, stored);
        let part =
            pieces.frame(Share::Lines(std::slice::from_ref(&(1..2))), Format::Json, Some(&lines)).unwrap();
        let whole = pieces.frame(Share::Whole, Format::Json, Some(&lines)).unwrap();
        let again = pieces.frame(Share::Whole, Format::Json, None).unwrap();
        assert_eq!(whole.as_ptr(), again.as_ptr());
        assert_eq!(Some(whole), encode::whole(&entry, Format::Json));
        assert!(
            part.ends_with(br#""metrics":[{"name":"cpu","tags":{"k":"y"},"fields":{"v":2},"timestamp":0}]}"#)
        );
    }
}
