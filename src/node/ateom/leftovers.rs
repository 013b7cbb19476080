//! Proving that nothing of a sandbox is left in the executor's namespaces: processes and mounts.

use super::Error;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long killed processes may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);
/// What is said of each kind; the rest is only counted.
const NAMED: usize = 5;

/// The mounts that belong to the executor itself.
#[derive(Debug)]
pub(super) struct Baseline {
    mounts: BTreeSet<String>,
    /// What is mounted below these is the node agent's.
    lent: Vec<PathBuf>,
    /// Processes and mounts of the sandbox that was created ahead.
    ahead: Mutex<(BTreeSet<String>, BTreeSet<String>)>,
}

impl Baseline {
    /// The mounts as they are now; those below `lent` are not the executor's.
    pub fn take(lent: Vec<PathBuf>) -> Result<Baseline, Error> {
        let mounts = mounts(&lent)?;
        let ahead = Mutex::default();
        Ok(Baseline {
            mounts,
            lent,
            ahead,
        })
    }

    /// What is there now belongs to the sandbox that was created ahead, until [`Baseline::clean`]. Before it was created nothing was left.
    pub fn accept_ahead(&self) -> Result<(), Error> {
        let there = (processes()?, mounts(&self.lent)?);
        *self.ahead() = there;
        Ok(())
    }

    fn ahead(&self) -> MutexGuard<'_, (BTreeSet<String>, BTreeSet<String>)> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills what still runs, and says what is left. Only while nothing of the executor's own runs. Empty is clean.
    pub async fn clean(&self) -> Result<Vec<String>, Error> {
        *self.ahead() = Default::default();
        let start = Instant::now();
        while !processes()?.is_empty() && start.elapsed() < END_TIMEOUT {
            // As the first process of the namespace: all others in it. None left is an error, too.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            tokio::time::sleep(POLL).await;
        }
        self.left()
    }

    /// Says what is left.
    pub fn left(&self) -> Result<Vec<String>, Error> {
        let (processes, mounts) = (processes()?, mounts(&self.lent)?);
        let ahead = self.ahead();
        let processes = processes.difference(&ahead.0);
        let mounts = mounts.difference(&self.mounts);
        let mounts = mounts.filter(|mount| !ahead.1.contains(*mount));
        let processes = processes.take(NAMED).map(|p| format!("process {p}"));
        let mounts = mounts.take(NAMED).map(|m| format!("mount {m}"));
        Ok(processes.chain(mounts).collect())
    }
}

/// All processes of our pid namespace but ourselves: pid and name.
fn processes() -> Result<BTreeSet<String>, Error> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").map_err(Error::io("list processes"))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != own)
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            format!("{pid} {}", name.unwrap_or_default().trim())
        })
        .collect())
}

/// Mount points and what is mounted there (proc_pid_mountinfo(5)).
fn mounts(lent: &[PathBuf]) -> Result<BTreeSet<String>, Error> {
    let text =
        std::fs::read_to_string("/proc/thread-self/mountinfo").map_err(Error::io("list mounts"))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            let own = !lent.iter().any(|dir| Path::new(point).starts_with(dir));
            own.then(|| format!("{point} ({root})"))
        })
        .collect())
}
