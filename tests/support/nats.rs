//! A real nats-server for tests: its own port and store, stopped when dropped.

#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::process::{Pid, Signal, kill_process};

/// See the module. JetStream is on; messages are kept over [`NatsServer::restart`].
pub struct NatsServer {
    port: u16,
    folder: tempfile::TempDir,
    configuration: Mutex<String>,
    process: Mutex<Option<Child>>,
}

impl NatsServer {
    /// A server that is ready for clients.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A server with more lines in its configuration file (users, limits); they come last.
    pub fn start_with(configuration: &str) -> Self {
        // Another process may take the port between the choice and the server's bind: then the next one will do.
        for _ in 0..20 {
            let server = Self::absent_with(configuration);
            match server.launch() {
                Ok(()) => return server,
                Err(log) if log.contains("address already in use") => {}
                Err(log) => panic!("nats-server did not become ready:\n{log}"),
            }
        }
        panic!("no free port for nats-server in 20 attempts");
    }

    /// Only an address where nobody listens, until [`NatsServer::restart`].
    pub fn absent() -> Self {
        Self::absent_with("")
    }

    /// The server that the tests of this process share: started by the first, stopped after the last that uses it.
    pub fn shared() -> Arc<Self> {
        // A `static` server would never be dropped, and outlive the tests.
        static SHARED: Mutex<Weak<NatsServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// As clients are configured.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as an operator does, and waits for its end.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
        self.reap();
    }

    /// Ends it as a power cut does.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Starts it (again) on the same port with the same store, and waits until it is ready.
    pub fn restart(&self) {
        self.kill();
        if let Err(log) = self.launch() {
            panic!("nats-server did not come back:\n{log}");
        }
    }

    /// Has other lines in its configuration file from the next [`NatsServer::restart`] on.
    pub fn configure(&self, configuration: &str) {
        configuration.clone_into(&mut self.configuration.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets every write to a new block of a stream's file fail, as a full disk does: the block that is open takes some more.
    pub fn break_disk(&self, stream: &str) {
        let streams = self.folder.path().join("store/jetstream/$G/streams").join(stream);
        std::fs::rename(streams.join("msgs"), streams.join("kept")).expect("the stream's files");
        std::fs::write(streams.join("msgs"), "no folder").expect("a file in their place");
    }

    /// Ends [`NatsServer::break_disk`].
    pub fn mend_disk(&self, stream: &str) {
        let streams = self.folder.path().join("store/jetstream/$G/streams").join(stream);
        std::fs::remove_file(streams.join("msgs")).expect("the file");
        std::fs::rename(streams.join("kept"), streams.join("msgs")).expect("the stream's files");
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`NatsServer::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn absent_with(configuration: &str) -> Self {
        Self {
            port: free_port(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            configuration: Mutex::new(configuration.to_owned()),
            process: Mutex::new(None),
        }
    }

    /// Starts the process and reads its log until it is ready; the log is the error.
    fn launch(&self) -> Result<(), String> {
        let file = self.folder.path().join("nats.conf");
        let store = self.folder.path().join("store");
        let configuration = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?} }}\n{}\n",
            self.port,
            store,
            self.configuration.lock().unwrap_or_else(PoisonError::into_inner)
        );
        std::fs::write(&file, configuration).expect("writing nats.conf");
        let mut process = Command::new(binary())
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting nats-server");
        let mut lines = BufReader::new(process.stderr.take().expect("its log")).lines();
        let mut log = String::new();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| {
            log.push_str(&line);
            log.push('\n');
            line.contains("Server is ready")
        });
        if !ready {
            let _ = process.kill();
            let _ = process.wait();
            return Err(log);
        }
        // A full pipe would stop the server. The thread ends with the process.
        std::thread::spawn(move || lines.for_each(drop));
        *self.process() = Some(process);
        Ok(())
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &*self.process() {
            let _ = kill_process(Pid::from_child(process), signal);
        }
    }

    fn reap(&self) {
        let running = self.process().take();
        if let Some(mut process) = running {
            let _ = process.wait();
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `NATS_SERVER`, or what `make tools` installed.
fn binary() -> PathBuf {
    let installed = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/nats-server");
    let binary = std::env::var_os("NATS_SERVER").map_or_else(installed, PathBuf::from);
    assert!(binary.exists(), "{} does not exist: run `make tools`, or set NATS_SERVER", binary.display());
    binary
}

/// Below the range from which the kernel takes ports of outgoing connections, so that none of those can be in the way
/// of a restart.
pub fn free_port() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(12_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("an endless iterator")
}
