//! The load generator: many clients at once, collectors of its own, and an account of everything that came.
//!
//! It is a client of a cluster like any other and knows nothing of how one is built. It must cost less than the server it
//! loads, so a few threads own all sockets: one poller and one read buffer each, no task, timer or allocation per client and
//! message. Frames are read in place (`scan`), messages of own collectors are recognised by their bytes (`content`), and
//! each client keeps an account (`account`) of what it was owed.
//!
//! [`plan`] is what was asked for; [`target`] where to; [`run`] does it. `worker` and `publisher` are the threads.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

mod account;
mod allowance;
mod client;
mod content;
mod doubts;
mod end;
mod link;
#[cfg(test)]
mod node;
pub mod plan;
mod progress;
mod publisher;
mod report;
mod scan;
mod shared;
mod signals;
mod table;
mod tally;
pub mod target;
mod upgrade;
mod worker;

use plan::{Output, Plan};
use progress::Progress;
use publisher::{Published, Publisher};
use report::{Measured, Report};
use shared::{Glance, Phase, Shared};
use signals::Signals;
use tally::Tally;
use target::ReachError;
use worker::Worker;

/// How often the run is looked at: the bar moves smoothly, and a window of a second is exact to a few percent.
const TICK: Duration = Duration::from_millis(50);

/// When nothing more has come for so long after the last message was sent, nothing more will.
const SETTLE_STALL: Duration = Duration::from_secs(5);

/// Whatever still comes, the run ends so long after its load.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Why a run did not take place.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0}")]
    Reach(#[from] ReachError),
    #[error("collectors cannot connect: {0}. Name the node that takes them with --ingest ws://HOST:PORT")]
    Ingest(ReachError),
    #[error("this machine does not let it work: {0}")]
    Machine(#[from] io::Error),
    #[error(
        "no own collector could connect to {target}: {reasons}. Name the node that takes them with --ingest"
    )]
    NoCollector { target: String, reasons: String },
    #[error("a thread of the load generator has failed; its message is above")]
    Thread,
}

/// Does what the plan says and prints the result: 0 when everybody was connected and nothing was wrong, otherwise 1.
pub fn run(plan: Plan) -> ExitCode {
    let output = plan.output;
    let report = match measure(plan) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("telecast: load: {error}");
            return ExitCode::FAILURE;
        }
    };
    let text = match output {
        Output::Table => report.to_string(),
        Output::Json => report.to_json() + "\n",
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) if report.is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn measure(plan: Plan) -> Result<Report, RunError> {
    let addresses = plan.targets.iter().map(|target| target.reach()).collect::<Result<_, _>>()?;
    let publishing = plan.publishing.clone();
    let ingest = publishing.as_ref().map(|publishing| publishing.target.reach());
    let ingest = ingest.transpose().map_err(RunError::Ingest)?;
    let shared = Arc::new(Shared::new(plan, addresses));
    // The main thread only watches.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::listen() })?;

    let mut workers = Vec::new();
    for number in 0..shared.plan.threads {
        let worker = Worker::new(number, shared.clone())?;
        workers.push(thread::Builder::new().name(format!("load-{number}")).spawn(|| worker.run())?);
    }
    let publisher = match publishing.zip(ingest) {
        None => None,
        Some((publishing, to)) => {
            let publisher = Publisher::new(shared.clone(), publishing, to)?;
            Some(thread::Builder::new().name("load-publish".to_owned()).spawn(|| publisher.run())?)
        }
    };
    let threads = Threads { workers, publisher };
    let watched = runtime.block_on(watch(&shared, &threads, signals));
    shared.enter(Phase::Ending);
    let (tally, published) = threads.join()?;
    let Watched { window, lasted, cpu, interrupted } = watched;
    if let (Some(published), Some(publishing)) = (&published, &shared.plan.publishing)
        && published.messages == 0
        && published.connected == 0
        && !interrupted
    {
        let reasons: Vec<&str> = published.ends.keys().map(String::as_str).collect();
        let target = publishing.target.to_string();
        return Err(RunError::NoCollector { target, reasons: reasons.join(", ") });
    }
    let measured = Measured { tally, published, window, lasted, cpu, interrupted };
    Ok(Report::new(&shared.plan, measured))
}

/// Everything that runs beside the main thread.
struct Threads {
    workers: Vec<JoinHandle<io::Result<Tally>>>,
    publisher: Option<JoinHandle<io::Result<Published>>>,
}

impl Threads {
    /// One of them has ended although nobody said so.
    fn has_failed(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
            || self.publisher.as_ref().is_some_and(JoinHandle::is_finished)
    }

    fn join(self) -> Result<(Tally, Option<Published>), RunError> {
        let mut sum = Tally::new();
        for worker in self.workers {
            sum.merge(worker.join().map_err(|_| RunError::Thread)??);
        }
        let published = self.publisher.map(|publisher| publisher.join().map_err(|_| RunError::Thread));
        Ok((sum, published.transpose()?.transpose()?))
    }
}

/// What the main thread has seen.
#[derive(Default)]
struct Watched {
    window: [Glance; 2],
    lasted: Duration,
    cpu: Duration,
    interrupted: bool,
}

/// Leads the run through its phases.
async fn watch(shared: &Shared, threads: &Threads, mut signals: Signals) -> Watched {
    let mut watched = Watched::default();
    let mut progress = Progress::new(&shared.plan);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut began = Instant::now();
    let mut cpu = Duration::ZERO;
    // When something last came, and how much had come by then.
    let mut moved = (began, 0);
    loop {
        // Both are cancel-safe.
        let asked_to_stop = tokio::select! {
            _ = ticks.tick() => false,
            () = signals.next() => true,
        };
        let (now, glance, phase) = (Instant::now(), shared.glance(), shared.phase());
        progress.show(phase, &glance, now.saturating_duration_since(began));
        let stop = asked_to_stop || threads.has_failed();
        watched.interrupted |= asked_to_stop;
        match phase {
            Phase::Connecting if stop => break,
            Phase::Connecting => {
                let everybody = glance.decided >= shared.plan.sockets() as u64;
                if everybody && glance.open == 0 && shared.plan.sockets() > 0 {
                    // Nobody was let in: there is nothing to wait for.
                    break;
                }
                if everybody && shared.collectors_decided.load(Ordering::Acquire) {
                    (began, cpu) = (now, cpu_time());
                    watched.window[0] = glance;
                    shared.enter(Phase::Running);
                }
            }
            Phase::Running => {
                if stop || now.saturating_duration_since(began) >= shared.plan.duration {
                    watched.window[1] = glance;
                    watched.lasted = now.saturating_duration_since(began);
                    watched.cpu = cpu_time().saturating_sub(cpu);
                    moved = (now, glance.deliveries);
                    shared.enter(Phase::Settling);
                }
            }
            Phase::Settling if stop => break,
            Phase::Settling => {
                if glance.deliveries > moved.1 {
                    moved = (now, glance.deliveries);
                }
                let stalled = now.saturating_duration_since(moved.0) > SETTLE_STALL;
                let over = now.saturating_duration_since(began) > shared.plan.duration + SETTLE_MAX;
                // Without clients everybody has everything at once, but collectors may still be writing.
                let written = shared.published_is_final.load(Ordering::Acquire);
                let settled = written && glance.settled >= shared.plan.sockets() as u64;
                if settled || stalled || over {
                    break;
                }
            }
            Phase::Ending => break,
        }
    }
    progress.clear();
    watched
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
