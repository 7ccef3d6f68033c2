//! A real nginx in front of nodes: its own port, no files but its configuration, ended when dropped.

#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::nats::free_port;

/// See the module.
pub struct Nginx {
    address: SocketAddr,
    folder: tempfile::TempDir,
    process: Child,
}

/// In front of nodes, as people who have read no more than "how do I proxy a WebSocket" configure it: everything that is not
/// about that is nginx's default, buffering included.
const SITE: &str = "
        map $http_upgrade $connection_upgrade { default upgrade; '' close; }
        server {
            listen 127.0.0.1:{port};
            location / { proxy_pass http://nodes; }
            location /ws {
                proxy_pass http://nodes;
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection $connection_upgrade;
            }
        }";

impl Nginx {
    /// One that spreads its clients over `nodes`, each to the one with the fewest.
    pub async fn before(nodes: &[SocketAddr]) -> Self {
        Self::with(nodes, SITE).await
    }

    /// The same with a server block (and whatever it needs) of one's own: `{port}` is where to listen, and
    /// `http://nodes` where to pass to, unless there are none and the site names its own.
    pub async fn with(nodes: &[SocketAddr], site: &str) -> Self {
        // Another process may take the port between the choice and the bind: then the next one will do.
        for _ in 0..20 {
            if let Some(nginx) = Self::launch(nodes, site, free_port()).await {
                return nginx;
            }
        }
        panic!("no free port for nginx in 20 attempts");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it complained about.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    async fn launch(nodes: &[SocketAddr], site: &str, port: u16) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder for nginx");
        let path = folder.path().display();
        let mut text = String::from("daemon off;\nmaster_process off;\n");
        let _ = writeln!(text, "pid {path}/pid;\nevents {{ worker_connections 8192; }}\nhttp {{");
        let _ = writeln!(text, "access_log off;");
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(text, "{kind}_temp_path {path}/{kind};");
        }
        if !nodes.is_empty() {
            let servers: String = nodes.iter().map(|node| format!("server {node};\n")).collect();
            let _ = writeln!(text, "upstream nodes {{ least_conn;\n{servers}}}");
        }
        let _ = writeln!(text, "{}\n}}", site.replace("{port}", &port.to_string()));
        std::fs::write(folder.path().join("nginx.conf"), text).expect("its configuration");
        let process = Command::new(program())
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting nginx");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut nginx = Self { address, folder, process };
        let (answers, _) = super::eventually("nginx", async || nginx.is_up()).await;
        answers.then_some(nginx)
    }

    /// Whether it listens; false when somebody else has the port.
    fn is_up(&mut self) -> Option<bool> {
        if let Ok(Some(_)) = self.process.try_wait() {
            let log = self.log();
            assert!(log.contains("Address already in use"), "nginx ended:\n{log}");
            return Some(false);
        }
        TcpStream::connect(self.address).is_ok().then_some(true)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("── the log of nginx {}\n{}", self.address, self.log());
        }
    }
}

/// `NGINX`, or the one that `make tools` found or fetched.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("NGINX") {
        return program.into();
    }
    let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/bin/nginx"));
    assert!(program.exists(), "there is no nginx for the tests: run `make tools`, or point NGINX at one");
    program
}
