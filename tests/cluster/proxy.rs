//! Through a real nginx with its default settings.

use std::time::Duration;

use tokio::time::Instant;

use crate::stage::Stage;
use crate::support::client::Client;
use crate::support::collector::MEASUREMENTS;
use crate::support::event_source::EventSource;
use crate::support::nginx::Nginx;
use crate::support::poller::Poller;

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
