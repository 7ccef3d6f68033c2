//! The programs of `examples/` and the commands of the documents, run as they are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::stage::Stage;
use crate::support::collector::MEASUREMENTS;
use crate::support::ledger::Ledger;
use crate::support::telecast;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `examples/python/follow.py`, and what it prints. Dropped, it is killed.
struct Follower {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new("python3")
            .arg(repository("examples/python/follow.py"))
            .args(arguments)
            .env("PYTHONPATH", repository(".tools/python"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3: `make tools` says what is missing");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        // A full pipe would stop the process. The thread ends with it.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { process, lines }
    }

    /// Takes what it printed until `count` numbers of every measurement came.
    async fn all(&self, collector: &str, count: usize) -> Ledger {
        let enough = async || {
            let mut ledger = Ledger::default();
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().for_each(|line| drop(ledger.take(line)));
            MEASUREMENTS.iter().all(|name| ledger.numbers(collector, name).len() >= count).then_some(ledger)
        };
        crate::support::eventually("what it prints", enough).await.0
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn the_python_example_goes_on_at_another_edge_and_after_its_own_end() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("place.txt");
    let urls = [0, 1].map(|number| format!("ws://{}/ws", stage.edge(number)));
    let arguments = [&*urls[0], &*urls[1], "--from", "earliest", "--place", place.to_str().expect("a path")];
    let mut collector = stage.collector("web-01");
    collector.flush(10).await;
    let first = Follower::start(&arguments);
    first.all("web-01", 10).await;
    stage.edges[0].kill();
    collector.flush(10).await;
    let ledger = first.all("web-01", 20).await;
    drop(first);
    collector.flush(10).await;
    let second = Follower::start(&arguments).all("web-01", 10).await;
    for name in MEASUREMENTS {
        let all: Vec<i64> = [&ledger, &second]
            .into_iter()
            .flat_map(|ledger| ledger.numbers("web-01", name))
            .copied()
            .collect();
        // It was killed between printing and writing down its place at worst: that message comes again, and none is lost.
        let repeated = all.len() - 30;
        assert!(repeated <= 1, "{all:?}");
        assert_eq!(ledger.numbers("web-01", name), &collector.flushed()[..20]);
        assert_eq!(second.numbers("web-01", name), &collector.flushed()[20 - repeated..]);
    }
    assert!(ledger.gaps.is_empty() && second.gaps.is_empty());
}

/// What a server that is none answers to one connection.
#[derive(Clone)]
enum Answer {
    /// This, instead of a handshake.
    Http(String),
    /// A WebSocket, these messages, and this end of it.
    Socket(Vec<&'static str>, u16),
}

/// Answers one connection after the other, and the last answer again and again, as long as the task lives that comes last. Returns its
/// address, and when they came.
async fn answers(answers: Vec<Answer>) -> (std::net::SocketAddr, Arc<Mutex<Vec<Instant>>>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let came = Arc::new(Mutex::new(Vec::new()));
    let noted = came.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        for index in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            match answers[index.min(answers.len() - 1)].clone() {
                Answer::Http(text) => {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(text.as_bytes()).await;
                }
                Answer::Socket(messages, code) => {
                    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { continue };
                    for message in messages {
                        let _ = socket.send(Message::text(message)).await;
                    }
                    let _ = socket.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await;
                }
            }
        }
    });
    (address, came, task)
}

const WELCOME: &str =
    r#"{"type":"welcome","protocol":1,"node":"n","session":"s","offset":"O","heartbeat_ms":15000}"#;

/// Proxies that restart close with these codes; what is final Telecast says with 1008. The address has no path.
#[tokio::test]
async fn the_python_example_comes_back_behind_every_code_but_1008_and_ends_with_the_words_before_that() {
    let refusal = r#"{"type":"error","code":"bad_filter","message":"write `*.cpu`"}"#;
    let codes = [1000, 1001, 1011, 1012];
    let mut script: Vec<Answer> = codes.map(|code| Answer::Socket(vec![WELCOME], code)).to_vec();
    script.push(Answer::Socket(vec![refusal], 1008));
    let (address, came, _server) = answers(script).await;
    let mut follower = Follower::start(&[&format!("ws://{address}")]);
    let ended = async || follower.process.try_wait().expect("its state");
    let status = crate::support::eventually("its end", ended).await.0;
    assert_eq!(status.code(), Some(1));
    assert_eq!(came.lock().unwrap_or_else(PoisonError::into_inner).len(), codes.len() + 1);
}

#[tokio::test]
async fn the_python_example_waits_as_long_as_it_is_told_and_takes_a_page_for_no_websocket() {
    // A date has whole seconds: two of them ahead are more than one.
    let date = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(4)).expect("a time");
    let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let busy = |after: &str| {
        Answer::Http(format!(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {after}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ))
    };
    let page =
        Answer::Http("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".to_owned());
    let (address, came, _server) = answers(vec![busy("1"), busy(&date.to_string()), page]).await;
    let mut follower = Follower::start(&[&format!("http://{address}/")]);
    let ended = async || follower.process.try_wait().expect("its state");
    let status = crate::support::eventually("its end", ended).await.0;
    assert_eq!(status.code(), Some(1));
    let came = came.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(came.len(), 3);
    assert!(came[1] - came[0] >= Duration::from_secs(1), "{came:?}");
    assert!(came[2] - came[0] >= Duration::from_secs(3), "{came:?}");
}

#[tokio::test]
async fn the_python_example_ends_with_the_words_of_a_server_that_refuses() {
    let edge = telecast::standalone().start().await;
    let mut refused = Follower::start(&[&format!("ws://{}/ws", edge.address()), "--filter", "cpu"]);
    let ended = async || refused.process.try_wait().expect("its state");
    let status = crate::support::eventually("its end", ended).await.0;
    assert_eq!(status.code(), Some(1));
}

/// Every `curl -N` of the README, for three seconds.
#[tokio::test]
async fn streams_for_curl_in_the_readme_work_as_written() {
    let telecast = telecast::standalone().start().await;
    let readme = std::fs::read_to_string(repository("README.md")).expect("README.md");
    let commands: Vec<&str> = readme.lines().filter(|line| line.starts_with("curl -N ")).collect();
    assert!(!commands.is_empty());
    for command in commands {
        let here = command.replace("localhost:9090", &telecast.address().to_string());
        let output = tokio::process::Command::new("timeout").args(["3", "sh", "-c", &here]).output();
        let output = output.await.expect("timeout");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("data: {\"type\":\"welcome\""), "{command}: {text}");
    }
}
