//! Workers and claims.

use super::*;
use crate::api::record::WorkerPhase;
use crate::store::StoreError;
use futures::future::join_all;
use std::collections::BTreeSet;

fn pool() -> PoolKey {
    PoolKey::new("team", "p")
}

fn someone(name: &str) -> ActorKey {
    ActorKey::new("team", name)
}

async fn report(store: &dyn Store, name: &str, node: &str) -> WorkerRecord {
    let worker = worker("team", "p", name, node);
    store.report_worker(&worker).await.unwrap()
}

async fn release(store: &dyn Store, key: &WorkerKey, who: &str, epoch: u64) {
    let uid = uid_of(&someone(who));
    let done = store.release(&pool(), key, uid, Epoch(epoch)).await;
    done.unwrap();
}

async fn of(store: &dyn Store, name: &str) -> WorkerRecord {
    let page = store.list_workers(Some(&pool())).await.unwrap();
    let found = page.items.into_iter().find(|w| w.key.name == name);
    found.unwrap()
}

pub async fn a_worker_is_reported_and_listed(store: &dyn Store) {
    let mut first = worker("team", "p", "w1", "n1");
    let stored = store.report_worker(&first).await.unwrap();
    first.writes = 1;
    first.resource_version = stored.resource_version;
    assert_eq!(stored, first);
    assert_eq!(store.report_worker(&first).await.unwrap(), stored);
    first.ip = "10.0.0.2".into();
    first.created = Timestamp(1);
    let moved = store.report_worker(&first).await.unwrap();
    assert_eq!((moved.ip.as_str(), moved.writes), ("10.0.0.2", 2));
    assert_eq!(moved.created, stored.created);
    report(store, "w0", "n1").await;
    let page = store.list_workers(Some(&pool())).await.unwrap();
    assert_eq!(page.items.len(), 2);
    assert_eq!(page.items[1], moved);
    assert!(page.version >= moved.resource_version);
}

pub async fn a_report_keeps_the_claim(store: &dyn Store) {
    report(store, "w", "n1").await;
    let claimed = store.claim(&claim(&pool(), &someone("a"), 1)).await;
    let claimed = claimed.unwrap().unwrap();
    assert_eq!(claimed.phase, WorkerPhase::Claimed);
    let same = report(store, "w", "n1").await;
    assert_eq!(same, claimed);
    let moved = report(store, "w", "n2").await;
    assert_eq!(
        (moved.claim.as_ref(), moved.phase),
        (claimed.claim.as_ref(), WorkerPhase::Claimed)
    );
    let none = store.claim(&claim(&pool(), &someone("b"), 1)).await;
    assert_eq!(none.unwrap(), None);
}

pub async fn a_worker_that_leaves_takes_no_claim(store: &dyn Store) {
    for phase in [
        WorkerPhase::Draining,
        WorkerPhase::Dirty,
        WorkerPhase::Lost,
        WorkerPhase::Claimed,
    ] {
        let mut w = worker("team", "p", "w", "n1");
        w.phase = phase;
        let stored = store.report_worker(&w).await.unwrap();
        assert_eq!(stored.phase, phase);
        let none = store.claim(&claim(&pool(), &someone("a"), 1)).await;
        assert_eq!(none.unwrap(), None, "{phase}");
    }
    assert_eq!(report(store, "w", "n1").await.phase, WorkerPhase::Free);
    let some = store.claim(&claim(&pool(), &someone("a"), 1)).await;
    assert!(some.unwrap().is_some());
}

pub async fn a_claim_can_require_its_nodes(store: &dyn Store) {
    for (name, node) in [("w1", "n1"), ("w2", "n2"), ("w3", "n2-1"), ("w4", "n3")] {
        report(store, name, node).await;
    }
    let nodes = |nodes: &[&str]| Some(nodes.iter().map(|n| (*n).to_owned()).collect());
    let mut wanted = claim(&pool(), &someone("a"), 1);
    wanted.nodes = nodes(&["n", "n3", "n2"]);
    let got = store.claim(&wanted).await.unwrap().unwrap();
    assert_eq!(got.key.name, "w4", "the first that has one");
    assert_eq!(got.claim.as_ref(), Some(&wanted.claim));
    wanted = claim(&pool(), &someone("b"), 1);
    wanted.nodes = nodes(&["n", "n3", "n2"]);
    let got = store.claim(&wanted).await.unwrap().unwrap();
    assert_eq!(got.key.name, "w2");
    wanted = claim(&pool(), &someone("c"), 1);
    wanted.nodes = nodes(&["n", "n3", "n2"]);
    assert_eq!(store.claim(&wanted).await.unwrap(), None);
    wanted.nodes = nodes(&[]);
    assert_eq!(store.claim(&wanted).await.unwrap(), None);
    wanted.nodes = None;
    assert!(store.claim(&wanted).await.unwrap().is_some());
}

pub async fn a_claim_made_twice_is_one(store: &dyn Store) {
    report(store, "w1", "n1").await;
    report(store, "w2", "n1").await;
    let wanted = claim(&pool(), &someone("a"), 3);
    let first = store.claim(&wanted).await.unwrap().unwrap();
    assert_eq!(store.claim(&wanted).await.unwrap().unwrap(), first);
    assert_eq!(of(store, &first.key.name).await, first);
}

pub async fn another_actor_of_the_same_name_claims_for_itself(store: &dyn Store) {
    report(store, "w1", "n1").await;
    report(store, "w2", "n1").await;
    let before = claim(&pool(), &someone("a"), 7);
    let mut after = claim(&pool(), &someone("a"), 1);
    after.claim.uid = Uuid::from_u128(7);
    let first = store.claim(&before).await.unwrap().unwrap();
    let second = store.claim(&after).await.unwrap().unwrap();
    assert_ne!(first.key, second.key);
    assert_eq!(second.claim.as_ref(), Some(&after.claim));
    // What the one before it does late is not about this one.
    release(store, &second.key, "a", 7).await;
    assert_eq!(of(store, &second.key.name).await, second);
    release(store, &first.key, "a", 7).await;
    let freed = of(store, &first.key.name).await;
    assert_eq!((freed.phase, freed.claim), (WorkerPhase::Free, None));
}

pub async fn an_older_claim_must_be_settled_first(store: &dyn Store) {
    report(store, "w1", "n1").await;
    report(store, "w2", "n1").await;
    let first = store.claim(&claim(&pool(), &someone("a"), 3)).await;
    let first = first.unwrap().unwrap();
    let newer = store.claim(&claim(&pool(), &someone("a"), 4)).await;
    assert!(matches!(newer, Err(StoreError::Conflict(_))));
    let older = store.claim(&claim(&pool(), &someone("a"), 2)).await;
    assert!(matches!(older, Err(StoreError::Fenced(_))));
    release(store, &first.key, "a", 4).await;
    let newer = store.claim(&claim(&pool(), &someone("a"), 4)).await;
    assert!(newer.unwrap().is_some());
}

pub async fn a_late_claim_is_fenced(store: &dyn Store) {
    report(store, "w1", "n1").await;
    let mut wanted = claim(&pool(), &someone("a"), 1);
    wanted.claim.deadline = Timestamp(1_790_000_000_000 - 1_000_000_000);
    let late = store.claim(&wanted).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))));
    assert_eq!(of(store, "w1").await.phase, WorkerPhase::Free);
}

pub async fn a_release_is_fenced_by_actor_and_epoch(store: &dyn Store) {
    report(store, "w1", "n1").await;
    let claimed = store.claim(&claim(&pool(), &someone("a"), 3)).await;
    let claimed = claimed.unwrap().unwrap();
    let after = |who: &'static str, epoch| {
        let key = claimed.key.clone();
        async move {
            release(store, &key, who, epoch).await;
            of(store, "w1").await
        }
    };
    assert_eq!(after("b", 3).await, claimed);
    assert_eq!(after("a", 2).await, claimed);
    let freed = after("a", 3).await;
    assert_eq!(
        (freed.phase, freed.claim.clone()),
        (WorkerPhase::Free, None)
    );
    assert_eq!(after("a", 3).await, freed);
    let gone = WorkerKey::new("team", "gone");
    release(store, &gone, "a", 1).await;
}

pub async fn a_dirty_worker_is_free_only_when_reported(store: &dyn Store) {
    report(store, "w1", "n1").await;
    let claimed = store.claim(&claim(&pool(), &someone("a"), 1)).await;
    let claimed = claimed.unwrap().unwrap();
    let mut dirty = worker("team", "p", "w1", "n1");
    dirty.phase = WorkerPhase::Dirty;
    let reported = store.report_worker(&dirty).await.unwrap();
    assert_eq!(
        (reported.phase, &reported.claim),
        (WorkerPhase::Dirty, &claimed.claim)
    );
    release(store, &claimed.key, "a", 1).await;
    assert_eq!(of(store, "w1").await.phase, WorkerPhase::Dirty);
    let none = store.claim(&claim(&pool(), &someone("b"), 1)).await;
    assert_eq!(none.unwrap(), None);
    assert_eq!(report(store, "w1", "n1").await.phase, WorkerPhase::Free);
}

pub async fn a_removed_worker_is_gone(store: &dyn Store) {
    report(store, "w1", "n1").await;
    report(store, "w2", "n1").await;
    let claimed = store.claim(&claim(&pool(), &someone("a"), 1)).await;
    let claimed = claimed.unwrap().unwrap();
    store.remove_worker(&pool(), &claimed.key).await.unwrap();
    let held = of(store, &claimed.key.name).await;
    assert_eq!(held, claimed, "what is claimed stays");
    release(store, &claimed.key, "a", 1).await;
    store.remove_worker(&pool(), &claimed.key).await.unwrap();
    store.remove_worker(&pool(), &claimed.key).await.unwrap();
    let next = store.claim(&claim(&pool(), &someone("a"), 1)).await;
    let next = next.unwrap().unwrap();
    assert_ne!(next.key, claimed.key);
    release(store, &next.key, "a", 1).await;
    store.remove_worker(&pool(), &next.key).await.unwrap();
    assert!(store.list_workers(None).await.unwrap().items.is_empty());
    let none = store.claim(&claim(&pool(), &someone("b"), 1)).await;
    assert_eq!(none.unwrap(), None);
}

pub async fn many_claims_never_share_a_worker(store: &dyn Store) {
    let names: Vec<_> = (0..10).map(|i| format!("w{i}")).collect();
    join_all(names.iter().map(|name| report(store, name, "n1"))).await;
    let claims = (0..30).map(|i| async move {
        let request = claim(&pool(), &someone(&format!("a{i}")), 1);
        store.claim(&request).await.unwrap()
    });
    let got: Vec<_> = join_all(claims).await.into_iter().flatten().collect();
    assert_eq!(got.len(), 10);
    let distinct: BTreeSet<_> = got.iter().map(|w| &w.key).collect();
    assert_eq!(distinct.len(), 10);
}

pub async fn pools_are_apart(store: &dyn Store) {
    report(store, "w1", "n1").await;
    for i in 0..20 {
        let w = worker("team", &format!("q{i}"), &format!("x{i}"), "n1");
        store.report_worker(&w).await.unwrap();
    }
    let one = store.list_workers(Some(&pool())).await.unwrap();
    assert_eq!(one.items.len(), 1);
    let all = store.list_workers(None).await.unwrap();
    assert_eq!(all.items.len(), 21);
    assert!(all.items.is_sorted_by(|a, b| a.key < b.key));
    let none = PoolKey::new("team", "none");
    let got = store.claim(&claim(&none, &someone("a"), 1)).await;
    assert_eq!(got.unwrap(), None);
}
