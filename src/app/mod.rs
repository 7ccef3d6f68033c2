//! The composition root: builds a role from its settings, owns its tasks, and drains it.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::Connection;
use crate::config::Settings;
use crate::ops::meters::Meters;
use crate::ops::node::{Lifecycle, Node};
use crate::ops::{process, prometheus, routes};

pub mod listen;

/// What the command line says beyond the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Collect this machine's own metrics.
    pub demo: bool,
}

/// Why a process ends before it is asked to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: std::net::SocketAddr, error: std::io::Error },
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Metrics(#[from] prometheus::InstallError),
}

/// Runs the process to its end.
pub fn run(settings: Settings, _options: Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.server.worker_threads)
        .enable_all()
        .build();
    let ended = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(serve(settings)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(event = "failed", "{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let role = settings.node.role;
    let exporter = prometheus::install(role)?;
    let connection = match settings.nats {
        None => Connection::Connected,
        Some(_) => Connection::Disconnected { reason: "not connected yet".to_owned() },
    };
    let (_log, log) = watch::channel(connection);
    let clients_max = if role.serves_clients() { settings.edge.max_connections } else { 0 };
    let node = Node::new(settings.node.id, role, Meters::register(), log, clients_max);
    let mut tasks = JoinSet::new();
    tasks.spawn(process::sampler(Arc::clone(&node)));
    tasks.spawn(exporter.clone().upkeep());

    let address = settings.server.listen;
    let listener = TcpListener::bind(address).await.map_err(|error| Failure::Listen { address, error })?;
    let router = routes::with_fallbacks(routes::router(Arc::clone(&node), exporter), role);
    tracing::info!(event = "listening", address = %listener.local_addr()?, role = role.as_str(), "listening");
    node.set_lifecycle(Lifecycle::Running);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        node.set_lifecycle(Lifecycle::Draining);
    };
    axum::serve(listener, router).with_graceful_shutdown(stop).await?;
    tasks.shutdown().await;
    tracing::info!(event = "stopped", "stopped");
    Ok(())
}
