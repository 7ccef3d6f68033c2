//! Ends a process whose runtime has stopped, so that what started it starts it anew: a node that answers nothing, not even
//! `/livez` or a signal, is of no use to anybody.
//!
//! A task turns a counter; a thread of its own, which needs nothing of the runtime, looks at it. The runtime stops when every
//! worker thread waits for something that no longer comes: a lock that is never free, a log that nobody reads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sync;

/// Exit code of a process that the watchdog has ended: EX_SOFTWARE of sysexits.h.
pub const EXIT_STUCK: u8 = 70;

/// Looks per timeout: the end comes at most a twentieth late.
const LOOKS: u32 = 20;
/// The longest time between two looks.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// What all threads are doing is told within this time, or not at all: the log may be what they wait for.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Threads that are reported: a node has one per core, some for files and name look-ups, and a few of its own.
const THREADS_MAX: usize = 256;

/// Counts the turns of a runtime.
#[derive(Clone, Default)]
pub struct Turns(Arc<AtomicU64>);

impl Turns {
    /// Turns as long as the runtime does, often enough for this timeout. Never ends.
    pub async fn turn(self, timeout: Duration) {
        let mut ticks = tokio::time::interval(look(timeout) / 2);
        loop {
            ticks.tick().await;
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread that looks; it ends when this is dropped.
pub struct Watchdog {
    stopped: Arc<AtomicBool>,
}

impl Watchdog {
    /// Calls `end`, once, when `turns` has not turned for `timeout`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        turns: Turns,
        timeout: Duration,
        end: impl FnOnce(Duration) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let watchdog = Self { stopped: stopped.clone() };
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut watch = Watch::new(timeout);
            let mut before = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(watch.look);
                let now = Instant::now();
                let stuck = watch.look_at(turns.0.load(Ordering::Relaxed), now - before);
                if stuck && !stopped.load(Ordering::Relaxed) {
                    end(timeout);
                    return;
                }
                before = now;
            }
        })?;
        Ok(watchdog)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Tells what all threads are doing, and ends the process with [`EXIT_STUCK`].
pub fn report_and_exit(timeout: Duration) {
    let (told, all) = mpsc::channel();
    let telling = thread::Builder::new().name("watchdog-report".to_owned()).spawn(move || {
        report(timeout);
        let _ = told.send(());
    });
    if telling.is_ok() {
        // What could not be told in time stays untold.
        let _ = all.recv_timeout(REPORT_TIMEOUT);
    }
    // An exit runs what libraries have left to be done at the end, which may wait for the same.
    let _ = thread::Builder::new().spawn(|| {
        thread::sleep(REPORT_TIMEOUT);
        std::process::abort();
    });
    std::process::exit(i32::from(EXIT_STUCK));
}

fn report(timeout: Duration) {
    tracing::error!(
        event = "runtime_stuck",
        timeout_ms = timeout.as_millis() as u64,
        exit_code = EXIT_STUCK,
        "the runtime has not turned within server.watchdog_timeout_ms: ending the process; what its threads do follows"
    );
    let waits = sync::waits();
    for thread in threads(Path::new("/proc/self/task")) {
        let lock =
            waits.iter().find(|wait| wait.thread == Some(thread.number)).map(|wait| wait.what.as_str());
        tracing::error!(
            event = "thread_stuck",
            thread = thread.number,
            name = thread.name,
            state = thread.state,
            cpu_ticks = thread.cpu_ticks,
            wchan = thread.wchan,
            syscall = thread.syscall,
            lock,
            "a thread of the stuck process"
        );
    }
    for wait in waits.iter().filter(|wait| wait.thread.is_none()) {
        tracing::error!(event = "thread_stuck", lock = wait.what, "a thread of the stuck process");
    }
}

/// What the system says of a thread; empty where it does not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Thread {
    number: u32,
    name: String,
    /// `R` runs, `S` sleeps, `D` waits for a device.
    state: String,
    /// CPU time used, in ticks of the system's clock: a thread that runs in circles uses some.
    cpu_ticks: u64,
    /// Where in the kernel it waits.
    wchan: String,
    /// The number of its system call and the arguments.
    syscall: String,
}

fn threads(tasks: &Path) -> Vec<Thread> {
    let Ok(entries) = std::fs::read_dir(tasks) else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.take(THREADS_MAX).map(|number| thread_of(tasks, number)).collect()
}

fn thread_of(tasks: &Path, number: u32) -> Thread {
    let read = |file: &str| {
        let text = std::fs::read_to_string(tasks.join(number.to_string()).join(file));
        text.unwrap_or_default().trim().to_owned()
    };
    let stat = read("stat");
    // The name stands in brackets and may hold spaces: proc_pid_stat(5).
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Thread {
        number,
        name: read("comm"),
        state: fields.first().copied().unwrap_or_default().to_owned(),
        cpu_ticks: ticks(11) + ticks(12),
        wchan: read("wchan"),
        syscall: read("syscall"),
    }
}

/// Time between two looks.
fn look(timeout: Duration) -> Duration {
    (timeout / LOOKS).min(LOOK_MAX)
}

/// What a watchdog knows. Pure.
struct Watch {
    timeout: Duration,
    look: Duration,
    turns: u64,
    still: Duration,
}

impl Watch {
    fn new(timeout: Duration) -> Self {
        Self { timeout, look: look(timeout), turns: 0, still: Duration::ZERO }
    }

    /// Says whether the runtime is stuck, of which so many turns were counted, when `passed` since the last look. A look that
    /// comes late was held up itself: the process was stopped, the machine asleep or without a CPU to give. That is no time
    /// in which the runtime could have turned.
    fn look_at(&mut self, turns: u64, passed: Duration) -> bool {
        if turns != self.turns {
            self.turns = turns;
            self.still = Duration::ZERO;
            return false;
        }
        self.still += passed.min(self.look * 2);
        self.still >= self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Locked;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// After how many looks, `passed` apart, a runtime that does not turn counts as stuck.
    fn looks_until_stuck(passed: Duration) -> usize {
        let mut watch = Watch::new(TIMEOUT);
        assert!(!watch.look_at(1, passed));
        (1..).find(|_| watch.look_at(1, passed)).unwrap()
    }

    #[test]
    fn a_runtime_that_does_not_turn_for_the_timeout_is_stuck() {
        assert_eq!(looks_until_stuck(Duration::from_secs(1)), 30);
        let mut watch = Watch::new(TIMEOUT);
        assert!((1..1_000).all(|turns| !watch.look_at(turns, Duration::from_secs(1))));
    }

    #[test]
    fn time_in_which_the_watchdog_was_stopped_itself_does_not_count() {
        let mut watch = Watch::new(TIMEOUT);
        assert!(!watch.look_at(1, Duration::from_secs(1)));
        assert!(!watch.look_at(1, Duration::from_secs(8 * 3_600)), "a laptop that slept");
        assert!(!watch.look_at(2, Duration::from_secs(1)));
        assert_eq!(looks_until_stuck(Duration::from_secs(3_600)), 15, "and it is still found");
    }

    #[test]
    fn what_a_thread_does_is_read_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let task = folder.path().join("17");
        std::fs::create_dir(&task).unwrap();
        let stat = "17 (a ) b) S 1 17 17 0 -1 4194560 1 0 0 0 250 40 0 0 20 0 4 0 100";
        for (file, text) in [("comm", "a ) b\n"), ("stat", stat), ("wchan", "futex_do_wait")] {
            std::fs::write(task.join(file), text).unwrap();
        }
        let read = threads(folder.path());
        let [thread] = &read[..] else { panic!("{read:?}") };
        assert_eq!((thread.number, &*thread.name, &*thread.state), (17, "a ) b", "S"));
        assert_eq!((thread.cpu_ticks, &*thread.wchan, &*thread.syscall), (290, "futex_do_wait", ""));
    }

    #[test]
    fn the_threads_of_this_process_are_found_by_their_names() {
        let (release, released) = mpsc::channel::<()>();
        let waiting = thread::Builder::new().name("waits-for-test".into()).spawn(move || released.recv());
        let found = || {
            threads(Path::new("/proc/self/task")).into_iter().any(|thread| thread.name == "waits-for-test")
        };
        while !found() {
            thread::yield_now();
        }
        release.send(()).unwrap();
        waiting.unwrap().join().unwrap().unwrap();
    }

    #[test]
    fn the_log_says_what_every_thread_does() {
        let lines = Arc::new(Locked::leaf("captured lines", Vec::new()));
        let written = lines.clone();
        let writer = move || Captured(written.clone());
        let log = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
        tracing::subscriber::with_default(log, || report(TIMEOUT));
        let text = String::from_utf8(lines.with(std::mem::take)).unwrap();
        assert!(text.contains("event=\"runtime_stuck\" timeout_ms=30000 exit_code=70"), "{text}");
        let own = format!("event=\"thread_stuck\" thread={} name=", sync::thread_number().unwrap());
        assert!(text.contains(&own), "no {own} in {text}");
    }

    struct Captured(Arc<Locked<Vec<u8>>>);

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.with(|lines| lines.extend_from_slice(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_runtime_is_found_and_one_that_turns_is_left_alone() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (turns, timeout) = (Turns::default(), Duration::from_secs(1));
        let (tell, told) = mpsc::channel();
        let watchdog =
            Watchdog::start(turns.clone(), timeout, move |timeout| tell.send(timeout).unwrap()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn_on(turns.clone().turn(timeout), runtime.handle());
        while turns.0.load(Ordering::Relaxed) < 60 {
            thread::yield_now();
        }
        assert!(told.try_recv().is_err(), "it has turned for longer than the timeout");
        let (release, released) = mpsc::channel::<()>();
        tasks.spawn_on(async move { released.recv().unwrap() }, runtime.handle());
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(timeout));
        release.send(()).unwrap();
        drop(watchdog);
    }
}
