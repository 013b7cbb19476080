//! Suspends whose image is complete on its node and not published yet.

use super::kit::{Kit, PATIENCE, call, until};
use super::schedule::NODE_LEASE;
use crate::api::record::{ActorRecord, OperatingMode, Phase, Work, WorkerPhase};
use crate::api::{ActorKey, Reason};
use crate::engine::DriveError;
use crate::store::Store;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

type Suspend = JoinHandle<Result<ActorRecord, DriveError>>;

/// An actor that answered once on node 0 and is being suspended; its image is complete there, and is not published before
/// `publications_stall` ends.
async fn spooled(kit: &Kit) -> (ActorKey, Suspend) {
    let key = kit.actor("ns", "a").await;
    kit.report().await;
    let running = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(kit.visit(&running), Some(1));
    kit.world.lock().publications_stall = true;
    let (engine, of) = (kit.engine.clone(), key.clone());
    let suspend = tokio::spawn(async move { engine.suspend(&of, call()).await });
    let record = until(kit, &key, |a| a.filter(|a| a.header.yields)).await;
    assert_eq!(record.header.phase, Phase::Suspending);
    assert_eq!(record.status.local.unwrap().node, "n0");
    assert_eq!(
        (record.status.assignment, record.status.durable),
        (None, None)
    );
    sleep(Duration::from_millis(100)).await;
    (key, suspend)
}

async fn workers(kit: &Kit) -> Vec<(WorkerPhase, bool)> {
    let workers = kit.store.list_workers(None).await.unwrap().items;
    let seen = workers.iter().map(|w| (w.phase, w.claim.is_some()));
    seen.collect()
}

fn goes_on(kit: &Kit) {
    kit.world.lock().publications_stall = false;
}

#[tokio::test(start_paused = true)]
async fn the_worker_is_free_before_the_publication_and_the_suspend_ends_after_it() {
    let kit = Kit::new(1);
    let (key, suspend) = spooled(&kit).await;
    assert_eq!(workers(&kit).await, [(WorkerPhase::Free, false)]);
    assert!(!suspend.is_finished());
    let other = kit.actor("ns", "b").await;
    let running = kit.engine.resume(&other, call()).await.unwrap();
    assert_eq!(running.header.phase, Phase::Running);
    goes_on(&kit);
    let asleep = suspend.await.unwrap().unwrap();
    assert_eq!(asleep.header.phase, Phase::Suspended);
    assert_eq!((asleep.status.local, asleep.header.yields), (None, false));
    let steps = asleep.status.last_steps.iter().map(|s| s.work);
    let works: Vec<_> = steps.collect();
    assert_eq!(works, [Work::Checkpoint, Work::Release, Work::Publish]);
    let durable = kit.world.lock().durable.len();
    assert_eq!((durable, asleep.key), (1, key));
}

#[tokio::test(start_paused = true)]
async fn a_request_meanwhile_is_served_from_the_spool() {
    let kit = Kit::new(1);
    let (key, suspend) = spooled(&kit).await;
    kit.calls();
    let running = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(kit.calls(), ["begin", "claim", "commit"]);
    assert_eq!(kit.visit(&running), Some(2), "with its memory");
    assert!(
        kit.world.lock().durable.is_empty(),
        "nothing was waited for"
    );
    goes_on(&kit);
    let cut_short = suspend.await.unwrap();
    assert!(
        matches!(cut_short, Err(DriveError::InProgress)),
        "{cut_short:?}"
    );
    // What was resumed from is published by now; it is neither what the actor is at, nor left behind.
    let asleep = kit.engine.suspend(&key, call()).await.unwrap();
    let durable = asleep.snapshot_id(&asleep.status.durable.clone().unwrap());
    // The suspend is answered before what it superseded is deleted.
    let deleted = async {
        while kit.world.lock().durable.len() > 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, deleted).await.unwrap();
    let state = kit.world.lock();
    assert_eq!(state.durable.keys().collect::<Vec<_>>(), [&durable]);
    assert_eq!(state.durable[&durable].value, 2);
    assert!(state.nodes[0].local.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_there_the_publication_is_awaited() {
    let kit = Kit::new(2);
    let (key, suspend) = spooled(&kit).await;
    let other = kit.actor("ns", "b").await;
    kit.engine.resume(&other, call()).await.unwrap();
    kit.report_of(1).await;
    let (engine, of) = (kit.engine.clone(), key.clone());
    let wake = tokio::spawn(async move { engine.resume(&of, call()).await });
    sleep(Duration::from_secs(1)).await;
    assert!(!wake.is_finished());
    goes_on(&kit);
    let running = wake.await.unwrap().unwrap();
    assert_eq!(running.status.assignment.clone().unwrap().node, "n1");
    assert!(running.status.durable.is_some() && running.status.local.is_none());
    assert_eq!(kit.visit(&running), Some(2), "with its memory");
    assert!(suspend.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_is_refused_leaves_the_suspend_as_it_was_wanted() {
    let kit = Kit::new(1);
    let (key, suspend) = spooled(&kit).await;
    let mut record = kit.store.get_actor(&key).await.unwrap();
    record.spec.mode = OperatingMode::Suspended;
    let version = record.header.resource_version;
    let written = kit
        .store
        .update_spec(&key, version, &record.spec, &record.meta);
    written.await.unwrap();
    let (engine, of) = (kit.engine.clone(), key.clone());
    let wake = tokio::spawn(async move { engine.resume(&of, call()).await });
    sleep(Duration::from_millis(100)).await;
    goes_on(&kit);
    match wake.await.unwrap() {
        Err(DriveError::Failed { reason, .. }) => {
            assert_eq!(reason, Reason::OperatingModeSuspended);
        }
        other => panic!("{other:?}"),
    }
    let asleep = suspend.await.unwrap().unwrap();
    assert_eq!(asleep.header.phase, Phase::Suspended);
    assert!(asleep.status.durable.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_suspend_over_publishes_what_is_on_the_node() {
    let kit = Kit::new(1);
    let (key, suspend) = spooled(&kit).await;
    kit.life.end();
    suspend.abort();
    tokio::spawn(kit.another().recover(CancellationToken::new()));
    sleep(Duration::from_secs(5)).await;
    goes_on(&kit);
    let asleep = |a: Option<ActorRecord>| a.filter(|a| a.header.phase == Phase::Suspended);
    let record = until(&kit, &key, asleep).await;
    assert!(record.status.durable.is_some() && record.status.rolled_back.is_none());
    assert_eq!(kit.world.lock().nodes[0].local.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn with_its_node_what_is_not_published_is_lost_and_that_is_said() {
    let kit = Kit::new(1);
    let (key, suspend) = spooled(&kit).await;
    let recovery = tokio::spawn(kit.engine.clone().recover(CancellationToken::new()));
    let later = tokio::time::Instant::now() + Duration::from_secs(3600);
    kit.world.lock().nodes[0].cut = Some(later);
    sleep(NODE_LEASE * 3).await;
    let rolled_back = |a: Option<ActorRecord>| a?.status.rolled_back;
    let said = until(&kit, &key, rolled_back).await;
    assert_eq!((said.reason, said.to), (Reason::NodeLost, None));
    let record = kit.store.get_actor(&key).await.unwrap();
    assert_eq!(record.header.phase, Phase::Suspended);
    assert_eq!(record.status.local, None);
    drop(suspend);

    // Elsewhere it goes on from before. The node that comes back keeps nothing, and publishes nothing over it.
    kit.report_of(1).await;
    let running = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(kit.visit(&running), Some(1));
    goes_on(&kit);
    kit.world.lock().nodes[0].cut = None;
    kit.report().await;
    sleep(Duration::from_secs(1)).await;
    let state = kit.world.lock();
    assert!(state.nodes[0].local.is_empty() && state.durable.is_empty());
    drop(state);
    recovery.abort();
}
