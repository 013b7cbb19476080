//! Workers that leave: what runs there is suspended first.

use super::kit::{Kit, call, until};
use crate::api::record::{ActorRecord, Phase, WorkerPhase};
use crate::engine::DriveError;
use crate::store::Store;

async fn worker_phase(kit: &Kit) -> WorkerPhase {
    kit.store.list_workers(None).await.unwrap().items[0].phase
}

#[tokio::test(start_paused = true)]
async fn what_runs_on_a_worker_that_leaves_is_suspended_and_nothing_else_comes_there() {
    let kit = Kit::new(1);
    let (key, other) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    kit.report().await;
    let running = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(kit.visit(&running), Some(1));

    kit.world.lock().nodes[0].draining = true;
    kit.report().await;
    let asleep = |a: Option<ActorRecord>| a.filter(|a| a.header.phase == Phase::Suspended);
    let record = until(&kit, &key, asleep).await;
    assert!(record.status.durable.is_some() && record.status.rolled_back.is_none());
    assert_eq!(worker_phase(&kit).await, WorkerPhase::Draining);
    let refused = kit.engine.resume(&other, call()).await.unwrap_err();
    assert!(matches!(refused, DriveError::Failed { .. }), "{refused:?}");

    // Another slot in its place.
    kit.world.lock().nodes[0].draining = false;
    kit.report().await;
    let woken = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(kit.visit(&woken), Some(2), "with its memory");
}
