//! The composition root: builds a role from its settings, owns its tasks, and drains it.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::watchdog::{Turns, Watchdog};
use crate::broker::Broker;
use crate::broker::memory::MemoryBroker;
use crate::broker::nats::{NatsBroker, Updates};
use crate::config::Settings;
use crate::demo;
use crate::edge::Edge;
use crate::ingest::Ingest;
use crate::ops::http::{Access, Listener, Policy};
use crate::ops::log::{self, Follows};
use crate::ops::meters::Meters;
use crate::ops::node::{Lifecycle, Node};
use crate::ops::prometheus::Exporter;
use crate::ops::routes::Operations;
use crate::ops::{process, prometheus, routes};

mod startup;
pub mod watchdog;

/// What is still running after the drain ends by itself within this time, or is left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Slow clients are told goodbye before their connections are cut off, so these are given some time more.
const CUT_OFF_MARGIN: Duration = Duration::from_secs(10);

/// Threads for what blocks, beyond one per worker: files and names may be waited for while all workers have last values copied and
/// encoded. Each has an arena of the allocator, which keeps some megabytes of what it once held; more would wait for the same locks.
const BLOCKING_THREADS_MORE: usize = 2;

/// Exit code of a process that was told twice to stop: 128 + SIGINT, as shells count.
const EXIT_INTERRUPTED: u8 = 130;

/// What the command line says beyond the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Collect this machine's own metrics.
    pub demo: bool,
    /// The configuration files that were read, for the log.
    pub files: Vec<PathBuf>,
}

/// Why a process ends before it is asked to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot listen on {address}: {error}; choose another with --listen HOST:PORT")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Metrics(#[from] prometheus::InstallError),
}

/// Runs the process to its end.
pub fn run(settings: Settings, options: Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.server.worker_threads)
        .max_blocking_threads(settings.server.worker_threads + BLOCKING_THREADS_MORE)
        .enable_all()
        .build();
    let ended = runtime.map_err(Failure::from).and_then(|runtime| {
        let watched = watch(&runtime, settings.server.watchdog_timeout)?;
        let ended = runtime.block_on(serve(settings, options));
        drop(watched);
        // What was left behind has been reported; nothing may hold up the exit.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(code) => code,
        Err(failure) => {
            tracing::error!(event = "failed", "{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Has the process ended if this runtime stops, until what is returned is dropped.
fn watch(runtime: &Runtime, timeout: Option<Duration>) -> std::io::Result<Option<(JoinSet<()>, Watchdog)>> {
    let Some(timeout) = timeout else { return Ok(None) };
    let turns = Turns::default();
    let mut turning = JoinSet::new();
    turning.spawn_on(turns.clone().turn(timeout), runtime.handle());
    Ok(Some((turning, Watchdog::start(turns, timeout, watchdog::report_and_exit)?)))
}

async fn serve(settings: Settings, options: Options) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let process = Process::start(settings, options)?;
    signals.wait().await;
    tokio::select! {
        () = process.drain() => {
            tracing::info!(event = "stopped", "stopped");
            Ok(ExitCode::SUCCESS)
        }
        () = signals.wait() => {
            tracing::warn!(event = "interrupted", "told to stop again: leaving at once");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
    }
}

/// Everything that runs.
struct Process {
    settings: Settings,
    node: Arc<Node>,
    ingest: Option<Arc<Ingest>>,
    edge: Option<Arc<Edge>>,
    /// Ends what feeds this process from inside it.
    feeding: CancellationToken,
    /// Ends listeners, then the broker.
    listening: CancellationToken,
    connected: CancellationToken,
    tasks: TaskTracker,
    broker_tasks: TaskTracker,
}

impl Process {
    fn start(settings: Settings, options: Options) -> Result<Self, Failure> {
        let role = settings.node.role;
        startup::log_start(&settings, &options.files);
        let exporter = prometheus::install(role)?;
        let (tasks, broker_tasks) = (TaskTracker::new(), TaskTracker::new());
        let connected = CancellationToken::new();
        let broker = connect(&settings, &broker_tasks, &connected);
        let clients_max = if role.serves_clients() { settings.edge.max_connections } else { 0 };
        let node =
            Node::new(settings.node.id.clone(), role, Meters::register(), broker.connection(), clients_max);
        let ingest =
            role.ingests().then(|| Ingest::new(node.clone(), broker.clone(), settings.collector.clone()));
        let edge = role.serves_clients().then(|| {
            Edge::new(node.clone(), broker.clone(), settings.edge.clone(), settings.server.worker_threads)
        });
        let process = Self {
            node,
            ingest,
            edge,
            feeding: CancellationToken::new(),
            listening: CancellationToken::new(),
            connected,
            tasks,
            broker_tasks,
            settings,
        };
        let address = process.listen(&exporter)?;
        process.background(process::sampler(process.node.clone()));
        process.background(exporter.upkeep());
        let follower = process.edge.clone().map(|edge| -> Arc<dyn Follows> { edge });
        process.background(log::watch(process.node.clone(), broker, follower));
        if let Some(ingest) = &process.ingest {
            process.background(ingest.clone().watch_storing());
        }
        if let Some(edge) = &process.edge {
            edge.start();
        }
        process.node.set_lifecycle(Lifecycle::Running);
        if options.demo {
            let url = format!("ws://{}/ws/collector", startup::reachable(address));
            process.tasks.spawn(demo::run(url, process.feeding.clone()));
        }
        let log = process.node.log.clone();
        process.background(startup::print_banner(process.settings.clone(), address, options.demo, log));
        Ok(process)
    }

    /// Opens the listeners and returns the public one's address.
    fn listen(&self, exporter: &Exporter) -> Result<SocketAddr, Failure> {
        let server = &self.settings.server;
        let unacknowledged_max = self.settings.edge.slow_client_timeout + CUT_OFF_MARGIN;
        let policy = Policy::new(self.node.clone(), server, unacknowledged_max);
        let origins = policy.origins();
        let operations = Operations {
            node: self.node.clone(),
            exporter: server.metrics_enabled.then(|| exporter.clone()),
            admin_token: self.settings.admin.token.clone(),
        };
        let apart = server.metrics_listen.map(|listen| (listen, routes::router(operations.clone(), origins)));
        let mut public = if apart.is_some() {
            routes::public_router(operations, origins)
        } else {
            routes::router(operations, origins)
        };
        if let Some(ingest) = &self.ingest {
            public = public.merge(origins.apply(Access::Write, ingest.clone().router()));
        }
        if let Some(edge) = &self.edge {
            public = public.merge(edge.router(origins));
        }
        let address = self.open(server.listen, "listening", public, &policy)?;
        if let Some((listen, operations)) = apart {
            self.open(listen, "metrics_listening", operations, &policy)?;
        }
        Ok(address)
    }

    fn open(
        &self,
        address: SocketAddr,
        event: &'static str,
        router: Router,
        policy: &Arc<Policy>,
    ) -> Result<SocketAddr, Failure> {
        let failed = |error| Failure::Listen { address, error };
        let listener = Listener::bind(address, policy.clone()).map_err(failed)?;
        let address = listener.address()?;
        let role = self.settings.node.role;
        tracing::info!(event, %address, role = role.as_str(), node = self.node.id, "listening");
        let router = routes::with_fallbacks(router, role);
        self.tasks.spawn(listener.serve(router, self.listening.clone()));
        Ok(address)
    }

    /// Runs something that has no end of its own until the listeners are closed.
    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let listening = self.listening.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = listening.cancelled() => {}
            }
        });
    }

    /// Not ready → keep serving for the grace → collectors away, their batches into the log → clients away in waves →
    /// everything down.
    async fn drain(&self) {
        let grace = self.settings.edge.drain_grace;
        self.node.set_lifecycle(Lifecycle::Draining);
        tracing::info!(
            event = "draining",
            grace_ms = grace.as_millis() as u64,
            "no longer ready; serving on for the grace; a second signal stops at once"
        );
        self.feeding.cancel();
        tokio::time::sleep(grace).await;
        if let Some(ingest) = &self.ingest {
            // As long as a collector would wait for an answer.
            let left = ingest.drain(self.settings.collector.write_timeout).await;
            if left.batches > 0 {
                tracing::error!(
                    event = "accepted_metrics_lost",
                    batches = left.batches,
                    bytes = left.bytes,
                    "the log did not take these in time"
                );
            }
        }
        if let Some(edge) = &self.edge {
            edge.drain().await;
        }
        self.listening.cancel();
        if let Some(edge) = &self.edge {
            edge.stop().await;
        }
        self.connected.cancel();
        self.tasks.close();
        self.broker_tasks.close();
        let ended = async {
            self.tasks.wait().await;
            self.broker_tasks.wait().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!(event = "tasks_left", tasks = self.tasks.len(), "tasks did not end in time");
        }
    }
}

fn connect(settings: &Settings, tasks: &TaskTracker, stop: &CancellationToken) -> Arc<dyn Broker> {
    match &settings.nats {
        None => MemoryBroker::new(&settings.log),
        Some(nats) => {
            let name = format!("telecast {} {}", settings.node.role.as_str(), settings.node.id);
            let updates = if settings.node.role.ingests() { Updates::Apply } else { Updates::Leave };
            NatsBroker::connect(nats, &settings.log, &name, updates, tasks, stop.clone())
        }
    }
}

/// SIGTERM and SIGINT, which stop the process, and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to stop. A terminal that closes is one; SIGHUP to a process without a terminal asks daemons to
    /// read their configuration again, which must not stop a node. Cancel-safe.
    async fn wait(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {}
            }
            if std::io::stdout().is_terminal() {
                return;
            }
            tracing::warn!(
                event = "hangup_ignored",
                "SIGHUP: the configuration is read at start only; restart to change it, or PUT /admin/log-level to change what is logged"
            );
        }
    }
}
