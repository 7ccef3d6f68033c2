//! From a collector through ingest, log and edges to clients.

use crate::stage::Stage;
use crate::support::client::Client;

#[tokio::test]
async fn clients_of_two_edges_get_the_same_offsets_and_the_same_bytes_once_and_in_order() {
    let stage = Stage::new().await;
    let mut one = Client::connect(stage.edge(0), "").await;
    let mut other = Client::connect(stage.edge(1), "").await;
    let mut first = stage.collector("web-01");
    let mut second = stage.collector("web-02");
    for _ in 0..50 {
        first.flush(3).await;
        second.flush(1).await;
    }
    for client in [&mut one, &mut other] {
        client.all_of(&first).await;
        client.all_of(&second).await;
        assert!(client.ledger.gaps.is_empty());
    }
    assert_eq!(one.ledger.data, other.ledger.data);
    // Whoever comes later gets the very same from the log.
    let mut late = Client::connect(stage.edge(1), "from=earliest").await;
    late.all_of(&first).await;
    late.all_of(&second).await;
    assert_eq!(one.ledger.data, late.ledger.data);
}

/// Of a collector that writes over HTTP one role said that it is connected, and the other that it is not.
#[tokio::test]
async fn an_edge_and_an_ingest_say_the_same_of_a_collector() {
    let stage = Stage::new().await;
    let mut socket = stage.collector("by-socket");
    socket.flush(1).await;
    assert_eq!(stage.ingest.post("/api/v1/write?collector=by-http", "m v=1").await.status, 204);
    let (on_edge, _) = crate::support::eventually("both collectors", async || {
        let status = stage.edges[0].get("/api/metrics/status").await.json;
        (status["collectors_total"] == 2).then_some(status)
    })
    .await;
    let on_ingest = stage.ingest.get("/api/metrics/status").await.json;
    for status in [&on_edge, &on_ingest] {
        assert_eq!(status["collector_connected"], true, "{status}");
        for (number, id) in ["by-http", "by-socket"].into_iter().enumerate() {
            let collector = &status["collectors"][number];
            assert_eq!((&collector["id"], &collector["connected"]), (&id.into(), &true.into()), "{status}");
        }
    }
}
