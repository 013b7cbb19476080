//! Real servers for tests: Valkey on its own port and directory, alone or as a cluster of three. They end with the
//! last handle, also when a test panics.

use super::redis::{RedisStore, StoreOptions};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that has not come up by then never will.
const START: Duration = Duration::from_secs(20);
/// Hash slots of a cluster.
const SLOTS: u32 = 16_384;
/// Attempts to find free ports.
const TRIES: u32 = 5;

/// One `valkey-server`.
struct Server {
    process: Mutex<Process>,
    args: Vec<String>,
    port: u16,
    dir: TempDir,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(args: &[String]) -> Process {
    let child = Command::new("valkey-server")
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("valkey-server is on PATH");
    Process(child)
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn ask(port: u16, args: &[&str]) -> Option<String> {
    let client = ::redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let mut connection = client
        .get_connection_with_timeout(Duration::from_secs(1))
        .ok()?;
    let mut command = ::redis::cmd(args[0]);
    command.arg(&args[1..]);
    let value: ::redis::Value = command.query(&mut connection).ok()?;
    Some(match value {
        ::redis::Value::BulkString(b) => String::from_utf8_lossy(&b).into_owned(),
        ::redis::Value::VerbatimString { text, .. } => text,
        other => format!("{other:?}"),
    })
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < START, "{what} within {START:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Server {
    fn start(args: &[&str]) -> Server {
        (0..TRIES)
            .find_map(|_| Self::try_start(args))
            .expect("valkey-server starts (is it installed?)")
    }

    fn try_start(args: &[&str]) -> Option<Server> {
        let dir = tempfile::tempdir().unwrap();
        let (port, bus) = (free_port().to_string(), free_port().to_string());
        let path = dir.path().to_str().unwrap();
        let all = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--cluster-port",
            &bus,
        ]
        .into_iter()
        .chain(["--dir", path, "--save", "", "--appendonly", "yes"])
        .chain(["--appendfsync", "always", "--daemonize", "no"])
        .chain(args.iter().copied());
        let args: Vec<String> = all.map(str::to_owned).collect();
        let server = Server {
            process: Mutex::new(spawn(&args)),
            args,
            port: port.parse().unwrap(),
            dir,
        };
        server.is_up().then_some(server)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until it answers; false when it ended instead.
    fn is_up(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < START {
            if matches!(self.process().0.try_wait(), Ok(Some(_))) {
                return false;
            }
            if ask(self.port, &["PING"]).is_some_and(|a| !a.is_empty()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn kill(&self) {
        let mut process = self.process();
        let _ = process.0.kill();
        let _ = process.0.wait();
    }

    fn start_again(&self) {
        *self.process() = spawn(&self.args);
        assert!(self.is_up(), "valkey-server starts again");
    }
}

/// A Valkey server, or a cluster of three.
pub struct TestServer {
    servers: Vec<Server>,
}

static PREFIX: AtomicU32 = AtomicU32::new(0);

impl TestServer {
    /// A server of one's own.
    pub fn single() -> Arc<TestServer> {
        Self::single_with(&[])
    }

    /// A server of one's own with further settings.
    pub fn single_with(args: &[&str]) -> Arc<TestServer> {
        Arc::new(TestServer {
            servers: vec![Server::start(args)],
        })
    }

    /// Kills the servers as a crash would and starts them on the same files and ports.
    pub fn kill_and_start(&self) {
        self.kill();
        self.start();
    }

    /// Kills the servers.
    pub fn kill(&self) {
        self.servers.iter().for_each(Server::kill);
    }

    /// Starts them again.
    pub fn start(&self) {
        self.servers.iter().for_each(Server::start_again);
    }

    /// A copy of the first server's files.
    pub fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.servers[0].dir.path(), copy.path());
        copy
    }

    /// Kills the first server and starts it on a copy of its files.
    pub fn kill_and_start_on(&self, copy: &TempDir) {
        let server = &self.servers[0];
        server.kill();
        std::fs::remove_dir_all(server.dir.path().join("appendonlydir")).unwrap();
        copy_files(copy.path(), server.dir.path());
        server.start_again();
    }

    /// The server that tests share while one of them holds it.
    pub fn shared() -> Arc<TestServer> {
        static SHARED: Mutex<Weak<TestServer>> = Mutex::new(Weak::new());
        Self::share(&SHARED, Self::single)
    }

    /// The cluster of three that tests share while one of them holds it.
    pub fn shared_cluster() -> Arc<TestServer> {
        static SHARED: Mutex<Weak<TestServer>> = Mutex::new(Weak::new());
        Self::share(&SHARED, Self::cluster)
    }

    fn share(
        slot: &Mutex<Weak<TestServer>>,
        start: impl FnOnce() -> Arc<TestServer>,
    ) -> Arc<TestServer> {
        let mut slot = slot.lock().unwrap_or_else(|e| e.into_inner());
        slot.upgrade().unwrap_or_else(|| {
            let server = start();
            *slot = Arc::downgrade(&server);
            server
        })
    }

    /// A cluster of three of one's own.
    pub fn cluster() -> Arc<TestServer> {
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
        let servers: Vec<_> = (0..3).map(|_| Server::start(&args)).collect();
        for (i, server) in (0u32..).zip(&servers) {
            let range = [SLOTS * i / 3, SLOTS * (i + 1) / 3 - 1].map(|n| n.to_string());
            ask(
                server.port,
                &["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]],
            )
            .unwrap();
            let first = &servers[0];
            let (port, bus) = (first.port.to_string(), bus_port(first.port));
            if i > 0 {
                ask(server.port, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).unwrap();
            }
        }
        for server in &servers {
            wait_for("the cluster is complete", || {
                let info = ask(server.port, &["CLUSTER", "INFO"]).unwrap_or_default();
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            });
        }
        Arc::new(TestServer { servers })
    }

    /// How to connect, with a prefix that no other test has.
    pub fn options(&self) -> StoreOptions {
        let url = |s: &Server| format!("redis://127.0.0.1:{}", s.port);
        let n = PREFIX.fetch_add(1, Ordering::Relaxed);
        StoreOptions {
            urls: self.servers.iter().map(url).collect(),
            cluster: self.servers.len() > 1,
            prefix: format!("t{n}"),
            ..StoreOptions::new("")
        }
    }

    /// A store with a prefix of its own.
    pub async fn store(&self) -> RedisStore {
        RedisStore::connect(self.options()).await.unwrap()
    }

    /// A command to every server.
    pub fn ask_all(&self, args: &[&str]) {
        for server in &self.servers {
            ask(server.port, args).unwrap();
        }
    }

    /// A command to the first server, its answer as text.
    pub fn ask(&self, args: &[&str]) -> String {
        ask(self.servers[0].port, args).unwrap()
    }
}

fn copy_files(from: &Path, to: &Path) {
    let (from, to) = (from.join("appendonlydir"), to.join("appendonlydir"));
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn bus_port(port: u16) -> String {
    let myself = ask(port, &["CLUSTER", "NODES"]).unwrap();
    let address = myself.split(' ').nth(1).unwrap();
    let after_at = address.split('@').nth(1).unwrap();
    after_at.split(',').next().unwrap().to_owned()
}
