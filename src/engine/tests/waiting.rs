//! A wake that finds no free worker: it waits for those that are on their way, and only for those.

use super::kit::{Kit, One, call, replica};
use crate::api::Reason;
use crate::api::record::{ActorRecord, Phase};
use crate::engine::DriveError;
use crate::store::Store;
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn is_full(answer: Result<ActorRecord, DriveError>) -> bool {
    match answer {
        Err(DriveError::Failed { reason, message }) => {
            (reason, message.as_str()) == (Reason::NoFreeWorkers, "no free workers available")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn workers_that_are_on_their_way_are_waited_for() {
    let kit = Kit::new(1);
    let key = kit.actor("ns", "a").await;
    let (start, engine) = (Instant::now(), kit.engine.clone());
    let wake = tokio::spawn(async move { engine.resume(&key, call()).await });
    sleep(Duration::from_secs(3)).await;
    assert!(!wake.is_finished());
    let asked = kit.calls().len();
    assert!(asked < 10, "{asked} calls while nothing happened");
    kit.report().await;
    let record = wake.await.unwrap().unwrap();
    assert_eq!(record.header.phase, Phase::Running);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_complete_pool_refuses_at_once() {
    let kit = Kit::new(1);
    let (first, second) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    kit.report().await;
    kit.engine.resume(&first, call()).await.unwrap();
    let start = Instant::now();
    assert!(is_full(kit.engine.resume(&second, call()).await));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn one_that_came_between_the_claim_and_the_look_is_taken() {
    let kit = Kit::new(1);
    let key = kit.actor("ns", "a").await;
    kit.report().await;
    let worker = kit.store.list_workers(None).await.unwrap().items.remove(0);
    kit.store
        .remove_worker(&worker.pool, &worker.key)
        .await
        .unwrap();
    let store = kit.store.clone();
    kit.life.before_next("list_workers", async move {
        store.report_worker(&worker).await.unwrap();
    });
    let record = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(record.header.phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn workers_that_never_come_are_waited_for_so_long() {
    let kit = Kit::new(2);
    let (first, second) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    kit.report().await;
    kit.engine.resume(&first, call()).await.unwrap();
    let start = Instant::now();
    assert!(is_full(kit.engine.resume(&second, call()).await));
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_secs(9) && waited < Duration::from_secs(12),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_its_template_does_not_let_in_claims_nothing() {
    let kit = Kit::new(1);
    kit.report().await;
    let key = kit.actor("team", "a").await;
    kit.calls();
    match kit.engine.resume(&key, call()).await {
        Err(DriveError::Failed { reason, message }) => {
            assert_eq!(reason, Reason::NamespaceNotAllowed);
            assert!(message.contains("spec.allowedNamespaces"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(kit.calls(), ["begin", "commit"]);
    let allowed = vec!["team".to_owned()];
    let catalog = One {
        allowed,
        ..One::of(1)
    };
    let (_, engine) = replica("s", &kit.world, &kit.store, catalog);
    let woken = engine.resume(&key, call()).await.unwrap();
    assert_eq!(woken.header.phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_released_meanwhile_is_taken() {
    let kit = Kit::new(2);
    let (first, second) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    kit.report().await;
    kit.engine.resume(&first, call()).await.unwrap();
    let engine = kit.engine.clone();
    let wake = tokio::spawn(async move { engine.resume(&second, call()).await });
    sleep(Duration::from_secs(2)).await;
    assert!(!wake.is_finished());
    kit.engine.suspend(&first, call()).await.unwrap();
    assert_eq!(wake.await.unwrap().unwrap().header.phase, Phase::Running);
}
