//! One replica on calm nodes, for tests of one thing at a time.

use super::calls::Calls;
use super::schedule::options;
use super::store::{Life, Mortal};
use super::world::{Guards, World};
use crate::api::record::{ActorRecord, SpecRecord, StatusRecord};
use crate::api::template::{
    ActorTemplateSpec, ActorTemplateStatus, GoldenPolicy, GoldenSnapshot, PullSecret,
};
use crate::api::{ActorKey, ActorTemplate, TemplateKey, WorkerPool, WorkerPoolSpec};
use crate::engine::{Call, Engine, Options};
use crate::kube::secrets::Data;
use crate::kube::{Catalog, SecretError, Secrets};
use crate::proto::atenode::ReportRequest;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Bound of every wait, by the clock of the simulation.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Name of the first replica.
const FIRST: &str = "r";

/// A catalog of one template in namespace `ns`, which boots from its image, and one pool.
pub struct One {
    pub replicas: i32,
    pub allowed: Vec<String>,
    /// Pull secrets of the template.
    pub pull: Vec<PullSecret>,
    /// Where there are some, actors start from them.
    pub goldens: Vec<GoldenSnapshot>,
}

impl Catalog for One {
    fn is_synced(&self) -> bool {
        true
    }
    fn template(&self, _: &TemplateKey) -> Option<Arc<ActorTemplate>> {
        let mut template = ActorTemplate::new("t", ActorTemplateSpec::default());
        template.metadata.namespace = Some("ns".into());
        if self.goldens.is_empty() {
            template.spec.golden.policy = GoldenPolicy::Disabled;
        }
        template.status = Some(ActorTemplateStatus {
            golden_snapshots: self.goldens.clone(),
            ..ActorTemplateStatus::default()
        });
        template.spec.allowed_namespaces = self.allowed.clone();
        template.spec.image_pull_secrets = self.pull.clone();
        Some(Arc::new(template))
    }
    fn templates(&self) -> Vec<Arc<ActorTemplate>> {
        self.template(&TemplateKey::new("ns", "t"))
            .into_iter()
            .collect()
    }
    fn pools(&self) -> Vec<Arc<WorkerPool>> {
        let mut pool = WorkerPool::new("p", WorkerPoolSpec::default());
        pool.metadata.namespace = Some("ns".into());
        pool.spec.replicas = self.replicas;
        vec![Arc::new(pool)]
    }
}

/// The Secret `registry`, with credentials of registries.
pub struct OneSecret;

#[async_trait::async_trait]
impl Secrets for OneSecret {
    async fn read(&self, namespace: &str, name: &str) -> Result<Data, SecretError> {
        match name {
            "registry" => Ok([(".dockerconfigjson".into(), b"{}".to_vec())].into()),
            _ => Err(SecretError::Missing(format!("{namespace}/{name}"))),
        }
    }
}

pub struct Kit {
    pub world: World,
    pub store: Arc<MemoryStore>,
    pub life: Life,
    pub engine: Arc<Engine>,
}

impl Kit {
    pub fn new(replicas: i32) -> Kit {
        Self::with(One::of(replicas))
    }

    pub fn with(catalog: One) -> Kit {
        let world = World::new(1, Guards::All);
        world.lock().calm = true;
        let store = Arc::new(MemoryStore::by(world.clock()));
        let (life, engine) = replica(FIRST, &world, &store, catalog);
        Kit {
            world,
            store,
            life,
            engine,
        }
    }

    /// A second replica over the same store and nodes.
    pub fn another(&self) -> Arc<Engine> {
        replica("s", &self.world, &self.store, One::of(1)).1
    }

    /// The first replica once more, after its end.
    pub fn again(&self) -> Arc<Engine> {
        replica(FIRST, &self.world, &self.store, One::of(1)).1
    }

    /// An actor of template `ns/t`.
    pub async fn actor(&self, namespace: &str, name: &str) -> ActorKey {
        let key = ActorKey::new(namespace, name);
        let record = ActorRecord {
            key: key.clone(),
            spec: SpecRecord {
                template: TemplateKey::new("ns", "t"),
                ..SpecRecord::default()
            },
            status: StatusRecord {
                uid: Uuid::new_v4(),
                ..StatusRecord::default()
            },
            ..ActorRecord::default()
        };
        self.store.create_actor(record, 10).await.unwrap();
        key
    }

    /// The first node says what its one slot is.
    pub async fn report(&self) {
        self.report_of(0).await;
    }

    /// A node says what its one slot is.
    pub async fn report_of(&self, node: usize) {
        let report = {
            let mut state = self.world.lock();
            let until = state.now() + Duration::from_secs(60);
            state.renewed(node, until, &[], &[]);
            let n = &state.nodes[node];
            ReportRequest {
                node: n.name.clone(),
                address: n.address.clone(),
                slots: state.slots_of(node),
                local_snapshots: state.local_of(node),
                runtime: n.runtime.map(|r| r.to_string()).unwrap_or_default(),
                ..ReportRequest::default()
            }
        };
        let answer = self.engine.report(&report).await.unwrap();
        let mut state = self.world.lock();
        state.forget_local(node, &answer.drop_snapshots);
    }

    /// A request for an actor that runs: what it counts.
    pub fn visit(&self, actor: &ActorRecord) -> Option<u64> {
        let address = &actor.status.assignment.as_ref()?.address;
        self.world.lock().deliver(actor, address)
    }

    /// The calls of the store since the last look.
    pub fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.life.calls.lock().unwrap())
    }
}

impl One {
    pub fn of(replicas: i32) -> One {
        One {
            replicas,
            allowed: vec![],
            pull: vec![],
            goldens: vec![],
        }
    }
}

/// A replica with its life.
pub fn replica(
    name: &str,
    world: &World,
    store: &Arc<MemoryStore>,
    catalog: One,
) -> (Life, Arc<Engine>) {
    let life = Life::new(name.into(), world.clone());
    let (mortal, nodes) = (
        Mortal {
            inner: store.clone(),
            life: life.clone(),
        },
        Calls {
            world: world.clone(),
            life: life.clone(),
        },
    );
    let engine = Engine::new(
        Arc::new(mortal),
        Arc::new(nodes),
        Arc::new(catalog),
        Arc::new(OneSecret),
        Options {
            replica: Some(name.into()),
            ..options()
        },
    );
    (life, engine)
}

/// Waits until an actor is as `look` wants it.
pub async fn until<T>(
    kit: &Kit,
    key: &ActorKey,
    look: impl Fn(Option<ActorRecord>) -> Option<T>,
) -> T {
    let looked = async {
        loop {
            if let Some(found) = look(kit.store.get_actor(key).await.ok()) {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looked).await.unwrap()
}

pub fn call() -> Call {
    Call::within(Duration::from_secs(30))
}
