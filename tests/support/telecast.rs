//! `telecast` as real processes: started on free ports, stopped, killed, and asked over HTTP.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::header::HeaderMap;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::watch;

/// Lines of a process's log that a failed test shows.
const SHOWN_LINES_MAX: usize = 80;

/// What a process is started with.
pub struct Launch {
    arguments: Vec<String>,
    listen: String,
    node: String,
    variables: Vec<(String, String)>,
}

/// One running process. Dropped, it is killed; its log is shown if the test has failed.
pub struct Telecast {
    name: String,
    address: SocketAddr,
    process: Mutex<Child>,
    log: Arc<Mutex<Vec<String>>>,
}

/// An answer over HTTP.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Null when the body is no JSON.
    pub json: Value,
    pub body: String,
}

impl Answer {
    /// Takes a response to its end.
    pub async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = super::patiently("a body", response.text()).await.expect("a body of text");
        Self { status, headers, json: serde_json::from_str(&body).unwrap_or(Value::Null), body }
    }
}

/// `telecast standalone` with its log in its own memory.
pub fn standalone() -> Launch {
    Launch::new(&["standalone"])
}

/// `telecast ingest` on these servers.
pub fn ingest(nats: &str) -> Launch {
    Launch::new(&["ingest", "--nats", nats])
}

/// `telecast edge` on these servers.
pub fn edge(nats: &str) -> Launch {
    Launch::new(&["edge", "--nats", nats])
}

/// What `telecast status` says of a node, and its exit code.
pub struct Status {
    pub code: Option<i32>,
    pub text: String,
}

/// Runs `telecast status` against a node.
pub async fn status(node: SocketAddr) -> Status {
    let arguments = ["status".to_owned(), "--url".to_owned(), format!("http://{node}")];
    let run = move || Command::new(binary()).args(arguments).env_clear().output().expect("running telecast");
    let output = tokio::task::spawn_blocking(run).await.expect("its end");
    Status { code: output.status.code(), text: String::from_utf8_lossy(&output.stdout).into_owned() }
}

impl Launch {
    fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let (listen, node) = ("127.0.0.1:0".to_owned(), format!("test-{:08x}", fastrand::u32(..)));
        Self { arguments, listen, node, variables: Vec::new() }
    }

    /// The node's name.
    pub fn node(mut self, id: &str) -> Self {
        self.node = id.to_owned();
        self
    }

    /// Where to listen, instead of on any free port.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address.to_string();
        self
    }

    /// A key of the configuration.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        let name = format!("TELECAST__{}", key.to_uppercase().replace('.', "__"));
        self.variables.push((name, value.to_string()));
        self
    }

    /// Starts it and waits until it is ready for peers.
    pub async fn start(self) -> Telecast {
        let telecast = self.start_unready().await;
        telecast.ready().await;
        telecast
    }

    /// Starts it and waits until it listens.
    pub async fn start_unready(self) -> Telecast {
        let name = format!("{} {}", self.arguments[0], self.node);
        // Nothing of the surroundings may decide what is tested: neither variables nor files.
        let mut process = Command::new(binary())
            .args(&self.arguments)
            .args(["--listen", &self.listen, "--node", &self.node])
            .env_clear()
            .env("TELECAST_CONFIG_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
            .env("LOG_FORMAT", "json")
            .env("LOG_LEVEL", "debug")
            .envs(self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting telecast");
        let (log, mut addresses) = follow_log(&mut process);
        let mut telecast =
            Telecast { name, address: SocketAddr::from(([0; 4], 0)), process: Mutex::new(process), log };
        let listens = super::patiently("the listener", addresses.wait_for(Option::is_some)).await;
        let listens = listens.expect("a process that lives until it listens: see its log below");
        telecast.address = listens.expect("an address, as waited for");
        telecast
    }
}

impl Telecast {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self) {
        let is_ready = async || (self.get("/readyz").await.status == 200).then_some(());
        super::eventually("readiness", is_ready).await;
    }

    /// Asks for a path.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(reqwest::Client::new().get(self.url(path))).await
    }

    /// Posts a body.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.ask(reqwest::Client::new().post(self.url(path)).body(body)).await
    }

    /// The value of a metric, named with its labels; 0 if it was never touched.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// All metrics, as Prometheus reads them.
    pub async fn metrics(&self) -> String {
        reqwest::get(self.url("/metrics")).await.expect("metrics").text().await.expect("text")
    }

    /// Asks it to stop, as an orchestrator does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end, and returns its exit code; none if a signal ended it.
    pub async fn ended(&self) -> Option<i32> {
        let ended = async || self.process().try_wait().expect("its state");
        super::eventually("the end of the process", ended).await.0.code()
    }

    /// Ends it as a crash does.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let _ = self.process().wait();
    }

    /// Freezes it: connections stay open, nothing is read or written.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`Telecast::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether its log has a line with this event.
    pub fn logged(&self, event: &str) -> bool {
        !self.lines_of(event).is_empty()
    }

    /// The lines of its log with this event.
    pub fn lines_of(&self, event: &str) -> Vec<String> {
        let event = format!(r#""event":"{event}""#);
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|line| line.contains(&event)).cloned().collect()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request of any kind, with these headers.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let method = method.parse().expect("a method");
        let request = reqwest::Client::new().request(method, self.url(path));
        let with =
            |request: reqwest::RequestBuilder, (name, value): &(&str, &str)| request.header(*name, *value);
        self.ask(headers.iter().fold(request, with)).await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = super::patiently("an answer", request.send()).await.expect("an answer");
        Answer::read(response).await
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.process()), signal);
    }

    fn process(&self) -> MutexGuard<'_, Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Telecast {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("── the end of the log of {} {}", self.name, self.address);
            log.iter().skip(log.len().saturating_sub(SHOWN_LINES_MAX)).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// `TELECAST`, or the one that was built for these tests.
fn binary() -> PathBuf {
    std::env::var_os("TELECAST").map_or_else(|| env!("CARGO_BIN_EXE_telecast").into(), PathBuf::from)
}

/// Keeps the log, and tells the address as soon as it is there.
fn follow_log(process: &mut Child) -> (Arc<Mutex<Vec<String>>>, watch::Receiver<Option<SocketAddr>>) {
    let lines = BufReader::new(process.stderr.take().expect("its log")).lines();
    let log = Arc::new(Mutex::new(Vec::new()));
    let (address, addresses) = watch::channel(None);
    let kept = log.clone();
    // A full pipe would stop the process. The thread ends with it.
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some(heard) = listening(&line) {
                address.send_replace(Some(heard));
            }
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    (log, addresses)
}

fn listening(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    if line["event"] != "listening" {
        return None;
    }
    line["context"]["address"].as_str()?.parse().ok()
}
