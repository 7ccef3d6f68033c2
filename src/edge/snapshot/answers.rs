//! Answers: the last values in one piece, for those who ask once. Encoded once for all that ask the same at the same time.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::encoded::{Encoded, Room};
use super::{FRESH, Snapshots, Stopped};
use crate::edge::Shared;
use crate::edge::encode;
use crate::edge::hub::Hub;
use crate::edge::series::{Extract, Group};
use crate::fairness::Charge;
use crate::ops::meters::Meters;
use crate::proto::filter::FilterSet;
use crate::proto::json;
use crate::proto::line;
use crate::proto::message::{Format, write_influx_head, write_influx_incomplete};
use crate::proto::offset::Offset;
use crate::sync::Locked;

/// Bytes of a part. A connection holds some of them until its client takes them, whatever becomes of the answer.
const PART_BYTES: usize = 16 * 1024;
/// A smaller answer is made anew when something has come since, so that a client that has seen a value finds it there.
const LARGE_BYTES: usize = 256 * 1024;

/// What an answer is of.
type Key = (FilterSet, Format);

/// An answer, whole.
pub(crate) struct Answer {
    offset: Offset,
    made: Instant,
    pub(crate) parts: Arc<Encoded<Bytes>>,
}

/// The newest answers.
pub(super) type Answers = Locked<HashMap<Key, Arc<OnceCell<Arc<Answer>>>>>;

impl Answer {
    fn of(extract: Extract, format: Format, room: &Room, charge: Charge) -> Arc<Self> {
        let offset = (*extract.at.offset).clone();
        let (parts, bytes) = Writing::begin(&extract, format).all(extract.groups);
        Arc::new(Self { offset, made: Instant::now(), parts: room.keep(parts, bytes, charge) })
    }

    pub(super) fn is_old(self: &Arc<Self>) -> bool {
        self.made.elapsed() >= FRESH
    }

    /// Whether it will do for a request at this place.
    fn is_good(&self, at: &Offset) -> bool {
        let is_new = at.is_at_or_before(&self.offset);
        let is_fresh = self.offset.is_at_or_before(at) && self.made.elapsed() < FRESH;
        let is_whole = self.parts.is_whole();
        is_whole && (is_new || is_fresh && self.parts.bytes() >= LARGE_BYTES)
    }
}

impl Snapshots {
    /// Keeps an answer that was made elsewhere, for its one client to take, when there is room for it.
    pub(crate) async fn keep(&self, meters: &Meters, answer: &[u8]) -> Arc<Encoded<Bytes>> {
        let charge = self.room.enter(meters).await;
        let parts = answer.chunks(PART_BYTES).map(Bytes::copy_from_slice).collect();
        self.room.keep(parts, answer.len(), charge)
    }

    /// All last values that match now, or were there just before if they are many.
    ///
    /// # Errors
    /// See [`Snapshots::extract`].
    pub(crate) async fn answer(
        &self,
        shared: &Shared,
        hub: &Arc<Hub>,
        filters: &FilterSet,
        format: Format,
    ) -> Result<Arc<Answer>, Stopped> {
        let at = hub.head().offset;
        let key = (filters.clone(), format);
        loop {
            let (cell, is_new, outdated) = self.answers.with(|answers| {
                let is_good = |cell: &&Arc<OnceCell<Arc<Answer>>>| {
                    cell.get().is_none_or(|made| made.offset.epoch == at.epoch && made.made.elapsed() < FRESH)
                };
                match answers.get(&key).filter(is_good) {
                    Some(cell) => (cell.clone(), false, None),
                    None => {
                        let cell = Arc::new(OnceCell::new());
                        (cell.clone(), true, answers.insert(key.clone(), cell))
                    }
                }
            });
            drop(outdated);
            let room = self.room.clone();
            let make = || {
                self.extract(shared, hub, filters, move |extract, charge| {
                    Answer::of(extract, format, &room, charge)
                })
            };
            let answer = cell.get_or_try_init(make).await?.clone();
            if is_new || answer.is_good(&at) {
                return Ok(answer);
            }
            // The next look finds none, and makes one: unless somebody else has.
            let outdated = self.answers.with(|answers| {
                let is_same = answers.get(&key).is_some_and(|other| Arc::ptr_eq(other, &cell));
                if is_same { answers.remove(&key) } else { None }
            });
            drop(outdated);
        }
    }
}

/// The answer in the making.
struct Writing {
    format: Format,
    out: Vec<u8>,
    separator: &'static [u8],
}

impl Writing {
    fn begin(extract: &Extract, format: Format) -> Self {
        let mut out = Vec::with_capacity(PART_BYTES);
        let offset = extract.at.offset.token();
        match format {
            Format::Json => {
                out.extend_from_slice(b"{\"offset\":\"");
                // An offset has no character that JSON would escape.
                out.extend_from_slice(offset.as_bytes());
                if let Some(why) = extract.incomplete {
                    out.extend_from_slice(b"\",\"incomplete\":\"");
                    out.extend_from_slice(why.as_str().as_bytes());
                }
                out.extend_from_slice(b"\",\"metrics\":[");
            }
            Format::Influx | Format::InfluxEscaped => {
                write_influx_head(&mut out, &offset);
                write_influx_incomplete(&mut out, extract.incomplete);
            }
        }
        Self { format, out, separator: b"{\"collector\":" }
    }

    fn line(&mut self, group: &Group, line: &line::Line<'_>) {
        match self.format {
            Format::Json => {
                self.out.extend_from_slice(self.separator);
                self.separator = b",{\"collector\":";
                json::write_string(&mut self.out, group.collector.as_str());
                self.out.push(b',');
                // Every line of the store has its time.
                json::write_members(&mut self.out, line, 0);
                self.out.push(b'}');
            }
            // Every line of the store has its time.
            Format::Influx | Format::InfluxEscaped => encode::write_line(&mut self.out, self.format, line, 0),
        }
    }

    /// All of it, in parts, and how many bytes they have.
    fn all(mut self, groups: Vec<Group>) -> (Vec<Bytes>, usize) {
        let (mut parts, mut bytes) = (Vec::new(), 0);
        for group in groups {
            for line in line::lines(&group.lines).filter_map(Result::ok) {
                self.line(&group, &line);
                if self.out.len() >= PART_BYTES {
                    bytes += self.out.len();
                    parts.push(Bytes::copy_from_slice(&self.out));
                    self.out.clear();
                }
            }
        }
        if self.format == Format::Json {
            self.out.extend_from_slice(b"]}");
        }
        bytes += self.out.len();
        parts.push(Bytes::from(self.out));
        (parts, bytes)
    }
}
