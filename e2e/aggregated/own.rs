//! A store and two replicas of a test's own beside the cluster's: asked directly, as kube-apiserver would ask them. What
//! happens to them disturbs nobody else.

use super::direct::Direct;
use super::harness::{Cluster, PATIENCE, Shared, eventually, free_port, kill, shared};
use crate::parts::look;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Replicas of a test's own.
pub const OWN: usize = 2;

struct Replica {
    rest: u16,
    grpc: u16,
    child: Mutex<Option<Child>>,
}

/// The store and the replicas.
pub struct Own {
    pub cluster: Shared,
    name: String,
    store: u16,
    valkey: Mutex<Option<Child>>,
    replicas: Vec<Replica>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Own {
    /// Started, and every replica answers.
    pub fn start(prefix: &str) -> Own {
        Self::start_beside(shared(), prefix)
    }

    /// The same, beside a cluster that the test has already.
    pub fn start_beside(cluster: Shared, prefix: &str) -> Own {
        let own = Self::stopped(cluster, prefix);
        own.start_store();
        own.start_replicas();
        own
    }

    /// Nothing of it runs yet.
    pub fn stopped(cluster: Shared, prefix: &str) -> Own {
        let host = cluster.host();
        let replicas = (0..OWN).map(|_| Replica {
            rest: free_port(&host),
            grpc: free_port(&host),
            child: Mutex::default(),
        });
        Own {
            name: format!("{prefix}-{:08x}", rand::random::<u32>()),
            store: free_port("127.0.0.1"),
            valkey: Mutex::default(),
            replicas: replicas.collect(),
            cluster,
        }
    }

    pub fn start_store(&self) {
        let mut valkey = lock(&self.valkey);
        if valkey.is_none() {
            *valkey = Some(self.cluster.spawn_store(self.store, &self.name, &[]));
        }
    }

    /// Kills the store; what it had not written is lost.
    pub fn kill_store(&self) {
        if let Some(mut child) = lock(&self.valkey).take() {
            kill(&mut child);
        }
    }

    /// A signal to the store.
    pub fn signal_store(&self, signal: nix::sys::signal::Signal) {
        let valkey = lock(&self.valkey);
        let pid = valkey.as_ref().unwrap().id().cast_signed();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    /// Copies the store's files as they are now.
    pub fn copy_store(&self, to: &Path) {
        copy(&self.cluster.path(&self.name), to);
    }

    /// Puts a copy of its files in the place of those of the store, which does not run.
    pub fn restore_store(&self, from: &Path) {
        let dir = self.cluster.path(&self.name);
        std::fs::remove_dir_all(&dir).unwrap();
        copy(from, &dir);
    }

    /// A copy of the store that follows it, with a folder and port of its own.
    pub fn lagging(&self) -> Lagging {
        let port = free_port("127.0.0.1");
        let folder = format!("{}-replica", self.name);
        let primary = self.store.to_string();
        let more = [
            "--replicaof",
            "127.0.0.1",
            &primary,
            "--repl-diskless-sync-delay",
            "0",
        ];
        let child = self.cluster.spawn_store(port, &folder, &more);
        let lagging = Lagging { port, child };
        eventually("the copy follows", || {
            let said = ask(port, &["INFO", "replication"])?;
            said.contains("master_link_status:up").then_some(())
        });
        lagging
    }

    /// Waits until the copy has all that the store has now.
    pub fn caught_up(&self, copy: &Lagging) {
        let now = offset(self.store);
        eventually("the copy has it all", || {
            (offset(copy.port)? >= now?).then_some(())
        });
    }

    /// The copy takes the place of the store, which does not run any more.
    pub fn promote(&self, lagging: Lagging) {
        let port = self.store.to_string();
        eventually("the copy takes over", || {
            let said = ask(lagging.port, &["CONFIG", "SET", "port", &port])?;
            (said.trim() == "OK").then_some(())
        });
        *lock(&self.valkey) = Some(lagging.child);
    }

    /// A command to the store; what it said.
    #[track_caller]
    pub fn ask(&self, args: &[&str]) -> String {
        ask(self.store, args).unwrap_or_else(|| panic!("{args:?}: no answer"))
    }

    pub fn start_replicas(&self) {
        (0..OWN).for_each(|n| self.start_replica(n));
    }

    /// Starts a replica that does not run, and waits until it answers.
    pub fn start_replica(&self, n: usize) {
        let replica = &self.replicas[n];
        let mut child = lock(&replica.child);
        if child.is_some() {
            return;
        }
        let (ports, log) = ((replica.rest, replica.grpc), format!("{}-{n}", self.name));
        *child = Some(self.cluster.spawn_replica(ports, self.store, &[], &log));
        drop(child);
        let (direct, url) = (Direct::stranger(&self.cluster), self.url(n));
        look::until(PATIENCE, "a replica of its own answers", || {
            if let Some(child) = lock(&replica.child).as_mut()
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("ate apiserver ended with {status}: {}", self.log(n));
            }
            direct.try_get(&format!("{url}/readyz")).ok()
        });
    }

    pub fn kill_replica(&self, n: usize) {
        if let Some(mut child) = lock(&self.replicas[n].child).take() {
            kill(&mut child);
        }
    }

    /// `https://...` of a replica.
    pub fn url(&self, n: usize) -> String {
        format!("https://{}:{}", self.cluster.host(), self.replicas[n].rest)
    }

    /// Of all.
    pub fn urls(&self) -> Vec<String> {
        (0..OWN).map(|n| self.url(n)).collect()
    }

    /// A replica's process.
    pub fn pid(&self, n: usize) -> u32 {
        lock(&self.replicas[n].child).as_ref().unwrap().id()
    }

    pub fn log(&self, n: usize) -> String {
        let file = self.cluster.path(&format!("log/{}-{n}.log", self.name));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// The administrator, as kube-apiserver tells of them.
    pub fn admin(&self) -> Direct {
        Direct::proxy(&self.cluster).by_admin()
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for n in 0..OWN {
                let log = self.log(n);
                let lines: Vec<_> = log.lines().collect();
                let told = lines
                    .iter()
                    .filter(|l| l.contains("too old") || l.contains(" WARN "));
                let last: Vec<_> = told
                    .chain(&lines[lines.len().saturating_sub(30)..])
                    .copied()
                    .collect();
                let last = last.join("\n");
                eprintln!("--- own replica {n}\n{last}");
            }
        }
        (0..OWN).for_each(|n| self.kill_replica(n));
        self.kill_store();
    }
}

/// A copy of a store, as of when it last heard of it.
pub struct Lagging {
    port: u16,
    child: Child,
}

impl Lagging {
    /// From now on it hears nothing more.
    pub fn cut_off(&self) {
        let said = ask(self.port, &["REPLICAOF", "NO", "ONE"]);
        assert_eq!(said.as_deref().map(str::trim), Some("OK"));
    }
}

/// How much a store, or a copy, has of what the store was told.
fn offset(port: u16) -> Option<u64> {
    let said = ask(port, &["INFO", "replication"])?;
    let mut lines = said.lines();
    let number = lines.find_map(|l| l.strip_prefix("master_repl_offset:"))?;
    number.trim().parse().ok()
}

/// `valkey-cli`; `None` when nobody answers.
fn ask(port: u16, args: &[&str]) -> Option<String> {
    let output = Command::new("valkey-cli")
        .args(["-p", &port.to_string()])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.status.success().then(|| look::text(&output.stdout))
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success(), "{} is copied", from.display());
}
