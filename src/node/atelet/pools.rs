//! The slots of a node: as many child processes per pool as its pools ask for, or one for each pod that is a worker.

use super::adopt::sweep_logs;
use super::config::{PoolSlots, WorkerPod};
use super::files::{DesiredFile, SlotFile};
use super::provider::{Home, Place};
use super::slot::{Node, Slot};
use crate::lifecycle::slot::{Lease, missing, surplus};
use crate::proto::atenode as wire;
use crate::telemetry::chain;
use futures::future::join_all;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sandbox class of the slots that we can make.
const CLASS: &str = "gvisor";
/// Slots of one node; a pool that asks for more gets what is left.
const MAX_SLOTS: usize = 1024;
/// How often pools are looked at when nothing seems to change.
const TICK: Duration = Duration::from_secs(5);
/// How often old logs are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Which slots there shall be.
pub(super) enum Wanted {
    Processes(watch::Receiver<Vec<PoolSlots>>),
    Pods(watch::Receiver<Vec<WorkerPod>>),
}

impl Wanted {
    /// Returns when it has changed; never when nobody says any more.
    async fn changed(&mut self) {
        let changed = match self {
            Wanted::Processes(pools) => pools.changed().await,
            Wanted::Pods(pods) => pods.changed().await,
        };
        if changed.is_err() {
            std::future::pending().await
        }
    }
}

/// All slots of the node, with their loops.
pub(super) struct Slots {
    node: Arc<Node>,
    all: Mutex<Vec<Arc<Slot>>>,
    loops: TaskTracker,
    stop: CancellationToken,
}

impl Slots {
    /// Starts the loops of the slots that were found; `stop` ends all loops.
    pub fn new(node: Arc<Node>, found: Vec<Arc<Slot>>, stop: CancellationToken) -> Arc<Slots> {
        let slots = Arc::new(Slots {
            node,
            all: Mutex::default(),
            loops: TaskTracker::new(),
            stop,
        });
        for slot in found {
            slots.add(slot);
        }
        slots
    }

    /// The slot whose executor is `uid`.
    pub fn find(&self, uid: &str) -> Option<Arc<Slot>> {
        let all = self.all();
        all.iter()
            .find(|slot| slot.uid().as_deref() == Some(uid))
            .cloned()
    }

    /// All slots.
    pub fn list(&self) -> Vec<Arc<Slot>> {
        self.all().clone()
    }

    /// All slots as they are reported, by uid.
    pub fn views(&self) -> Vec<wire::Slot> {
        let mut views: Vec<_> = self.all().iter().filter_map(|slot| slot.view()).collect();
        views.sort_by(|a, b| a.uid.cmp(&b.uid));
        views
    }

    /// Keeps the slots as they are wanted until `stop`.
    pub async fn follow(self: Arc<Self>, mut wanted: Wanted) {
        let mut changed = self.node.changed.subscribe();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match &mut wanted {
                Wanted::Processes(pools) => {
                    let pools = pools.borrow_and_update().clone();
                    self.reconcile(&pools);
                }
                Wanted::Pods(pods) => {
                    let pods = pods.borrow_and_update().clone();
                    self.reconcile_pods(&pods);
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = wanted.changed() => {}
                Ok(()) = changed.changed() => {}
                () = tokio::time::sleep(TICK) => {}
                _ = sweep.tick() => self.sweep_logs().await,
            }
        }
    }

    /// Has every slot act on the node's lease, when it lapses and when it is renewed.
    pub async fn follow_lease(self: Arc<Self>) {
        let lease = &self.node.lease;
        let mut changes = lease.subscribe();
        loop {
            tokio::select! {
                // What it comes to is a change.
                () = lease.lapse() => continue,
                // Fails only when the node is gone.
                _ = changes.changed() => {}
            }
            match *changes.borrow_and_update() {
                Lease::Lapsed => {
                    tracing::warn!("the API server does not answer; the node's lease has lapsed")
                }
                Lease::Held | Lease::Unknown => tracing::info!("the node's lease holds"),
            }
            for slot in self.list() {
                slot.lease_changed();
            }
        }
    }

    /// Tells all executors until when the node's lease holds.
    pub async fn renew_lease(&self) {
        join_all(self.list().iter().map(|slot| slot.renew_lease())).await;
    }

    async fn sweep_logs(&self) {
        let (node, slots) = (self.node.clone(), self.list());
        let swept = tokio::task::spawn_blocking(move || sweep_logs(&node, &slots)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(error = chain(&error), "cannot remove old logs");
        }
    }

    /// Returns when all loops have ended.
    pub async fn ended(&self) {
        self.loops.close();
        self.loops.wait().await;
    }

    fn reconcile(self: &Arc<Self>, wanted: &[PoolSlots]) {
        let slots = self.list();
        let strange = slots.iter().filter(|slot| number(&slot.place).is_none());
        strange.for_each(|slot| slot.abandon());
        let key = |place: &Place| (place.namespace.clone(), place.pool.clone());
        let mut pools: BTreeSet<_> = self.all().iter().map(|slot| key(&slot.place)).collect();
        pools.extend(wanted.iter().map(|p| (p.namespace.clone(), p.pool.clone())));
        for (namespace, pool) in pools {
            let of_pool =
                |slot: &&Arc<Slot>| slot.place.namespace == namespace && slot.place.pool == pool;
            let own: Vec<Arc<Slot>> = self.all().iter().filter(of_pool).cloned().collect();
            let replicas = wanted
                .iter()
                .find(|p| p.namespace == namespace && p.pool == pool && p.class == CLASS)
                .map_or(0, |p| p.replicas);
            let staying: Vec<_> = own.iter().filter(|slot| !slot.is_retiring()).collect();
            let business: Vec<_> = staying
                .iter()
                .filter_map(|slot| Some((number(&slot.place)?, slot.is_busy())))
                .collect();
            for surplus in surplus(&business, replicas) {
                let leaving = |s: &&&Arc<Slot>| number(&s.place) == Some(surplus);
                for slot in staying.iter().filter(leaving) {
                    slot.drain();
                }
            }
            // A number is free again only when its slot is gone.
            let leaving = own.len() - staying.len();
            let taken: Vec<_> = own.iter().filter_map(|slot| number(&slot.place)).collect();
            for number in missing(&taken, replicas + leaving) {
                self.make(&namespace, &pool, number);
            }
        }
    }

    /// A slot for each pod that runs. One that leaves takes its slot along when that is not busy, one that is gone at once.
    fn reconcile_pods(self: &Arc<Self>, pods: &[WorkerPod]) {
        let slots = self.list();
        for slot in &slots {
            let Home::Pod { uid, .. } = &slot.place.home else {
                slot.abandon();
                continue;
            };
            match pods.iter().find(|pod| pod.uid == *uid) {
                None => slot.abandon(),
                Some(pod) if pod.leaving => slot.drain(),
                Some(pod) => slot.is_at(pod.ip),
            }
        }
        let ready = |pod: &&WorkerPod| pod.runs && pod.ip.is_some() && !pod.leaving;
        for pod in pods.iter().filter(ready).filter(|pod| pod.class == CLASS) {
            // A name is free again only when its slot is gone.
            let named =
                |s: &Arc<Slot>| s.place.namespace == pod.namespace && s.place.name() == pod.name;
            if slots.iter().any(named) {
                continue;
            }
            if self.all().len() >= MAX_SLOTS {
                tracing::warn!(pod = pod.name, "the node has no room for another slot");
                return;
            }
            self.make_at(Place {
                namespace: pod.namespace.clone(),
                pool: pod.pool.clone(),
                class: pod.class.clone(),
                home: Home::Pod {
                    name: pod.name.clone(),
                    uid: pod.uid.clone(),
                },
            });
        }
    }

    fn make(self: &Arc<Self>, namespace: &str, pool: &str, number: u16) {
        let all = self.list();
        let taken: BTreeSet<u16> = all.iter().filter_map(|slot| index(&slot.place)).collect();
        let index = (0..u16::MAX).find(|index| !taken.contains(index));
        let Some(index) = index.filter(|_| taken.len() < MAX_SLOTS) else {
            tracing::warn!(namespace, pool, "the node has no room for another slot");
            return;
        };
        self.make_at(Place {
            namespace: namespace.to_owned(),
            pool: pool.to_owned(),
            class: CLASS.to_owned(),
            home: Home::Process { number, index },
        });
    }

    fn make_at(self: &Arc<Self>, place: Place) {
        let file = SlotFile {
            place,
            executors: 0,
            executor: None,
        };
        let desired = DesiredFile::default();
        self.add(Arc::new(Slot::new(self.node.clone(), file, desired, None)));
    }

    fn add(self: &Arc<Self>, slot: Arc<Slot>) {
        self.all().push(slot.clone());
        let slots = self.clone();
        self.loops.spawn(async move {
            slot.clone().converge(slots.stop.clone()).await;
            if slot.is_retiring() {
                slots.all().retain(|other| !Arc::ptr_eq(other, &slot));
                slots.node.changed.send_replace(());
            }
        });
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(place: &Place) -> Option<u16> {
    match place.home {
        Home::Process { number, .. } => Some(number),
        Home::Pod { .. } => None,
    }
}

fn index(place: &Place) -> Option<u16> {
    match place.home {
        Home::Process { index, .. } => Some(index),
        Home::Pod { .. } => None,
    }
}
