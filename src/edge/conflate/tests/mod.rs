//! Claims about what views with an interval are given, flush by flush, and a naive model that they are held against.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::broker::Stored;
use crate::config::{CompressionSettings, SnapshotSettings};
use crate::edge::books::{Books, Fates, Passage, Settled};
use crate::edge::compress::Compressor;
use crate::edge::hub::{Hub, Start, ViewLimits};
use crate::edge::sequencer::Ordered;
use crate::edge::view::{Pending, Seat, ViewKey};
use crate::edge::wire::Wire;
use crate::ops::meters::Meters;
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::envelope::Envelope;
use crate::proto::filter::FilterSet;
use crate::proto::frame;
use crate::proto::message::Format;
use crate::proto::offset::{Epoch, Sequence, Shard};

mod flush;
mod model;
mod resume;

const UNBOUNDED: SnapshotSettings =
    SnapshotSettings { series_max: usize::MAX, bytes_max: usize::MAX, age_max: Duration::MAX };

/// An edge's middle, whose groups flush when the test says so.
struct Stage {
    hub: Arc<Hub>,
    compressor: Arc<Compressor>,
    meters: Meters,
    new_groups: mpsc::UnboundedReceiver<GroupKey>,
    groups: Vec<(GroupKey, Matcher)>,
    sequences: Vec<Sequence>,
}

/// A client of a view, which has read everything so far.
struct Reader {
    seat: Seat,
    cursor: u64,
    index: Index,
    books: Books,
}

impl Stage {
    fn new(shards: u16, limits: SnapshotSettings) -> Self {
        let meters = Meters::register();
        let settings = CompressionSettings { enabled: false, level: 1, message_bytes_min: 256 };
        let compressor = Compressor::new(settings, &meters);
        let epochs = vec![Epoch(1); usize::from(shards)];
        let series = SeriesStore::new(Offset::start(Epoch::combine(&epochs), shards), limits);
        let hub = Hub::new(
            epochs,
            series,
            64 << 20,
            ViewLimits::of_bytes(16 << 20),
            Vec::new(),
            compressor.clone(),
        );
        let new_groups = hub.take_new_groups().unwrap();
        let sequences = vec![0; usize::from(shards)];
        Self { hub, compressor, meters, new_groups, groups: Vec::new(), sequences }
    }

    fn write(&mut self, shard: u16, channel: &str, lines: &str) {
        let (collector, measurement) = channel.split_once('.').unwrap();
        let channel = Channel::new(CollectorId::new(collector).unwrap(), measurement);
        let lines = Bytes::copy_from_slice(lines.as_bytes());
        let sequence = &mut self.sequences[usize::from(shard)];
        *sequence += 1;
        let stored =
            Stored { sequence: *sequence, stored_ns: 1, envelope: Envelope { channel, stamp: None, lines } };
        self.hub.append(Shard(shard), vec![Ordered::Envelope(stored)]);
    }

    fn lose(&mut self, shard: u16, envelopes: u64) {
        let sequence = &mut self.sequences[usize::from(shard)];
        let first = *sequence + 1;
        *sequence += envelopes;
        self.hub.append(Shard(shard), vec![Ordered::Gone(first..=*sequence)]);
    }

    fn join(&self, filter: &str, format: Format) -> Reader {
        let filters = FilterSet::parse(filter.split(' ')).unwrap();
        let key = ViewKey { filters, format, wire: Wire::WebSocket, interval_ms: Some(1000) };
        let attachment = self.hub.attach_to(&key, None);
        let Start::Live(cursor, index) = attachment.start else { panic!("at its view's place") };
        Reader { seat: attachment.view, cursor, index, books: Books::open(1, attachment.at) }
    }

    /// All groups flush once.
    fn flush(&mut self) {
        self.hub.with_series(|_| {});
        while let Ok(key) = self.new_groups.try_recv() {
            self.groups.push((key, Matcher::default()));
        }
        self.groups.retain_mut(|(key, matcher)| {
            let Some(round) = self.hub.collect(*key, matcher) else { return false };
            round.flush(matcher, &self.compressor, &self.meters, || {});
            true
        });
    }

    fn head(&self) -> String {
        self.hub.head().offset.token()
    }
}

impl Reader {
    /// The messages that have come since the last call.
    fn texts(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match self.seat.view().pending(self.cursor, 1_000, 1 << 20) {
                Pending::Frames(batch) => {
                    let frames = batch.frames();
                    self.cursor += frames.len() as u64;
                    let progress = batch.progress(batch.wire().len());
                    self.books.pass(progress.index - self.index, &batch.passage(0, frames.len()));
                    if let Some(from) = batch.reset_from() {
                        self.books.pass_reset(from, &progress.offset);
                    }
                    self.index = progress.index;
                    let text = |frame: &Bytes| String::from_utf8(frame::payload(frame).to_vec()).unwrap();
                    texts.extend(frames.iter().map(|(_, frame)| text(frame)));
                }
                Pending::Nothing => return texts,
                Pending::Overtaken { .. } => panic!("overtaken"),
            }
        }
    }

    /// Its account, after it has read everything.
    fn account(&mut self) -> Settled {
        assert!(self.texts().is_empty());
        let (_, index, place) = self.seat.view().place();
        self.books.pass(index - self.index, &Passage::default());
        self.index = index;
        let settled = self.books.settle(&place);
        assert!(settled.is_balanced(), "{settled:?}");
        settled
    }

    fn messages(&mut self) -> Vec<Value> {
        self.texts().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }
}

/// `collector name v` of each metric.
fn values(messages: &[Value]) -> Vec<String> {
    let of_message = |message: &Value| {
        let collector = message["collector"].as_str().unwrap().to_owned();
        let metrics = message["metrics"].as_array().unwrap().clone();
        metrics
            .into_iter()
            .map(move |metric| {
                format!("{collector} {} {}", metric["name"].as_str().unwrap(), metric["fields"]["v"])
            })
            .collect::<Vec<_>>()
    };
    messages.iter().flat_map(of_message).collect()
}
