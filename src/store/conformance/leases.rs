//! Leases of operations and of nodes, and the incarnation.

use super::*;
use crate::api::node::NodeUsage;
use crate::store::StoreError;
use futures::future::join_all;

const SHORT: Duration = Duration::from_millis(40);

/// Looks until it is so, within a bound.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"))
}

pub async fn a_held_actor_is_not_taken(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mine = owned(store, waking(&stored.key, ME, LONG)).await;
    for who in [OTHER, ME] {
        let begun = store.begin(waking(&stored.key, who, LONG)).await.unwrap();
        assert!(
            matches!(&begun, Begun::Held { record, .. } if *record == mine),
            "{begun:?}"
        );
    }
}

pub async fn a_held_actor_that_yields_is_taken_by_what_preempts(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let preempting = || Begin {
        edges: [Edge::Preempt(Phase::Resuming); 6],
        ..waking(&stored.key, OTHER, LONG)
    };
    let suspending = Begin {
        edges: [Edge::Start(Phase::Suspending); 6],
        desired: Some(Desired::Suspended),
        ..waking(&stored.key, ME, LONG)
    };
    let mut mine = owned(store, suspending).await;
    let begun = store.begin(preempting()).await.unwrap();
    assert!(matches!(begun, Begun::Held { .. }), "{begun:?}");

    mine.header.yields = true;
    let mine = committed(store, &mine).await;
    assert!(mine.header.yields && mine.header.lease.is_some());
    let begun = store.begin(waking(&stored.key, OTHER, LONG)).await.unwrap();
    assert!(
        matches!(begun, Begun::Held { .. }),
        "only to what preempts: {begun:?}"
    );
    let begun = store.begin(preempting()).await.unwrap();
    let Begun::Owned { record, before, .. } = begun else {
        panic!("{begun:?}")
    };
    assert_eq!(before, Phase::Suspending);
    assert_eq!(record.header.phase, Phase::Resuming);
    assert_eq!(record.header.operation, record.header.epoch);
    assert!(!record.header.yields, "a wake does not");
    let late = store.commit(&mine, ME, Durability::Memory).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
}

pub async fn deletion_is_final(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let begin = Begin {
        lease: SHORT,
        ..waking(&stored.key, ME, SHORT)
    };
    let deleting = Begin {
        edges: [Edge::Start(Phase::Suspending); 6],
        desired: Some(Desired::Deleted),
        ..begin
    };
    owned(store, deleting).await;
    let theirs = eventually("the lease ends", || async {
        let mut take_over = waking(&stored.key, OTHER, LONG);
        take_over.edges = [Edge::TakeOver; 6];
        match store.begin(take_over).await.unwrap() {
            Begun::Owned { record, .. } => Some(record),
            Begun::Held { .. } | Begun::Refused { .. } => None,
        }
    })
    .await;
    assert_eq!(theirs.header.desired, Desired::Deleted);
}

pub async fn an_expired_lease_is_taken_over(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mine = owned(store, waking(&stored.key, ME, SHORT)).await;
    let theirs = eventually("the lease ends", || async {
        match store.begin(waking(&stored.key, OTHER, LONG)).await.unwrap() {
            Begun::Owned { record, before, .. } => {
                assert_eq!(before, Phase::Resuming);
                Some(record)
            }
            Begun::Held { record, .. } => {
                assert_eq!(record, mine);
                None
            }
            Begun::Refused { .. } => panic!("refused"),
        }
    })
    .await;
    assert_eq!(theirs.header.epoch, Epoch(2));
    assert_eq!(theirs.header.operation, mine.header.operation);
    assert_eq!(theirs.header.phase, Phase::Resuming);
    let late = store.commit(&mine, ME, Durability::Memory).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))));
    let late = store.renew(&mine.key, mine.header.epoch, ME, LONG).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))));
}

pub async fn a_renewed_lease_holds(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mine = owned(store, waking(&stored.key, ME, SHORT)).await;
    let epoch = mine.header.epoch;
    store.renew(&mine.key, epoch, ME, LONG).await.unwrap();
    let e = store.renew(&mine.key, epoch, OTHER, LONG).await;
    assert!(matches!(e, Err(StoreError::Fenced(_))));
    let first = mine.header.lease.unwrap().deadline;
    eventually("the first deadline passes", || async {
        let (_, now) = store.list_nodes().await.unwrap();
        (now > first).then_some(())
    })
    .await;
    let begun = store.begin(waking(&stored.key, OTHER, LONG)).await.unwrap();
    assert!(matches!(begun, Begun::Held { .. }), "{begun:?}");
    assert!(expired(store, 10).await.is_empty());
}

async fn expired(store: &dyn Store, limit: usize) -> Vec<ActorKey> {
    store.expired_leases(limit).await.unwrap().actors
}

pub async fn who_looks_for_expired_leases_hears_when_the_next_one_ends(store: &dyn Store) {
    let left = async || store.expired_leases(10).await.unwrap().next;
    for name in ["a", "b"] {
        created(store, "team", name).await;
    }
    assert_eq!(left().await, None);
    let key = |name| ActorKey::new("team", name);
    let mut long = owned(store, waking(&key("a"), ME, LONG)).await;
    let first = left().await.unwrap();
    assert!(first <= LONG && first > LONG / 2, "{first:?}");
    let shorter = LONG / 4;
    let mut short = owned(store, waking(&key("b"), ME, shorter)).await;
    let next = left().await.unwrap();
    assert!(next <= shorter && !next.is_zero(), "{next:?}");
    for record in [&mut short, &mut long] {
        record.header.phase = Phase::Suspended;
        store.commit(record, ME, Durability::Memory).await.unwrap();
    }
    assert_eq!(left().await, None);
}

pub async fn only_expired_leases_are_listed(store: &dyn Store) {
    for name in ["a", "b", "c", "d"] {
        created(store, "team", name).await;
    }
    let key = |name| ActorKey::new("team", name);
    owned(store, waking(&key("a"), ME, SHORT)).await;
    owned(store, waking(&key("b"), ME, SHORT)).await;
    owned(store, waking(&key("c"), ME, LONG)).await;
    let mut ended = eventually("two leases end", || async {
        let keys = expired(store, 10).await;
        (keys.len() >= 2).then_some(keys)
    })
    .await;
    ended.sort();
    assert_eq!(ended, [key("a"), key("b")]);
    assert_eq!(expired(store, 1).await.len(), 1);
    let mut taken = owned(store, waking(&key("a"), OTHER, LONG)).await;
    assert_eq!(expired(store, 10).await, [key("b")]);
    taken.header.phase = Phase::Suspended;
    let done = store.commit(&taken, OTHER, Durability::Memory).await;
    done.unwrap();
    assert_eq!(expired(store, 10).await, [key("b")]);
}

pub async fn leases_of_an_earlier_process_end(store: &dyn Store) {
    let (again, key) = (ME ^ 0xff, |name| ActorKey::new("team", name));
    for (name, owner) in [("earlier", ME), ("own", again), ("others", OTHER)] {
        created(store, "team", name).await;
        owned(store, waking(&key(name), owner, LONG)).await;
    }
    let version = store.version().await.unwrap();
    assert_eq!(store.end_leases(again).await.unwrap(), 1);
    assert_eq!(store.end_leases(again).await.unwrap(), 0);
    assert_eq!(store.version().await.unwrap(), version);
    assert_eq!(expired(store, 10).await, [key("earlier")]);
    for held in ["own", "others"] {
        let begun = store.begin(waking(&key(held), ME, LONG)).await.unwrap();
        assert!(matches!(begun, Begun::Held { .. }), "{held}: {begun:?}");
    }
    let taken = owned(store, waking(&key("earlier"), again, LONG)).await;
    let late = store.renew(&taken.key, Epoch(1), ME, LONG).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
}

pub async fn of_many_who_begin_one_owns(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let begins = (1..=20).map(|owner| store.begin(waking(&stored.key, owner, LONG)));
    let results = join_all(begins).await;
    let owners = results
        .iter()
        .filter(|r| matches!(r, Ok(Begun::Owned { .. })));
    assert_eq!(owners.count(), 1);
    let held = results
        .iter()
        .filter(|r| matches!(r, Ok(Begun::Held { .. })));
    assert_eq!(held.count(), 19);
}

pub async fn nodes_renew_leases(store: &dyn Store) {
    let usage = NodeUsage {
        cache_bytes: 3 << 40,
        spool_bytes: 1,
        capacity_bytes: 0,
    };
    let renew = async |node, address, runtime| {
        let renewed = store.renew_node(node, address, runtime, usage, LONG).await;
        renewed.unwrap()
    };
    let node = renew("n1", "10.0.0.1:7070", Some(build('b'))).await;
    let other = renew("n2", "10.0.0.2:7070", None).await;
    let (nodes, now) = store.list_nodes().await.unwrap();
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes, [node.clone(), other]);
    assert_eq!((node.runtime, node.usage), (Some(build('b')), usage));
    assert_eq!(node.address, "10.0.0.1:7070");
    assert!(node.lease <= now + LONG && node.lease > now);
    renew("n1", "10.0.0.9:7070", Some(build('c'))).await;
    let (nodes, _) = store.list_nodes().await.unwrap();
    assert_eq!(nodes[0].address, "10.0.0.9:7070");
    assert_eq!(nodes[0].runtime, Some(build('c')));
    store.remove_node("n1").await.unwrap();
    store.remove_node("n1").await.unwrap();
    let (nodes, _) = store.list_nodes().await.unwrap();
    assert_eq!(nodes.len(), 1);
}

pub async fn the_incarnation_stays(store: &dyn Store) {
    let before = store.incarnation().await.unwrap();
    created(store, "team", "a").await;
    assert_eq!(store.incarnation().await.unwrap(), before);
    assert!(before.0 > 0);
}
