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
