//! A page in a real browser, with nothing but what browsers have.

use serde_json::Value;

use crate::stage::Stage;
use crate::support::chromium::Page;
use crate::support::eventually;
use crate::support::ledger::Ledger;
use crate::support::nginx::Nginx;

/// The edge is killed hard, so the browser learns of it by the end of the connection, waits for as long as it was told to,
/// and comes back with the id of its last event: all of that without a line of the page's own.
#[tokio::test]
async fn a_plain_event_source_of_another_origin_behind_nginx_goes_on_when_its_edge_is_killed() {
    let page = Page::new().await;
    let stage = Stage::with(2, |launch| launch.set("server.cors_origins", page.origin())).await;
    let nginx = Nginx::before(&[stage.edge(0), stage.edge(1)]).await;
    let mut collector = stage.collector("web-01");
    collector.flush(3).await;
    let mut browser = page.open(&format!(
        "const source = new EventSource('http://{}/sse?filter=*.mem&from=earliest');\
         source.onmessage = ({{ data, lastEventId }}) => report({{ data, lastEventId }});\
         source.onerror = () => report({{ state: source.readyState }});",
        nginx.address()
    ));
    let (mut ledger, mut breaks) = (Ledger::default(), 0);
    let mut take = |report: Value, ledger: &mut Ledger| match report["data"].as_str() {
        Some(data) => {
            ledger.take(data);
            assert_eq!(
                ledger.offset.as_ref().map(|offset| offset.token()).as_deref(),
                report["lastEventId"].as_str()
            );
        }
        None => {
            assert_eq!(report["state"], 0, "a browser that tries again, and has not given up: {report}");
            breaks += 1;
        }
    };
    while ledger.metrics() < 3 {
        take(browser.report().await, &mut ledger);
    }
    for round in 0..2 {
        collector.flush(10).await;
        let flushed = collector.flushed().len();
        while ledger.metrics() < flushed {
            take(browser.report().await, &mut ledger);
        }
        if round == 0 {
            let holder = async || {
                for edge in &stage.edges {
                    if edge.get("/api/health").await.json["clients"] == 1 {
                        return Some(edge);
                    }
                }
                None
            };
            eventually("the edge that has the page", holder).await.0.kill();
        }
    }
    assert_eq!(ledger.numbers("web-01", "mem"), collector.flushed());
    assert!(ledger.gaps.is_empty());
    assert_eq!(ledger.count("welcome"), 2);
    assert!(breaks >= 1);
}
