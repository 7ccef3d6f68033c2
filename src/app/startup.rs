//! What a process says when it starts: to the log first what runs with which configuration and limits, then to people where to
//! look.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::broker::Connection;
use crate::config::{Role, Settings, mask_url};
use crate::ops::process::limits;
use crate::ops::version;

/// So long the banner waits for NATS, so that it can say whether it is reached: a connection takes milliseconds.
const NATS_WAIT: Duration = Duration::from_secs(2);

/// The first line of the log: enough to tell from it alone what ran.
pub(super) fn log_start(settings: &Settings, files: &[PathBuf]) {
    let limits = limits::read(Path::new("/"));
    let files = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    tracing::info!(
        event = "starting",
        version = version::NUMBER,
        commit = version::COMMIT,
        role = settings.node.role.as_str(),
        node = settings.node.id,
        configuration_files = if files.is_empty() { "none" } else { files.as_str() },
        nats = log_address(settings),
        memory_limit_bytes = limits.memory_bytes,
        cpu_limit_cores = limits.cores,
        worker_threads = settings.server.worker_threads,
        "starting"
    );
}

/// Tells people where to look; programs read the log.
pub(super) async fn print_banner(
    settings: Settings,
    address: SocketAddr,
    demo: bool,
    log: watch::Receiver<Connection>,
) {
    let log = describe_log(&settings, log).await;
    let role = settings.node.role;
    let host = match reachable(address) {
        local if local.ip().is_loopback() => format!("localhost:{}", local.port()),
        other => other.to_string(),
    };
    println!("\nTelecast {} {} on {host}", version::NUMBER, role.as_str());
    println!("  log              {log}");
    if role.serves_clients() {
        println!("  live metrics     http://{host}/sse     (curl -N http://{host}/sse)");
        println!("  the same         ws://{host}/ws        (websocat ws://{host}/ws)");
    }
    if role.ingests() {
        println!("  collectors       ws://{host}/ws/collector, http://{host}/api/v2/write");
    }
    if demo {
        println!("  demo             this machine's own metrics, every second");
    }
    println!("  state            http://{host}/health, /metrics, and / for everything else\n");
}

/// The address at which this machine reaches its own listener.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn describe_log(settings: &Settings, mut log: watch::Receiver<Connection>) -> String {
    let address = log_address(settings);
    let reached = tokio::time::timeout(NATS_WAIT, log.wait_for(Connection::is_connected)).await.is_ok();
    if reached {
        return match settings.node.role {
            Role::Standalone if settings.nats.is_none() => {
                "in this process; --nats URL keeps it in NATS JetStream".to_owned()
            }
            _ => format!("NATS at {address}, connected"),
        };
    }
    let reason = match &*log.borrow() {
        Connection::Disconnected { reason } => reason.clone(),
        Connection::Connected | Connection::Embedded => "no answer yet".to_owned(),
    };
    format!("NATS at {address} is NOT reached: {reason}; trying again until it is (nats.url, --nats)")
}

fn log_address(settings: &Settings) -> String {
    settings.nats.as_ref().map_or_else(|| "embedded".to_owned(), |nats| mask_url(&nats.url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, Machine, load};

    fn settings(role: Role) -> Settings {
        let inputs = Inputs {
            role,
            folder: PathBuf::from("/nonexistent"),
            folder_required: false,
            file: None,
            variables: Vec::new(),
            listen: None,
            nats: None,
            node: None,
            machine: Machine { host_name: "host".to_owned(), cores: 1, descriptors: 1024 },
        };
        load(&inputs).unwrap().settings
    }

    #[tokio::test(start_paused = true)]
    async fn the_banner_says_whether_nats_is_reached_and_why_not() {
        let reason = "connection refused".to_owned();
        let (switch, log) = watch::channel(Connection::Disconnected { reason });
        let text = describe_log(&settings(Role::Edge), log.clone()).await;
        assert!(text.contains("NOT reached: connection refused"), "{text}");
        switch.send_replace(Connection::Connected);
        let text = describe_log(&settings(Role::Edge), log).await;
        assert_eq!(text, "NATS at nats://localhost:4222, connected");
        let (_switch, log) = watch::channel(Connection::Embedded);
        assert!(describe_log(&settings(Role::Standalone), log).await.starts_with("in this process"));
    }
}
