//! The programs of `examples/` and the commands of the documents, run as they are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

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
    let commands: Vec<&str> = readme.lines().filter(|line| line.starts_with("curl -sN ")).collect();
    assert!(!commands.is_empty());
    for command in commands {
        let here = command.replace("localhost:9090", &telecast.address().to_string());
        let output = tokio::process::Command::new("timeout").args(["3", "sh", "-c", &here]).output();
        let output = output.await.expect("timeout");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("data: {\"type\":\"welcome\""), "{command}: {text}");
    }
}
