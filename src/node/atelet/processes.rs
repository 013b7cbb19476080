//! Slots on a machine without Kubernetes: an executor is a child process in namespaces of its own, connected by a veth.
//!
//! One more than there are slots runs, a spare that is connected to nothing: it becomes that of a slot whose executor ended or could not be
//! proved clean, so that a wake does not wait for a process, its namespaces and its rules.

use super::error::{Error, io};
use super::files;
use super::provider::{Access, Executor, ExecutorRecord, Home, Place, SlotProvider};
use crate::network::Cidr;
use crate::network::host::HostNetwork;
use crate::node::ateom::{Process, connect, socket_path};
use crate::sandbox::{cgroup, logs};
use async_trait::async_trait;
use futures::FutureExt;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
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
    starter: Arc<Starter>,
    network: HostNetwork,
    spares: Mutex<Spares>,
}

/// Starts processes of executors.
struct Starter {
    executable: PathBuf,
    run_dir: PathBuf,
    /// Of the logs of spares, each by its uid: the next may be made before the one before has come to its slot.
    spare_logs: PathBuf,
    refused: Vec<Cidr>,
}

/// An executor that runs and is no slot's yet.
struct Spare {
    uid: String,
    process: Process,
}

#[derive(Default)]
struct Spares {
    /// Made, or on its way.
    next: Option<JoinHandle<Result<Spare, Error>>>,
    /// Their uids are slots' already, which will start them.
    promised: Vec<Spare>,
    /// Ended before a slot needed them; what they had on the node is still there.
    ended: Vec<String>,
}

impl ProcessSlots {
    /// Prepares the machine's side of the network. Spares write into the directory `spare_logs`, which is emptied and is in
    /// the file system of the slots' logs.
    pub async fn open(
        executable: PathBuf,
        run_dir: PathBuf,
        spare_logs: PathBuf,
        network: HostNetwork,
        refused: Vec<Cidr>,
    ) -> Result<ProcessSlots, Error> {
        files::remove_dir(&spare_logs)?;
        for dir in [&run_dir, &spare_logs] {
            std::fs::create_dir_all(dir).map_err(io("create", dir))?;
        }
        network.setup().await?;
        let starter = Starter {
            executable,
            run_dir,
            spare_logs,
            refused,
        };
        Ok(ProcessSlots {
            starter: Arc::new(starter),
            network,
            spares: Mutex::default(),
        })
    }

    /// The spare that was promised as `uid`; its log goes on as `log`.
    fn take_spare(&self, uid: &str, log: &Path) -> Result<Option<Process>, Error> {
        let spare = {
            let promised = &mut self.spares().promised;
            let at = promised.iter().position(|spare| spare.uid == uid);
            at.map(|at| promised.swap_remove(at))
        };
        let Some(spare) = spare else {
            return Ok(None);
        };
        logs::replace(log, &self.starter.spare_log(uid)).map_err(io("replace", log))?;
        Ok(Some(spare.process))
    }

    /// Has another one made, unless there is one.
    fn make_spare(&self) {
        let starter = self.starter.clone();
        self.spares()
            .next
            .get_or_insert_with(|| tokio::task::spawn_blocking(move || starter.spare()));
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_dir(&self, uid: &str) -> PathBuf {
        self.starter.run_dir.join("ateoms").join(uid)
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
        Ok(process.filter(|_| uid_in(&self.starter.run_dir, &line).as_deref() == Some(uid)))
    }
}

/// The uids and pids of all processes that are executors in that directory.
pub(super) fn executors(run_dir: &Path) -> Result<Vec<(String, u32)>, Error> {
    let pids = files::names(Path::new("/proc"))?;
    let pids = pids.iter().filter_map(|name| name.parse::<u32>().ok());
    Ok(pids
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((uid_in(run_dir, &line)?, pid))
        })
        .collect())
}

/// The uid in the command line of an executor in that directory.
fn uid_in(run_dir: &Path, line: &[u8]) -> Option<String> {
    use std::os::unix::ffi::OsStrExt;
    let args: Vec<&OsStr> = line.split(|b| *b == 0).map(OsStr::from_bytes).collect();
    match &args[..] {
        [_, subcommand, uid_flag, uid, dir_flag, dir, ..]
            if *subcommand == SUBCOMMAND
                && *uid_flag == "--uid"
                && *dir_flag == "--dir"
                && *dir == run_dir.as_os_str() =>
        {
            uid.to_str().map(str::to_owned)
        }
        _ => None,
    }
}

impl Starter {
    fn start(&self, uid: &str, log: &Path) -> Result<Process, Error> {
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
        Ok(Process::spawn(command, log)?)
    }

    fn spare(&self) -> Result<Spare, Error> {
        let uid = new_uid();
        let process = self.start(&uid, &self.spare_log(&uid))?;
        Ok(Spare { uid, process })
    }

    fn spare_log(&self, uid: &str) -> PathBuf {
        self.spare_logs.join(format!("{uid}.log"))
    }
}

fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
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
        let mut spares = self.spares();
        let made = spares.next.take_if(|made| made.is_finished());
        match made.and_then(FutureExt::now_or_never) {
            Some(Ok(Ok(spare))) if spare.process.is_alive() => {
                let uid = spare.uid.clone();
                spares.promised.push(spare);
                return uid;
            }
            Some(Ok(Ok(spare))) => spares.ended.push(spare.uid),
            Some(Ok(Err(error))) => tracing::warn!(%error, "no spare executor could be started"),
            Some(Err(_)) | None => {}
        }
        new_uid()
    }

    async fn start(&self, place: &Place, uid: &str, log: &Path) -> Result<Executor, Error> {
        let index = Self::index(place)?;
        let process = match self.take_spare(uid, log)? {
            Some(spare) => spare,
            None => self.starter.start(uid, log)?,
        };
        self.network.attach(index, process.pid()).await?;
        let record = ExecutorRecord {
            uid: uid.to_owned(),
            pid: process.pid(),
            start_time: process.start_time(),
        };
        let socket = socket_path(&self.starter.run_dir, uid);
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
        let ended = std::mem::take(&mut self.spares().ended);
        for uid in ended {
            self.kill(&uid, None).await?;
            files::remove_file(&self.starter.spare_log(&uid))?;
        }
        self.make_spare();
        self.handle(place, record, process).await
    }

    async fn handle(
        &self,
        place: &Place,
        record: ExecutorRecord,
        process: Process,
    ) -> Result<Executor, Error> {
        let socket = socket_path(&self.starter.run_dir, &record.uid);
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
            for (_, pid) in executors(&self.starter.run_dir)?
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
        for (uid, pid) in executors(&self.starter.run_dir)? {
            if !wanted.contains(&uid) {
                tracing::info!(uid, pid, "ending an executor that nobody wants");
                self.kill(&uid, self.find(&uid, pid)?).await?;
            }
        }
        for uid in files::names(&self.starter.run_dir.join("ateoms"))? {
            if !wanted.contains(&uid) {
                remove_groups(&uid).await;
                files::remove_dir(&self.own_dir(&uid))?;
            }
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), Error> {
        let made = self.spares().next.take();
        if let Some(made) = made
            && let Ok(Ok(spare)) = made.await
        {
            self.kill(&spare.uid, Some(spare.process)).await?;
        }
        files::remove_dir(&self.starter.run_dir.join("ateoms"))?;
        Ok(self.network.remove().await?)
    }
}
