//! Which builds of the runtime the workers of each pool have: looked at now and then, for all templates at once, which are
//! reconciled when it changes.

use crate::api::names::{Build, PoolKey};
use crate::api::record::ActorRecord;
use crate::api::{ActorTemplate, WorkerPool};
use crate::controller::Context;
use crate::lifecycle::placement;
use crate::lifecycle::template::Builds;
use crate::store::{Store, StoreError};
use crate::telemetry::chain;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// A build, unless it is not known, with a pool that has a worker of it.
pub(super) type Seen = BTreeSet<(PoolKey, Option<Build>)>;

/// Looks until `stop`. What cannot be looked at stays as it was seen last.
pub(super) async fn run(context: Arc<Context>, seen: watch::Sender<Seen>, stop: CancellationToken) {
    let looking = async {
        loop {
            match look(&**context.engine.store()).await {
                Ok(now) => {
                    seen.send_if_modified(|seen| {
                        let changed = *seen != now;
                        *seen = now;
                        changed
                    });
                }
                Err(error) => tracing::warn!(error = chain(&error), "workers are not looked at"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    stop.run_until_cancelled(looking).await;
}

async fn look(store: &dyn Store) -> Result<Seen, StoreError> {
    let (nodes, _) = store.list_nodes().await?;
    let builds: HashMap<_, _> = nodes.into_iter().map(|n| (n.name, n.runtime)).collect();
    let workers = store.list_workers(None).await?.items;
    let build = |node: &str| builds.get(node).copied().flatten();
    Ok(workers
        .into_iter()
        .map(|w| (w.pool, build(&w.node)))
        .collect())
}

/// The builds of the workers that may run a template's actors.
pub(super) fn of(template: &ActorTemplate, pools: &[Arc<WorkerPool>], seen: &Seen) -> Builds {
    let any = ActorRecord::default();
    // A selector that cannot be read is refused where the golden actor is to start.
    let pools =
        placement::pools(&any, template, pools.iter().map(AsRef::as_ref)).unwrap_or_default();
    let of_pools = seen.iter().filter(|(pool, _)| pools.contains(pool));
    of_pools.map(|(_, build)| *build).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::WorkerKey;
    use crate::api::record::WorkerRecord;
    use crate::api::{ActorTemplateSpec, WorkerPoolSpec};
    use crate::store::memory::MemoryStore;

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
            store.renew_node(node, "a:1", runtime, lease).await.unwrap();
        }
        for (namespace, node) in [
            ("home", "n1"),
            ("home", "n3"),
            ("away", "n2"),
            ("home", "n1"),
        ] {
            let worker = WorkerRecord {
                key: WorkerKey::new(namespace, format!("{node}-{}", rand::random::<u32>())),
                pool: PoolKey::new(namespace, "p"),
                node: node.into(),
                ..WorkerRecord::default()
            };
            store.report_worker(&worker).await.unwrap();
        }
        let seen = look(&store).await.unwrap();
        assert_eq!(seen.len(), 3, "{seen:?}");
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
            let of = of(&template, &pools, &seen);
            assert_eq!(of.into_iter().collect::<Vec<_>>(), expected, "{namespace}");
        }
    }
}
