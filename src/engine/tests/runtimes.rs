//! Workers of several builds of the runtime: a snapshot comes to a worker of the build that made it, or to none.

use super::kit::{Kit, One, call, replica};
use super::world::{BUILDS, Saved};
use crate::api::names::{Build, SnapshotId};
use crate::api::record::{ActorRecord, Phase, WorkerPhase};
use crate::api::template::GoldenSnapshot;
use crate::api::{ActorKey, Epoch, Reason};
use crate::engine::DriveError;
use crate::store::Store;
use uuid::Uuid;

fn build(n: usize) -> Option<Build> {
    BUILDS[n].parse().ok()
}

/// Two nodes of a worker each, with these builds.
async fn kit(builds: [usize; 2], goldens: Vec<GoldenSnapshot>) -> Kit {
    let kit = Kit::with(One {
        goldens,
        ..One::of(2)
    });
    give(&kit, builds).await;
    kit
}

async fn give(kit: &Kit, builds: [usize; 2]) {
    for (node, n) in builds.into_iter().enumerate() {
        kit.world.lock().give(node, build(n));
        kit.report_of(node).await;
    }
}

fn node_of(actor: &ActorRecord) -> usize {
    let node = &actor.status.assignment.as_ref().unwrap().node;
    node.strip_prefix('n').unwrap().parse().unwrap()
}

fn refusal(answer: Result<ActorRecord, DriveError>) -> (Reason, String) {
    match answer {
        Err(DriveError::Failed { reason, message }) => (reason, message),
        other => panic!("{other:?}"),
    }
}

async fn free_workers(kit: &Kit) -> usize {
    let workers = kit.store.list_workers(None).await.unwrap().items;
    let free = workers.iter().filter(|w| w.phase == WorkerPhase::Free);
    free.count()
}

async fn wake(kit: &Kit, key: &ActorKey) -> ActorRecord {
    kit.engine.resume(key, call()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_comes_to_a_worker_of_its_build() {
    let kit = kit([0, 1], vec![]).await;
    let both = [kit.actor("ns", "a").await, kit.actor("ns", "b").await];
    for (node, key) in both.iter().enumerate() {
        let first = wake(&kit, key).await;
        assert_eq!((node_of(&first), kit.visit(&first)), (node, Some(1)));
    }
    for key in &both {
        kit.engine.suspend(key, call()).await.unwrap();
    }
    // The worker of the other build is free, and taken first where any will do.
    for turn in 2..5 {
        for (node, key) in both.iter().enumerate() {
            let again = wake(&kit, key).await;
            assert_eq!((node_of(&again), kit.visit(&again)), (node, Some(turn)));
            kit.engine.suspend(key, call()).await.unwrap();
        }
    }
    assert_eq!(kit.world.lock().misfits, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_of_its_build_it_is_refused_before_one_is_claimed() {
    let kit = kit([0, 0], vec![]).await;
    let key = kit.actor("ns", "a").await;
    let first = wake(&kit, &key).await;
    assert_eq!(kit.visit(&first), Some(1));
    kit.engine.suspend(&key, call()).await.unwrap();
    give(&kit, [1, 1]).await;
    let orders = kit.world.lock().orders;
    kit.calls();
    for _ in 0..5 {
        // Nothing was tried: it is not held back either.
        let (reason, message) = refusal(kit.engine.resume(&key, call()).await);
        assert_eq!(reason, Reason::RuntimeMismatch, "{message}");
        for part in [BUILDS[0], BUILDS[1], "kubectl ate boot a"] {
            assert!(message.contains(part), "{message}");
        }
    }
    assert_eq!(kit.world.lock().orders, orders);
    assert!(!kit.calls().contains(&"claim"));
    assert_eq!(free_workers(&kit).await, 2);
    let asleep = kit.store.get_actor(&key).await.unwrap();
    assert_eq!(asleep.header.phase, Phase::Suspended);
    // One comes back: it goes on where it was.
    give(&kit, [1, 0]).await;
    let again = wake(&kit, &key).await;
    assert_eq!((node_of(&again), kit.visit(&again)), (1, Some(2)));
    kit.engine.suspend(&key, call()).await.unwrap();
    // Or it boots, and is of the new build from then on.
    give(&kit, [1, 1]).await;
    let booted = kit.engine.resume(&key, call().booting()).await.unwrap();
    assert_eq!(kit.visit(&booted), Some(1));
    kit.engine.suspend(&key, call()).await.unwrap();
    let again = wake(&kit, &key).await;
    assert_eq!(kit.visit(&again), Some(2));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_paused_moves_when_its_node_has_another_build() {
    let kit = kit([0, 0], vec![]).await;
    let key = kit.actor("ns", "a").await;
    let first = wake(&kit, &key).await;
    assert_eq!(kit.visit(&first), Some(1));
    kit.engine.pause(&key, call()).await.unwrap();
    let mut builds = [0, 0];
    builds[node_of(&first)] = 1;
    give(&kit, builds).await;
    let again = wake(&kit, &key).await;
    assert_ne!(node_of(&again), node_of(&first));
    assert_eq!(kit.visit(&again), Some(2));
    // And is refused where there is no other.
    kit.engine.pause(&key, call()).await.unwrap();
    give(&kit, [1, 1]).await;
    let (reason, _) = refusal(kit.engine.resume(&key, call()).await);
    assert_eq!(reason, Reason::RuntimeMismatch);
    assert_eq!(kit.world.lock().misfits, 0);
}

#[tokio::test(start_paused = true)]
async fn workers_of_its_build_that_are_taken_are_not_said_to_be_missing() {
    let kit = kit([0, 1], vec![]).await;
    let (key, other) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    let first = wake(&kit, &key).await;
    kit.engine.suspend(&key, call()).await.unwrap();
    // The other takes the only one that would do.
    let mut builds = [1, 1];
    builds[node_of(&first)] = 0;
    assert_eq!(node_of(&wake(&kit, &other).await), node_of(&first));
    give(&kit, builds).await;
    let (reason, _) = refusal(kit.engine.resume(&key, call()).await);
    assert_eq!(reason, Reason::NoFreeWorkers);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_know_a_node_yet_gives_its_worker_back() {
    let kit = Kit::with(One::of(2));
    kit.report().await;
    let another = kit.another();
    let (key, other) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    another.resume(&key, call()).await.unwrap();
    another.suspend(&key, call()).await.unwrap();
    wake(&kit, &other).await;
    kit.world.lock().give(1, build(1));
    kit.report_of(1).await;
    let (reason, _) = refusal(another.resume(&key, call()).await);
    assert_eq!(reason, Reason::NoFreeWorkers);
    assert_eq!(kit.world.lock().misfits, 0);
    assert_eq!(free_workers(&kit).await, 1);
}

/// A golden snapshot of a build that counts from `value` on.
fn golden(n: usize) -> (SnapshotId, GoldenSnapshot) {
    let id = SnapshotId {
        actor: Uuid::from_u128(n as u128 + 1),
        epoch: Epoch(2),
    };
    let golden = GoldenSnapshot {
        id: id.to_string(),
        uri: "file:///s/golden".into(),
        runtime: BUILDS[n].into(),
        ..GoldenSnapshot::default()
    };
    (id, golden)
}

fn put(kit: &Kit, n: usize, value: u64) {
    let saved = Saved {
        value,
        complete: true,
        runtime: build(n),
    };
    kit.world.lock().durable.insert(golden(n).0, saved);
}

#[tokio::test(start_paused = true)]
async fn a_new_actor_starts_from_the_golden_snapshot_of_its_workers_build() {
    let kit = kit([0, 1], vec![golden(0).1, golden(1).1]).await;
    put(&kit, 0, 100);
    put(&kit, 1, 200);
    let (a, b) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    for key in [a, b] {
        let awake = wake(&kit, &key).await;
        let node = node_of(&awake);
        assert_eq!(kit.visit(&awake), Some([101, 201][node]));
        // The first of its own is published on top of that, the next on top of the first.
        let first = kit.engine.suspend(&key, call()).await.unwrap();
        wake(&kit, &key).await;
        kit.engine.suspend(&key, call()).await.unwrap();
        let first = first.snapshot_id(first.status.durable.as_ref().unwrap());
        let golden = golden(node).0;
        let likes = std::mem::take(&mut kit.world.lock().likes);
        assert_eq!(likes, [vec![golden], vec![first, golden]]);
    }
    assert_eq!(kit.world.lock().misfits, 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_actor_waits_for_the_golden_snapshot_of_the_workers_that_there_are() {
    let kit = kit([1, 1], vec![golden(0).1]).await;
    put(&kit, 0, 100);
    let (a, b) = (kit.actor("ns", "a").await, kit.actor("ns", "b").await);
    let (reason, message) = refusal(kit.engine.resume(&a, call()).await);
    assert_eq!(reason, Reason::TemplateNotReady);
    assert!(message.contains(BUILDS[1]), "{message}");
    give(&kit, [1, 0]).await;
    let awake = wake(&kit, &a).await;
    assert_eq!((node_of(&awake), kit.visit(&awake)), (1, Some(101)));
    let (reason, _) = refusal(kit.engine.resume(&b, call()).await);
    assert_eq!(reason, Reason::NoFreeWorkers, "of the one that would do");
    // A replica that starts knows the same.
    let catalog = One {
        goldens: vec![golden(0).1],
        ..One::of(2)
    };
    let (_, started) = replica("s", &kit.world, &kit.store, catalog);
    let (reason, _) = refusal(started.resume(&b, call()).await);
    assert_eq!(reason, Reason::NoFreeWorkers);
}
