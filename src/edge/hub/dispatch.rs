//! From an entry to the frames that views get of it.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::State;
use crate::edge::batch::Frame;
use crate::edge::books::Passage;
use crate::edge::encode;
use crate::edge::pieces::Pieces;
use crate::edge::ring::{Entry, Item};
use crate::edge::wire::Wire;
use crate::proto::filter::Share;
use crate::proto::message::Format;

impl State {
    /// Gives an entry's frame to every view that wants it; the others are not even looked at.
    pub(super) fn dispatch(&mut self, entry: &Entry) {
        let first = self.ring.first_index();
        let frame = |bytes, own, passage| Frame {
            index: entry.index,
            offset: entry.offset.clone(),
            bytes,
            own,
            passage,
        };
        match &entry.item {
            Item::Gap { from, reason } => {
                let passage = Some(Arc::new(Passage::gap(from, &entry.offset, *reason)));
                for view in self.index.values() {
                    let bytes = self.compressor.whole(entry, view.key());
                    bytes
                        .into_iter()
                        .for_each(|bytes| view.push(frame(bytes, false, passage.clone()), first));
                }
            }
            Item::Envelope(stored) => {
                let lines = OnceCell::new();
                let read = || lines.get_or_init(|| encode::lines(&stored.envelope)).as_slice();
                let mut pieces = Pieces::new(entry, stored);
                let received_ns = encode::received_ns(&stored.envelope, stored.stored_ns);
                // Parts in other frames by their lines: views that take the same of it share the work.
                let mut framed: HashMap<(Format, Wire, Vec<Range<u32>>), Bytes> = HashMap::new();
                for (view, share) in self.index.find(&stored.envelope.channel, read) {
                    let (key, own) = (view.key(), share != Share::Whole);
                    let Some(plain) = pieces.frame(share, key.format, lines.get().map(Vec::as_slice)) else {
                        continue;
                    };
                    let bytes = match share {
                        Share::Whole => self.compressor.shared(entry, plain, key),
                        Share::Lines(_) if key.wire == Wire::WebSocket => plain,
                        Share::Lines(runs) => framed
                            .entry((key.format, key.wire, runs.to_vec()))
                            .or_insert_with(|| self.compressor.own(plain, key.wire, Some(&entry.offset)))
                            .clone(),
                    };
                    view.note_received(received_ns);
                    view.push(frame(bytes, own, None), first);
                }
            }
        }
        self.ring.evict();
    }
}
