//! One slot: what is desired of it, what is known of it, and the loop that brings the two together.
//!
//! [`orders`] takes orders and writes down what they desire; [`converge`] is the loop; [`start`], [`save`] and [`end`]
//! carry its steps out, [`ahead`] what a free one does for the next, [`freeze`] those that the node's lease asks for. There is one loop per slot, and only it acts.

mod ahead;
mod converge;
mod end;
mod freeze;
mod op;
mod orders;
mod save;
mod start;

pub(super) use ahead::{AT_ONCE, Latest};
pub(super) use op::{Op, StartOrder};

use super::error::Error;
use super::fences::Fences;
use super::files::{self, Assignment, DesiredFile, Phase, SlotFile};
use super::layout::Layout;
use super::lease::Lease;
use super::provider::{Executor, ExecutorRecord, Place, SlotProvider};
use super::runtime::Runtimes;
use super::snapshots::Snapshots;
use super::workload::Images;
use crate::api::Epoch;
use crate::lifecycle::Observed;
use crate::lifecycle::slot::{Desired, Sandbox};
use crate::proto::atenode as wire;
use crate::proto::atenode::Workload;
use crate::snapshot::Pin;
use op::Kind;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Ended assignments that a slot remembers on disk.
const MAX_ENDED: usize = 32;
/// Ports that a slot does not use again soon.
const MAX_PORTS: usize = 256;

/// What all slots of a node share.
pub(super) struct Node {
    pub layout: Layout,
    pub images: Images,
    pub runtimes: Runtimes,
    pub snapshots: Snapshots,
    pub fences: Fences,
    pub lease: Lease,
    pub provider: Arc<dyn SlotProvider>,
    pub latest: Latest,
    /// Who may create a sandbox ahead.
    pub creating: Semaphore,
    /// Told when a slot changed: there is something to report.
    pub changed: watch::Sender<()>,
}

/// One slot.
pub(super) struct Slot {
    node: Arc<Node>,
    pub place: Place,
    dir: PathBuf,
    state: Mutex<State>,
    /// Told when there is something for the loop to do.
    wake: Notify,
    /// What holds its executor is gone, or was never ours.
    gone: CancellationToken,
    /// Held while a step is carried out.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    /// How many executors it has had.
    executors: u64,
    /// The executor that runs, or is to be ended.
    record: Option<ExecutorRecord>,
    executor: Option<Executor>,
    desired: DesiredFile,
    /// The order that is under way.
    op: Option<Arc<Op>>,
    sandbox: Observed<Sandbox>,
    /// How the sandbox ended that did by itself.
    exit: Option<wire::Exit>,
    /// Takes no assignment any more and goes.
    retiring: bool,
    ports: VecDeque<u16>,
    /// What it has started last, without environment.
    last: Option<Workload>,
    /// It was tried to create a sandbox ahead since the slot was freed.
    tried: bool,
    /// The golden snapshot that it started from last: the actor's own is published on top of that, so it stays here.
    golden: Option<Pin>,
}

impl Slot {
    /// A slot as it is on disk; `executor` is its executor if it was adopted.
    pub fn new(
        node: Arc<Node>,
        file: SlotFile,
        desired: DesiredFile,
        executor: Option<Executor>,
    ) -> Slot {
        let SlotFile {
            place,
            executors,
            executor: record,
        } = file;
        for (uid, epoch) in &desired.ended {
            node.fences.ended(uid, *epoch);
        }
        if let Some(assignment) = &desired.assignment {
            node.fences.found(&assignment.actor.uid, assignment.epoch);
        }
        let sandbox = match &executor {
            Some(_) => Observed::Unknown,
            None => Observed::Absent,
        };
        let ports = desired.assignment.iter().map(|a| a.host_port).collect();
        Slot {
            dir: dir_of(&node.layout, &place),
            node,
            place,
            state: Mutex::new(State {
                executors,
                record,
                executor,
                desired,
                op: None,
                sandbox,
                exit: None,
                retiring: false,
                ports,
                last: None,
                tried: false,
                golden: None,
            }),
            wake: Notify::new(),
            gone: CancellationToken::new(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Reads a slot's files.
    pub fn load(dir: &std::path::Path) -> Result<Option<(SlotFile, DesiredFile)>, Error> {
        let Some(file) = files::read::<SlotFile>(&dir.join(SLOT_FILE))? else {
            return Ok(None);
        };
        let desired = files::read(&dir.join(DESIRED_FILE))?;
        Ok(Some((file, desired.unwrap_or_default())))
    }

    /// The uid of its executor, once that runs.
    pub fn uid(&self) -> Option<String> {
        let state = self.state();
        state.executor.as_ref().map(|e| e.record.uid.clone())
    }

    /// Whether it may not be taken away: it is assigned, or an order is under way.
    pub fn is_busy(&self) -> bool {
        let state = self.state();
        state.desired.assignment.is_some() || state.op.is_some()
    }

    /// Whether it goes.
    pub fn is_retiring(&self) -> bool {
        self.state().retiring
    }

    /// Its executor is at `ip`: a pod gets another address when all that it was is made anew.
    pub fn is_at(&self, ip: Option<IpAddr>) {
        let mut state = self.state();
        if let (Some(executor), Some(ip)) = (&mut state.executor, ip)
            && std::mem::replace(&mut executor.ip, ip) != ip
        {
            drop(state);
            self.changed();
        }
    }

    /// Takes it out of service as soon as it is not busy; it takes nothing new until then.
    pub fn drain(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.retiring, true) {
            drop(state);
            self.changed();
        }
    }

    /// Takes it out of service with whatever it runs: what holds its executor is gone.
    pub fn abandon(&self) {
        if !self.gone.is_cancelled() {
            tracing::info!(slot = self.place.name(), "what held the slot is gone");
            self.gone.cancel();
            self.cancel_start("the worker is gone");
            self.drain();
            self.changed();
        }
    }

    /// Whether the sandbox with that directory is this slot's: it is assigned, or was created ahead.
    pub fn has_generation(&self, generation: &str) -> bool {
        let desired = &self.state().desired;
        let assigned = desired.assignment.as_ref().map(|a| &a.generation);
        let ahead = desired.ahead.as_ref().map(|a| &a.generation);
        assigned.into_iter().chain(ahead).any(|g| g == generation)
    }

    /// What it is assigned.
    pub fn assignment(&self) -> Option<Assignment> {
        self.state().desired.assignment.clone()
    }

    /// The images of what it runs, and of what it has ready, as workloads name them.
    pub fn images(&self) -> Vec<String> {
        let state = self.state();
        let (assignment, ahead) = (&state.desired.assignment, &state.desired.ahead);
        let runs = assignment.iter().flat_map(|a| &a.images);
        runs.chain(ahead.iter().flat_map(|a| &a.images))
            .cloned()
            .collect()
    }

    /// The slot as it is reported; `None` while it has no executor.
    pub fn view(&self) -> Option<wire::Slot> {
        let state = self.state();
        let executor = state.executor.as_ref()?;
        let assignment = state.desired.assignment.as_ref();
        let mut slot = wire::Slot {
            uid: executor.record.uid.clone(),
            name: self.place.name(),
            namespace: self.place.namespace.clone(),
            pool: self.place.pool.clone(),
            ip: executor.ip.to_string(),
            sandbox_class: self.place.class.clone(),
            draining: state.retiring,
            ..wire::Slot::default()
        };
        slot.set_phase(state.phase());
        if slot.phase() == wire::slot::Phase::Exited {
            slot.exit.clone_from(&state.exit);
        }
        if let Some(assignment) = assignment {
            slot.actor = Some(assignment.actor.clone().into());
            slot.epoch = assignment.epoch.0;
            slot.address = match assignment.host_port {
                0 => String::new(),
                port => address(executor, port),
            };
        }
        Some(slot)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the loop, and has the node report.
    fn changed(&self) {
        self.wake.notify_one();
        self.node.changed.send_replace(());
    }

    /// Writes down what is desired. The caller holds the state, so that the file is never older than another one's.
    fn persist(&self, state: &State) -> Result<(), Error> {
        files::write(&self.dir.join(DESIRED_FILE), &state.desired)
    }

    /// Writes down which executor it has, before that is started and after.
    fn record(&self, record: Option<ExecutorRecord>) -> Result<(), Error> {
        let mut state = self.state();
        state.record = record.clone();
        let file = SlotFile {
            place: self.place.clone(),
            executors: state.executors,
            executor: record,
        };
        files::write(&self.dir.join(SLOT_FILE), &file)
    }
}

const SLOT_FILE: &str = "slot.json";
const DESIRED_FILE: &str = "desired.json";
/// Name of the executor's log, without the extension that logs have.
const LOG: &str = "ateom";

/// The directory of a slot's own files.
pub(super) fn dir_of(layout: &Layout, place: &Place) -> PathBuf {
    let name = format!("{}:{}", place.namespace, place.name());
    layout.slots().join(name)
}

fn address(executor: &Executor, port: u16) -> String {
    std::net::SocketAddr::new(executor.ip, port).to_string()
}

impl State {
    /// What `lifecycle::slot::plan` is asked about.
    fn desired(&self, saved: bool, prepare: bool) -> Desired {
        let Some(assignment) = &self.desired.assignment else {
            return Desired::Free { prepare };
        };
        let epoch = assignment.epoch;
        match &assignment.phase {
            Phase::Starting => Desired::Starting {
                epoch,
                awaited: self.op.as_ref().is_some_and(|op| op.starts()),
            },
            Phase::Serving => Desired::Serving { epoch },
            Phase::Saving(_) => Desired::Saving { epoch, saved },
            Phase::Ending => Desired::Ending,
        }
    }

    fn phase(&self) -> wire::slot::Phase {
        use wire::slot::Phase as P;
        let serving = self
            .desired
            .assignment
            .as_ref()
            .map(|a| a.phase == Phase::Serving);
        match (serving, &self.sandbox) {
            (_, Observed::Known(Sandbox::Dirty)) => P::Dirty,
            (None, Observed::Known(Sandbox::Clean)) => P::Free,
            // One that is frozen is still there.
            (Some(true), Observed::Known(Sandbox::Running { .. } | Sandbox::Frozen { .. })) => {
                P::Running
            }
            (Some(true), Observed::Known(Sandbox::Exited)) => P::Exited,
            (None | Some(_), Observed::Absent | Observed::Unknown | Observed::Known(_)) => P::Busy,
        }
    }

    /// The order under way if it is of that kind.
    fn op_of(&self, kind: Kind) -> Option<Arc<Op>> {
        self.op.clone().filter(|op| op.kind() == kind)
    }

    /// Takes the assignment off the slot, and remembers that it has ended.
    fn drop_assignment(&mut self, node: &Node) -> Option<Assignment> {
        let assignment = self.desired.assignment.take()?;
        let (uid, epoch): (_, Epoch) = (&assignment.actor.uid, assignment.epoch);
        node.fences.ended(uid, epoch);
        let ended = &mut self.desired.ended;
        ended.retain(|(known, _)| known != uid);
        ended.push((uid.clone(), epoch));
        if ended.len() > MAX_ENDED {
            ended.remove(0);
        }
        Some(assignment)
    }
}
