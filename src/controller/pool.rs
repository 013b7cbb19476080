//! WorkerPool: status from the workers that nodes report.

use super::{Context, Error};
use crate::api::condition::{condition, set};
use crate::api::record::{WorkerPhase, WorkerRecord};
use crate::api::{PoolKey, Timestamp, WorkerPool, WorkerPoolStatus};
use futures::StreamExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often workers are counted: they change without the pool's object changing.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

pub(super) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let api: Api<WorkerPool> = Api::all(context.client.clone());
    Controller::new(api, watcher::Config::default())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, on_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

fn on_error(pool: Arc<WorkerPool>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(pool = pool.metadata.name, error = %error, source = ?std::error::Error::source(error), "pool");
    Action::requeue(RETRY)
}

async fn reconcile(pool: Arc<WorkerPool>, context: Arc<Context>) -> Result<Action, Error> {
    let name = pool
        .metadata
        .name
        .as_deref()
        .ok_or(Error::Nameless("name"))?;
    let namespace = pool
        .metadata
        .namespace
        .as_deref()
        .ok_or(Error::Nameless("namespace"))?;
    let workers = context
        .engine
        .store()
        .list_workers(Some(&PoolKey::new(namespace, name)))
        .await?
        .items;
    let status = status(&pool, &workers, Timestamp::now());
    if pool.status.as_ref() != Some(&status) {
        let api: Api<WorkerPool> = Api::namespaced(context.client.clone(), namespace);
        api.patch_status(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({ "status": status })),
        )
        .await?;
    }
    Ok(Action::requeue(COUNT_EVERY))
}

fn status(pool: &WorkerPool, workers: &[WorkerRecord], now: Timestamp) -> WorkerPoolStatus {
    let count = |phase| {
        i32::try_from(workers.iter().filter(|w| w.phase == phase).count()).unwrap_or(i32::MAX)
    };
    let (free, claimed) = (count(WorkerPhase::Free), count(WorkerPhase::Claimed));
    let (ready, wanted) = (free + claimed, pool.spec.replicas);
    let generation = pool.metadata.generation.unwrap_or_default();
    let mut conditions = pool
        .status
        .as_ref()
        .map(|s| s.conditions.clone())
        .unwrap_or_default();
    let (reason, message) = if ready >= wanted {
        (
            "WorkersReady",
            format!("{ready} of {wanted} workers are ready"),
        )
    } else {
        (
            "WorkersMissing",
            format!("{ready} of {wanted} workers are ready; node agents start the others"),
        )
    };
    set(
        &mut conditions,
        condition("Ready", ready >= wanted, reason, message, generation, now),
    );
    WorkerPoolStatus {
        observed_generation: Some(generation),
        replicas: i32::try_from(workers.len()).unwrap_or(i32::MAX),
        ready,
        free,
        claimed,
        selector: Some(format!(
            "{}={}",
            crate::api::pool::POOL_LABEL,
            pool.metadata.name.as_deref().unwrap_or_default()
        )),
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkerPoolSpec;

    #[test]
    fn counts_and_says_what_is_missing() {
        let pool = WorkerPool::new(
            "p",
            WorkerPoolSpec {
                replicas: 3,
                ..WorkerPoolSpec::default()
            },
        );
        let worker = |phase| WorkerRecord {
            phase,
            ..WorkerRecord::default()
        };
        let workers = [
            worker(WorkerPhase::Free),
            worker(WorkerPhase::Claimed),
            worker(WorkerPhase::Dirty),
        ];
        let status = status(&pool, &workers, Timestamp(0));
        assert_eq!(
            (status.replicas, status.ready, status.free, status.claimed),
            (3, 2, 1, 1)
        );
        assert_eq!(status.conditions[0].status, "False");
        assert_eq!(
            status.conditions[0].message,
            "2 of 3 workers are ready; node agents start the others"
        );
    }
}
