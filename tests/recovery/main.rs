//! Never lose your place: clients of every transport behind a proxy, while the edges they are on are killed, drained and started
//! again. Whatever happens, each client gets what was published for it: once, in order, without a gap.
//!
//! Short by itself; `make test-recovery` runs it for ten minutes with five hundred clients. See `plan` for its size.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod chaos;
mod ledger;
mod link;
mod plan;
mod socket;
#[path = "../support/mod.rs"]
mod support;
mod viewer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::chaos::Edges;
use crate::ledger::{Ledger, Totals, Truth, WISHES};
use crate::link::Transport;
use crate::plan::Plan;
use crate::support::collector::Collector;
use crate::support::nats::NatsServer;
use crate::support::nginx::Nginx;
use crate::support::telecast;
use crate::viewer::{Surroundings, Wish, follow};

/// Clients get so long to have everything, once nothing more is sent.
const REST: Duration = Duration::from_secs(60);
const SHARDS: u64 = 2;

/// A proxy in front of edges, as it is set up by default but for two things: WebSockets pass, and an edge that could not be
/// reached is tried again after a second instead of ten, in which the other one may end here.
fn site(edges: [SocketAddr; 2]) -> String {
    let [one, other] = edges;
    format!(
        "upstream edges {{ least_conn; server {one} fail_timeout=1s; server {other} fail_timeout=1s; }}
         map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
         server {{
             listen 127.0.0.1:{{port}};
             location / {{
                 proxy_pass http://edges;
                 proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection $connection_upgrade;
             }}
         }}"
    )
}

/// Sends rows at random until the end; how many.
async fn collect(mut collector: Collector, pace_ms: u64, mut rng: Rng, end: Instant) -> i64 {
    while Instant::now() < end {
        collector.flush(rng.usize(1..4)).await;
        sleep(Duration::from_millis(rng.u64(..=pace_ms * 2))).await;
    }
    collector.flushed().len() as i64
}

/// What the client with a number asks for: every transport with every wish, some as line protocol, a third conflated,
/// half of them beginning with the last values.
fn wish(number: usize) -> Wish {
    let transport = Transport::ALL[number % 4];
    let wish = number / 4 % WISHES.len();
    let round = number / (4 * WISHES.len());
    let interval = if round % 3 == 2 { [500, 1_000][number % 2] } else { 0 };
    let influx = round % 3 == 1 || interval > 0 && round % 2 == 1;
    Wish { transport, wish, influx, snapshot: (number / 4 + round) % 2 == 1, interval }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ledger_equals_what_was_published_whatever_happens_to_edges() {
    let plan = Plan::from_environment();
    println!("TELECAST_TEST_SEED={} {plan:?}", plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    let nats = NatsServer::start();
    let configure = |launch: telecast::Launch| launch.set("log.shards", SHARDS);
    let mut ingests = Vec::new();
    for _ in 0..2 {
        ingests.push(configure(telecast::ingest(&nats.url())).start().await);
    }
    let edges = Edges::start(&nats.url(), configure).await;
    let nginx = Nginx::with(&[], &site(edges.addresses())).await;

    let surroundings = Surroundings { http: reqwest::Client::new(), address: nginx.address() };
    let (surroundings, (tell, truth)) = (Arc::new(surroundings), watch::channel(None));
    let mut following = JoinSet::new();
    for number in 0..plan.clients {
        let wish = wish(number);
        // Whoever wants the last values comes when there are some.
        let later = if wish.snapshot { plan.flow.mul_f64(rng.f64() / 2.0) } else { Duration::ZERO };
        let follow = follow(surroundings.clone(), wish, rng.fork(), truth.clone());
        following.spawn(async move {
            sleep(later).await;
            (wish, follow.await)
        });
    }
    let end = Instant::now() + plan.flow;
    let mut collecting = JoinSet::new();
    for number in 0..plan.collectors {
        let collector = Collector::new(&format!("web-{number}"), &[ingests[number % 2].address()]);
        let collect = collect(collector, plan.pace_ms, rng.fork(), end);
        collecting.spawn(async move { (number, collect.await) });
    }
    let edges = edges.unsettle(plan.every, rng.fork(), end).await;
    let rows: BTreeMap<usize, i64> = collecting.join_all().await.into_iter().collect();
    let truth: Truth = rows.into_values().collect();
    tell.send_replace(Some((truth.clone(), Instant::now() + REST)));

    let ledgers = following.join_all().await;
    let exported = edges.stop().await;
    report(&ledgers, &truth, &exported);
    for (wish, ledger) in &ledgers {
        assert!(ledger.faults.is_empty(), "{wish:?}: {:#?}", ledger.faults);
        assert_eq!(ledger.missing(&truth), None, "{wish:?}, at {:?}", ledger.at);
    }
    assert!(ledgers.iter().all(|(_, ledger)| ledger.totals.gaps == 0));
}

fn report(ledgers: &[(Wish, Ledger)], truth: &Truth, exported: &chaos::Exported) {
    println!("sent: {} rows of {} collectors", truth.iter().sum::<i64>() * 3, truth.len());
    let mut sums: BTreeMap<String, (usize, Totals)> = BTreeMap::new();
    for (wish, ledger) in ledgers {
        let kinds = [format!("{:?}", wish.transport), "all".to_owned()];
        let kind = if wish.interval > 0 { "conflated" } else { "every value" };
        for kind in kinds.into_iter().chain([kind.to_owned()]) {
            let (clients, sum) = sums.entry(kind).or_default();
            *clients += 1;
            *sum += ledger.totals;
        }
    }
    for (kind, (clients, sum)) in sums {
        println!("{kind:>12}, {clients} clients: {sum:?}");
    }
    println!("{exported:#?}");
}
