//! Frames of every form: each made once, for all clients that take this form, and compressed for those that negotiated it.

use std::sync::Arc;

use bytes::Bytes;
use metrics::Counter;

use crate::config::CompressionSettings;
use crate::edge::encode;
use crate::edge::ring::{Entry, Item, Other};
use crate::edge::view::ViewKey;
use crate::edge::wire::Wire;
use crate::ops::meters::Meters;
use crate::proto::deflate::Deflater;
use crate::proto::frame;
use crate::proto::offset::Offset;
use crate::sync::Locked;

/// Makes the frames of views, in the form that the view has.
pub(crate) struct Compressor {
    settings: CompressionSettings,
    /// Those not in use. There are as many as threads have ever compressed at the same time: a few.
    deflaters: Locked<Vec<Deflater>>,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl Compressor {
    /// Without memory, until something is to be compressed.
    pub(crate) fn new(settings: CompressionSettings, meters: &Meters) -> Arc<Self> {
        let (bytes_in, bytes_out) = (meters.compressed_bytes_in.clone(), meters.compressed_bytes_out.clone());
        Arc::new(Self { settings, deflaters: Locked::empty("idle deflaters"), bytes_in, bytes_out })
    }

    /// Whether offers of clients are accepted.
    pub(crate) fn is_enabled(&self) -> bool {
        self.settings.enabled
    }

    /// The entry as it is for everybody whose filters take all of it: one frame for all views of the same form.
    pub(crate) fn whole(&self, entry: &Entry, key: &ViewKey) -> Option<Bytes> {
        let plain = entry.frame(key.format, |entry| encode::whole(entry, key.format))?;
        Some(self.shared(entry, plain, key))
    }

    /// The whole entry, of which `plain` is the frame for WebSockets, in the form of `key`.
    pub(crate) fn shared(&self, entry: &Entry, plain: Bytes, key: &ViewKey) -> Bytes {
        match (&entry.item, key.wire) {
            (Item::Envelope(_), Wire::Deflated) => {
                entry.other_frame(Other::Deflated, key.format, plain, |plain| self.compress(plain))
            }
            (_, Wire::Events) => entry.other_frame(Other::Event, key.format, plain, |plain| {
                Some(encode::event(Some(&entry.offset), frame::payload(plain)))
            }),
            (Item::Gap { .. }, Wire::Deflated) | (_, Wire::WebSocket) => plain,
        }
    }

    /// The same for a replay: what live views have had made is shared, and nothing is added to the ring.
    pub(crate) fn replayed(&self, entry: &Entry, key: &ViewKey) -> Option<Bytes> {
        let plain = entry.ready_frame(key.format).unwrap_or_else(|| encode::whole(entry, key.format))?;
        let other = match (&entry.item, key.wire) {
            (Item::Envelope(_), Wire::Deflated) => Other::Deflated,
            (_, Wire::Events) => Other::Event,
            (Item::Gap { .. }, Wire::Deflated) | (_, Wire::WebSocket) => return Some(plain),
        };
        Some(match entry.ready_other_frame(other, key.format) {
            Some(made) => made.unwrap_or(plain),
            None => self.own(plain, key.wire, Some(&entry.offset)),
        })
    }

    /// A frame that was made for one view or session, in the form of `wire`. `at` is where its reader would resume, unless it
    /// belongs to what follows: see [`encode::event`].
    pub(crate) fn own(&self, plain: Bytes, wire: Wire, at: Option<&Offset>) -> Bytes {
        match wire {
            Wire::WebSocket => plain,
            Wire::Deflated => self.compress(&plain).unwrap_or(plain),
            Wire::Events => encode::event(at, frame::payload(&plain)),
        }
    }

    /// The compressed form of a frame, if that is smaller and the frame is not too small to bother.
    fn compress(&self, plain: &Bytes) -> Option<Bytes> {
        let payload = frame::payload(plain);
        if payload.len() < self.settings.message_bytes_min {
            return None;
        }
        // Not held while compressing: two threads compress with two.
        let idle = self.deflaters.with(Vec::pop);
        let mut deflater = idle.unwrap_or_else(|| Deflater::new(self.settings.level));
        let deflated = deflater.deflate(payload).map(encode::compressed);
        self.deflaters.with(|idle| idle.push(deflater));
        self.bytes_in.increment(plain.len() as u64);
        self.bytes_out.increment(deflated.as_ref().unwrap_or(plain).len() as u64);
        deflated
    }
}
