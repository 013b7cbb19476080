//! What is true: nodes, slots, snapshots, and what each actor was promised.

use crate::api::names::{Build, SnapshotId};
use crate::api::record::{ActorRecord, RolledBack};
use crate::api::{ActorKey, Epoch, Timestamp, WorkerKey};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// The store's clock when a simulation begins.
const START: u64 = 1_790_000_000_000;
/// Lines of history that a failure prints.
const HISTORY: usize = 3_000;
/// Builds of the runtime that nodes have.
pub const BUILDS: [&str; 2] = ["aaaaaaaaaaaa", "bbbbbbbbbbbb"];

/// Guards that a test takes out, one at a time, to see that the simulation misses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guards {
    /// All are there.
    #[default]
    All,
    /// All are there, and replicas stall often: what the guards that only stalls can miss are compared with.
    AllStalling,
    /// Nodes carry out orders of older epochs and of assignments that ended.
    NoEpochs,
    /// Nodes let sandboxes go on when their lease has lapsed.
    NoFreezing,
    /// Nodes thaw what they are told to stop.
    NoStopSlots,
    /// A stop is answered without having ended anything.
    NoStop,
    /// A publication is answered before it is done.
    EarlyAnswer,
    /// A wake cuts a suspend short whose image is not complete.
    NoYielding,
    /// Nodes keep snapshots that they are told to drop.
    NoDropping,
    /// The store takes commits of those that lost the actor.
    NoOwners,
    /// The store says that leases of nodes lapsed before they did.
    NoWaiting,
    /// The store releases whatever the claim's epoch.
    NoClaimEpochs,
    /// Leases of operations never expire.
    NoTakeOver,
}

impl Guards {
    /// Part of the calls in a storm after which the caller stalls. What holds off those that lost an actor long ago is
    /// missed only when there are many of them.
    pub fn stalls(self) -> f64 {
        match self {
            Guards::AllStalling | Guards::NoOwners | Guards::NoClaimEpochs => 0.4,
            _ => 0.05,
        }
    }
}

/// A snapshot's content.
#[derive(Clone, Copy, Debug)]
pub struct Saved {
    /// What the actor counted.
    pub value: u64,
    /// All that it is made of is there.
    pub complete: bool,
    /// Build of the runtime that made it.
    pub runtime: Option<Build>,
}

/// Which actor, by name and uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its name.
    pub key: ActorKey,
    /// Its uid.
    pub uid: Uuid,
}

/// What a slot runs.
#[derive(Clone, Debug)]
pub enum Content {
    Free,
    Starting,
    Running {
        value: u64,
        address: String,
        /// Build of the runtime in which it was started.
        runtime: Option<Build>,
    },
    Saving,
    Ending,
    Exited,
}

/// A slot of a node.
#[derive(Clone, Debug)]
pub struct Slot {
    pub node: usize,
    pub name: String,
    pub uid: String,
    pub content: Content,
    /// Whom it is about, unless free.
    pub actor: Option<(Who, Epoch)>,
    /// Changes with every change of content, so that a step notices that it was overtaken.
    pub turn: u64,
}

/// A node.
#[derive(Debug, Default)]
pub struct Node {
    pub name: String,
    pub address: String,
    /// Nobody reaches it until then.
    pub cut: Option<Instant>,
    /// It never comes back.
    pub lost: bool,
    /// Its slots leave.
    pub draining: bool,
    /// Until when its sandboxes may run, by its own clock.
    pub lease: Timestamp,
    /// How far its clock is ahead of the store's, in milliseconds.
    pub skew: i64,
    /// Highest epoch seen, and highest that ended, by actor.
    pub seen: BTreeMap<Uuid, (Epoch, Epoch)>,
    pub local: BTreeMap<SnapshotId, Saved>,
    /// Build of its runtime.
    pub runtime: Option<Build>,
}

/// What an actor was promised.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// It never answers less: a suspend of this value was acknowledged.
    pub durable: u64,
    /// What it answered last.
    pub answered: u64,
    /// It was said to be rolled back since.
    pub lowered: bool,
    /// How often that was said.
    pub rollbacks: u64,
    /// What was said last.
    pub rolled_back: Option<RolledBack>,
    /// Somebody asked for its deletion.
    pub deleting: bool,
}

/// Everything.
pub struct State {
    pub rng: StdRng,
    pub guards: Guards,
    /// Nothing is published until this ends.
    pub publications_stall: bool,
    /// Suspends that a wake cut short.
    pub cut_short: u64,
    /// No faults any more.
    pub calm: bool,
    /// History is kept.
    pub told: bool,
    /// Counts the changes of slots.
    pub changes: u64,
    /// Probability that a call fares badly.
    pub storm: f64,
    pub nodes: Vec<Node>,
    pub slots: Vec<Slot>,
    pub durable: BTreeMap<SnapshotId, Saved>,
    pub promises: BTreeMap<Uuid, Promise>,
    /// Names of the actors that were ever saved.
    pub names: BTreeMap<Uuid, ActorKey>,
    /// Claims that were seen.
    pub claims: BTreeMap<WorkerKey, (Uuid, Epoch)>,
    pub violation: Option<String>,
    pub delivered: u64,
    pub rolled_back: u64,
    pub orders: u64,
    pub crashes: u64,
    /// Snapshots that came to a node of another build than theirs.
    pub misfits: u64,
    /// No node has any image.
    pub no_images: bool,
    /// How many pull secrets came with each restore.
    pub pull_secrets: Vec<usize>,
    /// What each publication was to be on top of.
    pub likes: Vec<Vec<SnapshotId>>,
    /// Nodes that were given another build of the runtime.
    pub rollouts: u64,
    start: Instant,
    history: VecDeque<String>,
    counter: u64,
}

/// Shared by all that take part.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl World {
    pub fn new(seed: u64, guards: Guards) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let storm = [0.0, 0.03, 0.1, 0.25][rng.random_range(0..4)];
        let nodes = (0..2).map(|n| Node {
            name: format!("n{n}"),
            address: format!("n{n}:1"),
            skew: rng.random_range(-900..900),
            runtime: Some(BUILDS[0].parse().expect("a build")),
            ..Node::default()
        });
        let nodes: Vec<_> = nodes.collect();
        let world = World(Arc::new(Mutex::new(State {
            rng,
            guards,
            publications_stall: false,
            cut_short: 0,
            calm: false,
            told: false,
            changes: 0,
            storm,
            nodes,
            slots: vec![],
            durable: BTreeMap::new(),
            promises: BTreeMap::new(),
            names: BTreeMap::new(),
            claims: BTreeMap::new(),
            violation: None,
            delivered: 0,
            rolled_back: 0,
            orders: 0,
            crashes: 0,
            misfits: 0,
            no_images: false,
            pull_secrets: vec![],
            likes: vec![],
            rollouts: 0,
            start: Instant::now(),
            history: VecDeque::new(),
            counter: 0,
        })));
        for node in [0, 1] {
            world.lock().add_slot(node);
        }
        world
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's clock.
    pub fn clock(&self) -> impl Fn() -> Timestamp + Send + Sync + 'static {
        let start = self.lock().start;
        move || Timestamp(START) + start.elapsed()
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        self.lock().note(what);
    }

    /// A short time, by chance.
    pub fn moment(&self, most_ms: u64) -> Duration {
        Duration::from_millis(self.lock().rng.random_range(0..=most_ms))
    }
}

impl State {
    pub fn now(&self) -> Timestamp {
        Timestamp(START) + self.start.elapsed()
    }

    /// Kept only in a replay: most schedules have no story to tell.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if !self.told || self.violation.is_some() {
            return;
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let line = format!("{:>7} ms  {}", self.start.elapsed().as_millis(), what());
        self.history.push_back(line);
    }

    pub fn history(&self) -> String {
        let lines: Vec<_> = self.history.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    /// Says that an invariant is broken. The first one counts.
    pub fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    pub fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn add_slot(&mut self, node: usize) {
        let n = self.fresh();
        self.slots.push(Slot {
            node,
            name: format!("w{n}"),
            uid: format!("u{n}"),
            content: Content::Free,
            actor: None,
            turn: 0,
        });
    }

    /// A node is started anew with another build of the runtime. What runs on it goes on in the old one.
    pub fn give(&mut self, node: usize, runtime: Option<Build>) {
        if self.nodes[node].runtime != runtime {
            self.nodes[node].runtime = runtime;
            self.rollouts += 1;
            self.changes += 1;
            self.note(|| format!("n{node} has runtime {runtime:?}"));
        }
    }

    /// By the node's clock.
    pub fn clock_of(&self, node: usize) -> Timestamp {
        let now = self.now().0;
        Timestamp(now.saturating_add_signed(self.nodes[node].skew))
    }

    pub fn is_cut(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.lost || node.cut.is_some_and(|until| until > Instant::now())
    }

    /// Whether a node's sandboxes may run.
    pub fn has_lease(&self, node: usize) -> bool {
        self.guards == Guards::NoFreezing || self.clock_of(node) < self.nodes[node].lease
    }

    /// Changes what a slot runs.
    pub fn set(&mut self, slot: usize, content: Content, actor: Option<(Who, Epoch)>) {
        let s = &mut self.slots[slot];
        s.turn += 1;
        self.changes += 1;
        s.content = content;
        s.actor = actor;
        let s = s.clone();
        self.note(|| match &s.actor {
            Some((who, epoch)) => format!(
                "{} {}: {:?} {} epoch {epoch}",
                s.name, s.uid, s.content, who.key.name
            ),
            None => format!("{} {}: {:?}", s.name, s.uid, s.content),
        });
        self.one_sandbox_each();
    }

    /// Invariant 1.
    pub fn one_sandbox_each(&mut self) {
        let mut seen = BTreeSet::new();
        let serving = self
            .slots
            .iter()
            .filter(|s| matches!(s.content, Content::Running { .. }) && self.has_lease(s.node));
        let twice = serving
            .filter_map(|s| s.actor.as_ref())
            .find(|(who, _)| !seen.insert(who.uid));
        if let Some((who, _)) = twice.cloned() {
            self.violate(format!("1: two sandboxes of {} can serve", who.key));
        }
    }

    /// A request arrives at an address for an actor. `None`: nobody answers there.
    pub fn deliver(&mut self, record: &ActorRecord, address: &str) -> Option<u64> {
        let uid = record.status.uid;
        let found = self.slots.iter().position(
            |s| matches!(&s.content, Content::Running { address: a, .. } if a == address),
        )?;
        let node = self.slots[found].node;
        if self.is_cut(node) || !self.has_lease(node) {
            return None;
        }
        let (who, _) = self.slots[found].actor.clone()?;
        if who.uid != uid {
            self.violate(format!(
                "11: a request to {} reached {}",
                record.key, who.key
            ));
        }
        let Content::Running { value, .. } = &mut self.slots[found].content else {
            return None;
        };
        let before = *value;
        *value += 1;
        self.delivered += 1;
        let promise = self.promises.entry(uid).or_default();
        let lost = before < promise.durable || (before < promise.answered && !promise.lowered);
        let said = promise.clone();
        promise.answered = before + 1;
        promise.lowered = false;
        self.note(|| format!("{} answers {}", record.key.name, before + 1));
        if lost {
            self.violate(format!("5/6: {} is at {before}, but {said:?}", record.key));
        }
        Some(before + 1)
    }

    /// What an actor would go on from.
    pub fn saved_value(&self, record: &ActorRecord) -> Option<u64> {
        if let Some(local) = &record.status.local {
            let id = record.snapshot_id(&local.snapshot);
            let node = self.nodes.iter().find(|n| n.name == local.node)?;
            let saved = node.local.get(&id).or(self.durable.get(&id));
            return saved.map(|s| s.value);
        }
        match &record.status.durable {
            Some(durable) => self
                .durable
                .get(&record.snapshot_id(durable))
                .map(|s| s.value),
            None => Some(0),
        }
    }
}
