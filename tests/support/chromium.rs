//! A real Chromium that opens one page, which tells the test what it sees.

#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A page's own server: its origin is known before there is a browser.
pub struct Page {
    listener: TcpListener,
    origin: String,
}

/// See the module. Everything ends when it is dropped.
pub struct Chromium {
    process: Child,
    /// Its profile.
    _folder: tempfile::TempDir,
    _server: JoinSet<()>,
    reports: mpsc::UnboundedReceiver<Value>,
}

impl Page {
    /// A free port for a page to come from.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let origin = format!("http://{}", listener.local_addr().expect("its address"));
        Self { listener, origin }
    }

    /// The page's origin, as browsers send it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Opens a page with this script, in which `await report(value)` tells the test something, in order.
    pub fn open(self, script: &str) -> Chromium {
        let page = format!(
            "<!doctype html><script>\
             let told = Promise.resolve();\
             const report = (value) => told = told.then(() =>\
                 fetch('/report', {{ method: 'POST', body: JSON.stringify(value) }}));\n{script}</script>"
        );
        let (tell, reports) = mpsc::unbounded_channel();
        let told = async move |body: String| {
            // The test has heard enough.
            let _ = tell.send(serde_json::from_str(&body).expect("a report in JSON"));
        };
        let router = Router::new().route("/", get(async || Html(page))).route("/report", post(told));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(self.listener, router).await.expect("a server that goes on") });
        let folder = tempfile::tempdir().expect("a folder for the profile");
        let process = Command::new(program())
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg(&self.origin)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting Chromium");
        Chromium { process, _folder: folder, _server: server, reports }
    }
}

impl Chromium {
    /// What the page tells next.
    pub async fn report(&mut self) -> Value {
        super::patiently("a report of the page", self.reports.recv()).await.expect("a server that goes on")
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `CHROMIUM`, the one that `make tools` fetched, or an installed one.
fn program() -> PathBuf {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/chromium/chromium");
    let installed = ["/usr/bin/chromium", "/usr/bin/google-chrome"];
    let found = std::env::var_os("CHROMIUM").map(PathBuf::from).into_iter();
    let found =
        found.chain([fetched].into_iter().chain(installed).map(PathBuf::from)).find(|path| path.exists());
    found.expect("no Chromium for the tests: run `make tools`, or point CHROMIUM at one")
}
