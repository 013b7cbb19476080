//! Images that are complete on the node and not published yet.

use super::super::testing::{LONG, World, actor, count, fence, with_node};
use super::{failed, refused};
use crate::api::Reason;
use crate::node::atelet::files;
use crate::proto::atenode::{
    ActorIdentity, DeleteSnapshotsRequest, DescribeSnapshotRequest, PublishRequest, SnapshotRef,
};
use crate::rpc::nodes::{NodeClient, NodeError};
use crate::sandbox::testing::eventually;

async fn exists(world: &World, snapshot: &SnapshotRef, local: bool) -> bool {
    let snapshot = SnapshotRef {
        local,
        ..snapshot.clone()
    };
    let request = DescribeSnapshotRequest {
        snapshot: Some(snapshot),
    };
    let answer = world.nodes.describe_snapshot(&world.address, request, LONG);
    answer.await.unwrap().exists
}

async fn publish(
    world: &World,
    actor: &ActorIdentity,
    epoch: u64,
    snapshot: &SnapshotRef,
) -> Result<u64, NodeError> {
    let request = PublishRequest {
        like: vec![],
        actor: Some(actor.clone()),
        snapshot: Some(snapshot.clone()),
        fence: Some(fence(epoch)),
    };
    let answer = world.nodes.publish(&world.address, request, LONG).await;
    answer.map(|a| a.bytes)
}

/// An actor that counted to one, and its image in the spool.
async fn spooled(world: &World, local: bool) -> (String, ActorIdentity, SnapshotRef) {
    let uid = world.settled(1).await[0].uid.clone();
    let a = actor("a");
    let address = world.run(&uid, &a, 1).await.unwrap();
    assert_eq!(count(&address).await.0, 1);
    let snapshot = world.checkpoint(&uid, &a, 2, local).await.unwrap();
    (uid, a, snapshot)
}

async fn restart(world: &mut World) -> String {
    world.stop().await;
    world.start().await;
    world.settled(1).await[0].uid.clone()
}

/// The ids that the agent reported last as being on this node only.
fn reported(world: &World) -> Vec<String> {
    let reports = world.apiserver.reports.lock().unwrap();
    let last = reports.last().cloned().unwrap_or_default();
    last.local_snapshots.into_iter().map(|s| s.id).collect()
}

fn objects(world: &World, snapshot: &SnapshotRef) -> usize {
    let dir = world.dir.path().join("store").join(&snapshot.id);
    files::names(&dir).unwrap().len()
}

fn held(world: &World, snapshot: &SnapshotRef) -> std::path::PathBuf {
    let file = format!("{}.json", snapshot.id);
    world.node_dir().join("held").join(file)
}

fn is_hashed(world: &World, snapshot: &SnapshotRef) -> bool {
    let held: serde_json::Value = files::read(&held(world, snapshot)).unwrap().unwrap();
    held["unhashed_since"].is_null()
}

#[test]
fn the_slot_is_free_and_a_wake_is_served_before_anything_is_published() {
    with_node(1, |world| async move {
        let (uid, a, snapshot) = spooled(&world, false).await;
        world.settled(1).await;
        assert!(exists(&world, &snapshot, true).await && !exists(&world, &snapshot, false).await);
        assert_eq!(
            files::names(&world.node_dir().join("spool")).unwrap(),
            [""; 0]
        );
        let from_spool = SnapshotRef {
            local: true,
            ..snapshot.clone()
        };
        let address = world.restore(&uid, &a, 3, &from_spool).await.unwrap();
        assert_eq!(count(&address).await.0, 2, "with its memory");
        // Whoever was to publish it for the suspend comes too late; who needs it now orders it twice at once.
        refused(publish(&world, &a, 2, &snapshot).await);
        let (one, two) = tokio::join!(
            publish(&world, &a, 3, &snapshot),
            publish(&world, &a, 3, &snapshot)
        );
        assert!(one.as_ref().unwrap() > &0);
        assert_eq!(one.unwrap(), two.unwrap());
        assert!(exists(&world, &snapshot, false).await);
        assert_eq!(
            objects(&world, &snapshot),
            5,
            "three files, a map and the manifest"
        );
        assert!(is_hashed(&world, &snapshot), "by those who published it");
        eventually("not the only one", || reported(&world).is_empty()).await;
    });
}

#[test]
fn what_was_not_published_is_there_after_a_restart_of_the_agent() {
    with_node(1, |mut world| async move {
        let (_, a, snapshot) = spooled(&world, false).await;
        let uid = restart(&mut world).await;
        eventually("reported", || reported(&world) == [snapshot.id.clone()]).await;
        eventually("hashed", || is_hashed(&world, &snapshot)).await;
        publish(&world, &a, 2, &snapshot).await.unwrap();
        // Once more, also when the node's copy is gone.
        let request = DeleteSnapshotsRequest {
            actor: Some(a.clone()),
            uri: String::new(),
            before_epoch: 3,
            keep: vec![],
        };
        let deleted = world.nodes.delete_snapshots(&world.address, request, LONG);
        deleted.await.unwrap();
        assert!(publish(&world, &a, 3, &snapshot).await.unwrap() > 0);
        let from_anywhere = SnapshotRef {
            local: true,
            ..snapshot
        };
        let address = world.restore(&uid, &a, 3, &from_anywhere).await.unwrap();
        assert_eq!(count(&address).await.0, 2);
    });
}

#[test]
fn what_was_not_hashed_does_not_outlive_the_machine() {
    with_node(1, |mut world| async move {
        let (uid, a, snapshot) = spooled(&world, false).await;
        world.stop().await;
        let file = held(&world, &snapshot);
        let mut held: serde_json::Value = files::read(&file).unwrap().unwrap();
        held["unhashed_since"] = "another start".into();
        files::write(&file, &held).unwrap();
        world.start().await;
        world.settled(1).await;
        assert!(!exists(&world, &snapshot, true).await);
        assert_eq!(
            files::names(&world.node_dir().join("snapshots")).unwrap(),
            [""; 0]
        );
        let (reason, _) = failed(world.restore(&uid, &a, 3, &snapshot).await);
        assert_eq!(reason, Reason::SnapshotUnreadable);
    });
}

#[test]
fn a_byte_that_changed_over_a_restart_is_noticed() {
    with_node(1, |mut world| async move {
        let (_, a, snapshot) = spooled(&world, true).await;
        eventually("hashed", || is_hashed(&world, &snapshot)).await;
        world.stop().await;
        let pages = world
            .node_dir()
            .join("snapshots")
            .join(&snapshot.id)
            .join("pages.img");
        let mut bytes = std::fs::read(&pages).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&pages, bytes).unwrap();
        world.start().await;
        let uid = world.settled(1).await[0].uid.clone();
        let (reason, message) = failed(world.restore(&uid, &a, 3, &snapshot).await);
        assert_eq!(reason, Reason::SnapshotUnreadable);
        assert!(message.contains("pages.img"), "{message}");
    });
}

#[test]
fn what_no_record_needs_is_dropped() {
    with_node(1, |world| async move {
        let (_, a, snapshot) = spooled(&world, false).await;
        let dropped = &world.apiserver.drop_snapshots;
        dropped.lock().unwrap().push(snapshot.id.clone());
        eventually("dropped", || !held(&world, &snapshot).exists()).await;
        eventually("reported", || reported(&world).is_empty()).await;
        assert!(!exists(&world, &snapshot, true).await);
        let late = publish(&world, &a, 2, &snapshot).await;
        assert!(matches!(late, Err(NodeError::NotFound { .. })), "{late:?}");
        assert!(!exists(&world, &snapshot, false).await);
    });
}

#[test]
fn what_a_slot_that_leaves_had_is_published_before_it_goes() {
    with_node(1, |world| async move {
        let uid = world.settled(1).await[0].uid.clone();
        let a = actor("a");
        world.run(&uid, &a, 1).await.unwrap();
        world.scale(0);
        world.until("it leaves", |s| s[0].draining).await;
        let snapshot = world.checkpoint(&uid, &a, 2, false).await.unwrap();
        assert!(exists(&world, &snapshot, false).await);
    });
}

#[test]
fn a_full_spool_is_published_before_the_slot_is_free() {
    with_node(1, |mut world| async move {
        world.stop().await;
        let options = super::super::Options {
            cache_bytes: 1,
            ..world.options().await
        };
        world.start_with(options);
        let (_, a, snapshot) = spooled(&world, false).await;
        assert!(exists(&world, &snapshot, false).await);
        assert!(publish(&world, &a, 2, &snapshot).await.unwrap() > 0);
    });
}
