//! Slots on a machine without Kubernetes: an executor is a child process in namespaces of its own, connected by a veth.

use super::error::{Error, io};
use super::files;
use super::provider::{Access, Executor, ExecutorRecord, Home, Place, SlotProvider};
use crate::network::Cidr;
use crate::network::host::HostNetwork;
use crate::node::ateom::{Process, connect, socket_path};
use crate::sandbox::cgroup;
use async_trait::async_trait;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long an executor may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a killed executor may take until its namespace is gone.
const END_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(3);
/// What an executor inherits from our environment; credentials are not for it.
const ENVIRONMENT: [&str; 4] = ["PATH", "ATE_LOG", "RUST_BACKTRACE", "ATE_CRASH_DIR"];
/// First argument of an executor's command line.
const SUBCOMMAND: &str = "ateom";

/// Executors as child processes.
pub(super) struct ProcessSlots {
    executable: PathBuf,
    run_dir: PathBuf,
    network: HostNetwork,
    refused: Vec<Cidr>,
}

impl ProcessSlots {
    /// Prepares the machine's side of the network.
    pub async fn open(
        executable: PathBuf,
        run_dir: PathBuf,
        network: HostNetwork,
        refused: Vec<Cidr>,
    ) -> Result<ProcessSlots, Error> {
        std::fs::create_dir_all(&run_dir).map_err(io("create", &run_dir))?;
        network.setup().await?;
        Ok(ProcessSlots {
            executable,
            run_dir,
            network,
            refused,
        })
    }

    fn command(&self, uid: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command.args([SUBCOMMAND, "--uid", uid, "--dir"]);
        command.arg(&self.run_dir);
        for cidr in &self.refused {
            command.args(["--refuse", &cidr.to_string()]);
        }
        command.env_clear();
        let kept = ENVIRONMENT
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(kept);
        command
    }

    fn own_dir(&self, uid: &str) -> PathBuf {
        self.run_dir.join("ateoms").join(uid)
    }

    /// Of a slot of ours.
    fn index(place: &Place) -> Result<u16, Error> {
        match place.home {
            Home::Process { index, .. } => Ok(index),
            Home::Pod { .. } => Err(Error::Strange { slot: place.name() }),
        }
    }

    /// Kills what `uid` runs as and waits for the end of its namespace, then removes its directory.
    async fn kill(&self, uid: &str, process: Option<Process>) -> Result<(), Error> {
        if let Some(process) = process {
            process.signal(Signal::SIGKILL)?;
            let slow = || Error::Slow {
                slot: uid.to_owned(),
                what: "does not end although it was killed".into(),
            };
            timeout(END_LIMIT, process.ended())
                .await
                .map_err(|_| slow())??;
        }
        remove_groups(uid).await;
        files::remove_dir(&self.own_dir(uid))
    }

    /// The executor `uid` if it runs as `pid`.
    fn find(&self, uid: &str, pid: u32) -> Result<Option<Process>, Error> {
        let Some(start_time) = start_time(pid) else {
            return Ok(None);
        };
        let process = Process::adopt(pid, start_time)?;
        // Now the pid cannot become another process's any more without us seeing it.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Ok(process.filter(|_| self.uid_in(&line).as_deref() == Some(uid)))
    }

    /// The uids and pids of all processes that are executors of ours.
    fn running(&self) -> Result<Vec<(String, u32)>, Error> {
        let pids = files::names(Path::new("/proc"))?;
        let pids = pids.iter().filter_map(|name| name.parse::<u32>().ok());
        Ok(pids
            .filter_map(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                Some((self.uid_in(&line)?, pid))
            })
            .collect())
    }

    /// The uid in the command line of an executor of ours.
    fn uid_in(&self, line: &[u8]) -> Option<String> {
        use std::os::unix::ffi::OsStrExt;
        let args: Vec<&OsStr> = line.split(|b| *b == 0).map(OsStr::from_bytes).collect();
        match &args[..] {
            [_, subcommand, uid_flag, uid, dir_flag, dir, ..]
                if *subcommand == SUBCOMMAND
                    && *uid_flag == "--uid"
                    && *dir_flag == "--dir"
                    && *dir == self.run_dir.as_os_str() =>
            {
                uid.to_str().map(str::to_owned)
            }
            _ => None,
        }
    }
}

/// Field 22 of proc_pid_stat(5); the second may hold anything but ends with the last parenthesis.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// Of an executor that has ended.
async fn remove_groups(uid: &str) {
    let uid = uid.to_owned();
    // Fails only when it panics.
    let _ = tokio::task::spawn_blocking(move || cgroup::remove_all(&uid)).await;
}

#[async_trait]
impl SlotProvider for ProcessSlots {
    fn uid(&self, _: &Place, _: u64) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    async fn start(&self, place: &Place, uid: &str, log: &Path) -> Result<Executor, Error> {
        let index = Self::index(place)?;
        let process = Process::spawn(self.command(uid), log)?;
        self.network.attach(index, process.pid()).await?;
        let record = ExecutorRecord {
            uid: uid.to_owned(),
            pid: process.pid(),
            start_time: process.start_time(),
        };
        let socket = socket_path(&self.run_dir, uid);
        let slow = |what: &str| Error::Slow {
            slot: place.name(),
            what: format!("{what}; see {}", log.display()),
        };
        let listens = async {
            while !socket.exists() {
                if !process.is_alive() {
                    return Err(slow("ended at once"));
                }
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(START_LIMIT, listens)
            .await
            .map_err(|_| slow("does not come up"))??;
        // The socket is there a moment before somebody listens.
        for _ in 0..10 {
            if connect(&socket).await.is_ok() {
                break;
            }
            sleep(POLL).await;
        }
        self.handle(place, record, process).await
    }

    async fn handle(
        &self,
        place: &Place,
        record: ExecutorRecord,
        process: Process,
    ) -> Result<Executor, Error> {
        let socket = socket_path(&self.run_dir, &record.uid);
        let client = connect(&socket).await?;
        Ok(Executor {
            record,
            ip: IpAddr::V4(self.network.addresses(Self::index(place)?)?.slot),
            client,
            process: Arc::new(process),
        })
    }

    async fn end(&self, place: &Place, record: &ExecutorRecord) -> Result<(), Error> {
        let index = Self::index(place)?;
        let process = Process::adopt(record.pid, record.start_time)?;
        self.kill(&record.uid, process).await?;
        if record.pid == 0 {
            // We may have ended between its start and our note of it.
            for (_, pid) in self
                .running()?
                .into_iter()
                .filter(|(u, _)| *u == record.uid)
            {
                self.kill(&record.uid, self.find(&record.uid, pid)?).await?;
            }
        }
        Ok(self.network.detach(index).await?)
    }

    /// They see what the node has.
    fn lend(&self, _: &Place, _: &str, source: &Path, _: Access) -> Result<PathBuf, Error> {
        Ok(source.to_owned())
    }

    fn take_back(&self, _: &Place) -> Result<(), Error> {
        Ok(())
    }

    fn remove(&self, _: &Place) -> Result<(), Error> {
        Ok(())
    }

    async fn sweep(&self, wanted: &HashSet<String>) -> Result<(), Error> {
        for (uid, pid) in self.running()? {
            if !wanted.contains(&uid) {
                tracing::info!(uid, pid, "ending an executor that nobody wants");
                self.kill(&uid, self.find(&uid, pid)?).await?;
            }
        }
        for uid in files::names(&self.run_dir.join("ateoms"))? {
            if !wanted.contains(&uid) {
                remove_groups(&uid).await;
                files::remove_dir(&self.own_dir(&uid))?;
            }
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), Error> {
        files::remove_dir(&self.run_dir.join("ateoms"))?;
        Ok(self.network.remove().await?)
    }
}
