//! A running process from an operator's side: its log lines, its routes, its end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};

/// Far beyond what any step takes on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A standalone node on a free port, with its log as JSON.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    seen: Vec<Value>,
    url: String,
}

impl Process {
    async fn start() -> Self {
        Self::start_with([]).await
    }

    /// With these settings besides.
    async fn start_with<const N: usize>(settings: [(&str, &str); N]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_telecast")), settings).await
    }

    /// With so few files that it may open.
    async fn start_with_descriptors(most: usize) -> Self {
        let mut shell = Command::new("/bin/sh");
        let script = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_telecast")]);
        // Nobody reads the log meanwhile, and what does not fit into a pipe would stop the node.
        Self::run(shell, [("LOG_LEVEL", "INFO")]).await
    }

    async fn run<const N: usize>(mut command: Command, settings: [(&str, &str); N]) -> Self {
        let mut child = command
            .args(["standalone", "--listen", "127.0.0.1:0", "--node", "node-1"])
            .env_clear()
            .envs([
                ("LOG_FORMAT", "json"),
                ("LOG_LEVEL", "DEBUG"),
                ("TELECAST_CONFIG_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            ])
            .envs([("TELECAST__EDGE__DRAIN_GRACE_MS", "0"), ("TELECAST__EDGE__DRAIN_WAVES_MS", "0")])
            .envs(settings)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut process = Self { child, log, seen: Vec::new(), url: String::new() };
        let listening = process.wait_for("listening").await;
        process.url = format!("http://{}", listening["context"]["address"].as_str().unwrap());
        process
    }

    /// Reads the log up to this event.
    async fn wait_for(&mut self, event: &str) -> Value {
        let read = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                self.seen.push(line.clone());
                if line["event"] == event {
                    return line;
                }
            }
            panic!("the log ended without {event}: {:?}", self.seen);
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap()
    }

    fn send(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Asks the process to stop and returns its exit code and everything it logged.
    async fn stop(mut self) -> (Option<i32>, Vec<Value>) {
        self.send(Signal::TERM);
        while let Some(line) = tokio::time::timeout(PATIENCE, self.log.next_line()).await.unwrap().unwrap() {
            self.seen.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}")));
        }
        (tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().code(), self.seen)
    }
}

#[tokio::test]
async fn a_process_serves_its_operators_logs_json_and_stops_with_0() {
    let process = Process::start().await;
    let get = |path: &str| reqwest::get(format!("{}{path}", process.url));

    // The first sample of memory may come after the first answer.
    let sampled = async {
        loop {
            let health: Value = get("/health").await.unwrap().json().await.unwrap();
            if health["checks"]["memory"]["used_mb"].as_f64().unwrap() > 1.0 {
                return health;
            }
        }
    };
    let health = tokio::time::timeout(PATIENCE, sampled).await.unwrap();
    let keys: Vec<&String> = health.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 6, "{keys:?}");
    for check in ["nats", "capacity", "memory", "cpu"] {
        assert!(health["checks"][check]["healthy"].is_boolean(), "{check} in {health}");
    }

    let metrics = get("/metrics").await.unwrap();
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4");
    let metrics = metrics.text().await.unwrap();
    for line in ["ws_nats_connected 1", "ws_server_state{state=\"running\"} 1", "ws_connections_active 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in:\n{metrics}");
    }
    let tasks = metrics.lines().find_map(|line| line.strip_prefix("ws_tasks_active ")).unwrap();
    assert!(tasks.parse::<f64>().unwrap() >= 1.0, "{tasks}");

    let wrong = get("/metric").await.unwrap();
    assert_eq!(wrong.status(), 404);
    assert!(wrong.text().await.unwrap().contains("did you mean /metrics"));

    let (code, log) = process.stop().await;
    assert_eq!(code, Some(0));
    for line in &log {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["context", "event", "level", "message", "timestamp"], "{line}");
        assert!(line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert!(line["context"]["target"].is_string(), "{line}");
        let event = line["event"].as_str().unwrap();
        assert!(
            event.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()),
            "{event} is no name"
        );
    }
    assert!(log.iter().any(|line| line["event"] == "stopped"), "{log:?}");
}

#[tokio::test]
async fn the_first_line_of_the_log_says_what_runs_and_sighup_does_not_stop_it() {
    let mut process = Process::start().await;
    let first = &process.seen[0];
    assert_eq!(first["event"], "starting");
    for name in ["version", "commit", "configuration_files", "nats", "memory_limit_bytes", "cpu_limit_cores"]
    {
        assert!(!first["context"][name].is_null(), "{name} is not in {first}");
    }
    let id = rustix::process::Pid::from_raw(process.child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
    process.wait_for("hangup_ignored").await;
    let version = reqwest::get(format!("{}/version", process.url)).await.unwrap();
    let version: Value = version.json().await.unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(process.stop().await.0, Some(0));
}

#[tokio::test]
async fn an_address_in_use_ends_the_start_with_1_and_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_telecast"))
        .args(["standalone", "--listen", &address])
        .envs([("LOG_FORMAT", "json"), ("TELECAST_CONFIG_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/src"))])
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.lines().last().unwrap().contains(&address), "{stderr}");
}

/// A log that nobody reads: every thread that has something to say waits for ever, and with the last one the node answers
/// nothing any more, not even signals.
#[tokio::test]
async fn a_node_whose_runtime_has_stopped_ends_itself_with_an_exit_code_of_its_own() {
    let settings = [("TELECAST__SERVER__WATCHDOG_TIMEOUT_MS", "1000"), ("WS_WORKER_THREADS", "2")];
    let mut process = Process::start_with(settings).await;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().unwrap();
    // One line of the log each: of other collectors, or it would be too often. A pipe takes 64 KiB.
    let mut numbers = 0..;
    while process.child.try_wait().unwrap().is_none() {
        let url = format!("{}/api/v1/write?collector=c{}", process.url, numbers.next().unwrap());
        let _ = client.post(url).body("no line protocol").send().await;
        assert!(numbers.start < 10_000, "the log takes whatever there is");
    }
    let ended = tokio::time::timeout(PATIENCE, process.child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(i32::from(telecast::app::watchdog::EXIT_STUCK)));
}

#[tokio::test]
async fn a_node_that_was_stopped_as_a_whole_for_longer_than_the_watchdog_waits_goes_on() {
    let process = Process::start_with([("TELECAST__SERVER__WATCHDOG_TIMEOUT_MS", "1000")]).await;
    process.send(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(3)).await;
    process.send(Signal::CONT);
    for _ in 0..20 {
        let alive = reqwest::get(format!("{}/livez", process.url)).await.unwrap();
        assert_eq!(alive.status(), 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(process.stop().await.0, Some(0));
}

/// Sockets of collectors have no limit of their own below the descriptors.
#[tokio::test]
async fn a_node_out_of_descriptors_answers_probes_and_does_not_flood_its_log() {
    const SOCKETS: usize = 110;
    let process = Process::start_with_descriptors(128).await;
    let address = process.url.trim_start_matches("http://").to_owned();
    let ask = async |request: &str| {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        // One that is dropped at once may be reset before it is written to.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut status = [0; "HTTP/1.1 200".len()];
        let read = tokio::time::timeout(PATIENCE, socket.read_exact(&mut status)).await.unwrap();
        (socket, read.map_or("none".to_owned(), |_| String::from_utf8_lossy(&status[9..]).into_owned()))
    };
    let upgrade = "GET /ws/collector HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut held = Vec::new();
    let mut full = 0;
    for _ in 0..SOCKETS {
        let (socket, status) = ask(upgrade).await;
        full += usize::from(status == "503");
        held.push(socket);
    }
    assert!(full > 0, "nobody was told that there is no room");
    for _ in 0..20 {
        assert_eq!(ask("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.1, "200");
    }
    drop(held);
    let again = async { while ask(upgrade).await.1 != "101" {} };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    let (_, log) = process.stop().await;
    let complaints = log.iter().filter(|line| line["event"] == "accept_failed").count();
    assert!(complaints <= 3, "{complaints} lines");
}
