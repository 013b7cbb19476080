//! WorkerPool: a Deployment of its workers ([`objects`], kept as it shall be by [`owned`]) where the installation says which image
//! workers have, and a [`status`] from the Deployment and from the workers that nodes report.

mod cost;
mod image;
mod objects;
mod owned;
mod rollout;
mod status;

pub use image::WorkerImages;

use super::workers::Workers;
use super::{Context, Error, MANAGER};
use crate::api::pool::POOL_LABEL;
use crate::api::{PoolKey, Timestamp, WorkerPool};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use owned::Owned;
use rollout::Pods;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

/// A pool is looked at again after this time even if nothing told of a change: of that [`owned`] decides.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// What the reconciler of pools needs.
struct Pools {
    context: Arc<Context>,
    /// `None` where node agents make the workers.
    owned: Option<Arc<Owned>>,
    workers: watch::Receiver<Workers>,
}

pub(super) async fn run(
    context: Arc<Context>,
    workers: watch::Receiver<Workers>,
    stop: CancellationToken,
) {
    let client = context.client.clone();
    let owned = context.workers.clone().map(|images| {
        Arc::new(Owned {
            client: client.clone(),
            images,
            seen: owned::Seen::default(),
        })
    });
    let pools: Api<WorkerPool> = Api::all(client.clone());
    let mut controller = Controller::new(pools, watcher::Config::default());
    if let Some(owned) = &owned {
        controller = watch::<Deployment>(controller, &client, owned);
        controller = watch::<PodDisruptionBudget>(controller, &client, owned);
    }
    let scene = Pools {
        context,
        owned,
        workers: workers.clone(),
    };
    controller
        .reconcile_all_on(WatchStream::from_changes(workers).map(drop))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, on_error, Arc::new(scene))
        .for_each(|_| std::future::ready(()))
        .await;
}

/// What belongs to a pool is looked at again when it changes.
fn watch<K>(
    controller: Controller<WorkerPool>,
    client: &Client,
    owned: &Arc<Owned>,
) -> Controller<WorkerPool>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + 'static,
    K: serde::de::DeserializeOwned,
{
    let owned = owned.clone();
    let ours = watcher::Config::default().labels(POOL_LABEL);
    controller.watches(Api::<K>::all(client.clone()), ours, move |object| {
        let pool = pool_of(&object)?;
        owned.seen.forget(&pool);
        Some(ObjectRef::new(&pool.name).within(&pool.namespace))
    })
}

/// The pool that owns an object. One that names none is as its label says.
fn pool_of(object: &impl Resource) -> Option<PoolKey> {
    let owners = object.meta().owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true));
    let name = match owner {
        Some(owner) if owner.kind == WorkerPool::kind(&()) => &owner.name,
        Some(_) => return None,
        None => object.labels().get(POOL_LABEL)?,
    };
    Some(PoolKey::new(object.namespace()?, name))
}

fn on_error(pool: Arc<WorkerPool>, error: &Error, _: Arc<Pools>) -> Action {
    tracing::warn!(pool = pool.metadata.name, error = %error, source = ?std::error::Error::source(error), "pool");
    Action::requeue(RETRY)
}

async fn reconcile(pool: Arc<WorkerPool>, pools: Arc<Pools>) -> Result<Action, Error> {
    let context = &pools.context;
    let metadata = &pool.metadata;
    let name = metadata.name.as_deref().ok_or(Error::Nameless("name"))?;
    let namespace = metadata.namespace.as_deref();
    let namespace = namespace.ok_or(Error::Nameless("namespace"))?;
    if metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let key = PoolKey::new(namespace, name);
    let pods = match &pools.owned {
        None => Pods::None,
        Some(owned) => {
            let exists = |key: &PoolKey| context.has_pool(key);
            let store = &**context.engine.store();
            owned.converge(&pool, &key, store, exists).await?
        }
    };
    let Some(workers) = pools.workers.borrow().of_pool(&key) else {
        return Ok(Action::await_change());
    };
    let status = status::status(&pool, &workers, &pods, Timestamp::now());
    if pool.status.as_ref() != Some(&status) {
        let api: Api<WorkerPool> = Api::namespaced(context.client.clone(), namespace);
        let params = PatchParams::apply(MANAGER);
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &params, &patch).await?;
        let before = pool.status.clone().unwrap_or_default().conditions;
        let about = pool.object_ref(&());
        context
            .events
            .tell(&about, &before, &status.conditions)
            .await;
    }
    Ok(Action::requeue(LOOK_AGAIN))
}
