//! The slot's state, and the calls on it: one at a time, fenced by epochs. Standing still and going on is in [`freeze`].

mod freeze;

use super::Error;
use super::convert::{self, Order};
use super::leftovers::Baseline;
use crate::failpoint;
use crate::network::Cidr;
use crate::network::slot::{self, SlotNetwork};
use crate::node::deadline::Deadline;
use crate::proto::atenode::{self as wire, observe_workload_response::State};
use crate::proto::atenode::{ActorIdentity, ObserveWorkloadResponse};
use crate::sandbox::cgroup::Groups;
use crate::sandbox::gvisor::Gvisor;
use crate::sandbox::{
    Error as SandboxError, Observed, Orphans, Sandbox, Spec, Steps, logs, readyz,
};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, watch};

/// Assignments that ended, kept to refuse late orders. The node agent fences too; this is for what is still under way here.
const REMEMBERED: usize = 64;
/// How long a shutdown waits for a call that is under way and for the sandbox to end; what is then left ends with the namespace.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// The executor of one slot.
pub(super) struct Executor {
    sandbox: Box<dyn Sandbox>,
    network: SlotNetwork,
    baseline: Baseline,
    /// Held by the call that is under way.
    turn: Mutex<()>,
    /// Nothing has run since the slot was proved clean. Changed by the call that has the turn.
    proved: AtomicBool,
    /// What runs, or is on its way to or from running.
    assignment: watch::Sender<Option<Arc<Order>>>,
    /// The epoch up to which a stop waits for its turn: a start does not wait for readiness any longer.
    stopping: watch::Sender<Option<u64>>,
    /// The sandbox stands still because we want it to. Changed by the call that has the turn.
    frozen: AtomicBool,
    /// Until when the sandbox may run.
    lease: Deadline,
    history: StdMutex<History>,
}

/// What the slot has seen.
#[derive(Default)]
struct History {
    /// Actor and epoch of assignments that ended, newest last.
    ended: VecDeque<(String, u64)>,
    /// The last checkpoint that succeeded: its answer may have been lost.
    checkpoint: Option<(u64, PathBuf)>,
}

impl History {
    fn end(&mut self, order: &Order) {
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((key(&order.actor), order.epoch));
    }

    fn has_ended(&self, order: &Order) -> bool {
        let key = key(&order.actor);
        let epoch = order.epoch;
        self.ended.iter().any(|(k, e)| *k == key && epoch <= *e)
    }
}

impl Error {
    fn taken(now: &Order) -> Error {
        Error::Taken {
            actor: key(&now.actor),
            epoch: now.epoch,
        }
    }
}

/// Two actors of one name at different times have different uids.
fn key(actor: &ActorIdentity) -> String {
    format!("{}/{}/{}", actor.namespace, actor.name, actor.uid)
}

impl Executor {
    /// Prepares the slot of the worker `uid`: its directory `dir`, its network, its backend. Below `lent` the node agent mounts, and takes away again,
    /// what assignments need.
    pub async fn new(
        uid: &str,
        dir: &Path,
        refused: &[Cidr],
        lent: Vec<PathBuf>,
        orphans: Orphans,
    ) -> Result<Executor, Error> {
        let groups = Groups::open(uid);
        let sandbox = Gvisor::new(dir.join("gvisor"), groups, orphans)?;
        let network = SlotNetwork::create(&dir.join("netns"), refused).await?;
        Ok(Executor {
            sandbox: Box::new(sandbox),
            network,
            baseline: Baseline::take(lent)?,
            turn: Mutex::new(()),
            proved: AtomicBool::new(false),
            assignment: watch::Sender::new(None),
            stopping: watch::Sender::new(None),
            frozen: AtomicBool::new(false),
            lease: Deadline::new(),
            history: StdMutex::default(),
        })
    }

    /// The slot's interior network.
    pub fn netns(&self) -> &Path {
        self.network.netns()
    }

    /// Starts what `order` says, from `image` if there is one; returns when it is ready and its gate is open. What runs
    /// already is confirmed. After an error the slot is as free as it was.
    pub async fn start(&self, order: Order, image: Option<&Path>) -> Result<Steps, Error> {
        let turn = self.turn.lock().await;
        let epoch = order.epoch;
        if let Some(now) = self.current() {
            return self.confirm(&order, &now).await;
        }
        if self.history().has_ended(&order) {
            let reason = "this assignment has ended";
            return Err(Error::Fenced { epoch, reason });
        }
        if !self.proved.load(Ordering::SeqCst) {
            self.prove().await?;
        }
        self.proved.store(false, Ordering::SeqCst);
        let order = Arc::new(order);
        self.assignment.send_replace(Some(order.clone()));
        let result = self.bring_up(&order, image).await;
        if let Err(error) = &result {
            tracing::warn!(epoch, %error, "cannot start the sandbox");
            // What failed may be tried again with the same epoch; what was stopped may not.
            let ended = matches!(error, Error::Stopped);
            if let Err(error) = self.tear_down(&turn, ended).await {
                tracing::warn!(epoch, %error, "cannot clean up after a failed start");
            }
        }
        result
    }

    /// Creates a sandbox for a restore to come.
    pub async fn prepare(&self, spec: Spec) -> Result<Steps, Error> {
        let turn = self.turn.lock().await;
        if let Some(now) = self.current() {
            return Err(Error::taken(&now));
        }
        self.prove().await?;
        failpoint::crash("executor.prepare.before");
        let prepared = self.sandbox.prepare(&spec).await;
        failpoint::crash("executor.prepare.after");
        if prepared.is_ok() {
            self.baseline.accept_ahead()?;
        } else if let Err(error) = self.tear_down(&turn, false).await {
            tracing::warn!(%error, "cannot clean up after a sandbox that could not be created ahead");
        }
        Ok(prepared?)
    }

    /// Answers an order while there is an assignment.
    async fn confirm(&self, order: &Order, now: &Order) -> Result<Steps, Error> {
        let epoch = order.epoch;
        let same = key(&order.actor) == key(&now.actor);
        if same && epoch < now.epoch {
            let reason = "a newer one runs";
            return Err(Error::Fenced { epoch, reason });
        }
        if !same || epoch > now.epoch {
            return Err(Error::taken(now));
        }
        match self.sandbox.observe().await? {
            Observed::Running => Ok(Steps::default()),
            Observed::Exited(exit) => Err(Error::Ended(exit)),
            Observed::Absent | Observed::Frozen => Err(Error::Dirty("stop it first".into())),
        }
    }

    async fn bring_up(&self, order: &Order, image: Option<&Path>) -> Result<Steps, Error> {
        failpoint::crash("executor.start.before");
        let mut steps = match image {
            None => self.sandbox.run(&order.spec).await?,
            Some(image) => self.sandbox.restore(&order.spec, image).await?,
        };
        failpoint::crash("executor.start.after");
        let ready = async {
            for probe in &order.probes {
                readyz::wait(slot::INNER.into(), probe).await?;
            }
            Ok(())
        };
        let mut stopping = self.stopping.subscribe();
        let ready = async {
            tokio::select! {
                biased;
                Ok(_) = stopping.wait_for(|up_to| *up_to >= Some(order.epoch)) => Err(Error::Stopped),
                exit = self.sandbox.exited() => Err(Error::Ended(exit)),
                ready = ready => ready,
            }
        };
        if !order.probes.is_empty() {
            steps.time("readyz", ready).await?;
        }
        self.open(order)?;
        Ok(steps)
    }

    fn open(&self, order: &Order) -> Result<(), Error> {
        if order.host_port != 0 {
            self.network.open(order.host_port, order.app_port)?;
        }
        Ok(())
    }

    /// Saves the sandbox into `image`, and frees the slot: says whether that was proved clean. On failure the sandbox goes on.
    pub async fn checkpoint(&self, epoch: u64, image: &Path) -> Result<(Steps, bool), Error> {
        let turn = self.turn.lock().await;
        let Some(order) = self.current() else {
            let done = self.history().checkpoint.clone();
            return match done {
                Some((e, path)) if e == epoch && path == image => Ok((Steps::default(), false)),
                _ => Err(SandboxError::NotRunning {
                    state: "absent".into(),
                }
                .into()),
            };
        };
        if epoch != order.epoch {
            let reason = "another one runs";
            return Err(Error::Fenced { epoch, reason });
        }
        if self.is_frozen() {
            // Before its connections are cut.
            let state = "frozen".into();
            return Err(SandboxError::NotRunning { state }.into());
        }
        let mut steps = Steps::default();
        // The gate is closed at once, but the kernel says so some 10 ms later, and it walks the connections of the whole machine: beside the
        // pause.
        let network = self.network.clone();
        let cut = tokio::task::spawn_blocking(move || {
            network.close()?;
            network.cut()
        });
        failpoint::crash("executor.save.before");
        let saved = self.sandbox.checkpoint(image).await;
        failpoint::crash("executor.save.after");
        if let Ok(Err(error)) = cut.await {
            tracing::warn!(epoch, %error, "cannot close the gate of a sandbox that is saved, or cut its connections");
        }
        match saved.map_err(Error::from) {
            Ok(more) => steps.extend(more),
            Err(error) => {
                if matches!(self.sandbox.observe().await, Ok(Observed::Running)) {
                    self.open(&order)?;
                }
                return Err(error);
            }
        }
        self.history().checkpoint = Some((epoch, image.to_owned()));
        // The image is complete; whether the slot is clean shows when one observes.
        let cleaned = steps.time("clean", self.tear_down(&turn, true)).await;
        if let Err(error) = &cleaned {
            tracing::warn!(epoch, %error, "the slot is not clean after a checkpoint");
        }
        Ok((steps, cleaned.is_ok()))
    }

    /// Ends what runs with this epoch or an older one, and cleans the slot. Nothing to end is fine.
    pub async fn stop(&self, epoch: u64) -> Result<Steps, Error> {
        self.stopping
            .send_modify(|up_to| *up_to = (*up_to).max(Some(epoch)));
        let turn = self.turn.lock().await;
        self.stopping.send_replace(None);
        if self.current().is_some_and(|now| epoch < now.epoch) {
            let reason = "a newer one runs";
            return Err(Error::Fenced { epoch, reason });
        }
        self.tear_down(&turn, true).await
    }

    /// What the slot runs, asked of the runtime.
    pub async fn observe(&self) -> Result<ObserveWorkloadResponse, Error> {
        let mut answer = ObserveWorkloadResponse::default();
        let turn = self.turn.try_lock();
        if let Some(now) = self.current() {
            answer.actor = Some(now.actor.clone());
            answer.epoch = now.epoch;
            answer.host_port = now.host_port.into();
        }
        let (state, message) = match turn {
            Err(_) => (State::Busy, String::new()),
            Ok(_turn) => self.ask(&mut answer.exit).await?,
        };
        answer.set_state(state);
        answer.message = message;
        Ok(answer)
    }

    async fn ask(&self, exit: &mut Option<wire::Exit>) -> Result<(State, String), Error> {
        let observed = self.sandbox.observe().await?;
        Ok(match (self.current(), observed) {
            (Some(_), Observed::Running) => (State::Running, String::new()),
            (Some(_), Observed::Frozen) if self.is_frozen() => (State::Frozen, String::new()),
            (Some(_), Observed::Exited(how)) => {
                *exit = Some(convert::exit(&how));
                (State::Exited, String::new())
            }
            (None, Observed::Absent) => match self.prove().await {
                Ok(()) => (State::Clean, String::new()),
                Err(Error::Dirty(left)) => (State::Dirty, left),
                Err(error) => return Err(error),
            },
            (assignment, observed) => {
                let expected = assignment.map_or("none", |_| "one");
                let message = format!("the sandbox is {observed:?}, expected {expected}");
                (State::Dirty, message)
            }
        })
    }

    /// Ends the sandbox and removes what it leaves behind in our namespaces. The assignment is gone when the sandbox is. The
    /// interior has its address and route again, which a sandbox takes away when it starts.
    async fn tear_down(&self, _turn: &MutexGuard<'_, ()>, ended: bool) -> Result<Steps, Error> {
        failpoint::crash("executor.clean.before");
        let mut steps = Steps::default();
        self.network.close()?;
        steps.extend(self.sandbox.stop().await?);
        self.frozen.store(false, Ordering::SeqCst);
        let assignment = self.assignment.send_replace(None);
        if let Some(assignment) = assignment.filter(|_| ended) {
            self.history().end(&assignment);
        }
        let network = async {
            self.network.cut()?;
            self.network.refresh().await
        };
        steps.time("network", network).await?;
        self.baseline.clean().await?;
        self.prove().await?;
        failpoint::crash("executor.clean.after");
        Ok(steps)
    }

    /// Looks for what is left of sandboxes while there is none, but for one that was created ahead.
    async fn prove(&self) -> Result<(), Error> {
        let mut left = self.baseline.left()?;
        left.extend(self.sandbox.residue()?);
        left.extend(self.network.proof().await?);
        self.proved.store(left.is_empty(), Ordering::SeqCst);
        match left.is_empty() {
            true => Ok(()),
            false => Err(Error::Dirty(left.join(", "))),
        }
    }

    /// Runs for ever: closes the gate of a sandbox that ended by itself, freezes one whose lease has lapsed, and keeps logs
    /// within their bounds.
    pub async fn watch(self: Arc<Self>) {
        tokio::join!(self.watch_end(), self.watch_lease(), self.watch_logs());
    }

    async fn watch_end(&self) {
        let mut assignments = self.assignment.subscribe();
        loop {
            tokio::select! {
                _ = assignments.changed() => continue,
                exit = self.sandbox.exited() => {
                    tracing::info!(%exit, "the sandbox ended by itself");
                    self.close_behind().await;
                }
            }
            // Fails only when `self` is gone.
            let _ = assignments.changed().await;
        }
    }

    async fn watch_logs(&self) {
        loop {
            let pause = match self.rotate_logs().await {
                true => logs::BUSY_INTERVAL,
                false => logs::CHECK_INTERVAL,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// So that nobody waits for an answer from where nothing listens.
    async fn close_behind(&self) {
        let _turn = self.turn.lock().await;
        if !matches!(self.sandbox.observe().await, Ok(Observed::Exited(_))) {
            return;
        }
        let closed = self.network.close();
        if let Err(error) = closed.and_then(|()| self.network.cut()) {
            tracing::warn!(%error, "cannot close the gate of a sandbox that ended");
        }
    }

    /// Whether there was one to rotate.
    async fn rotate_logs(&self) -> bool {
        let Some(now) = self.current() else {
            return false;
        };
        let rotated = tokio::task::spawn_blocking(move || {
            let spec = &now.spec;
            let mut any = false;
            for container in &spec.containers {
                any |= logs::rotate(&spec.log_dir, &container.name, logs::MAX_BYTES)?;
            }
            Ok::<_, std::io::Error>(any)
        });
        match rotated.await {
            Ok(Ok(any)) => any,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot rotate a container's log");
                false
            }
            Err(_) => false,
        }
    }

    /// Returns when nothing is assigned.
    pub async fn released(&self) {
        let mut assignments = self.assignment.subscribe();
        // Fails only when `self` is gone.
        let _ = assignments.wait_for(Option::is_none).await;
    }

    /// Ends the sandbox, if it lets itself be ended in time; the rest ends with the namespace.
    pub async fn shut_down(&self) {
        self.stopping.send_replace(Some(u64::MAX));
        let end = async {
            let _turn = self.turn.lock().await;
            self.sandbox.stop().await
        };
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, end).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot end the sandbox"),
            Err(_) => tracing::warn!("the sandbox does not end in time"),
        }
    }

    fn current(&self) -> Option<Arc<Order>> {
        self.assignment.borrow().clone()
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
