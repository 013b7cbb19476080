//! Slots in a cluster: an executor is the container of a worker pod, which Kubernetes starts, and starts again when it ended.
//!
//! ```text
//! RUN/ateoms/UID/    its socket and small state; the pod has it, too
//! DIR/workers/UID/   the pod's own; lent/NAME: what its assignment needs, mounted for it and for no other pod
//! ```
//! The pod of [`Home::Pod`] has both under the same names (`node::ateom::Bind`). Its network is Kubernetes'.

use super::config::WorkerPod;
use super::error::{Error, io};
use super::provider::{Access, Executor, ExecutorRecord, Home, Place, SlotProvider};
use super::{files, mounts};
use crate::api::worker::{pod_uid, worker_uid};
use crate::node::ateom::{LENT, Process, connect, socket_path};
use async_trait::async_trait;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long an executor may take until it listens: as long as its container is about to start again.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a unix socket may take to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a killed executor may take until its namespace is gone.
const END_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Directories of pods that we are not told of are removed when they are so old: Kubernetes makes them a moment before it tells.
const STALE: Duration = Duration::from_secs(3600);

/// Executors in pods.
pub(super) struct PodSlots {
    run_dir: PathBuf,
    workers: PathBuf,
    pods: watch::Receiver<Vec<WorkerPod>>,
}

impl PodSlots {
    /// `workers` has a directory per pod; `pods` are those of this node.
    pub fn open(
        run_dir: PathBuf,
        workers: PathBuf,
        pods: watch::Receiver<Vec<WorkerPod>>,
    ) -> Result<PodSlots, Error> {
        for dir in [&run_dir, &workers] {
            std::fs::create_dir_all(dir).map_err(io("create", dir))?;
        }
        Ok(PodSlots {
            run_dir,
            workers,
            pods,
        })
    }

    fn ip(&self, place: &Place) -> Result<IpAddr, Error> {
        let pod = pod_of(place)?;
        let pods = self.pods.borrow();
        let known = pods.iter().find(|p| p.uid == pod).and_then(|p| p.ip);
        known.ok_or_else(|| slow(place, "is in a pod that has no address"))
    }

    fn lent(&self, pod: &str) -> PathBuf {
        self.workers.join(pod).join(LENT)
    }

    fn take_back_from(&self, pod: &str) -> Result<(), Error> {
        let lent = self.lent(pod);
        let names = files::names(&lent)?;
        names
            .iter()
            .try_for_each(|name| mounts::remove(&lent.join(name)))
    }

    fn remove_pod(&self, pod: &str) -> Result<(), Error> {
        self.take_back_from(pod)?;
        // Not with what is in it: should something be lent still, that is not the pod's.
        let lent = self.lent(pod);
        match std::fs::remove_dir(&lent) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io("remove", &lent)(e)),
            _ => {}
        }
        files::remove_dir(&self.workers.join(pod))?;
        files::remove_dir(&self.run_dir.join("ateoms").join(pod))
    }

    /// The process that listens on the executor's socket.
    async fn listening(&self, place: &Place) -> Result<Option<Process>, Error> {
        let socket = socket_path(&self.run_dir, pod_of(place)?);
        let Some(pid) = peer(&socket).await? else {
            return Ok(None);
        };
        if pid == 0 {
            return Err(Error::Unseen { slot: place.name() });
        }
        let process = Process::open(pid)?;
        // Asked again: now the pid cannot have become another process's without us seeing it.
        let same = peer(&socket).await? == Some(pid);
        Ok(process.filter(|process| same && process.is_alive()))
    }
}

fn pod_of(place: &Place) -> Result<&str, Error> {
    match &place.home {
        Home::Pod { uid, .. } => Ok(uid),
        Home::Process { .. } => Err(Error::Strange { slot: place.name() }),
    }
}

fn slow(place: &Place, what: &str) -> Error {
    Error::Slow {
        slot: place.name(),
        what: what.into(),
    }
}

/// The pid of who listens on `socket` (SO_PEERCRED of unix(7)), in our pid namespace; 0 when it is not in there.
async fn peer(socket: &Path) -> Result<Option<u32>, Error> {
    let stream = match timeout(CONNECT_LIMIT, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Ok(Err(e)) => return Err(io("connect to", socket)(e)),
        Err(_) => return Ok(None),
    };
    let peer = stream
        .peer_cred()
        .map_err(io("see who listens on", socket))?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    Ok(Some(pid.unwrap_or_default()))
}

fn age(path: &Path) -> Option<Duration> {
    let made = path.metadata().ok()?.modified().ok()?;
    SystemTime::now().duration_since(made).ok()
}

#[async_trait]
impl SlotProvider for PodSlots {
    fn uid(&self, place: &Place, earlier: u64) -> String {
        worker_uid(pod_of(place).unwrap_or_default(), earlier)
    }

    async fn start(&self, place: &Place, uid: &str, _: &Path) -> Result<Executor, Error> {
        let comes_up = async {
            loop {
                if let Some(process) = self.listening(place).await? {
                    return Ok::<_, Error>(process);
                }
                sleep(POLL).await;
            }
        };
        let process = timeout(START_LIMIT, comes_up).await;
        let process = process.map_err(|_| slow(place, "does not come up; see its pod"))??;
        let record = ExecutorRecord {
            uid: uid.to_owned(),
            pid: process.pid(),
            start_time: process.start_time(),
        };
        self.handle(place, record, process).await
    }

    async fn handle(
        &self,
        place: &Place,
        record: ExecutorRecord,
        process: Process,
    ) -> Result<Executor, Error> {
        let client = connect(&socket_path(&self.run_dir, pod_of(place)?)).await?;
        Ok(Executor {
            ip: self.ip(place)?,
            record,
            client,
            process: Arc::new(process),
        })
    }

    /// Its container ends with it. One that we had not found yet is nobody's.
    async fn end(&self, place: &Place, record: &ExecutorRecord) -> Result<(), Error> {
        if let Some(process) = Process::adopt(record.pid, record.start_time)? {
            process.signal(Signal::SIGKILL)?;
            let ended = timeout(END_LIMIT, process.ended()).await;
            ended.map_err(|_| slow(place, "does not end although it was killed"))??;
        }
        self.take_back(place)
    }

    fn lend(
        &self,
        place: &Place,
        name: &str,
        source: &Path,
        access: Access,
    ) -> Result<PathBuf, Error> {
        let lent = self.lent(pod_of(place)?);
        std::fs::create_dir_all(&lent).map_err(io("create", &lent))?;
        let target = lent.join(name);
        mounts::bind(source, &target, access)?;
        Ok(target)
    }

    fn take_back(&self, place: &Place) -> Result<(), Error> {
        self.take_back_from(pod_of(place)?)
    }

    fn remove(&self, place: &Place) -> Result<(), Error> {
        self.remove_pod(pod_of(place)?)
    }

    /// Kubernetes ends pods. What those had that are gone is removed.
    async fn sweep(&self, wanted: &HashSet<String>) -> Result<(), Error> {
        let here: HashSet<String> = self.pods.borrow().iter().map(|p| p.uid.clone()).collect();
        let sockets = self.run_dir.join("ateoms");
        let mut pods = files::names(&self.workers)?;
        pods.extend(files::names(&sockets)?);
        pods.retain(|pod| !wanted.iter().any(|uid| pod_uid(uid) == pod));
        for pod in pods {
            self.take_back_from(&pod)?;
            let dirs = [self.workers.join(&pod), sockets.join(&pod)];
            let fresh = dirs.iter().filter_map(|dir| age(dir)).any(|a| a < STALE);
            if !here.contains(&pod) && !fresh {
                self.remove_pod(&pod)?;
            }
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
