//! Two edges at fixed places, of which one after the other ends and comes back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::nats::free_port;
use crate::support::telecast::{self, Launch, Telecast};
use crate::support::{eventually, patiently};

/// An edge that was killed stays away for so long, in milliseconds.
const ABSENCE_MS: std::ops::Range<u64> = 100..3_000;

/// See the module.
pub struct Edges {
    edges: [Telecast; 2],
    addresses: [SocketAddr; 2],
    launch: Box<dyn Fn(SocketAddr) -> Launch>,
    exported: Exported,
}

/// What edges said of themselves, and what happened to them.
#[derive(Debug, Default)]
pub struct Exported {
    pub kills: u64,
    pub drains: u64,
    /// By the edges' own metrics, up to their last second if they were killed.
    pub published: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub conflated: u64,
    pub gap: u64,
}

impl Edges {
    /// Two edges of the log on these servers.
    pub async fn start(nats: &str, configure: impl Fn(Launch) -> Launch + 'static) -> Self {
        let nats = nats.to_owned();
        let launch = move |address| {
            let launch = telecast::edge(&nats).listen(address);
            configure(launch).set("edge.drain_grace_ms", 500).set("edge.drain_waves_ms", 500)
        };
        let addresses = [free_port(), free_port()].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let edges = [launch(addresses[0]).start().await, launch(addresses[1]).start().await];
        Self { edges, addresses, launch: Box::new(launch), exported: Exported::default() }
    }

    /// Where they always listen.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.addresses
    }

    /// Until `end`, one edge is ended every so often, by a signal it can or cannot hear, and started again.
    pub async fn unsettle(mut self, every: Duration, mut rng: Rng, end: Instant) -> Self {
        let mut next = Instant::now() + every;
        // Both ends, however few of them there is time for.
        let mut kill = rng.bool();
        while next < end {
            sleep_until(next).await;
            next += every;
            let victim = rng.usize(..2);
            kill = !kill;
            if kill {
                self.count(victim).await;
                self.edges[victim].kill();
                self.exported.kills += 1;
                sleep(Duration::from_millis(rng.u64(ABSENCE_MS))).await;
            } else {
                self.drain(victim).await;
            }
            self.edges[victim] = (self.launch)(self.addresses[victim]).start().await;
        }
        sleep_until(end).await;
        self
    }

    /// Ends both in order, and returns everything they said.
    pub async fn stop(mut self) -> Exported {
        for victim in 0..2 {
            self.drain(victim).await;
        }
        self.exported
    }

    async fn drain(&mut self, victim: usize) {
        self.count(victim).await;
        self.edges[victim].terminate();
        let code = patiently("the end of a drain", self.edges[victim].ended()).await;
        assert_eq!(code, Some(0), "a drain ends in order");
        self.exported.drains += 1;
    }

    /// Adds what an edge has said so far, which has to add up.
    async fn count(&mut self, number: usize) {
        let edge = &self.edges[number];
        let unbalanced = edge.lines_of("session_unbalanced");
        assert!(unbalanced.is_empty(), "accounts that do not add up: {unbalanced:#?}");
        // A look may fall between two counters of one settlement.
        let whole = async || {
            let text = edge.metrics().await;
            let value = |name: &str| -> u64 {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|value| value.parse().ok()).unwrap_or(0)
            };
            let fate = |name: &str| value(&format!("ws_session_envelopes_total{{fate=\"{name}\"}}"));
            let sums = [fate("delivered"), fate("filtered"), fate("conflated"), fate("gap")];
            let published = value("ws_session_envelopes_published_total");
            (published == sums.iter().sum::<u64>()).then_some((published, sums))
        };
        let what = "published = delivered + filtered + conflated + gaps";
        let ((published, [delivered, filtered, conflated, gap]), _) = eventually(what, whole).await;
        let exported = &mut self.exported;
        exported.published += published;
        exported.delivered += delivered;
        exported.filtered += filtered;
        exported.conflated += conflated;
        exported.gap += gap;
    }
}
