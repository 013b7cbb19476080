//! A child process that comes back when it dies.

use super::Error;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// First pause before a restart; doubled up to the longest.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before a restart.
const RESTART_MOST: Duration = Duration::from_secs(1);
/// A component that ran so long starts over with the first pause.
const STABLE: Duration = Duration::from_secs(10);
/// How long a component may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often a starting component is looked at.
const PROBE: Duration = Duration::from_millis(20);
/// A log that is larger when its component starts is moved aside.
const MAX_LOG: u64 = 16 << 20;
/// How much of a log is shown.
const LAST_WORDS: usize = 300;

/// How the variables begin that hold keys to S3.
const S3_VARIABLES: &str = "AWS_";

/// How to see that a component is up.
pub(super) enum Probe {
    /// It accepts connections there.
    Tcp(SocketAddr),
    /// It accepts connections there.
    Unix(PathBuf),
    /// Its process runs.
    Alive,
}

/// What to run.
pub(super) struct Component {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) log: PathBuf,
    pub(super) up: Probe,
    /// It gets the keys to S3 that we were given: `AWS_*` of our environment.
    pub(super) reaches_s3: bool,
}

/// A component with its supervisor.
pub(super) struct Supervised {
    component: std::sync::Arc<Component>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts it, and starts it again whenever it ends.
    pub(super) fn start(component: Component) -> Self {
        let component = std::sync::Arc::new(component);
        let stop = CancellationToken::new();
        let task = tokio::spawn(supervise(component.clone(), stop.clone()));
        Supervised {
            component,
            stop,
            task,
        }
    }

    /// Returns when it answers.
    pub(super) async fn wait_until_up(
        &self,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let probing = async {
            while !is_up(&self.component.up).await {
                sleep(PROBE).await;
            }
        };
        tokio::select! {
            () = probing => Ok(()),
            () = sleep(limit) => Err(self.not_up()),
            () = stop.cancelled() => Err(self.not_up()),
        }
    }

    fn not_up(&self) -> Error {
        let Component { name, log, .. } = &*self.component;
        Error::NotUp {
            name,
            words: last_words(log),
            log: log.clone(),
        }
    }

    /// SIGTERM, and SIGKILL when that takes too long.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn is_up(probe: &Probe) -> bool {
    match probe {
        Probe::Tcp(address) => TcpStream::connect(address).await.is_ok(),
        Probe::Unix(path) => UnixStream::connect(path).await.is_ok(),
        Probe::Alive => true,
    }
}

async fn supervise(component: std::sync::Arc<Component>, stop: CancellationToken) {
    let mut pause = RESTART_FIRST;
    loop {
        let began = Instant::now();
        match spawn(&component) {
            Ok(mut child) => {
                tokio::select! {
                    status = child.wait() => report(&component, status),
                    () = stop.cancelled() => return end(&component, child).await,
                }
            }
            Err(e) => tracing::error!(component = component.name, error = %e, "cannot be started"),
        }
        if began.elapsed() > STABLE {
            pause = RESTART_FIRST;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(RESTART_MOST);
    }
}

fn report(component: &Component, status: std::io::Result<std::process::ExitStatus>) {
    let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
    tracing::warn!(component = component.name, %status, log = %component.log.display(), "ended; starting it again");
}

fn spawn(component: &Component) -> std::io::Result<Child> {
    let log = open_log(&component.log)?;
    let mut command = Command::new(&component.program);
    command
        .args(&component.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if !component.reaches_s3 {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(S3_VARIABLES.as_bytes()) {
                command.env_remove(name);
            }
        }
    }
    command.process_group(0).kill_on_drop(true);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent's memory.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
    command.spawn()
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > MAX_LOG) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

async fn end(component: &Component, mut child: Child) {
    let pid = child.id().and_then(|p| i32::try_from(p).ok());
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if timeout(STOP_LIMIT, child.wait()).await.is_err() {
        tracing::warn!(
            component = component.name,
            "did not stop in time; killing it"
        );
        let _ = child.kill().await;
    }
}

/// The last line of a log that says something.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let line = text
        .lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("(nothing)");
    line.chars().take(LAST_WORDS).collect()
}
