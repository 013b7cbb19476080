//! The group of one sandbox.

use super::find::Base;
use super::remove_dir;
use crate::api::resources::{Limits, SANDBOX_OVERHEAD};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Microseconds over which processors are counted, as container runtimes have it; and the least quota that the kernel takes.
const CPU_PERIOD: u64 = 100_000;
const LEAST_QUOTA: u64 = 1_000;
/// The shares of one processor in version 1, and the least that can be written.
const CPU_SHARES: u64 = 1024;
const LEAST_SHARES: u64 = 2;
/// The most that Kubernetes writes.
const MOST_SHARES: u64 = 262_144;
/// How long processes that were killed may take until they are out of a group.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// The control groups of one sandbox, of which there are two in version 1.
#[derive(Debug)]
pub struct Group {
    dirs: Vec<PathBuf>,
    /// Holds a line `oom_kill N`.
    kills: PathBuf,
    /// Bytes of memory that may be taken.
    memory: Option<u64>,
    /// The files of that bound, in the order in which it is set; and what they take for none.
    bounds: Vec<PathBuf>,
    unbounded: &'static str,
}

/// Where a process comes in: open before it is started.
#[derive(Debug)]
pub struct Entrance(Vec<File>);

impl Entrance {
    /// Moves the calling process in. Only system calls: may be called between fork and exec.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn enter(&self) -> io::Result<()> {
        for file in &self.0 {
            // SAFETY: the descriptor is open, and the buffer one byte long.
            let written = unsafe { libc::write(file.as_raw_fd(), c"0".as_ptr().cast(), 1) };
            if written != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

impl Group {
    pub(super) fn make(base: &Base, id: &str, limits: &Limits) -> io::Result<Group> {
        let dirs: Vec<_> = base.dirs().iter().map(|dir| dir.join(id)).collect();
        dirs.iter().try_for_each(std::fs::create_dir)?;
        let (of_memory, kills, unbounded) = match base {
            Base::V1 { memory, .. } => (memory.join(id), "memory.oom_control", "-1"),
            Base::V2(dir) => (dir.join(id), "memory.events", "max"),
        };
        let bounds = match base {
            // What counts swapped memory too is never below the other.
            Base::V1 { .. } => &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"][..],
            Base::V2(_) => &["memory.max"],
        };
        let bounds = bounds
            .iter()
            .enumerate()
            .map(|(n, name)| (n, of_memory.join(name)));
        // Kernels may be built without the second.
        let bounds = bounds.filter(|(n, file)| *n == 0 || file.exists());
        let group = Group {
            kills: of_memory.join(kills),
            dirs,
            memory: limits
                .memory
                .map(|most| most.saturating_add(SANDBOX_OVERHEAD)),
            bounds: bounds.map(|(_, file)| file).collect(),
            unbounded,
        };
        let written = match base {
            Base::V1 { cpu, .. } => group.write_v1(&cpu.join(id), limits),
            Base::V2(_) => group.write_v2(&of_memory, limits),
        };
        if written.is_err() {
            // Nothing is in there yet.
            group
                .dirs
                .iter()
                .for_each(|dir| drop(std::fs::remove_dir(dir)));
        }
        written.map(|()| group)
    }

    fn write_v1(&self, cpu: &Path, limits: &Limits) -> io::Result<()> {
        self.bind()?;
        if let Some(most) = limits.cpu {
            write(&cpu.join("cpu.cfs_period_us"), CPU_PERIOD)?;
            write(&cpu.join("cpu.cfs_quota_us"), quota(most))?;
        }
        match limits.share {
            Some(share) => write(&cpu.join("cpu.shares"), shares(share)),
            None => Ok(()),
        }
    }

    fn write_v2(&self, dir: &Path, limits: &Limits) -> io::Result<()> {
        self.bind()?;
        if self.memory.is_some() {
            if_there(&dir.join("memory.swap.max"), 0)?;
        }
        // All of it or nothing: what is left of a sandbox is of no use.
        if_there(&dir.join("memory.oom.group"), 1)?;
        if let Some(most) = limits.cpu {
            write(
                &dir.join("cpu.max"),
                format!("{} {CPU_PERIOD}", quota(most)),
            )?;
        }
        match limits.share {
            // As Kubernetes converts them.
            Some(share) => write(
                &dir.join("cpu.weight"),
                1 + (shares(share) - LEAST_SHARES) * 9999 / (MOST_SHARES - LEAST_SHARES),
            ),
            None => Ok(()),
        }
    }

    /// Bounds the memory.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn bind(&self) -> io::Result<()> {
        let Some(bytes) = self.memory else {
            return Ok(());
        };
        self.bounds.iter().try_for_each(|file| write(file, bytes))
    }

    /// Lets memory be taken without bound until [`Group::bind`]: of what a sandbox writes into files, too, the kernel keeps copies, and counts them.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn release(&self) -> io::Result<()> {
        let mut bounds = self.bounds.iter().rev().filter(|_| self.memory.is_some());
        bounds.try_for_each(|file| write(file, self.unbounded))
    }

    /// Opens the way in.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn entrance(&self) -> io::Result<Entrance> {
        let open = |dir: &PathBuf| File::options().write(true).open(dir.join("cgroup.procs"));
        let files: io::Result<Vec<_>> = self.dirs.iter().map(open).collect();
        files.map(Entrance)
    }

    /// The bound of memory, with what the sandbox itself takes.
    pub fn bound(&self) -> Option<u64> {
        self.memory
    }

    /// Whether something in it was killed because there was no more memory for it.
    pub fn ran_out(&self) -> bool {
        let text = std::fs::read_to_string(&self.kills).unwrap_or_default();
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills.trim() != "0")
    }

    /// Removes it, as soon as what was in there has ended.
    ///
    /// # Errors
    /// When it has not within a bound.
    pub async fn remove(&self) -> io::Result<()> {
        let until = Instant::now() + EMPTY_TIMEOUT;
        let dirs = self.dirs.clone();
        let removed = move || dirs.iter().try_for_each(|dir| remove_dir(dir, until));
        let removed = tokio::task::spawn_blocking(removed).await;
        removed.unwrap_or_else(|e| Err(e.into()))
    }
}

fn quota(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD) / 1000).max(LEAST_QUOTA)
}

fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_SHARES) / 1000).clamp(LEAST_SHARES, MOST_SHARES)
}

fn write(file: &Path, value: impl ToString) -> io::Result<()> {
    let said = std::fs::write(file, value.to_string());
    said.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))
}

/// What kernels may be built without.
fn if_there(file: &Path, value: impl ToString) -> io::Result<()> {
    match file.exists() {
        true => write(file, value),
        false => Ok(()),
    }
}
