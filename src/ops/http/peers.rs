//! How many connections there are: of each address, and of those on which nothing is being asked.
//!
//! One lock, held for a few steps of arithmetic. A connection that has to leave is told when it is free again: that wakes tasks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hashlink::LinkedHashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{AddressLimit, ConnectionLimits};
use crate::sync::Locked;

/// Connections of one address on which nothing was asked yet, and which may stay so: a browser opens some in advance, an
/// office has some browsers.
const UNUSED_PER_ADDRESS_MAX: usize = 64;
/// Connections that are over a limit and still get an answer; for the next one, the oldest ends. A probe needs one for a
/// millisecond, and finds it whatever others leave unsaid.
const REFUSED_MAX: usize = 32;
/// Descriptors beyond `connections_max` for these, with some that are just being closed.
const REFUSED_DESCRIPTORS_MAX: usize = 40;
/// One address may open so many seconds' worth of connections at once.
const BURST_S: usize = 5;
/// Addresses that are remembered before those without connections are forgotten for the first time.
const ADDRESSES_SWEPT_AT: usize = 1_024;

/// Why a peer is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// Its address has its maximum of connections.
    AddressConnections(usize),
    /// Its address opens connections too fast.
    AddressConnects(usize),
    /// The process has its maximum of connections.
    Descriptors,
}

/// What becomes of a new connection.
pub(super) enum Arrival {
    /// It is served.
    Served(Place),
    /// Its first request gets the reason, unless it is a probe's. It ends early for others of its kind.
    Refused(Place, Excess),
    /// There is no room even for an answer.
    Dropped(Excess),
}

/// The connections of all listeners of a process.
pub(crate) struct Peers {
    limits: ConnectionLimits,
    /// How long an address that has too many unused connections is remembered for it.
    crowded: Duration,
    table: Locked<Table>,
}

struct Table {
    open: usize,
    addresses: HashMap<IpAddr, Address>,
    sweep_at: usize,
    next: u64,
    /// Nothing was asked on these yet; the oldest first.
    unused: LinkedHashMap<u64, CancellationToken>,
    /// These are told why they are refused; the oldest first.
    refused: LinkedHashMap<u64, CancellationToken>,
    /// These were answered, and wait for the next request; those that wait longest first.
    idle: LinkedHashMap<u64, CancellationToken>,
}

struct Address {
    places: usize,
    unused: usize,
    crowded_until: Option<Instant>,
    /// Connections it may open at once, at `filled`.
    tokens: f64,
    filled: Instant,
}

/// Room for one connection, or for one forwarded request, until it is dropped.
pub(crate) struct Place {
    peers: Arc<Peers>,
    kind: Kind,
    address: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Served,
    Refused(u64),
    Forwarded,
}

/// A connection on which nothing is being asked, until it is dropped. It makes room for others when it has to.
pub(super) struct Wait {
    peers: Arc<Peers>,
    id: u64,
    unused_of: Option<IpAddr>,
}

impl Peers {
    /// None yet. An address with too many unused connections is `crowded` for so long.
    pub(super) fn new(limits: ConnectionLimits, crowded: Duration) -> Arc<Self> {
        let table = Table {
            open: 0,
            addresses: HashMap::new(),
            sweep_at: ADDRESSES_SWEPT_AT,
            next: 0,
            unused: LinkedHashMap::new(),
            refused: LinkedHashMap::new(),
            idle: LinkedHashMap::new(),
        };
        Arc::new(Self { limits, crowded, table: Locked::leaf("connections by address", table) })
    }

    /// A connection was accepted; `leave` is cancelled when it has to make room for others. Trusted proxies have no limits of
    /// their own.
    pub(super) fn arrive(
        self: &Arc<Self>,
        remote: IpAddr,
        is_proxy: bool,
        leave: &CancellationToken,
    ) -> Arrival {
        self.arrive_as(remote, is_proxy, leave, None)
    }

    /// The same with a descriptor that was kept for this: it is turned away whatever the numbers say.
    pub(super) fn arrive_late(self: &Arc<Self>, remote: IpAddr, leave: &CancellationToken) -> Arrival {
        self.arrive_as(remote, true, leave, Some(Excess::Descriptors))
    }

    fn arrive_as(
        self: &Arc<Self>,
        remote: IpAddr,
        is_proxy: bool,
        leave: &CancellationToken,
        excess: Option<Excess>,
    ) -> Arrival {
        let (address, now) = (group(remote), Instant::now());
        let arrived =
            self.table.with(|table| table.arrive(&self.limits, remote, address, is_proxy, excess, now));
        let (excess, leaving) = match arrived {
            Ok(arrived) => arrived,
            Err(excess) => return Arrival::Dropped(excess),
        };
        leaving.inspect(CancellationToken::cancel);
        let place = |kind| Place { peers: self.clone(), kind, address };
        let Some(excess) = excess else { return Arrival::Served(place(Kind::Served)) };
        let (id, oldest) = self.table.with(|table| {
            let id = table.id();
            table.refused.insert(id, leave.clone());
            let is_full = table.refused.len() > REFUSED_MAX;
            (id, if is_full { table.refused.pop_front() } else { None })
        });
        oldest.inspect(|(_, oldest)| oldest.cancel());
        Arrival::Refused(place(Kind::Refused(id)), excess)
    }

    /// A trusted proxy forwards a request of this address; `connects` if it will be a connection of its own.
    pub(super) fn forwarded(self: &Arc<Self>, client: IpAddr, connects: bool) -> Result<Place, Excess> {
        let (address, now) = (group(client), Instant::now());
        let excess = self.table.with(|table| {
            let excess = if connects {
                table.excess(&self.limits, client, address, now)
            } else {
                table.excess_of_places(&self.limits, client, address, now)
            };
            if excess.is_none() {
                table.address(&self.limits, address, now).places += 1;
            }
            excess
        });
        match excess {
            Some(excess) => Err(excess),
            None => Ok(Place { peers: self.clone(), kind: Kind::Forwarded, address }),
        }
    }

    /// A connection of `remote` on which nothing was asked yet. `leave` is cancelled when it has to make room, as the oldest
    /// does at once when there are too many; then true is returned.
    pub(super) fn unused(self: &Arc<Self>, remote: IpAddr, leave: CancellationToken) -> (Wait, bool) {
        let (address, now) = (group(remote), Instant::now());
        let (id, oldest) = self.table.with(|table| {
            let of_address = table.address(&self.limits, address, now);
            of_address.unused += 1;
            if of_address.unused > UNUSED_PER_ADDRESS_MAX {
                of_address.crowded_until = Some(now + self.crowded);
            }
            let id = table.id();
            table.unused.insert(id, leave);
            let is_full = table.unused.len() > self.limits.pending_max;
            (id, if is_full { table.unused.pop_front() } else { None })
        });
        let makes_room = oldest.is_some();
        oldest.inspect(|(_, oldest)| oldest.cancel());
        (Wait { peers: self.clone(), id, unused_of: Some(address) }, makes_room)
    }

    /// A connection that was answered and waits for the next request.
    pub(super) fn idle(self: &Arc<Self>, leave: CancellationToken) -> Wait {
        let id = self.table.with(|table| {
            let id = table.id();
            table.idle.insert(id, leave);
            id
        });
        Wait { peers: self.clone(), id, unused_of: None }
    }

    /// Whether the address has, or had lately, more unused connections than may stay.
    pub(super) fn is_crowded(&self, remote: IpAddr) -> bool {
        let now = Instant::now();
        self.table.with(|table| {
            let Some(address) = table.addresses.get_mut(&group(remote)) else { return false };
            if address.unused > UNUSED_PER_ADDRESS_MAX {
                address.crowded_until = Some(now + self.crowded);
            }
            address.crowded_until.is_some_and(|until| now < until)
        })
    }

    /// Ends up to `most` connections on which nothing is being asked: first those that never were used, each time the oldest.
    pub(super) fn make_room(&self, most: usize) -> usize {
        let leaving: Vec<CancellationToken> =
            self.table.with(|table| (0..most).map_while(|_| table.oldest()).collect());
        leaving.iter().for_each(CancellationToken::cancel);
        leaving.len()
    }

    /// Connections open now.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.table.with(|table| table.open)
    }
}

impl Table {
    /// Why a new connection is turned away, if it is, and who makes room for it; or why there is no room for an answer.
    fn arrive(
        &mut self,
        limits: &ConnectionLimits,
        remote: IpAddr,
        address: IpAddr,
        is_proxy: bool,
        excess: Option<Excess>,
        now: Instant,
    ) -> Result<(Option<Excess>, Option<CancellationToken>), Excess> {
        let is_full = self.open >= limits.connections_max;
        if self.open >= limits.connections_max + REFUSED_DESCRIPTORS_MAX {
            return Err(Excess::Descriptors);
        }
        // A connection on which nothing is asked gives way to one on which something may be.
        let leaving = if is_full { self.oldest() } else { None };
        let excess = if excess.is_some() {
            excess
        } else if is_full && leaving.is_none() {
            Some(Excess::Descriptors)
        } else if is_proxy {
            None
        } else {
            self.excess(limits, remote, address, now)
        };
        if excess.is_none() {
            self.address(limits, address, now).places += 1;
        }
        self.open += 1;
        Ok((excess, leaving))
    }

    /// Takes the connection that is to make room.
    fn oldest(&mut self) -> Option<CancellationToken> {
        self.unused.pop_front().or_else(|| self.idle.pop_front()).map(|(_, leave)| leave)
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn address(&mut self, limits: &ConnectionLimits, address: IpAddr, now: Instant) -> &mut Address {
        if self.addresses.len() >= self.sweep_at && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_, known| !known.is_forgettable(limits, now));
            self.sweep_at = ADDRESSES_SWEPT_AT.max(2 * self.addresses.len());
        }
        self.addresses.entry(address).or_insert_with(|| Address {
            places: 0,
            unused: 0,
            crowded_until: None,
            tokens: burst(limits),
            filled: now,
        })
    }

    /// Why the address may not open one more connection now; if it may, this one is counted as opened.
    fn excess(
        &mut self,
        limits: &ConnectionLimits,
        remote: IpAddr,
        address: IpAddr,
        now: Instant,
    ) -> Option<Excess> {
        if let Some(excess) = self.excess_of_places(limits, remote, address, now) {
            return Some(excess);
        }
        let per_s = applying(limits.connects_per_s_max, remote)?;
        let of_address = self.address(limits, address, now);
        of_address.fill(limits, now);
        if of_address.tokens < 1.0 {
            return Some(Excess::AddressConnects(per_s));
        }
        of_address.tokens -= 1.0;
        None
    }

    fn excess_of_places(
        &mut self,
        limits: &ConnectionLimits,
        remote: IpAddr,
        address: IpAddr,
        now: Instant,
    ) -> Option<Excess> {
        let max = applying(limits.per_address_max, remote)?;
        let has = self.address(limits, address, now).places;
        (has >= max).then_some(Excess::AddressConnections(max))
    }
}

impl Address {
    fn fill(&mut self, limits: &ConnectionLimits, now: Instant) {
        let per_s = limits.connects_per_s_max.max.unwrap_or(0) as f64;
        let came = now.saturating_duration_since(self.filled).as_secs_f64() * per_s;
        self.tokens = (self.tokens + came).min(burst(limits));
        self.filled = now;
    }

    /// Nothing is lost with it: it would be made anew as it is.
    fn is_forgettable(&mut self, limits: &ConnectionLimits, now: Instant) -> bool {
        self.fill(limits, now);
        let is_crowded = self.crowded_until.is_some_and(|until| now < until);
        self.places + self.unused == 0 && !is_crowded && self.tokens >= burst(limits)
    }
}

fn burst(limits: &ConnectionLimits) -> f64 {
    limits.connects_per_s_max.max.unwrap_or(0).saturating_mul(BURST_S) as f64
}

/// The limit, if it is one for `remote`.
fn applying(limit: AddressLimit, remote: IpAddr) -> Option<usize> {
    limit.max.filter(|_| limit.for_loopback || !remote.to_canonical().is_loopback())
}

/// What counts as one address: of IPv6, what one customer usually has (RFC 6177).
pub(crate) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What was there is dropped without the lock, as below.
        drop(self.peers.table.with(|table| {
            if self.kind != Kind::Forwarded {
                table.open -= 1;
            }
            if let Kind::Refused(id) = self.kind {
                return table.refused.remove(&id);
            }
            if let Some(of_address) = table.addresses.get_mut(&self.address) {
                of_address.places = of_address.places.saturating_sub(1);
            }
            None
        }));
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // What was there is dropped without the lock: it may be the last of a connection.
        drop(self.peers.table.with(|table| {
            let Some(address) = self.unused_of else { return table.idle.remove(&self.id) };
            if let Some(of_address) = table.addresses.get_mut(&address) {
                of_address.unused = of_address.unused.saturating_sub(1);
            }
            table.unused.remove(&self.id)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWDED: Duration = Duration::from_secs(10);

    fn peers(per_address_max: usize, connects_per_s_max: usize) -> Arc<Peers> {
        let limit = |max| AddressLimit { max: Some(max).filter(|max| *max > 0), for_loopback: false };
        let limits = ConnectionLimits {
            connections_max: 1_000,
            pending_max: 200,
            per_address_max: limit(per_address_max),
            connects_per_s_max: limit(connects_per_s_max),
        };
        Peers::new(limits, CROWDED)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Places that `most` connections of an address get, and why the next got none.
    fn fill(peers: &Arc<Peers>, address: &str, most: usize) -> (Vec<Place>, Option<Excess>) {
        let mut places = Vec::new();
        for _ in 0..most {
            match peers.arrive(ip(address), false, &CancellationToken::new()) {
                Arrival::Served(place) => places.push(place),
                Arrival::Refused(_, excess) | Arrival::Dropped(excess) => return (places, Some(excess)),
            }
        }
        (places, None)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_share_and_a_64_is_one_address() {
        let peers = peers(3, 0);
        let (mut places, excess) = fill(&peers, "203.0.113.9", 10);
        assert_eq!((places.len(), excess), (3, Some(Excess::AddressConnections(3))));
        places.pop();
        assert_eq!(fill(&peers, "::ffff:203.0.113.9", 10).0.len(), 1);
        let (_held, _) = fill(&peers, "2001:db8:0:1::1", 2);
        assert_eq!(fill(&peers, "2001:db8:0:1:ffff::2", 10).0.len(), 1);
        assert_eq!(fill(&peers, "2001:db8:0:2::1", 10).0.len(), 3);
        assert_eq!(
            fill(&peers, "127.0.0.1", 10).0.len(),
            10,
            "this host itself is not limited unless it is said"
        );
        drop(places);
        assert_eq!(fill(&peers, "203.0.113.9", 10).0.len(), 3, "nothing is left behind");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_proxy_forwards_counts_for_the_client() {
        let peers = peers(2, 0);
        let held: Vec<Place> =
            (0..2).map(|_| peers.forwarded(ip("203.0.113.9"), true).ok().unwrap()).collect();
        assert_eq!(peers.forwarded(ip("203.0.113.9"), false).err(), Some(Excess::AddressConnections(2)));
        assert!(peers.forwarded(ip("203.0.113.10"), false).is_ok());
        assert_eq!(
            (0..9)
                .filter(|_| matches!(
                    peers.arrive(ip("10.0.0.1"), true, &CancellationToken::new()),
                    Arrival::Served(_)
                ))
                .count(),
            9
        );
        drop(held);
        assert!(peers.forwarded(ip("203.0.113.9"), false).is_ok());
        assert_eq!(peers.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_open_no_faster_than_they_may_and_addresses_are_forgotten() {
        let peers = peers(0, 10);
        let (places, excess) = fill(&peers, "203.0.113.9", 100);
        assert_eq!((places.len(), excess), (50, Some(Excess::AddressConnects(10))));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(fill(&peers, "203.0.113.9", 100).0.len(), 10);
        drop(places);
        for number in 0..10_000_u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from(number << 8));
            assert!(peers.forwarded(address, true).is_ok());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let known = peers.table.with(|table| table.addresses.len());
        assert!(known <= 2 * ADDRESSES_SWEPT_AT, "{known} addresses are remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn some_unused_connections_of_an_address_may_stay_but_none_of_a_crowd() {
        let peers = peers(0, 0);
        let (some, all) = (ip("203.0.113.9"), ip("203.0.113.10"));
        let unused = |address| peers.unused(address, CancellationToken::new()).0;
        let _some: Vec<Wait> = (0..UNUSED_PER_ADDRESS_MAX).map(|_| unused(some)).collect();
        let mut crowd: Vec<Wait> = (0..=UNUSED_PER_ADDRESS_MAX).map(|_| unused(all)).collect();
        tokio::time::advance(CROWDED - Duration::from_millis(1)).await;
        while crowd.pop().is_some() {
            assert!(peers.is_crowded(all) && !peers.is_crowded(some), "{} are left", crowd.len());
        }
        tokio::time::advance(CROWDED).await;
        assert!(!peers.is_crowded(all));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_unused_connection_makes_room_and_the_process_has_room_for_probes() {
        let peers = peers(0, 0);
        let tokens: Vec<CancellationToken> = (0..201).map(|_| CancellationToken::new()).collect();
        let waits: Vec<Wait> =
            tokens.iter().map(|token| peers.unused(ip("203.0.113.9"), token.clone()).0).collect();
        assert_eq!(tokens.iter().position(CancellationToken::is_cancelled), Some(0));
        assert_eq!(tokens.iter().filter(|token| token.is_cancelled()).count(), 1);
        drop(waits);
        let idle = CancellationToken::new();
        let _wait = peers.idle(idle.clone());
        let (all, excess) = fill(&peers, "203.0.113.9", 2_000);
        assert_eq!((all.len(), excess, idle.is_cancelled()), (1_001, Some(Excess::Descriptors), true));
        let mut refused = Vec::new();
        for _ in 0..=REFUSED_MAX {
            let leave = CancellationToken::new();
            let Arrival::Refused(place, _) = peers.arrive(ip("127.0.0.1"), false, &leave) else { panic!() };
            refused.push((place, leave));
        }
        let ended: Vec<bool> = refused.iter().map(|(_, leave)| leave.is_cancelled()).collect();
        assert_eq!(ended.iter().position(|ended| *ended), Some(0));
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 1);
    }
}
