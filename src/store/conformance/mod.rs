//! What every store does, as tests over `&dyn Store`. Run on a Valkey server, a cluster of three, and the double in
//! memory. The cases are in the files beside this one; here is what they share and where they run.

mod actors;
mod documents;
pub mod leases;
mod list;
mod log;
mod workers;

use super::{Begin, Begun, ClaimRequest, Durability, Edge, Store};
use crate::api::names::{ActorKey, Build, Epoch, PoolKey, WorkerKey};
use crate::api::record::{
    ActorRecord, Claim, Desired, MetaRecord, Phase, SnapshotRecord, SpecRecord, StatusRecord,
    WorkerRecord,
};
use crate::api::time::Timestamp;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use uuid::Uuid;

/// Long enough that no test sees it end.
pub const LONG: Duration = Duration::from_secs(60);
/// Bound of every wait.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// More than any test creates.
pub const CAP: u64 = 1_000_000;
/// A replica.
pub const ME: u64 = 0xfeed_0000_0000_0001;
/// Another replica.
pub const OTHER: u64 = u64::MAX;

/// A new actor.
pub fn actor(namespace: &str, name: &str) -> ActorRecord {
    ActorRecord {
        key: ActorKey::new(namespace, name),
        spec: SpecRecord {
            generation: 1,
            ..SpecRecord::default()
        },
        status: StatusRecord {
            uid: Uuid::new_v4(),
            created: Timestamp(1_790_000_000_000),
            ..StatusRecord::default()
        },
        ..ActorRecord::default()
    }
}

/// The same with a flat id.
pub fn flat(namespace: &str, name: &str) -> ActorRecord {
    let mut record = actor(namespace, name);
    record.status.flat = true;
    record
}

/// Creates an actor and returns it as stored.
pub async fn created(store: &dyn Store, namespace: &str, name: &str) -> ActorRecord {
    let record = actor(namespace, name);
    store.create_actor(record, CAP).await.unwrap()
}

/// Edges that wake: everything asleep starts, a transition that lost its owner is taken over.
pub fn wake() -> [Edge; 6] {
    [
        Edge::Start(Phase::Resuming),
        Edge::TakeOver,
        Edge::Refuse,
        Edge::Start(Phase::Resuming),
        Edge::TakeOver,
        Edge::Start(Phase::Resuming),
    ]
}

/// A begin that wakes.
pub fn waking(key: &ActorKey, owner: u64, lease: Duration) -> Begin {
    Begin {
        key: key.clone(),
        edges: wake(),
        desired: Some(Desired::Running),
        owner,
        lease,
        boot: false,
        uid: None,
    }
}

/// Begins and owns.
pub async fn owned(store: &dyn Store, begin: Begin) -> ActorRecord {
    match store.begin(begin).await.unwrap() {
        Begun::Owned { record, .. } => record,
        other => panic!("not owned: {other:?}"),
    }
}

/// Begins a removal and owns it.
pub async fn owned_for_removal(store: &dyn Store, key: &ActorKey) -> ActorRecord {
    let begin = Begin {
        edges: [Edge::Start(Phase::Suspending); 6],
        desired: Some(Desired::Deleted),
        ..waking(key, ME, LONG)
    };
    owned(store, begin).await
}

/// Commits with memory durability.
pub async fn committed(store: &dyn Store, record: &ActorRecord) -> ActorRecord {
    let done = store.commit(record, ME, Durability::Memory).await;
    done.unwrap()
}

/// A snapshot.
pub fn snapshot(epoch: u64) -> SnapshotRecord {
    SnapshotRecord {
        epoch: Epoch(epoch),
        bytes: 1 << 26,
        time: Timestamp(1_790_000_100_000),
        runtime: Some(build('a')),
    }
}

/// A build of a runtime.
pub fn build(digit: char) -> Build {
    digit.to_string().repeat(64).parse().unwrap()
}

/// A free worker of pool `namespace/pool`.
pub fn worker(namespace: &str, pool: &str, name: &str, node: &str) -> WorkerRecord {
    WorkerRecord {
        key: WorkerKey::new(namespace, name),
        pool: PoolKey::new(namespace, pool),
        uid: format!("uid-{name}"),
        node: node.to_owned(),
        ip: "10.0.0.1".to_owned(),
        sandbox_class: "gvisor".to_owned(),
        created: Timestamp(1_790_000_000_000),
        ..WorkerRecord::default()
    }
}

/// The uid by which an actor of this name claims workers here.
pub fn uid_of(actor: &ActorKey) -> Uuid {
    let mut hasher = DefaultHasher::new();
    actor.hash(&mut hasher);
    Uuid::from_u64_pair(hasher.finish(), 1)
}

/// A claim on any worker of a pool.
pub fn claim(pool: &PoolKey, actor: &ActorKey, epoch: u64) -> ClaimRequest {
    ClaimRequest {
        pool: pool.clone(),
        claim: Claim {
            actor: actor.clone(),
            uid: uid_of(actor),
            epoch: Epoch(epoch),
            deadline: Timestamp::now() + LONG,
        },
        nodes: None,
    }
}

macro_rules! cases {
    ($store:expr, $($room:ident :: {$($case:ident),* $(,)?})*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                #[allow(unused_variables)]
                let (server, store) = $store.await;
                $crate::store::conformance::$room::$case(&store).await;
            }
        )*)*
    };
}

macro_rules! suite {
    ($name:ident, $store:expr) => {
        mod $name {
            cases! { $store,
                actors::{
                    an_actor_is_created_and_read,
                    a_name_is_taken_once,
                    a_create_whose_reply_was_lost_succeeds_again,
                    flat_ids_are_unique_across_namespaces,
                    a_namespace_has_a_cap,
                    a_cap_holds_against_many_at_once,
                    a_begin_takes_the_edge_of_the_phase,
                    a_refused_begin_changes_nothing,
                    a_begin_can_name_the_uid,
                    a_deletion_is_due_until_it_has_begun,
                    a_boot_lasts_as_long_as_its_transition,
                    a_commit_keeps_what_users_own,
                    a_commit_whose_reply_was_lost_succeeds_again,
                    a_commit_of_an_older_operation_is_fenced,
                    users_write_against_a_version,
                    a_write_that_changes_nothing_is_none,
                    metadata_comes_and_goes,
                    a_touch_moves_activity_only,
                    a_removed_actor_leaves_nothing,
                    a_list_is_in_order_and_paged,
                    a_list_of_one_namespace_has_no_other,
                    names_that_begin_alike_are_kept_apart,
                    what_is_not_there_is_not_found,
                    large_records_fit,
                }
                leases::{
                    a_held_actor_is_not_taken,
                    a_held_actor_that_yields_is_taken_by_what_preempts,
                    an_expired_lease_is_taken_over,
                    deletion_is_final,
                    a_renewed_lease_holds,
                    only_expired_leases_are_listed,
                    who_looks_for_expired_leases_hears_when_the_next_one_ends,
                    leases_of_an_earlier_process_end,
                    of_many_who_begin_one_owns,
                    nodes_renew_leases,
                    the_incarnation_stays,
                }
                workers::{
                    a_worker_is_reported_and_listed,
                    a_report_keeps_the_claim,
                    a_worker_that_leaves_takes_no_claim,
                    a_claim_can_require_its_nodes,
                    a_claim_made_twice_is_one,
                    another_actor_of_the_same_name_claims_for_itself,
                    an_older_claim_must_be_settled_first,
                    a_late_claim_is_fenced,
                    a_release_is_fenced_by_actor_and_epoch,
                    a_dirty_worker_is_free_only_when_reported,
                    a_removed_worker_is_gone,
                    many_claims_never_share_a_worker,
                    pools_are_apart,
                }
                list::{
                    pages_are_the_state_at_one_version,
                    a_page_undoes_create_delete_and_recreate,
                    one_name_is_listed_at_a_version,
                    what_remains_is_counted,
                    no_write_goes_below_a_list,
                    a_version_that_never_was_is_expired,
                    workers_are_listed_at_a_version,
                    documents_are_listed_at_a_version,
                }
                log::{
                    changes_carry_before_and_after,
                    a_list_and_a_watch_miss_nothing,
                    a_watch_waits_for_the_first_change,
                    a_watch_that_sees_nothing_ends,
                    versions_never_rewind,
                    kinds_are_apart,
                    a_limit_cuts_without_a_gap,
                    a_renewal_is_no_change,
                    every_watcher_sees_every_change_once,
                }
                documents::{
                    a_document_is_written_against_its_version,
                    documents_are_listed_and_watched,
                    an_equal_document_is_no_change,
                }
            }
        }
    };
}

async fn on_server() -> (
    std::sync::Arc<super::testing::TestServer>,
    super::RedisStore,
) {
    let server = super::testing::TestServer::shared();
    let store = server.store().await;
    (server, store)
}

async fn on_cluster() -> (
    std::sync::Arc<super::testing::TestServer>,
    super::RedisStore,
) {
    let server = super::testing::TestServer::shared_cluster();
    let store = server.store().await;
    (server, store)
}

async fn in_memory() -> ((), super::memory::MemoryStore) {
    ((), super::memory::MemoryStore::new())
}

suite!(memory, crate::store::conformance::in_memory());
suite!(server, crate::store::conformance::on_server());
suite!(cluster, crate::store::conformance::on_cluster());
