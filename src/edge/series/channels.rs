//! The channels that have series, each once: series name theirs by number.

use std::collections::HashMap;

use crate::edge::series::counts;
use crate::proto::channel::Channel;

/// What a channel costs besides its names, which are here twice: as shared text they count once.
const CHANNEL_OVERHEAD_BYTES: usize = 200;

/// A channel that has series; used again when it has none any more.
pub(super) type ChannelNumber = u32;

/// See the module.
#[derive(Default)]
pub(super) struct Channels {
    numbers: HashMap<Channel, ChannelNumber>,
    entries: Vec<Option<Known>>,
    free: Vec<ChannelNumber>,
    bytes: usize,
}

struct Known {
    channel: Channel,
    /// Series, and whoever is about to add some.
    uses: usize,
}

impl Channels {
    /// The channel's number, good until [`Channels::leave`].
    pub(super) fn enter(&mut self, channel: &Channel) -> ChannelNumber {
        if let Some(number) = self.numbers.get(channel) {
            let number = *number;
            self.stay(number);
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            (self.entries.len() - 1) as ChannelNumber
        });
        self.bytes += cost(channel);
        self.numbers.insert(channel.clone(), number);
        self.entries[number as usize] = Some(Known { channel: channel.clone(), uses: 1 });
        number
    }

    /// One series more.
    pub(super) fn stay(&mut self, number: ChannelNumber) {
        if let Some(Some(known)) = self.entries.get_mut(number as usize) {
            known.uses += 1;
        }
    }

    /// One series less.
    pub(super) fn leave(&mut self, number: ChannelNumber) {
        let Some(slot) = self.entries.get_mut(number as usize) else { return };
        let Some(known) = slot else { return };
        known.uses -= 1;
        if known.uses == 0 {
            self.bytes -= cost(&known.channel);
            self.numbers.remove(&known.channel);
            *slot = None;
            self.free.push(number);
        }
    }

    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The channel of a number that somebody holds.
    pub(super) fn get(&self, number: ChannelNumber) -> Option<&Channel> {
        self.entries.get(number as usize)?.as_ref().map(|known| &known.channel)
    }

    /// By number.
    pub(super) fn all(&self) -> impl Iterator<Item = Option<&Channel>> {
        self.entries.iter().map(|slot| slot.as_ref().map(|known| &known.channel))
    }
}

fn cost(channel: &Channel) -> usize {
    CHANNEL_OVERHEAD_BYTES
        + counts::CHANNEL_BYTES
        + channel.collector.as_str().len()
        + channel.measurement.len()
}
