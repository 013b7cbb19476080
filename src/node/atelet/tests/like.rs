//! Snapshots that are published on top of others.

use super::super::testing::{LONG, World, actor, count, fence, fetch, with_node};
use crate::node::atelet::files;
use crate::proto::atenode::{ActorIdentity, DeleteSnapshotsRequest, PublishRequest, SnapshotRef};
use crate::rpc::nodes::NodeClient;

const MIB: u64 = 1 << 20;

/// Where an actor's snapshots lie, as the engine has it: beside those of others.
fn own(world: &World, actor: &ActorIdentity, snapshot: SnapshotRef) -> SnapshotRef {
    SnapshotRef {
        uri: format!("{}{}/{}", world.store(), actor.namespace, actor.name),
        ..snapshot
    }
}

async fn suspend(
    world: &World,
    slot: &str,
    actor: &ActorIdentity,
    epoch: u64,
    like: &[&SnapshotRef],
) -> (SnapshotRef, u64) {
    let snapshot = world.checkpoint(slot, actor, epoch, false).await.unwrap();
    let snapshot = own(world, actor, snapshot);
    let request = PublishRequest {
        actor: Some(actor.clone()),
        snapshot: Some(snapshot.clone()),
        fence: Some(fence(epoch)),
        like: like.iter().map(|like| (*like).clone()).collect(),
    };
    let published = world.nodes.publish(&world.address, request, LONG).await;
    (snapshot, published.unwrap().bytes)
}

async fn delete(world: &World, snapshot: &SnapshotRef, actor: &ActorIdentity, uri: String) {
    let (_, epoch) = snapshot.id.split_once('-').unwrap();
    let request = DeleteSnapshotsRequest {
        actor: Some(actor.clone()),
        uri,
        before_epoch: u64::from_str_radix(epoch, 16).unwrap() + 1,
        keep: vec![],
    };
    let deleted = world.nodes.delete_snapshots(&world.address, request, LONG);
    deleted.await.unwrap();
}

#[test]
fn only_what_is_new_is_published_and_what_it_is_made_of_stays_while_it_is_needed() {
    with_node(1, |world| async move {
        let slot = world.settled(1).await[0].uid.clone();
        let (maker, a) = (actor("golden"), actor("a"));
        let address = world.run(&slot, &maker, 1).await.unwrap();
        let memory = fetch(&address, "/mem?mb=16").await;
        let (golden, bytes) = suspend(&world, &slot, &maker, 2, &[]).await;
        assert!(bytes > 16 * MIB, "{bytes}");

        let address = world.restore(&slot, &a, 1, &golden).await.unwrap();
        assert_eq!(count(&address).await.0, 1);
        let (first, bytes) = suspend(&world, &slot, &a, 2, &[&golden]).await;
        assert!(bytes < 2 * MIB, "{bytes}");
        let address = world.restore(&slot, &a, 3, &first).await.unwrap();
        assert_eq!(count(&address).await.0, 2);
        let (second, bytes) = suspend(&world, &slot, &a, 4, &[&first, &golden]).await;
        assert!(bytes < 2 * MIB, "{bytes}");

        // What is older than the latest goes, here and there.
        delete(&world, &first, &a, first.uri.clone()).await;
        delete(&world, &golden, &maker, golden.uri.clone()).await;
        delete(&world, &second, &a, String::new()).await;
        let copies = files::names(&world.node_dir().join("snapshots")).unwrap();
        assert_eq!(copies, [""; 0]);
        let address = world.restore(&slot, &a, 5, &second).await.unwrap();
        assert_eq!(fetch(&address, "/mem").await, memory);
        assert_eq!(count(&address).await.0, 3);
        world.end(&slot, &a, 6).await.unwrap();

        delete(&world, &second, &a, second.uri.clone()).await;
        let left = files::names(&world.dir.path().join("store/team")).unwrap();
        assert_eq!(left, [""; 0]);
    });
}

#[test]
fn a_golden_snapshot_stays_on_the_node_while_an_actor_runs_that_started_from_it() {
    with_node(2, |mut world| async move {
        world.stop().await;
        let options = super::super::Options {
            cache_bytes: 24 * MIB,
            ..world.options().await
        };
        world.start_with(options);
        let slots = world.settled(2).await;
        let (one, two) = (slots[0].uid.clone(), slots[1].uid.clone());
        let (maker, a, b) = (actor("golden"), actor("a"), actor("b"));
        let address = world.run(&one, &maker, 1).await.unwrap();
        fetch(&address, "/mem?mb=8").await;
        let (golden, _) = suspend(&world, &one, &maker, 2, &[]).await;
        world.restore(&one, &a, 1, &golden).await.unwrap();
        // Another fills the cache, again and again.
        let address = world.run(&two, &b, 1).await.unwrap();
        fetch(&address, "/mem?mb=12").await;
        let (mut filler, _) = suspend(&world, &two, &b, 2, &[]).await;
        for epoch in [3, 5] {
            world.restore(&two, &b, epoch, &filler).await.unwrap();
            (filler, _) = suspend(&world, &two, &b, epoch + 1, &[]).await;
        }
        let copies = files::names(&world.node_dir().join("snapshots")).unwrap();
        assert!(copies.contains(&golden.id), "{copies:?}");
        let (_, bytes) = suspend(&world, &one, &a, 2, &[&golden]).await;
        assert!(bytes < MIB, "{bytes}");
    });
}
