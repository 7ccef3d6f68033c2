//! All views of an edge, the index over what they want of an envelope, and how many there may be.
//!
//! The index exists twice. Envelopes find their views by the one in [`super::State`], under the hub's lock; views are filed in
//! the spare one, under a lock of its own, and then the two change places. So no frame waits for filters, however many are
//! filed, or taken out when their last sessions have left.

use std::collections::HashMap;
use std::sync::Arc;

use super::{State, Step};
use crate::edge::ring::Index;
use crate::edge::shares::{Client, Shares, TooManyViews};
use crate::edge::view::{Account, Seat, View, ViewKey};
use crate::edge::wire::Wire;
use crate::ops::meters::Meters;
use crate::proto::filter::{FilterIndex, Ticket};
use crate::sync::Locked;

/// Views without sessions that are taken out at a time: until then nobody can come.
const TAKEN_OUT_AT_ONCE: usize = 64;

/// How many views there may be, and how large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViewLimits {
    /// Bytes that one may hold beside the ring.
    pub(crate) bytes_max: usize,
    /// Views of this edge.
    pub(crate) count_max: usize,
    /// Of these, those that clients of one address may have.
    pub(crate) per_address_max: usize,
}

impl ViewLimits {
    /// As many as anybody likes.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn of_bytes(bytes_max: usize) -> Self {
        Self { bytes_max, count_max: usize::MAX, per_address_max: 1 << 20 }
    }
}

/// See the module.
pub(super) struct Views {
    by_key: HashMap<ViewKey, Listed>,
    /// The same as that of the hub, outside of its lock.
    spare: FilterIndex<Arc<View>>,
    limits: ViewLimits,
    /// What views hold beside the ring.
    account: Arc<Account>,
    shares: Arc<Shares>,
}

struct Listed {
    view: Arc<View>,
    /// One of each index. None with an interval: then no envelope is given to it.
    tickets: Option<[Ticket; 2]>,
}

impl Views {
    /// None yet.
    pub(super) fn new(limits: ViewLimits, account: Arc<Account>) -> Self {
        Self {
            by_key: HashMap::new(),
            spare: FilterIndex::default(),
            limits,
            account,
            shares: Shares::new(limits.per_address_max),
        }
    }

    /// The view with this key, and a hold on it for a session of `client`, which may give up `leaving` for it.
    pub(super) fn seat(
        &mut self,
        key: &ViewKey,
        client: Client,
        leaving: Option<&Seat>,
        hub: &Locked<State>,
    ) -> Result<Seat, TooManyViews> {
        let known = self.by_key.get(key).map(|listed| listed.view.clone());
        let gives_up = leaving.map(Seat::view);
        self.shares.check(client, known.as_deref(), gives_up.map(|view| &**view))?;
        let view = match known {
            Some(view) => view,
            None => {
                let given_up = gives_up.is_some_and(|view| view.sessions() == 1);
                self.make_room(usize::from(given_up), hub)?;
                self.file(key, hub)
            }
        };
        Ok(Seat::take(view, self.shares.clone(), client))
    }

    fn make_room(&mut self, given_up: usize, hub: &Locked<State>) -> Result<(), TooManyViews> {
        let is_full = |views: &Self| views.by_key.len().saturating_sub(given_up) >= views.limits.count_max;
        if is_full(self) {
            while self.take_out_some(hub) {}
        }
        if is_full(self) { Err(TooManyViews::OfNode(self.limits.count_max)) } else { Ok(()) }
    }

    /// A new view, from what is the ring's newest place when it can be found on.
    fn file(&mut self, key: &ViewKey, hub: &Locked<State>) -> Arc<View> {
        let (index, offset) = hub.with(|state| state.place());
        let (bytes_max, account) = (self.limits.bytes_max, self.account.clone());
        let view = Arc::new(View::new(key.clone(), index, offset, bytes_max, account));
        let tickets = if key.interval_ms.is_some() {
            hub.with(|state| {
                let (index, offset) = state.place();
                view.begin(index, offset);
                state.unapplied.push(Step::Joined(view.clone()));
            });
            None
        } else {
            let first = self.spare.insert(&key.filters, view.clone());
            hub.with(|state| {
                let (index, offset) = state.place();
                view.begin(index, offset);
                std::mem::swap(&mut state.index, &mut self.spare);
            });
            Some([first, self.spare.insert(&key.filters, view.clone())])
        };
        self.by_key.insert(key.clone(), Listed { view: view.clone(), tickets });
        view
    }

    /// Takes out some views without sessions. False when there are none left.
    pub(super) fn take_out_some(&mut self, hub: &Locked<State>) -> bool {
        let without = self.by_key.extract_if(|_, listed| listed.view.sessions() == 0);
        let gone: Vec<Listed> = without.take(TAKEN_OUT_AT_ONCE).map(|(_, listed)| listed).collect();
        let (mut left, mut seconds, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for Listed { view, tickets } in gone {
            match tickets {
                Some([first, second]) => {
                    taken.extend(self.spare.remove(first));
                    seconds.push(second);
                }
                None => left.push(Step::Left(view)),
            }
        }
        let is_done = seconds.is_empty() && left.is_empty();
        if !is_done {
            hub.with(|state| {
                state.unapplied.append(&mut left);
                std::mem::swap(&mut state.index, &mut self.spare);
            });
        }
        seconds.into_iter().for_each(|ticket| taken.extend(self.spare.remove(ticket)));
        !is_done
    }

    /// Lets go of frames whose entries are older than `first`, and sets gauges. Returns how many views there are.
    pub(super) fn tidy(&mut self, first: Index, meters: &Meters) -> usize {
        for Listed { view, tickets } in self.by_key.values() {
            match tickets {
                Some(_) => view.trim(first),
                // Frames of newest values are no entry's.
                None => view.kept_parts().tidy(),
            }
        }
        self.shares.tidy();
        meters.views.set(self.by_key.len() as f64);
        let views = self.by_key.values().map(|listed| &listed.view);
        let deflated = views.filter(|view| view.key().wire == Wire::Deflated).map(|view| view.sessions());
        meters.connections_deflated.set(deflated.sum::<usize>() as f64);
        self.by_key.len()
    }
}
