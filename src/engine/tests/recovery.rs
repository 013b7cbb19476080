//! What one replica leaves unfinished, and another finishes.

use super::kit::{Kit, PATIENCE, call, until};
use super::schedule::{NODE_LEASE, OPERATION_LEASE};
use crate::api::record::{ActorRecord, Claim, Phase, WorkerPhase};
use crate::api::{ActorKey, Epoch, Timestamp};
use crate::engine::Engine;
use crate::store::{ClaimRequest, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Another replica takes over a resume right after it began; what the actor counts then.
async fn taken_over(boot: bool) -> Option<u64> {
    let kit = Kit::new(1);
    let key = kit.actor("ns", "a").await;
    kit.report().await;
    let first = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(kit.visit(&first), Some(1));
    kit.engine.suspend(&key, call()).await.unwrap();

    kit.life.end_after(1);
    let (engine, of) = (kit.engine.clone(), key.clone());
    let call = if boot { call().booting() } else { call() };
    tokio::spawn(async move { engine.resume(&of, call).await });
    until(&kit, &key, |_| kit.life.is_over().then_some(())).await;
    let begun = kit.store.get_actor(&key).await.unwrap();
    assert_eq!(
        (begun.header.phase, begun.header.boot),
        (Phase::Resuming, boot)
    );

    tokio::spawn(kit.another().recover(CancellationToken::new()));
    let running = |a: Option<ActorRecord>| a.filter(|a| a.header.phase == Phase::Running);
    let record = until(&kit, &key, running).await;
    assert!(!record.header.boot, "the next wake is an ordinary one");
    kit.visit(&record)
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_boot_over_boots_as_well() {
    assert_eq!(taken_over(true).await, Some(1), "from the image");
    assert_eq!(taken_over(false).await, Some(2), "from its snapshot");
}

/// How long after the first replica's death another has brought the actor up that it was waking.
async fn goes_on_after(kit: &Kit, next: Arc<Engine>) -> Duration {
    let key = kit.actor("ns", "a").await;
    kit.report().await;
    kit.life.end_after(1);
    let (engine, of) = (kit.engine.clone(), key.clone());
    tokio::spawn(async move { engine.resume(&of, call()).await });
    until(kit, &key, |_| kit.life.is_over().then_some(())).await;
    let died = Instant::now();
    tokio::spawn(next.recover(CancellationToken::new()));
    let running = |a: Option<ActorRecord>| a.filter(|a| a.header.phase == Phase::Running);
    until(kit, &key, running).await;
    died.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_replica_goes_on_at_once_with_what_it_left() {
    let kit = Kit::new(1);
    let again = goes_on_after(&kit, kit.again()).await;
    let kit = Kit::new(1);
    let another = goes_on_after(&kit, kit.another()).await;
    assert!(again < OPERATION_LEASE / 2, "{again:?}");
    assert!(another > OPERATION_LEASE / 2, "{another:?}");
}

async fn mark(kit: &Kit, key: &ActorKey) {
    let mut record = kit.store.get_actor(key).await.unwrap();
    record.spec.deleted = Some(Timestamp(1));
    let version = record.header.resource_version;
    let written = kit
        .store
        .update_spec(key, version, &record.spec, &record.meta);
    written.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_only_marked_is_carried_out() {
    let kit = Kit::new(1);
    kit.report().await;
    let (asleep, awake, held) = (
        kit.actor("ns", "asleep").await,
        kit.actor("ns", "awake").await,
        kit.actor("ns", "held").await,
    );
    kit.engine.resume(&awake, call()).await.unwrap();
    let mut record = kit.store.get_actor(&held).await.unwrap();
    record.meta.finalizers = vec!["example.org/hold".into()];
    let version = record.header.resource_version;
    let written = kit
        .store
        .update_spec(&held, version, &record.spec, &record.meta);
    written.await.unwrap();

    mark(&kit, &asleep).await;
    tokio::spawn(kit.engine.clone().recover(CancellationToken::new()));
    let gone = |a: Option<ActorRecord>| a.is_none().then_some(());
    until(&kit, &asleep, gone).await;
    // Also while recovery runs already.
    mark(&kit, &awake).await;
    mark(&kit, &held).await;
    until(&kit, &awake, gone).await;
    let workers = kit.store.list_workers(None).await.unwrap().items;
    assert!(workers.iter().all(|w| w.claim.is_none()), "{workers:?}");
    assert!(
        kit.store.get_actor(&held).await.is_ok(),
        "a finalizer holds it"
    );
}

/// Claims that are to be settled, each by asking a node.
const MANY: usize = 1000;

#[tokio::test(start_paused = true)]
async fn who_is_told_to_stop_leaves_the_rest_to_others() {
    let kit = Kit::new(1);
    kit.report().await;
    let worker = kit.store.list_workers(None).await.unwrap().items.remove(0);
    for n in 0..MANY {
        let mut worker = worker.clone();
        worker.key.name = format!("w{n}");
        kit.store.report_worker(&worker).await.unwrap();
        let claim = Claim {
            actor: ActorKey::new("ns", format!("gone{n}")),
            uid: Uuid::new_v4(),
            epoch: Epoch(1),
            deadline: kit.world.lock().now() + Duration::from_millis(100),
        };
        let request = ClaimRequest {
            pool: worker.pool.clone(),
            claim,
            nodes: None,
        };
        kit.store.claim(&request).await.unwrap().unwrap();
    }
    let claims = async || {
        let workers = kit.store.list_workers(None).await.unwrap().items;
        workers.iter().filter(|w| w.claim.is_some()).count()
    };
    let stop = CancellationToken::new();
    let recovery = tokio::spawn(kit.engine.clone().recover(stop.clone()));
    timeout(PATIENCE, async {
        while claims().await == MANY {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    stop.cancel();
    timeout(Duration::from_secs(1), recovery)
        .await
        .unwrap()
        .unwrap();
    assert!(claims().await > MANY / 2, "most is left");
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_gets_nothing_new_until_it_is_heard_of_again() {
    let kit = Kit::new(1);
    kit.report().await;
    let start = Instant::now();
    let recovery = tokio::spawn(kit.engine.clone().recover(CancellationToken::new()));
    let phase = async || kit.store.list_workers(None).await.unwrap().items[0].phase;
    let lost = async {
        while phase().await != WorkerPhase::Lost {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, lost).await.unwrap();
    assert!(start.elapsed() < NODE_LEASE, "long before it is given up");
    let key = kit.actor("ns", "a").await;
    let (engine, of) = (kit.engine.clone(), key.clone());
    let wake = tokio::spawn(async move { engine.resume(&of, call()).await });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(phase().await, WorkerPhase::Lost);
    assert!(!wake.is_finished());
    // As it said last, which is otherwise not taken in again so soon.
    kit.report().await;
    let awake = wake.await.unwrap().unwrap();
    assert_eq!(awake.header.phase, Phase::Running);
    recovery.abort();
}
