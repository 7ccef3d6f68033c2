//! Distinct views are bounded, for each address and for the node; intervals are a few.

use std::net::SocketAddr;

use serde_json::json;

use crate::bench::{Client, Log, RunningEdge, settings};

async fn status(address: SocketAddr, path: &str) -> (u16, serde_json::Value) {
    let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

/// What a handshake is answered with.
async fn refused(address: SocketAddr, query: &str) -> (u16, serde_json::Value) {
    use tokio_tungstenite::tungstenite::Error;
    match tokio_tungstenite::connect_async(format!("ws://{address}/ws{query}")).await {
        Err(Error::Http(response)) => {
            assert!(response.headers().contains_key("retry-after"));
            let body = response.body().as_deref().unwrap_or_default();
            (response.status().as_u16(), serde_json::from_slice(body).unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_its_share_of_views_is_told_so_on_every_transport_and_keeps_what_it_has() {
    let settings = settings(&[("edge.views_per_address_max", "2"), ("edge.views_max", "3")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut first = edge.connect("?filter=web-1.cpu").await;
    let mut second = edge.connect("?filter=web-2.cpu").await;
    // Equal filters are one view.
    let mut shared = edge.connect("?filter=web-1.cpu").await;
    let (code, answer) = refused(edge.address, "?filter=web-3.cpu").await;
    assert_eq!((code, &answer["error"]["code"]), (429, &json!("too_many_views")), "{answer}");
    for path in ["/sse?filter=web-3.cpu", "/api/metrics/poll?filter=web-3.cpu&timeout=0"] {
        let (code, answer) = status(edge.address, path).await;
        assert_eq!((code, &answer["error"]["code"]), (429, &json!("too_many_views")), "{path}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("edge.views_per_address_max"));
    }
    // Somebody else has that view too, so this would be a third one.
    first.send(json!({"type": "subscribe", "id": 1, "filter": "web-3.cpu"})).await;
    let error = first.read_type("error").await;
    assert_eq!((&error["id"], &error["code"]), (&json!(1), &json!("too_many_views")));
    log.publish("web-1", "cpu").await;
    first.read_rows(1).await;
    shared.read_rows(1).await;
    // This one gives up its view for it. An address may have as many made as it may have, so the rate is what refuses now.
    second.send(json!({"type": "subscribe", "id": 2, "filter": "web-1.cpu"})).await;
    second.read_type("ack").await;
    let metrics = edge.metrics().render();
    assert!(metrics.contains("ws_views_refused_total{reason=\"address\"} 4"), "{metrics}");
    assert!(metrics.contains("ws_connections_failed_total{reason=\"views\"} 3"), "{metrics}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_all_its_views_refuses_others_and_says_so_in_its_health() {
    let settings = settings(&[("edge.views_per_address_max", "2"), ("edge.views_max", "2")]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut held: Vec<Client> = Vec::new();
    for filter in ["a.b", "c.d"] {
        held.push(edge.connect(&format!("?filter={filter}")).await);
    }
    crate::bench::until(|| edge.node.concerns().iter().any(|text| text.contains("edge.views_max = 2"))).await;
    drop(held);
    crate::bench::until(|| edge.node.concerns().is_empty()).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intervals_are_rounded_up_to_a_few_and_clients_are_told() {
    let settings = settings(&[]);
    let log = Log::new(&settings);
    let edge = RunningEdge::start(log.broker.clone(), &settings).await;
    let mut clients = Vec::new();
    for interval in 1_001..1_041 {
        let mut client = edge.connect(&format!("?interval={interval}&filter=*.cpu")).await;
        assert_eq!(client.welcome["interval_ms"], 1_500);
        client.send(json!({"type": "subscribe", "interval": interval - 900})).await;
        let ack = client.read_type("ack").await;
        assert_eq!(ack["interval_ms"], if interval < 1_051 { 150 } else { 200 });
        clients.push(client);
    }
    assert_eq!(edge.connect("").await.welcome.get("interval_ms"), None);
    // Forty clients, one view of theirs.
    crate::bench::until(|| edge.metrics().render().contains("\nws_views 1\n")).await;
    edge.stop().await;
}
