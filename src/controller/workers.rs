//! What the store says of workers, followed once for all reconcilers: pools are reconciled when one of their workers changes,
//! templates when a pool has workers of another build of the runtime.

use crate::api::names::{Build, PoolKey, ResourceVersion};
use crate::api::record::{ActorRecord, WorkerRecord};
use crate::api::{ActorTemplate, WorkerPool};
use crate::engine::Engine;
use crate::lifecycle::placement;
use crate::lifecycle::template::Builds;
use crate::store::{Kind, Store, StoreError};
use crate::telemetry::chain;
use futures::{Stream, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

/// Workers are read at most so often, and nodes so often while no worker changes.
const PAUSE: Duration = Duration::from_secs(1);

/// All workers, and the build of the runtime that each node has, unless it is not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Workers {
    /// `None` until they were read.
    by_pool: Option<Arc<BTreeMap<PoolKey, Vec<WorkerRecord>>>>,
    builds: BTreeMap<String, Option<Build>>,
}

impl Workers {
    /// The workers of a pool; `None` as long as none could be read.
    pub(super) fn of_pool(&self, pool: &PoolKey) -> Option<Vec<WorkerRecord>> {
        let by_pool = self.by_pool.as_ref()?;
        Some(by_pool.get(pool).cloned().unwrap_or_default())
    }

    /// A build, unless it is not known, with a pool that has a worker of it.
    fn builds(&self) -> BTreeSet<(&PoolKey, Option<Build>)> {
        let workers = self.by_pool.iter().flat_map(|by_pool| by_pool.values());
        let workers = workers.flatten();
        let build = |w: &WorkerRecord| self.builds.get(&w.node).copied().flatten();
        workers.map(|w| (&w.pool, build(w))).collect()
    }

    /// The builds of the workers that may run a template's actors.
    pub(super) fn of(&self, template: &ActorTemplate, pools: &[Arc<WorkerPool>]) -> Builds {
        let any = ActorRecord::default();
        // A selector that cannot be read is refused where the golden actor is to start.
        let pools =
            placement::pools(&any, template, pools.iter().map(AsRef::as_ref)).unwrap_or_default();
        let builds = self.builds().into_iter();
        let of_pools = builds.filter(|(pool, _)| pools.contains(pool));
        of_pools.map(|(_, build)| build).collect()
    }
}

/// Follows until `stop`. What cannot be read stays as it was read last.
pub(super) async fn follow(
    engine: Arc<Engine>,
    seen: watch::Sender<Workers>,
    stop: CancellationToken,
) {
    let following = async {
        let mut version = None;
        loop {
            let next = Instant::now() + PAUSE;
            version = match look(&**engine.store(), &seen, version).await {
                Ok(version) => Some(version),
                Err(StoreError::Expired(_)) => None,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "workers cannot be followed");
                    None
                }
            };
            tokio::time::sleep_until(next).await;
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Waits for a change of a worker after `since`, for `PAUSE` at most, and reads what may be another since. Returns how far it
/// has read. Without `since` everything is read at once.
async fn look(
    store: &dyn Store,
    seen: &watch::Sender<Workers>,
    since: Option<ResourceVersion>,
) -> Result<ResourceVersion, StoreError> {
    let unchanged = match since {
        None => None,
        Some(since) => {
            let changes = store.changes(Kind::Worker, since, 1, PAUSE).await?;
            changes.items.is_empty().then_some(changes.upto)
        }
    };
    let (nodes, _) = store.list_nodes().await?;
    let builds = nodes.into_iter().map(|n| (n.name, n.runtime)).collect();
    let (version, read) = match unchanged {
        Some(version) => (version, None),
        None => {
            let page = store.list_workers(None).await?;
            let mut by_pool = BTreeMap::<_, Vec<_>>::new();
            for worker in page.items {
                by_pool.entry(worker.pool.clone()).or_default().push(worker);
            }
            (page.version, Some(Arc::new(by_pool)))
        }
    };
    seen.send_if_modified(|seen| {
        let by_pool = read.or_else(|| seen.by_pool.clone());
        let found = Workers { by_pool, builds };
        let changed = *seen != found;
        *seen = found;
        changed
    });
    Ok(version)
}

/// Told when the workers of a pool have other builds.
pub(super) fn changed_builds(seen: watch::Receiver<Workers>) -> impl Stream<Item = ()> + Send {
    let owned = |now: &Workers| -> BTreeSet<(PoolKey, Option<Build>)> {
        let builds = now.builds().into_iter();
        builds.map(|(pool, build)| (pool.clone(), build)).collect()
    };
    let changes = WatchStream::new(seen).scan(BTreeSet::new(), move |before, now| {
        let now = owned(&now);
        let changed = *before != now;
        *before = now;
        std::future::ready(Some(changed))
    });
    changes
        .filter(|changed| std::future::ready(*changed))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::WorkerKey;
    use crate::api::node::NodeUsage;
    use crate::api::record::WorkerPhase;
    use crate::api::{ActorTemplateSpec, WorkerPoolSpec};
    use crate::store::memory::MemoryStore;

    fn worker(namespace: &str, name: &str, node: &str) -> WorkerRecord {
        WorkerRecord {
            key: WorkerKey::new(namespace, name),
            pool: PoolKey::new(namespace, "p"),
            node: node.into(),
            ..WorkerRecord::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_a_worker_is_told_and_nothing_else() {
        let store = MemoryStore::new();
        let (sender, mut seen) = watch::channel(Workers::default());
        let pool = PoolKey::new("home", "p");
        assert_eq!(seen.borrow().of_pool(&pool), None, "not read yet");
        let mut version = look(&store, &sender, None).await.unwrap();
        assert_eq!(seen.borrow_and_update().of_pool(&pool), Some(vec![]));
        version = look(&store, &sender, Some(version)).await.unwrap();
        assert!(!seen.has_changed().unwrap(), "nothing did");
        let mut home = worker("home", "w", "n1");
        for phase in [WorkerPhase::Free, WorkerPhase::Draining] {
            home.phase = phase;
            store.report_worker(&home).await.unwrap();
            version = look(&store, &sender, Some(version)).await.unwrap();
            assert!(seen.has_changed().unwrap());
            let workers = seen.borrow_and_update().of_pool(&pool).unwrap();
            let phases: Vec<_> = workers.iter().map(|w| w.phase).collect();
            assert_eq!(phases, [phase]);
        }
        store.remove_worker(&pool, &home.key).await.unwrap();
        look(&store, &sender, Some(version)).await.unwrap();
        assert_eq!(seen.borrow().of_pool(&pool), Some(vec![]));
    }

    #[tokio::test]
    async fn builds_are_those_of_the_nodes_of_a_templates_pools() {
        let store = MemoryStore::new();
        let build = |digit: &str| digit.repeat(12).parse::<Build>().unwrap();
        for (node, runtime) in [
            ("n1", Some(build("a"))),
            ("n2", Some(build("b"))),
            ("n3", None),
        ] {
            let lease = Duration::from_secs(60);
            store
                .renew_node(node, "a:1", runtime, NodeUsage::default(), lease)
                .await
                .unwrap();
        }
        for (namespace, node) in [
            ("home", "n1"),
            ("home", "n3"),
            ("away", "n2"),
            ("home", "n1"),
        ] {
            let name = format!("{node}-{}", rand::random::<u32>());
            let worker = worker(namespace, &name, node);
            store.report_worker(&worker).await.unwrap();
        }
        let (sender, seen) = watch::channel(Workers::default());
        look(&store, &sender, None).await.unwrap();
        let seen = seen.borrow();
        assert_eq!(seen.builds().len(), 3, "{seen:?}");
        let pool = |namespace: &str| {
            let mut pool = WorkerPool::new("p", WorkerPoolSpec::default());
            pool.metadata.namespace = Some(namespace.into());
            Arc::new(pool)
        };
        let pools = [pool("home"), pool("away")];
        let mut template = ActorTemplate::new("t", ActorTemplateSpec::default());
        for (namespace, expected) in [
            ("home", vec![None, Some(build("a"))]),
            ("away", vec![Some(build("b"))]),
            ("none", vec![]),
        ] {
            template.metadata.namespace = Some(namespace.into());
            let of = seen.of(&template, &pools);
            assert_eq!(of.into_iter().collect::<Vec<_>>(), expected, "{namespace}");
        }
    }
}
