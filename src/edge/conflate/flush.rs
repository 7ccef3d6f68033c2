//! One flush of a group of views: from what has changed to their frames. Pure, but for the views it gives them to.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::parts::{Stretch, messages};
use super::{Matcher, Round, Tally};
use crate::edge::batch::Frame;
use crate::edge::books::Passage;
use crate::edge::compress::Compressor;
use crate::edge::encode;
use crate::edge::pieces::Encoded;
use crate::edge::series::{Changed, PART_BYTES_MAX, Parts};
use crate::edge::view::View;
use crate::ops::meters::Meters;
use crate::proto::filter::Share;
use crate::proto::line::{self, Line};
use crate::proto::message::Format;
use crate::proto::offset::{Offset, Sequence, Shard};

/// What a view takes of the changes: of which channel, and which lines of it, if not all.
type Taken = (usize, Option<SmallVec<[Range<u32>; 2]>>);

/// Changes as lines, and what has been encoded of them.
struct Lines<'a> {
    changed: &'a Changed,
    lines: Vec<Line<'a>>,
    formats: [Option<Encoded>; Format::COUNT],
}

/// What of the changes a view has been given already, and up to where something is missing.
struct Floor {
    /// What was written up to here, it has.
    has: Option<Arc<Offset>>,
    /// What was written up to here is not counted: it lies in a gap.
    uncounted: Option<Offset>,
}

/// Whether something was written behind a place of the same log.
fn is_behind(place: &Offset, (shard, sequence): (Shard, Sequence)) -> bool {
    sequence > place.sequence(shard)
}

impl Round {
    /// Gives every view its frames; `after_each` is called when a view has got something.
    pub(crate) fn flush(
        &self,
        matcher: &mut Matcher,
        compressor: &Compressor,
        meters: &Meters,
        after_each: impl Fn(),
    ) {
        let mut lines: Vec<Lines<'_>> = self.changed.iter().map(Lines::read).collect();
        let mut taken: Vec<Vec<Taken>> = self.members.iter().map(|_| Vec::new()).collect();
        for (number, of) in lines.iter().enumerate() {
            for (position, share) in matcher.index.find(&of.changed.channel, || &of.lines) {
                let runs = match share {
                    Share::Whole => None,
                    Share::Lines(runs) => Some(runs.iter().cloned().collect()),
                };
                if let Some(taken) = taken.get_mut(*position) {
                    taken.push((number, runs));
                }
            }
        }
        for ((view, tally), taken) in self.members.iter().zip(&taken) {
            self.give(view, *tally, taken, &mut lines, compressor, meters);
            after_each();
        }
    }

    fn give(
        &self,
        view: &View,
        tally: Tally,
        taken: &[Taken],
        lines: &mut [Lines<'_>],
        compressor: &Compressor,
        meters: &Meters,
    ) {
        let (_, index, mut at) = view.place();
        let (key, sessions) = (view.key(), view.sessions() as u64);
        let frame = |bytes, index, offset, passage| Frame {
            index,
            offset,
            bytes,
            own: true,
            passage: Some(Arc::new(passage)),
        };
        let has = (index > self.flushed).then(|| at.clone());
        let mut floor = Floor { has, uncounted: None };
        let (mut index, mut frames, mut counted) = (index, Vec::new(), true);
        if let Some(gap) = &self.gap
            && let Some(to) = gap.from(index, &at)
        {
            let to = Arc::new(to);
            // The ring's step right behind the gap: what follows it up to here is one envelope a step.
            let behind = self.to.index.saturating_sub(to.positions_to(&self.to.offset)).max(index);
            let passage = Passage { steps: behind - index, ..Passage::gap(&at, &to, gap.reason) };
            frames.push(frame(encode::gap(key.wire, &at, &to, gap.reason), behind, to.clone(), passage));
            // The sequences of another log say nothing about what the view has: it gets a little more than it misses.
            floor = Floor { has: None, uncounted: Some((*to).clone()) };
            (index, at, counted) = (behind, to, gap.counted_behind);
        }
        let (parts, sent) = assemble(key.format, taken, lines, &floor);
        let conflated = counted.then(|| tally.metrics.saturating_sub(sent.metrics));
        let stretch = Stretch { from: at, to: self.to.offset.clone(), conflated };
        let whole = Passage {
            steps: self.to.index - index,
            fates: stretch.fates(sent.envelopes, tally.envelopes),
            ..Passage::default()
        };
        frames.extend(messages(parts, &stretch).map(|message| {
            let at = message.is_last.then_some(&*message.offset);
            let bytes = compressor.own(message.bytes, key.wire, at);
            match message.is_last {
                true => frame(bytes, self.to.index, message.offset, whole.clone()),
                false => frame(bytes, index, message.offset, Passage::default()),
            }
        }));
        meters.conflated_metrics.increment(conflated.unwrap_or(0) * sessions);
        view.flush(frames, self.to.index, self.to.offset.clone());
    }
}

/// What a view takes, as messages to be; and how much of what was counted that is.
fn assemble(format: Format, taken: &[Taken], lines: &mut [Lines<'_>], floor: &Floor) -> (Parts, Tally) {
    let mut parts = Parts::new(format, PART_BYTES_MAX);
    let mut sent = Tally::default();
    for (number, runs) in taken {
        let Lines { changed, lines, formats } = &mut lines[*number];
        let encoded = formats[format as usize].get_or_insert_with(|| Encoded::new(format, lines.len()));
        let whole = 0..lines.len() as u32;
        let runs = runs.as_deref().unwrap_or(std::slice::from_ref(&whole));
        let mut last = None;
        for line in runs.iter().cloned().flatten().map(|line| line as usize) {
            let place = changed.places[line];
            if floor.has.as_ref().is_some_and(|has| !is_behind(has, place)) {
                continue;
            }
            parts.add(&changed.channel.collector, encoded.line(line, &lines[line]));
            if floor.uncounted.as_ref().is_none_or(|to| is_behind(to, place)) {
                sent.metrics += 1;
                // What one envelope has written is together.
                sent.envelopes += u64::from(last.replace(place) != Some(place));
            }
        }
    }
    (parts, sent)
}

impl<'a> Lines<'a> {
    fn read(changed: &'a Changed) -> Self {
        // What the store holds was read as lines before, so all of them are good.
        let lines: Vec<Line<'a>> = line::lines(&changed.lines).filter_map(Result::ok).collect();
        debug_assert_eq!(lines.len(), changed.places.len());
        Self { changed, lines, formats: [const { None }; Format::COUNT] }
    }
}
