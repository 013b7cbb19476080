//! Actors: create, begin, commit, update, list, remove.

use super::*;
use crate::store::Expiry;
use crate::store::StoreError;
use futures::future::join_all;
use std::collections::BTreeMap;

pub async fn an_actor_is_created_and_read(store: &dyn Store) {
    let mut record = actor("team", "a");
    record.meta.labels = BTreeMap::from([("app".into(), "x".into())]);
    let stored = store.create_actor(record.clone(), CAP).await.unwrap();
    assert_eq!(stored.header.writes, 1);
    assert!(stored.header.resource_version.0 > 0);
    record.header.writes = 1;
    record.header.resource_version = stored.header.resource_version;
    assert_eq!(stored, record);
    assert_eq!(store.get_actor(&record.key).await.unwrap(), record);
}

pub async fn a_name_is_taken_once(store: &dyn Store) {
    created(store, "team", "a").await;
    let again = store.create_actor(actor("team", "a"), CAP).await;
    assert!(matches!(again, Err(StoreError::Exists(name)) if name == "team/a"));
    created(store, "other", "a").await;
}

pub async fn a_create_whose_reply_was_lost_succeeds_again(store: &dyn Store) {
    let record = flat("team", "a");
    let first = store.create_actor(record.clone(), CAP).await.unwrap();
    assert_eq!(store.create_actor(record, CAP).await.unwrap(), first);
}

pub async fn flat_ids_are_unique_across_namespaces(store: &dyn Store) {
    let stored = store.create_actor(flat("team", "a"), CAP).await.unwrap();
    assert_eq!(store.get_flat("a").await.unwrap(), stored);
    let again = store.create_actor(flat("other", "a"), CAP).await;
    assert!(matches!(again, Err(StoreError::Exists(_))));
    created(store, "other", "a").await;
    assert_eq!(store.get_flat("a").await.unwrap(), stored);
    created(store, "team", "b").await;
    let none = store.get_flat("b").await;
    assert!(matches!(none, Err(StoreError::NotFound(_))));
}

pub async fn a_namespace_has_a_cap(store: &dyn Store) {
    for i in 0..3 {
        let record = actor("team", &format!("a{i}"));
        store.create_actor(record, 3).await.unwrap();
    }
    let e = store.create_actor(actor("team", "a3"), 3).await;
    assert!(matches!(e, Err(StoreError::CapReached { cap: 3, .. })));
    store.create_actor(actor("other", "a3"), 3).await.unwrap();
    let key = ActorKey::new("team", "a0");
    let mine = owned_for_removal(store, &key).await;
    let epoch = mine.header.epoch;
    store.remove_actor(&key, epoch, ME).await.unwrap();
    store.create_actor(actor("team", "a3"), 3).await.unwrap();
}

pub async fn a_cap_holds_against_many_at_once(store: &dyn Store) {
    let creates = (0..40).map(|i| store.create_actor(actor("team", &format!("a{i}")), 25));
    let results = join_all(creates).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 25);
}

pub async fn a_begin_takes_the_edge_of_the_phase(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let begun = store.begin(waking(&stored.key, ME, LONG)).await.unwrap();
    let Begun::Owned {
        record,
        before,
        now,
    } = begun
    else {
        panic!("{begun:?}")
    };
    assert_eq!(before, Phase::Suspended);
    assert_eq!(record.header.phase, Phase::Resuming);
    assert_eq!(record.header.desired, Desired::Running);
    assert_eq!(
        (record.header.epoch, record.header.operation),
        (Epoch(1), Epoch(1))
    );
    let lease = record.header.lease.unwrap();
    assert_eq!((lease.owner, lease.deadline), (ME, now + LONG));
    assert!(record.header.resource_version > stored.header.resource_version);
    assert_eq!(store.get_actor(&stored.key).await.unwrap(), record);
}

pub async fn a_refused_begin_changes_nothing(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let edges = [Edge::Refuse; 6];
    let begin = Begin {
        edges,
        ..waking(&stored.key, ME, LONG)
    };
    let begun = store.begin(begin).await.unwrap();
    assert!(matches!(begun, Begun::Refused { record, .. } if record == stored));
    let takeover = Begin {
        edges: [Edge::TakeOver; 6],
        ..waking(&stored.key, ME, LONG)
    };
    let begun = store.begin(takeover).await.unwrap();
    assert!(matches!(begun, Begun::Refused { record, .. } if record == stored));
}

pub async fn a_begin_can_name_the_uid(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let of = |uid| Begin {
        uid: Some(uid),
        ..waking(&stored.key, ME, LONG)
    };
    let e = store.begin(of(Uuid::new_v4())).await;
    assert!(matches!(e, Err(StoreError::NotFound(_))), "{e:?}");
    assert_eq!(store.get_actor(&stored.key).await.unwrap(), stored);
    owned(store, of(stored.status.uid)).await;
    // Nor does it learn who owns another.
    let e = store.begin(of(Uuid::new_v4())).await;
    assert!(matches!(e, Err(StoreError::NotFound(_))), "{e:?}");
}

pub async fn a_deletion_is_due_until_it_has_begun(store: &dyn Store) {
    let due = || async { store.deletions_due(10).await.unwrap() };
    let mark = |mut record: ActorRecord| async move {
        record.spec.deleted = Some(Timestamp(1_790_000_000_000));
        let version = record.header.resource_version;
        let written = store.update_spec(&record.key, version, &record.spec, &record.meta);
        written.await.unwrap()
    };
    let marked = mark(created(store, "team", "a").await).await;
    let mut held = actor("team", "held");
    held.meta.finalizers = vec!["example.org/hold".into()];
    let held = mark(store.create_actor(held, CAP).await.unwrap()).await;
    assert_eq!(due().await, std::slice::from_ref(&marked.key));
    assert!(store.deletions_due(0).await.unwrap().is_empty());

    // One that is at something else becomes due when that has ended.
    let mut busy = owned(store, waking(&marked.key, ME, LONG)).await;
    assert!(due().await.is_empty());
    busy.header.phase = Phase::Running;
    committed(store, &busy).await;
    assert_eq!(due().await, std::slice::from_ref(&marked.key));

    let version = held.header.resource_version;
    let free = MetaRecord::default();
    let written = store.update_spec(&held.key, version, &held.spec, &free);
    written.await.unwrap();
    assert_eq!(due().await.len(), 2);
    for key in [&marked.key, &held.key] {
        let mine = owned_for_removal(store, key).await;
        let removed = store.remove_actor(key, mine.header.epoch, ME).await;
        removed.unwrap();
    }
    assert!(due().await.is_empty());
}

pub async fn a_boot_lasts_as_long_as_its_transition(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let short = Duration::from_millis(30);
    let booting = Begin {
        boot: true,
        ..waking(&stored.key, ME, short)
    };
    let mine = owned(store, booting).await;
    assert!(mine.header.boot);
    let mut theirs = super::leases::eventually("the lease ends", || async {
        match store.begin(waking(&stored.key, OTHER, LONG)).await.unwrap() {
            Begun::Owned { record, .. } => Some(record),
            Begun::Held { .. } | Begun::Refused { .. } => None,
        }
    })
    .await;
    assert!(theirs.header.boot, "who takes over boots as well");
    theirs.header.phase = Phase::Suspended;
    let done = store.commit(&theirs, OTHER, Durability::Memory).await;
    assert!(!done.unwrap().header.boot);
    let again = owned(store, waking(&stored.key, ME, LONG)).await;
    assert!(!again.header.boot);
}

pub async fn a_commit_keeps_what_users_own(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mine = owned(store, waking(&stored.key, ME, LONG)).await;
    let mut spec = mine.spec.clone();
    spec.generation = 2;
    let version = mine.header.resource_version;
    let written = store
        .update_spec(&mine.key, version, &spec, &mine.meta)
        .await;
    assert_eq!(written.unwrap().header.lease, mine.header.lease);

    let mut done = mine.clone();
    done.header.phase = Phase::Running;
    done.status.durable = Some(snapshot(1));
    done.spec.generation = 77;
    let committed = committed(store, &done).await;
    assert_eq!(committed.spec, spec);
    assert_eq!(committed.status.durable, done.status.durable);
    assert_eq!(committed.header.phase, Phase::Running);
    assert_eq!(committed.header.lease, None);
    assert_eq!(committed.header.writes, 4);
    assert_eq!(store.get_actor(&mine.key).await.unwrap(), committed);
}

pub async fn a_commit_whose_reply_was_lost_succeeds_again(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mut mine = owned(store, waking(&stored.key, ME, LONG)).await;
    mine.header.phase = Phase::Running;
    let first = committed(store, &mine).await;
    assert_eq!(committed(store, &mine).await, first);
    mine.status.last_duration_micros = 1;
    let other = store.commit(&mine, ME, Durability::Memory).await;
    assert!(matches!(other, Err(StoreError::Fenced(_))));
}

pub async fn a_commit_of_an_older_operation_is_fenced(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mine = owned(store, waking(&stored.key, ME, LONG)).await;
    let foreign = store.commit(&mine, OTHER, Durability::Memory).await;
    assert!(matches!(foreign, Err(StoreError::Fenced(_))));
    let mut running = mine.clone();
    running.header.phase = Phase::Running;
    committed(store, &running).await;
    let begin = Begin {
        edges: [Edge::Start(Phase::Suspending); 6],
        ..waking(&stored.key, ME, LONG)
    };
    owned(store, begin).await;
    let late = store.commit(&running, ME, Durability::Fsync).await;
    assert!(matches!(late, Err(StoreError::Fenced(_))));
    let epoch = mine.header.epoch;
    let remove = store.remove_actor(&mine.key, epoch, ME).await;
    assert!(matches!(remove, Err(StoreError::Fenced(_))));
}

pub async fn users_write_against_a_version(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mut spec = stored.spec.clone();
    spec.worker_selector
        .labels
        .insert("tier".into(), "fast".into());
    let old = stored.header.resource_version;
    let written = store.update_spec(&stored.key, old, &spec, &stored.meta);
    let written = written.await.unwrap();
    assert_eq!(written.spec, spec);
    assert_eq!(written.status, stored.status);
    spec.generation = 9;
    let late = store.update_spec(&stored.key, old, &spec, &stored.meta);
    assert!(matches!(late.await, Err(StoreError::Conflict(_))));
}

pub async fn a_write_that_changes_nothing_is_none(store: &dyn Store) {
    let mut record = actor("team", "a");
    record.meta.finalizers = vec!["f".into()];
    let stored = store.create_actor(record, CAP).await.unwrap();
    let version = stored.header.resource_version;
    let same = store.update_spec(&stored.key, version, &stored.spec, &stored.meta);
    assert_eq!(same.await.unwrap(), stored);
}

pub async fn metadata_comes_and_goes(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mut meta = MetaRecord::default();
    meta.annotations.insert("note".into(), "x".repeat(3000));
    let v1 = stored.header.resource_version;
    let with = store
        .update_spec(&stored.key, v1, &stored.spec, &meta)
        .await;
    let with = with.unwrap();
    assert_eq!(with.meta, meta);
    assert_eq!(store.get_actor(&stored.key).await.unwrap().meta, meta);
    let page = store.list_actors(None, None, 10).await.unwrap();
    assert_eq!(page.items[0].meta, meta);
    let v2 = with.header.resource_version;
    let none = MetaRecord::default();
    let without = store
        .update_spec(&stored.key, v2, &stored.spec, &none)
        .await;
    assert!(without.unwrap().meta.is_empty());
    assert!(store.get_actor(&stored.key).await.unwrap().meta.is_empty());
}

pub async fn a_touch_moves_activity_only(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let later = Timestamp(1_790_000_500_000);
    store.touch(&stored.key, later).await.unwrap();
    store.touch(&stored.key, Timestamp(7)).await.unwrap();
    let mut expected = stored.clone();
    expected.status.last_activity = later;
    assert_eq!(store.get_actor(&stored.key).await.unwrap(), expected);
    let mine = owned(store, waking(&stored.key, ME, LONG)).await;
    let mut old = mine.clone();
    old.status.last_activity = Timestamp(9);
    assert_eq!(committed(store, &old).await.status.last_activity, later);
}

pub async fn a_removed_actor_leaves_nothing(store: &dyn Store) {
    let mut record = flat("team", "a");
    record.meta.labels.insert("a".into(), "b".into());
    let stored = store.create_actor(record, CAP).await.unwrap();
    let mine = owned_for_removal(store, &stored.key).await;
    let epoch = mine.header.epoch;
    store.remove_actor(&stored.key, epoch, ME).await.unwrap();
    let gone = store.get_actor(&stored.key).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))));
    let gone = store.get_flat("a").await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))));
    let page = store.list_actors(None, None, 10).await.unwrap();
    assert_eq!((page.items.len(), page.next), (0, None));
    let fresh = store.create_actor(flat("other", "a"), CAP).await.unwrap();
    assert!(fresh.meta.is_empty());
    let expiry = store.expired_leases(10).await.unwrap();
    assert_eq!(expiry, Expiry::default());
}

/// All pages of a list.
async fn all(store: &dyn Store, namespace: Option<&str>, limit: usize) -> Vec<ActorKey> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = store.list_actors(namespace, after.as_ref(), limit);
        let page = page.await.unwrap();
        assert!(page.items.len() <= limit);
        keys.extend(page.items.into_iter().map(|r| r.key));
        match page.next {
            Some(next) => after = Some(next),
            None => return keys,
        }
    }
}

pub async fn a_list_is_in_order_and_paged(store: &dyn Store) {
    let mut keys: Vec<_> = (0..120)
        .map(|i| ActorKey::new(["a", "a-b", "b", "ab"][i % 4], format!("n{i}")))
        .collect();
    join_all(keys.iter().map(|k| created(store, &k.namespace, &k.name))).await;
    keys.sort();
    for limit in [1, 7, 50, 119, 120, 1000] {
        assert_eq!(all(store, None, limit).await, keys, "limit {limit}");
    }
}

pub async fn a_list_of_one_namespace_has_no_other(store: &dyn Store) {
    for ns in ["a", "a-b", "aa", "b"] {
        for name in ["x", "y"] {
            created(store, ns, name).await;
        }
    }
    let keys = all(store, Some("a"), 1).await;
    assert_eq!(keys, [ActorKey::new("a", "x"), ActorKey::new("a", "y")]);
    assert!(all(store, Some("none"), 10).await.is_empty());
    let other = ActorKey::new("a", "y");
    let page = store.list_actors(Some("aa"), Some(&other), 10).await;
    assert_eq!(page.unwrap().items.len(), 2);
}

pub async fn names_that_begin_alike_are_kept_apart(store: &dyn Store) {
    let short = created(store, "team", "a").await;
    let long = created(store, "team", "a-1").await;
    assert_eq!(store.get_actor(&short.key).await.unwrap(), short);
    assert_eq!(store.get_actor(&long.key).await.unwrap(), long);
    let none = store.get_actor(&ActorKey::new("team", "a-")).await;
    assert!(matches!(none, Err(StoreError::NotFound(_))));
}

pub async fn what_is_not_there_is_not_found(store: &dyn Store) {
    let key = ActorKey::new("team", "none");
    let e = store.begin(waking(&key, ME, LONG)).await;
    assert!(matches!(e, Err(StoreError::NotFound(what)) if what == "team/none"));
    let e = store.renew(&key, Epoch(1), ME, LONG).await;
    assert!(matches!(e, Err(StoreError::NotFound(_))));
    let e = store.touch(&key, Timestamp(1)).await;
    assert!(matches!(e, Err(StoreError::NotFound(_))));
    let e = store.remove_actor(&key, Epoch(1), ME).await;
    assert!(matches!(e, Err(StoreError::NotFound(_))));
    let none = actor("team", "none");
    let e = store.commit(&none, ME, Durability::Memory).await;
    assert!(matches!(e, Err(StoreError::NotFound(_))));
}

pub async fn large_records_fit(store: &dyn Store) {
    let mut record = actor("team", &"a".repeat(63));
    let selector = (0..100).map(|i| (format!("label-{i}"), "v".repeat(63)));
    record.spec.worker_selector.labels = selector.collect();
    let stored = store.create_actor(record, CAP).await.unwrap();
    assert_eq!(store.get_actor(&stored.key).await.unwrap(), stored);
}
