//! `telecast load` against real nodes: what it counts must be what happened.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::stage::Stage;
use crate::support::telecast::{self, Telecast};

/// Starts it on these addresses, with these flags.
fn start(addresses: &[SocketAddr], flags: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telecast"));
    command.arg("load").args(flags.split_whitespace());
    for address in addresses {
        command.args(["--url", &format!("ws://{address}")]);
    }
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().expect("starting telecast load")
}

async fn finish(load: Child) -> Output {
    crate::support::patiently("the load", load.wait_with_output()).await.expect("its output")
}

/// The exit code, and the object it printed.
async fn result(load: Child) -> (Option<i32>, Value) {
    let Output { status, stdout, stderr } = finish(load).await;
    let json = serde_json::from_slice(&stdout);
    (status.code(), json.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr))))
}

/// Every count of something that must not happen is 0.
fn is_accurate(report: &Value) {
    let accuracy = report["accuracy"].as_object().expect("accuracy");
    assert!(accuracy.len() >= 8 && accuracy.values().all(|count| *count == 0), "{report}");
    assert_eq!(report["ok"], true, "{report}");
}

#[tokio::test]
async fn a_standalone_node_loses_nothing_with_slow_and_returning_clients() {
    let node = telecast::standalone().start().await;
    let flags = "--clients 40 --slow 4 --publish 6 --publish-rate 300 --reconnect 25% --duration 3 --json";
    let (code, report) = result(start(&[node.address()], flags)).await;
    is_accurate(&report);
    assert_eq!(code, Some(0));
    let clients = &report["clients"];
    assert_eq!((&clients["connected"], &clients["slow_connected"]), (&40.into(), &4.into()), "{report}");
    assert!(clients["resumed"].as_u64() > Some(10), "{report}");
    // Nothing missing and nothing twice: exactly so many lines came to each of the forty.
    let lines = report["published"]["messages"].as_u64().expect("a count") * 40;
    let came = &report["deliveries"];
    let live = report["latency_ms"]["samples"].as_u64().expect("a count");
    assert_eq!(live + came["replayed"].as_u64().expect("a count"), lines, "{report}");
    assert_eq!(came["foreign"], 0);
    assert!(came["per_second"].as_f64() > Some(1_000.0), "{report}");
}

#[tokio::test]
async fn clients_that_hop_between_edges_get_what_their_filters_let_through_once() {
    let stage = Stage::new().await;
    let flags = format!(
        "--clients 20 --publish 4 --reconnect 20 --duration 2s --filter *.load{{part=1}} --filter *.load{{part=3}} \
         --ingest ws://{} --json",
        stage.ingest.address()
    );
    let (code, report) = result(start(&[stage.edge(0), stage.edge(1)], &flags)).await;
    is_accurate(&report);
    assert_eq!(code, Some(0));
    // Two of four collectors.
    let published = report["published"]["messages"].as_u64().expect("a count");
    let came = report["deliveries"]["messages"].as_u64().expect("a count");
    assert!(came > 0 && came.abs_diff(published * 20 / 2) <= 20, "{report}");
}

#[tokio::test]
async fn an_edge_that_crashes_costs_its_clients_nothing_that_another_edge_has() {
    let stage = Stage::new().await;
    let flags =
        format!("--clients 20 --publish 4 --duration 4 --ingest ws://{} --json", stage.ingest.address());
    let load = start(&[stage.edge(0), stage.edge(1)], &flags);
    // Collectors begin when every client is in: whoever is turned away at first does not come back.
    let flowing = async || {
        let status = stage.ingest.get("/api/metrics/status").await.json;
        (status["collectors"][0]["lines_accepted"].as_u64() > Some(0)).then_some(())
    };
    crate::support::eventually("metrics", flowing).await;
    stage.edges[0].kill();
    let (code, report) = result(load).await;
    is_accurate(&report);
    assert_eq!((code, &report["clients"]["connected"]), (Some(0), &20.into()), "{report}");
    assert!(report["clients"]["resumed"].as_u64() >= Some(1), "{report}");
}

#[tokio::test]
async fn ctrl_c_ends_early_with_a_table() {
    let node = telecast::standalone().start().await;
    let load = start(&[node.address()], "--clients 3 --publish 1 --duration 10m");
    let crowded = async || (clients_of(&node).await >= 3.0).then_some(());
    crate::support::eventually("clients", crowded).await;
    let id = load.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("a process");
    kill_process(id, Signal::INT).expect("a signal");
    let Output { stdout, .. } = finish(load).await;
    let table = String::from_utf8(stdout).expect("text");
    assert!(table.starts_with("clients") && table.ends_with("(interrupted)\n"), "{table}");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_before_anything_is_done() {
    let Output { status, stderr, .. } = finish(start(&[], "--clients 100000000")).await;
    assert_eq!(status.code(), Some(64));
    assert!(String::from_utf8_lossy(&stderr).contains("ulimit"), "{stderr:?}");
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let Output { status, stderr, .. } = finish(start(&[nobody], "--clients 1")).await;
    assert_eq!(status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stderr).contains("Is the node running"), "{stderr:?}");
}

async fn clients_of(node: &Telecast) -> f64 {
    node.get("/api/health").await.json["clients"].as_f64().unwrap_or(0.0)
}
