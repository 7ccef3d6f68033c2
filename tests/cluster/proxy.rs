//! Through a real nginx with its default settings.

use std::time::Duration;

use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::collector::MEASUREMENTS;
use crate::support::event_source::EventSource;
use crate::support::nginx::Nginx;
use crate::support::poller::Poller;
use crate::support::telecast;

#[tokio::test]
async fn every_transport_works_behind_nginx_and_nothing_is_held_back() {
    let stage = Stage::new().await;
    let nginx = Nginx::before(&[stage.edge(0), stage.edge(1)]).await;
    let mut socket = Client::connect(nginx.address(), "").await;
    let mut source = EventSource::connect(nginx.address(), "").await;
    let mut poller = Poller::new(nginx.address(), "timeout=5");
    poller.poll().await;
    let mut collector = stage.collector("web-01");
    for _ in 0..5 {
        // One small message at a time: a proxy that buffers would wait for some kilobytes, or for the end.
        let began = Instant::now();
        collector.flush(1).await;
        let wanted = collector.flushed().len() * 3;
        source.until("the event", |ledger| ledger.metrics() >= wanted).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        poller.until("the answer", |ledger| ledger.metrics() >= wanted).await;
        socket.all_of(&collector).await;
    }
    for measurement in MEASUREMENTS {
        for ledger in [&source.ledger, &poller.ledger] {
            assert_eq!(ledger.numbers("web-01", measurement), collector.flushed());
        }
    }
}

/// `docs/protocol.md`, section "Behind a proxy", word for word but for the addresses.
fn documented_site() -> String {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md")).expect("the page");
    let (_, rest) = text.split_once("```nginx\n").expect("an example");
    let (site, _) = rest.split_once("```").expect("its end");
    let lines = site.lines().filter(|line| !line.starts_with("upstream "));
    lines.collect::<Vec<_>>().join("\n").replace("listen 80;", "listen 127.0.0.1:{port};")
}

/// An `EventSource` would give up for good on a node that says 503, and `least_conn` leads straight to it.
#[tokio::test]
async fn who_is_refused_by_a_full_node_behind_the_documented_proxy_gets_another_node() {
    let full = telecast::standalone().set("edge.max_connections", 1).start().await;
    let other = telecast::standalone().start().await;
    let _place = EventSource::connect(full.address(), "").await;
    let nginx = Nginx::with(&[full.address(), other.address()], &documented_site()).await;
    for _ in 0..3 {
        EventSource::connect(nginx.address(), "").await;
        Client::connect(nginx.address(), "").await;
        Poller::new(nginx.address(), "timeout=0").poll().await;
    }
    assert!(full.metric("ws_connections_failed_total{reason=\"capacity\"}").await >= 1.0);
}

#[tokio::test]
async fn a_reader_whose_edge_is_killed_behind_nginx_goes_on_at_the_other() {
    let stage = Stage::new().await;
    let nginx = Nginx::before(&[stage.edge(0), stage.edge(1)]).await;
    let mut sources = Vec::new();
    for _ in 0..4 {
        sources.push(EventSource::connect(nginx.address(), "").await);
    }
    let mut collector = stage.collector("web-01");
    collector.flush(5).await;
    for source in &mut sources {
        source.until("the beginning", |ledger| ledger.metrics() == 15).await;
    }
    stage.edges[0].kill();
    collector.flush(5).await;
    let mut came_back = 0;
    for source in &mut sources {
        let all = |ledger: &crate::support::ledger::Ledger| ledger.metrics() == 30;
        while !all(&source.ledger) {
            let next = crate::support::patiently("an event or the end", source.try_next()).await;
            if next.is_none() {
                source.come_back(nginx.address()).await;
                came_back += 1;
            }
        }
        for measurement in MEASUREMENTS {
            assert_eq!(source.ledger.numbers("web-01", measurement), collector.flushed());
        }
        assert!(source.ledger.gaps.is_empty());
    }
    assert_eq!(came_back, 2, "least_conn had given two to each");
}
