//! Many collectors in one process, and one client that checks what comes out: nothing lost, nothing twice, nothing out of
//! order. Ends by itself; exit code 0 only if every metric that was sent arrived exactly once, in order.
//!
//! ```text
//! cargo run --release --example collectors -- --ingest ws://localhost:9090/ws/collector --clients ws://localhost:9090/ws
//! ```
//!
//! `--watch NAME=PID` adds the CPU time and memory of that process, taken over exactly the time of sending (Linux).
//! `scripts/measure-ingest.sh` runs it against an ingest node, a NATS server and an edge of its own.

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;

mod metrics;
mod peer;
mod receive;
mod send;
mod usage;

/// Sends like many Telegraf agents, and counts on the other side.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Where collectors connect
    #[arg(long, value_name = "URL", default_value = "ws://localhost:9090/ws/collector")]
    ingest: String,
    /// Where the checking client connects
    #[arg(long, value_name = "URL", default_value = "ws://localhost:9090/ws")]
    clients: String,
    /// Collectors, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=9_999))]
    collectors: u32,
    /// How long to send: one flush of ten measurements per collector and second
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// A process to watch; may be repeated
    #[arg(long, value_name = "NAME=PID")]
    watch: Vec<usage::Watched>,
}

/// What can go wrong before there is anything to count.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Peer(#[from] peer::PeerError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("a part of the load generator ended early")]
    Ended,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("collectors: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything arrived.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let (listening, is_listening) = mpsc::channel();
    let (sending, is_sending) = mpsc::channel();
    let (sent, was_sent) = tokio::sync::oneshot::channel();
    thread::scope(|scope| {
        let client = scope.spawn(move || receive::run(arguments, listening, was_sent));
        if is_listening.recv().is_err() {
            // It ended before it listened, and says why.
            return client.join().map_err(|_| Failure::Ended)?.map(|_| false);
        }
        let senders = scope.spawn(move || send::run(arguments, sending));
        if is_sending.recv().is_err() {
            drop(sent);
            return senders.join().map_err(|_| Failure::Ended)?.map(|_| false);
        }
        let before = usage::of_all(&arguments.watch);
        thread::sleep(Duration::from_secs(arguments.seconds.into()));
        let after = usage::of_all(&arguments.watch);
        let outgoing = senders.join().map_err(|_| Failure::Ended)??;
        // Nobody listens any more when the client has failed, and then says so itself.
        let _ = sent.send(outgoing.metrics);
        let incoming = client.join().map_err(|_| Failure::Ended)??;
        println!("{}", outgoing.describe(arguments));
        println!("{}", incoming.describe());
        println!();
        let own = [("load generator", outgoing.cpu), ("checking client", incoming.cpu)];
        print!("{}", usage::table(&before, &after, &own, arguments.seconds));
        Ok(incoming.is_complete(outgoing.metrics))
    })
}
