//! How many views the clients of one address have, and how many more they may. Pure but for its locks.
//!
//! A view costs memory, and work for every envelope that it wants, however many share it; a new one has its filters filed. So
//! the clients of one address have at most so many at a time, and have new ones made at a bounded rate.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::edge::doorbell::ViewAddress;
use crate::edge::view::View;
use crate::ops::http::group;
use crate::ops::meters::ViewRefusal;
use crate::sync::Locked;

/// After so many seconds an address may have as many new views made as it may hold: all its clients may come back at once, and
/// a little later once more.
const REFILL_S: u32 = 10;

/// What clients are told apart by: their address, or of IPv6 the network that one customer usually has (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    /// Who connects from there. Those whose address nobody knows share one.
    pub(crate) fn at(address: Option<SocketAddr>) -> Self {
        Self(address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| group(address.ip())))
    }
}

/// Why a client gets no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooManyViews {
    /// Its address has its share.
    #[error(
        "clients of this address have {0} distinct views (filters, format, interval), the most that one address may \
         (edge.views_per_address_max): ask for what others of them ask for, or put several filters into one subscription"
    )]
    OfAddress(usize),
    /// Its address has had too many made.
    #[error(
        "clients of this address ask for more than {0} new views (filters, format, interval) per second: wait, or ask for what \
         others of them ask for"
    )]
    TooFast(u32),
    /// The edge has its maximum.
    #[error(
        "this node has its maximum of {0} distinct views (edge.views_max): ask for what others ask for, or try another node"
    )]
    OfNode(usize),
}

impl TooManyViews {
    /// How it is counted.
    pub(crate) fn reason(self) -> ViewRefusal {
        match self {
            Self::OfAddress(_) => ViewRefusal::Address,
            Self::TooFast(_) => ViewRefusal::Rate,
            Self::OfNode(_) => ViewRefusal::Node,
        }
    }
}

/// See the module.
pub(crate) struct Shares {
    per_address_max: usize,
    /// Sessions of each address on each view.
    held: Locked<HashMap<Client, HashMap<ViewAddress, u32>>>,
    made: RateLimiter<Client, HashMapStateStore<Client>, DefaultClock>,
    made_per_second: NonZeroU32,
}

impl Shares {
    /// Nobody has any.
    pub(crate) fn new(per_address_max: usize) -> Arc<Self> {
        let burst = u32::try_from(per_address_max).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let per_second = NonZeroU32::new(burst.get().div_ceil(REFILL_S)).unwrap_or(burst);
        Arc::new(Self {
            per_address_max,
            held: Locked::empty("views by address"),
            made: RateLimiter::hashmap(Quota::per_second(per_second).allow_burst(burst)),
            made_per_second: per_second,
        })
    }

    /// Whether a client may have a view, which has to be made unless it is known. It gives up another one for it.
    pub(crate) fn check(
        &self,
        client: Client,
        known: Option<&View>,
        gives_up: Option<&View>,
    ) -> Result<(), TooManyViews> {
        let (has_it, others) = self.held.with(|held| {
            let Some(views) = held.get(&client) else { return (false, 0) };
            let given_up = gives_up.is_some_and(|view| views.get(&view.address()) == Some(&1));
            let has_it = known.is_some_and(|view| views.contains_key(&view.address()));
            (has_it, views.len() - usize::from(given_up))
        });
        if has_it {
            return Ok(());
        }
        if others >= self.per_address_max {
            return Err(TooManyViews::OfAddress(self.per_address_max));
        }
        if known.is_none() && self.made.check_key(&client).is_err() {
            return Err(TooManyViews::TooFast(self.made_per_second.get()));
        }
        Ok(())
    }

    /// A session of the client takes part in a view.
    pub(crate) fn enter(&self, client: Client, view: ViewAddress) {
        self.held.with(|held| *held.entry(client).or_default().entry(view).or_default() += 1);
    }

    /// One of those leaves.
    pub(crate) fn leave(&self, client: Client, view: ViewAddress) {
        self.held.with(|held| {
            let Some(views) = held.get_mut(&client) else { return };
            if let Some(sessions) = views.get_mut(&view) {
                *sessions -= 1;
                if *sessions == 0 {
                    views.remove(&view);
                }
            }
            if views.is_empty() {
                held.remove(&client);
            }
        });
    }

    /// Forgets those that have done nothing lately.
    pub(crate) fn tidy(&self) {
        self.made.retain_recent();
        self.made.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::view::{Account, ViewKey};
    use crate::edge::wire::Wire;
    use crate::proto::filter::FilterSet;
    use crate::proto::message::Format;
    use crate::proto::offset::{Epoch, Offset};

    fn view(filter: &str) -> View {
        let filters = FilterSet::parse([filter]).unwrap();
        let key = ViewKey { filters, format: Format::Json, wire: Wire::WebSocket, interval_ms: None };
        let offset = Arc::new(Offset::start(Epoch(1), 1));
        View::new(key, 0, offset, 1 << 20, Account::new(1 << 20))
    }

    fn client(address: &str) -> Client {
        Client::at(Some(address.parse().unwrap()))
    }

    #[test]
    fn clients_of_one_address_share_a_number_of_distinct_views() {
        let shares = Shares::new(2);
        let (one, other) = (client("192.0.2.1:1"), client("192.0.2.2:1"));
        let views = ["a.b", "c.d", "e.f"].map(view);
        for view in &views[..2] {
            assert_eq!(shares.check(one, None, None), Ok(()));
            shares.enter(one, view.address());
        }
        shares.enter(one, views[0].address());
        assert_eq!(shares.check(one, Some(&views[0]), None), Ok(()), "which it has");
        assert_eq!(shares.check(one, Some(&views[2]), None), Err(TooManyViews::OfAddress(2)));
        assert_eq!(shares.check(other, Some(&views[2]), None), Ok(()), "another address");
        // Two sessions have the first view: one that changes does not free it.
        assert_eq!(shares.check(one, Some(&views[2]), Some(&views[0])), Err(TooManyViews::OfAddress(2)));
        assert_eq!(shares.check(one, Some(&views[2]), Some(&views[1])), Ok(()));
        shares.leave(one, views[1].address());
        assert_eq!(shares.check(one, Some(&views[2]), None), Ok(()));
        shares.leave(one, views[0].address());
        shares.leave(one, views[0].address());
        assert!(shares.held.with(|held| held.is_empty()));
    }

    #[test]
    fn an_address_has_new_views_made_at_a_bounded_rate_and_takes_part_in_others_at_any() {
        let shares = Shares::new(10);
        let (one, other) = (client("192.0.2.1:1"), client("[2001:db8::1]:1"));
        assert!((0..10).all(|_| shares.check(one, None, None).is_ok()));
        assert_eq!(shares.check(one, None, None), Err(TooManyViews::TooFast(1)));
        assert_eq!(shares.check(one, Some(&view("a.b")), None), Ok(()));
        assert_eq!(shares.check(other, None, None), Ok(()));
    }

    #[test]
    fn a_customers_network_of_version_six_is_one_client() {
        assert_eq!(client("[2001:db8::1]:1"), client("[2001:db8:0:0:ffff::2]:2"));
        assert_ne!(client("[2001:db8::1]:1"), client("[2001:db8:0:1::1]:1"));
        assert_eq!(client("[::ffff:192.0.2.1]:1"), client("192.0.2.1:9"));
        assert_ne!(client("192.0.2.1:1"), client("192.0.2.2:1"));
    }
}
