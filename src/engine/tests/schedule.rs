//! What happens in which order: requests, orders, crashes, losses; then peace, in which everything must come right.

use super::audit;
use super::calls::Calls;
use super::kit::{One, OneSecret};
use super::store::{Life, Mortal};
use super::tally::Tally;
use super::world::{BUILDS, Content, Guards, Promise, World};
use crate::api::record::{ActorRecord, Desired, Phase, SpecRecord, StatusRecord};
use crate::api::{ActorKey, TemplateKey};
use crate::engine::{Call, Engine, Options};
use crate::proto::atenode::ReportRequest;
use crate::store::memory::MemoryStore;
use crate::store::{Store, StoreError};
use rand::Rng;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long the storm lasts.
const STORM: Duration = Duration::from_secs(15);
/// How long everything may take to come right afterwards.
const PEACE: Duration = Duration::from_secs(300);
/// Orders to nodes in one schedule; tens are usual. More come only from an operation that goes in circles.
const MOST_ORDERS: u64 = 1_000;
/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_secs(1);
pub const OPERATION_LEASE: Duration = Duration::from_secs(3);
pub const NODE_LEASE: Duration = Duration::from_secs(6);
const ACTORS: [&str; 3] = ["a", "b", "c"];

/// How a schedule broke an invariant.
pub struct Failure {
    pub seed: u64,
    pub what: String,
    history: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            seed,
            what,
            history,
        } = self;
        write!(f, "{history}\n{what}\nreplay with ATE_SIM_SEED={seed}")
    }
}

pub fn options() -> Options {
    Options {
        operation_lease: OPERATION_LEASE,
        node_lease: NODE_LEASE,
        ..Options::default()
    }
}

/// One process.
#[derive(Clone)]
struct Replica {
    engine: Arc<Engine>,
    life: Life,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Simulation {
    world: World,
    store: Arc<MemoryStore>,
    replicas: Arc<Mutex<Vec<Replica>>>,
}

/// Runs one schedule; one that breaks an invariant twice, the second time with its history.
pub fn run(seed: u64, guards: Guards) -> Result<Tally, Failure> {
    play(seed, guards, false).or_else(|_| play(seed, guards, true))
}

fn play(seed: u64, guards: Guards, told: bool) -> Result<Tally, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = World::new(seed, guards);
        world.lock().told = told;
        let store = Arc::new(MemoryStore::by(world.clock()));
        let replicas = Arc::default();
        let simulation = Simulation {
            world: world.clone(),
            store,
            replicas,
        };
        let end = simulation.play().await;
        let mut state = world.lock();
        if state.orders > MOST_ORDERS {
            let orders = state.orders;
            state.violate(format!("{orders} orders: something goes in circles"));
        }
        match state.violation.clone().or(end.err()) {
            Some(what) => Err(Failure {
                seed,
                what,
                history: state.history(),
            }),
            None => Ok(Tally {
                delivered: state.delivered,
                rolled_back: state.rolled_back,
                orders: state.orders,
                crashes: state.crashes,
                rollouts: state.rollouts,
                misfits: state.misfits,
                cut_short: state.cut_short,
            }),
        }
    })
}

impl Simulation {
    async fn play(&self) -> Result<(), String> {
        for n in 0..2 {
            let replica = self.replica(n);
            self.replicas().push(replica);
        }
        for node in 0..2 {
            tokio::spawn(self.clone().reports(node));
        }
        for name in ACTORS {
            self.create(name).await;
        }
        tokio::spawn(self.clone().revive());
        let end = Instant::now() + STORM;
        let pace = { self.world.lock().rng.random_range(50..2_000) };
        while Instant::now() < end && self.broken().is_none() {
            sleep(self.world.moment(pace)).await;
            self.event();
        }
        match self.broken() {
            Some(what) => Err(what),
            None => self.peace().await,
        }
    }

    fn broken(&self) -> Option<String> {
        self.world.lock().violation.clone()
    }

    fn replicas(&self) -> std::sync::MutexGuard<'_, Vec<Replica>> {
        self.replicas.lock().expect("nobody panics")
    }

    fn replica(&self, n: usize) -> Replica {
        let generation = self.world.lock().fresh();
        let life = Life::new(format!("r{n}.{generation}"), self.world.clone());
        let store = Arc::new(Mortal {
            inner: self.store.clone(),
            life: life.clone(),
        });
        let nodes = Arc::new(Calls {
            world: self.world.clone(),
            life: life.clone(),
        });
        // One goes on at once with what it left when it died; what the other left waits until leases lapse.
        let options = Options {
            replica: (n == 0).then(|| "r0".into()),
            ..options()
        };
        let engine = Engine::new(
            store,
            nodes,
            Arc::new(One::of(2)),
            Arc::new(OneSecret),
            options,
        );
        let stop = CancellationToken::new();
        tokio::spawn(engine.clone().recover(stop.clone()));
        Replica { engine, life, stop }
    }

    /// Starts dead replicas again.
    async fn revive(self) {
        loop {
            sleep(Duration::from_millis(200)).await;
            for n in 0..2 {
                if self.replicas()[n].life.is_over() {
                    self.replicas()[n].stop.cancel();
                    sleep(self.world.moment(1_500)).await;
                    let replica = self.replica(n);
                    self.world.note(|| format!("{} starts", replica.life.name));
                    self.replicas()[n] = replica;
                }
            }
        }
    }

    fn engine(&self) -> Arc<Engine> {
        let n = self.world.lock().rng.random_range(0..2);
        self.replicas()[n].engine.clone()
    }

    /// A node says what its slots are.
    async fn reports(self, node: usize) {
        loop {
            let (request, sent, cut, changes) = {
                let state = self.world.lock();
                let n = &state.nodes[node];
                let request = ReportRequest {
                    node: n.name.clone(),
                    address: n.address.clone(),
                    incarnation: 0,
                    slots: state.slots_of(node),
                    local_snapshots: state.local_of(node),
                    lapsed: !state.has_lease(node),
                    runtime: n.runtime.map(|r| r.to_string()).unwrap_or_default(),
                    usage: None,
                };
                (
                    request,
                    state.clock_of(node),
                    state.is_cut(node),
                    state.changes,
                )
            };
            if !cut
                && let Ok(Ok(answer)) =
                    timeout(Duration::from_secs(3), self.engine().report(&request)).await
            {
                let mut state = self.world.lock();
                if !state.is_cut(node) {
                    let until = sent + Duration::from_millis(answer.lease_ms);
                    state.forget_local(node, &answer.drop_snapshots);
                    state.renewed(node, until, &request.slots, &answer.stop_slots);
                }
            }
            self.until_changed(changes).await;
        }
    }

    /// A node reports on every change, and every so often.
    async fn until_changed(&self, changes: u64) {
        let end = Instant::now() + REPORT_EVERY;
        while Instant::now() < end {
            sleep(Duration::from_millis(100)).await;
            if self.world.lock().changes != changes {
                return;
            }
        }
    }

    fn event(&self) {
        let (what, actor) = {
            let mut state = self.world.lock();
            (
                state.rng.random_range(0..100),
                ACTORS[state.rng.random_range(0..ACTORS.len())],
            )
        };
        let me = self.clone();
        match what {
            0..35 => drop(tokio::spawn(async move { me.request(actor).await })),
            35..47 => drop(tokio::spawn(async move {
                me.want(actor, Desired::Running).await
            })),
            47..62 => drop(tokio::spawn(async move {
                me.want(actor, Desired::Suspended).await
            })),
            62..74 => drop(tokio::spawn(async move {
                me.want(actor, Desired::Paused).await
            })),
            74..77 => drop(tokio::spawn(async move { me.delete(actor).await })),
            77..80 => drop(tokio::spawn(async move { me.create(actor).await })),
            80..82 => {
                let mut state = self.world.lock();
                let (node, build) = (state.rng.random_range(0..2), state.rng.random_range(0..2));
                state.give(node, BUILDS[build].parse().ok());
            }
            82..89 => {
                let n = self.world.lock().rng.random_range(0..2);
                self.replicas()[n].life.end_soon();
            }
            89..92 => {
                let mut state = self.world.lock();
                let slot = state.rng.random_range(0..2);
                if !state.nodes[slot].lost {
                    state.kill_slot(slot);
                }
            }
            92..95 => self.exit(),
            95..99 => {
                let mut state = self.world.lock();
                let (node, ms) = (
                    state.rng.random_range(0..2),
                    state.rng.random_range(100..14_000),
                );
                state.nodes[node].cut = Some(Instant::now() + Duration::from_millis(ms));
                state.note(|| format!("n{node} is cut off for {ms} ms"));
            }
            _ => {
                let mut state = self.world.lock();
                let node = state.rng.random_range(0..2);
                if state.nodes.iter().all(|n| !n.lost) {
                    state.nodes[node].lost = true;
                    state.note(|| format!("n{node} is lost for good"));
                }
            }
        }
    }

    fn exit(&self) {
        let mut state = self.world.lock();
        let slot = state.rng.random_range(0..2);
        if matches!(state.slots[slot].content, Content::Running { .. })
            && state.has_lease(state.slots[slot].node)
        {
            let actor = state.slots[slot].actor.clone();
            state.set(slot, Content::Exited, actor);
        }
    }

    fn key(name: &str) -> ActorKey {
        ActorKey::new("ns", name)
    }

    async fn record(&self, name: &str) -> Option<ActorRecord> {
        self.store.get_actor(&Self::key(name)).await.ok()
    }

    fn promise(&self, record: &ActorRecord) -> Promise {
        let state = self.world.lock();
        state
            .promises
            .get(&record.status.uid)
            .cloned()
            .unwrap_or_default()
    }

    async fn create(&self, name: &str) {
        let uid = Uuid::from_u128(self.world.lock().rng.random());
        let record = ActorRecord {
            key: Self::key(name),
            spec: SpecRecord {
                template: TemplateKey::new("ns", "t"),
                ..SpecRecord::default()
            },
            status: StatusRecord {
                uid,
                ..StatusRecord::default()
            },
            ..ActorRecord::default()
        };
        match self.store.create_actor(record, 100).await {
            Ok(_) => {
                let mut state = self.world.lock();
                state.promises.insert(uid, Promise::default());
                state.note(|| format!("{name} is created"));
            }
            Err(StoreError::Exists(_)) => {}
            Err(e) => self.world.lock().violate(format!("create: {e}")),
        }
    }

    /// A request for an actor: it is woken if it sleeps.
    async fn request(&self, name: &str) -> Option<u64> {
        let mut record = self.record(name).await?;
        if record.header.phase != Phase::Running {
            record = self.want(name, Desired::Running).await?;
        }
        let address = record.status.assignment.as_ref()?.address.clone();
        self.world.lock().deliver(&record, &address)
    }

    /// Asks a replica. `None`: no, or nobody knows.
    async fn want(&self, name: &str, desired: Desired) -> Option<ActorRecord> {
        let (engine, key) = (self.engine(), Self::key(name));
        let before = self.record(name).await?;
        let promised = self.promise(&before);
        self.world.note(|| format!("{name} shall be {desired:?}"));
        let call = Call::within(PATIENCE);
        let asked = async {
            match desired {
                Desired::Running => engine.resume(&key, call).await,
                Desired::Suspended => engine.suspend(&key, call).await,
                Desired::Paused => engine.pause(&key, call).await,
                Desired::Deleted => engine
                    .delete(&key, call)
                    .await
                    .map(|()| ActorRecord::default()),
            }
        };
        let answer = timeout(PATIENCE + Duration::from_secs(1), asked)
            .await
            .ok()?;
        self.world.note(|| {
            format!(
                "{name} {desired:?}: {}",
                match &answer {
                    Ok(record) => record.header.phase.to_string(),
                    Err(e) => format!("{e:?}"),
                }
            )
        });
        let record = answer.ok()?;
        let saved = record.header.phase == Phase::Suspended || record.header.phase == Phase::Paused;
        if saved && desired != Desired::Deleted && record.status.uid == before.status.uid {
            self.acknowledged(&record, &promised);
        }
        Some(record)
    }

    /// Invariant 5: what was answered before the call is saved after it, or it is said that it is not.
    fn acknowledged(&self, record: &ActorRecord, promised: &Promise) {
        let mut state = self.world.lock();
        let Some(value) = state.saved_value(record) else {
            return; // replaced meanwhile
        };
        let now = state
            .promises
            .entry(record.status.uid)
            .or_default()
            .rollbacks;
        let unharmed = !promised.lowered && promised.rollbacks == now;
        if unharmed && value < promised.answered {
            state.violate(format!(
                "5: {} was saved at {value}, but {promised:?}",
                record.key
            ));
        }
        if record.header.phase == Phase::Suspended {
            let promise = state.promises.entry(record.status.uid).or_default();
            promise.durable = promise.durable.max(value);
        }
    }

    async fn delete(&self, name: &str) {
        let Some(record) = self.record(name).await else {
            return;
        };
        let uid = record.status.uid;
        self.world.lock().promises.entry(uid).or_default().deleting = true;
        if self.want(name, Desired::Deleted).await.is_some()
            && self.record(name).await.is_some_and(|r| r.status.uid == uid)
        {
            self.world
                .lock()
                .violate(format!("7: {name} is there after its deletion"));
        }
    }

    // ------------------------------------------------------------ afterwards

    async fn peace(&self) -> Result<(), String> {
        {
            let mut state = self.world.lock();
            state.calm = true;
            state.nodes.iter_mut().for_each(|n| n.cut = None);
            state.note(|| "peace".to_owned());
        }
        sleep(PATIENCE * 2).await;
        let until = Instant::now() + PEACE;
        self.rest(until).await?;
        for name in ACTORS {
            self.alone(name, until).await?;
        }
        self.rest(until).await?;
        let leaked = self.leaked().await;
        if !leaked.is_empty() {
            return Err(format!("7: nobody points to {leaked:?}"));
        }
        for name in ACTORS {
            self.delete(name).await;
        }
        self.rest(until).await?;
        let (actors, _) = audit::all(&self.store).await;
        let leaked = self.leaked().await;
        if !actors.is_empty() || !leaked.is_empty() {
            return Err(format!("7: left after deletion: {actors:?} {leaked:?}"));
        }
        self.nothing_spooled(until).await
    }

    /// Of actors that are gone no node keeps anything for good.
    async fn nothing_spooled(&self, until: Instant) -> Result<(), String> {
        loop {
            let left = {
                let state = self.world.lock();
                let of_node = |n: usize| state.local_of(n).into_iter().map(|s| s.id);
                let there = (0..2).filter(|n| !state.nodes[*n].lost);
                there.flat_map(of_node).collect::<Vec<_>>()
            };
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("7: nodes keep {left:?}, which nobody needs"));
            }
            sleep(REPORT_EVERY).await;
        }
    }

    /// Waits until nothing moves.
    async fn rest(&self, until: Instant) -> Result<(), String> {
        loop {
            let state = audit::at_rest(&self.world, &self.store).await;
            if self.broken().is_some() || state.is_ok() {
                return Ok(());
            }
            if Instant::now() > until {
                return state.map_err(|e| format!("stuck: {e}"));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// What nobody points to. A suspend is answered before that is deleted.
    async fn leaked(&self) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let leaked = audit::leaked(&self.world, &self.store).await;
            if leaked.is_empty() || Instant::now() > until {
                return leaked;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Somebody sees to it that there are nodes with the build that an actor's snapshot needs.
    async fn bring_runtime(&self, name: &str) {
        let needed = self.record(name).await.and_then(|r| {
            let local = r.status.local.map(|l| l.snapshot);
            local.or(r.status.durable)?.runtime
        });
        let mut state = self.world.lock();
        for node in 0..2 {
            if needed.is_some() {
                state.give(node, needed);
            }
        }
    }

    /// With all others asleep, an actor answers; and it can be put to sleep.
    async fn alone(&self, name: &str, until: Instant) -> Result<(), String> {
        let uid = self.record(name).await.map(|r| r.status.uid);
        let known = uid.and_then(|uid| self.world.lock().promises.get(&uid).cloned());
        if known.is_none_or(|p| p.deleting) && uid.is_none() {
            self.create(name).await;
        }
        loop {
            for other in ACTORS.iter().filter(|o| **o != name) {
                self.want(other, Desired::Suspended).await;
            }
            self.bring_runtime(name).await;
            if self.request(name).await.is_some()
                && self.want(name, Desired::Suspended).await.is_some()
            {
                return Ok(());
            }
            if self.broken().is_some() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!(
                    "6: {name} does not answer: {:?}",
                    self.record(name).await
                ));
            }
            sleep(Duration::from_millis(700)).await;
        }
    }
}
