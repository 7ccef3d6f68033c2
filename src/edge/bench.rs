//! Private steps of an edge, whole, as `bench/micro` measures them. Only there with the feature `bench`, and promised to nobody.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::broker::Stored;
use crate::config::{CompressionSettings, SnapshotSettings};
use crate::edge::batch::Batch;
use crate::edge::compress::Compressor;
use crate::edge::doorbell::Doorbell;
use crate::edge::hub::{Hub, ViewLimits};
use crate::edge::outbox::{Outbox, SLICES_MAX};
use crate::edge::sequencer::Ordered;
use crate::edge::series::SeriesStore;
use crate::edge::view::{Pending, Seat, ViewKey};
use crate::edge::wire::Wire;
use crate::ops::meters::Meters;
use crate::proto::filter::FilterSet;
use crate::proto::message::Format;
use crate::proto::offset::{Epoch, Offset, Shard};

/// What is between a follower and the sockets: a ring, views, and a writer that listens to them.
pub struct Middle {
    hub: Arc<Hub>,
    doorbell: Arc<Doorbell>,
    seats: Vec<Seat>,
}

/// An envelope in its place.
pub struct Arrival(Ordered);

/// What a view's sessions at one cursor have to write.
pub struct Collected(Batch);

impl From<Stored> for Arrival {
    fn from(stored: Stored) -> Self {
        Self(Ordered::Envelope(stored))
    }
}

impl Middle {
    /// A ring and views of up to `bytes_max` each, with a session per filter set, which gets JSON.
    pub fn new(views: impl IntoIterator<Item = FilterSet>, bytes_max: usize) -> Self {
        let doorbell = Doorbell::new(0);
        let meters = Meters::register();
        let settings = CompressionSettings { enabled: false, level: 1, message_bytes_min: 256 };
        let compressor = Compressor::new(settings, &meters);
        let settings = SnapshotSettings { series_max: 1 << 20, bytes_max: 1 << 30, age_max: Duration::MAX };
        let series = SeriesStore::new(Offset::start(Epoch(1), 1), settings);
        let hub = Hub::new(
            vec![Epoch(1)],
            series,
            bytes_max,
            ViewLimits::of_bytes(bytes_max),
            vec![doorbell.clone()],
            compressor,
        );
        let seat = |filters| {
            let key = ViewKey { filters, format: Format::Json, wire: Wire::WebSocket, interval_ms: None };
            let seat = hub.attach_to(&key, None).view;
            seat.view().listen(doorbell.clone());
            seat
        };
        let seats = views.into_iter().map(seat).collect();
        Self { hub, doorbell, seats }
    }

    /// Puts an envelope into the ring and its frames into the views that want it.
    pub fn append(&self, arrival: Arrival) {
        self.hub.append(Shard(0), vec![arrival.0]);
    }

    /// The writer has looked: it is to be told of whatever grows from now on. Returns how many views had grown.
    pub fn attend(&self) -> usize {
        self.seats.iter().for_each(|seat| seat.view().attend(self.doorbell.number));
        self.doorbell.take_grown().len()
    }

    /// What the first view has for a session that is `frames` behind.
    pub fn collect(&self, frames: usize) -> Option<Collected> {
        let view = self.seats.first()?.view();
        match view.pending(view.end().checked_sub(frames as u64)?, frames, usize::MAX) {
            Pending::Frames(batch) => Some(Collected(batch)),
            Pending::Nothing | Pending::Overtaken { .. } => None,
        }
    }
}

impl Collected {
    /// What to write.
    pub fn wire(&self) -> &[u8] {
        self.0.wire()
    }

    /// How many frames a socket has begun that took `written` bytes.
    pub fn progress(&self, written: usize) -> usize {
        self.0.progress(written).begun
    }
}

/// Writes the rest of a frame and a control frame behind it to a socket that takes `first_bytes`, then all. Returns the
/// number of messages that completed, which a control frame is not.
pub fn write_rest(rest: Bytes, control: Bytes, first_bytes: usize) -> u64 {
    let mut outbox = Outbox::default();
    outbox.put_rest(rest);
    let fits = outbox.put_control(control);
    debug_assert!(fits, "an outbox takes more than one control frame");
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let filled = outbox.fill(&mut slices);
    let pending: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
    outbox.advance(first_bytes) + outbox.advance(pending - first_bytes)
}
