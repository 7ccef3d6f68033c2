//! What the parts of one connection know of each other: whether something is being asked on it, and since when not.
//!
//! The stream below the HTTP library sees bytes, the gate above it sees requests, and neither sees both. Bytes that come while
//! nothing is asked begin a head, which has a short deadline; without any, the connection is idle.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::head::Fault;
use super::peers::{Peers, Place, Wait};
use crate::sync::Locked;

/// How long a connection on which nothing is asked may stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// Of a head, from its first byte; and of unused connections where there are too many.
    pub(super) head: Duration,
    /// Without a byte.
    pub(super) idle: Duration,
    /// Until a peer that is turned away has asked something.
    pub(super) refused: Duration,
}

/// What the parts of one connection know of each other.
pub(super) struct Exchange {
    peers: Arc<Peers>,
    remote: IpAddr,
    deadlines: Deadlines,
    /// It is turned away, and so has less time.
    is_refused: bool,
    phase: Locked<Phase>,
    /// The connection shall end as soon as nothing is asked on it: there is no room, or the process stops.
    leave: CancellationToken,
    /// The peer may still send what nobody will read; closing at once would reset what it was answered.
    lingers: AtomicBool,
    held: Locked<Held>,
    left: Locked<Option<Left>>,
}

/// Room that a connection takes, wherever it goes.
#[derive(Default)]
pub(crate) struct Held {
    _connection: Option<Place>,
    _client: Option<Place>,
}

/// What is left of a connection when the HTTP library is done with it.
pub(super) struct Left {
    pub(super) socket: TcpStream,
    /// The status that the library would have refused a head with.
    pub(super) refused: Option<u16>,
    pub(super) fault: Option<Fault>,
    pub(super) expired: Option<Expired>,
}

/// Which deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// Of a head that had begun.
    Head,
    /// Of a connection on which nothing was asked.
    Idle,
}

enum Phase {
    /// Nothing is asked.
    Waiting {
        since: Instant,
        head_since: Option<Instant>,
        is_used: bool,
        /// Something came behind the head.
        has_more: bool,
        _wait: Wait,
    },
    /// From a head to the end of its answer and of its body, whichever comes later.
    Serving {
        /// The request has no body, so bytes that come begin the next head.
        is_bodiless: bool,
        ahead: bool,
    },
    /// It is no HTTP any more.
    Upgraded,
}

/// A request that is being answered, until this is dropped.
pub(super) struct Serving {
    exchange: Arc<Exchange>,
    client: Locked<Option<Place>>,
}

impl Exchange {
    /// Nothing was asked yet. True as well if another connection had to make room.
    pub(super) fn new(
        peers: Arc<Peers>,
        remote: IpAddr,
        deadlines: Deadlines,
        place: Place,
        is_refused: bool,
        leave: CancellationToken,
    ) -> (Arc<Self>, bool) {
        let (wait, displaced) = peers.unused(remote, leave.clone());
        let phase = Phase::Waiting {
            since: Instant::now(),
            head_since: None,
            is_used: false,
            has_more: false,
            _wait: wait,
        };
        let exchange = Self {
            peers,
            remote,
            deadlines,
            is_refused,
            phase: Locked::leaf("what a connection does", phase),
            leave,
            lingers: AtomicBool::new(false),
            held: Locked::leaf("room of a connection", Held { _connection: Some(place), _client: None }),
            left: Locked::empty("end of a connection"),
        };
        (Arc::new(exchange), displaced)
    }

    /// Cancelled when the connection shall end.
    pub(super) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// Whether nothing is asked, so that the next byte begins a head or goes on with one.
    pub(super) fn is_waiting(&self) -> bool {
        self.phase.with(|phase| matches!(phase, Phase::Waiting { .. }))
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.phase.with(|phase| matches!(phase, Phase::Upgraded))
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        self.phase.with(|phase| matches!(phase, Phase::Waiting { head_since: Some(_), .. }))
    }

    /// Some bytes came.
    pub(super) fn note_bytes(&self) {
        self.phase.with(|phase| match phase {
            Phase::Waiting { head_since, .. } => {
                head_since.get_or_insert_with(Instant::now);
            }
            Phase::Serving { is_bodiless, ahead } => *ahead |= *is_bodiless,
            Phase::Upgraded => {}
        });
    }

    /// More than the head came, or not.
    pub(super) fn note_more(&self, came: bool) {
        self.phase.with(|phase| {
            if let Phase::Waiting { has_more, .. } = phase {
                *has_more = came;
            }
        });
    }

    /// When to look again, and what has expired by then. Nothing does while something is asked: that has deadlines of its own.
    pub(super) fn deadline(&self) -> Option<(Instant, Expired)> {
        let (since, head_since, is_used) = self.phase.with(|phase| match phase {
            Phase::Waiting { since, head_since, is_used, .. } => Some((*since, *head_since, *is_used)),
            Phase::Serving { .. } | Phase::Upgraded => None,
        })?;
        if let Some(head_since) = head_since {
            let patience = if self.is_refused { self.deadlines.refused } else { self.deadlines.head };
            return Some((head_since + patience, Expired::Head));
        }
        let patience = if self.is_refused {
            self.deadlines.refused
        } else if !is_used && self.peers.is_crowded(self.remote) {
            self.deadlines.head.min(self.deadlines.idle)
        } else {
            self.deadlines.idle
        };
        Some((since + patience, Expired::Idle))
    }

    /// How long a deadline may stay unread: an address may become crowded, and an answer may end unseen.
    pub(super) fn look_again(&self) -> Duration {
        if self.is_waiting() { self.deadlines.head } else { self.deadlines.head.max(Duration::from_secs(30)) }
    }

    /// A head was read.
    pub(super) fn begin(self: &Arc<Self>, is_bodiless: bool) -> Arc<Serving> {
        // What was waited with is dropped without the lock: it has one of its own.
        drop(self.phase.with(|phase| {
            let ahead = is_bodiless && matches!(phase, Phase::Waiting { has_more: true, .. });
            std::mem::replace(phase, Phase::Serving { is_bodiless, ahead })
        }));
        Arc::new(Serving { exchange: self.clone(), client: Locked::empty("room of a forwarded client") })
    }

    /// The connection becomes something else, and takes the client's place along.
    pub(super) fn upgrade(&self, serving: &Serving) {
        drop(self.phase.with(|phase| std::mem::replace(phase, Phase::Upgraded)));
        let client = serving.client.with(Option::take);
        self.held.with(|held| held._client = client);
    }

    /// The peer is to be read on for a while after the end.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// Room that goes along with an upgraded connection.
    pub(super) fn take_held(&self) -> Held {
        self.held.with(std::mem::take)
    }

    /// The HTTP library is done with the connection.
    pub(super) fn leave_behind(&self, left: Left) {
        self.left.with(|place| *place = Some(left));
    }

    pub(super) fn take_left(&self) -> Option<Left> {
        self.left.with(Option::take)
    }
}

impl Serving {
    /// The client that a proxy forwarded has its place as long as this request lasts.
    pub(super) fn hold(&self, client: Place) {
        self.client.with(|place| *place = Some(client));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let exchange = &self.exchange;
        let wait = exchange.peers.idle(exchange.leave.clone());
        let now = Instant::now();
        let unused = exchange.phase.with(|phase| {
            let Phase::Serving { ahead, .. } = *phase else { return Some(wait) };
            let head_since = ahead.then_some(now);
            *phase = Phase::Waiting { since: now, head_since, is_used: true, has_more: false, _wait: wait };
            None
        });
        drop(unused);
    }
}
