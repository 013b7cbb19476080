//! Orders, with real executors and sandboxes.

mod executors;
mod lease;
mod like;
mod spool;

use super::testing::{LONG, World, actor, count, fence, fetch, with_node};
use crate::api::{Reason, Timestamp};
use crate::node::atelet::files;
use crate::proto::atenode::slot::Phase;
use crate::proto::atenode::{
    DeleteSnapshotsRequest, DescribeSnapshotRequest, LogsRequest, PublishRequest, RestoreResponse,
    SnapshotRef,
};
use crate::rpc::nodes::{NodeClient, NodeError};
use std::time::Instant;

fn refused<T: std::fmt::Debug>(result: Result<T, NodeError>) -> String {
    match result {
        Err(NodeError::Refused { message }) => message,
        other => panic!("not refused: {other:?}"),
    }
}

fn failed<T: std::fmt::Debug>(result: Result<T, NodeError>) -> (Reason, String) {
    match result {
        Err(NodeError::Failed { reason, message }) => (reason, message),
        other => panic!("not failed: {other:?}"),
    }
}

/// Directories of sandboxes, but for those that were created ahead.
fn sandboxes(world: &World) -> Vec<String> {
    let mut names = files::names(&world.node_dir().join("sandboxes")).unwrap();
    let ahead = ["p-0", "p-1"].map(|slot| world.ahead(slot));
    names.retain(|name| !ahead.iter().flatten().any(|ahead| ahead == name));
    names
}

#[test]
fn an_actor_sleeps_and_wakes_on_another_slot_with_memory_and_files() {
    with_node(2, |world| async move {
        let slots = world.settled(2).await;
        let (first, second) = (&slots[0], &slots[1]);
        assert_eq!((&*first.name, &*second.name), ("p-0", "p-1"));
        let a = actor("a");
        let one = world.run(&first.uid, &a, 1).await.unwrap();
        assert!(one.starts_with(&format!("{}:", first.ip)), "{one}");
        count(&one).await;
        let (memory, file, generation) = count(&one).await;
        assert_eq!((memory, file), (2, 2));
        let running = world.slots().await.remove(0);
        assert_eq!(running.phase(), Phase::Running);
        assert_eq!((running.epoch, running.address), (1, one.clone()));

        let snapshot = world.checkpoint(&first.uid, &a, 2, false).await.unwrap();
        assert_eq!(sandboxes(&world), [""; 0]);
        let free = world.slots().await;
        assert_eq!(free[0].phase(), Phase::Free);
        assert_eq!(free[0].uid, first.uid, "the executor was not needed to die");
        let again = world.checkpoint(&first.uid, &a, 2, false).await;
        assert_eq!(again.unwrap(), snapshot, "the same again is so already");

        let ahead = world.created_ahead("p-1").await;
        let request = world.restore_request(&second.uid, &a, 3, &snapshot);
        let begun = Instant::now();
        let response = world.nodes.restore(&world.address, request, LONG).await;
        let took = begun.elapsed().as_micros() as u64;
        let response = response.unwrap();
        let sum: u64 = response.steps.iter().map(|s| s.micros).sum();
        assert!(sum <= took, "{sum} of {took}");
        let steps: Vec<_> = response.steps.iter().map(|s| &*s.name).collect();
        let (on_the_node, in_the_executor) = steps.split_at(5);
        assert_eq!(
            on_the_node,
            ["queue", "runtime", "image", "snapshot", "prepare"]
        );
        assert_eq!(
            in_the_executor,
            ["restore", "readyz", "executor", "confirm"]
        );
        let (memory, file, new) = count(&response.address).await;
        assert_eq!((memory, file), (3, 3));
        assert_ne!(new, generation);
        assert_eq!(new, ahead);
        world.end(&second.uid, &a, 4).await.unwrap();
        world.settled(2).await;
        assert_eq!(sandboxes(&world), [""; 0]);
    });
}

#[test]
fn a_sandbox_created_ahead_outlives_the_agent_and_goes_where_it_does_not_fit() {
    with_node(1, |mut world| async move {
        let uid = world.settled(1).await[0].uid.clone();
        let a = actor("a");
        let address = world.run(&uid, &a, 1).await.unwrap();
        count(&address).await;
        fetch(&address, "/log?bytes=1000").await;
        let log = world.node_dir().join("actors/team:counter:a/logs/app.log");
        let before = log.metadata().unwrap().len();
        let snapshot = world.checkpoint(&uid, &a, 2, false).await.unwrap();
        let ahead = world.created_ahead("p-0").await;
        world.stop().await;
        world.start().await;
        world.settled(1).await;
        assert_eq!(world.ahead("p-0").as_ref(), Some(&ahead));
        let steps = |response: RestoreResponse| {
            let steps = response.steps.into_iter();
            steps.map(|step| step.name).collect::<Vec<_>>()
        };
        let request = world.restore_request(&uid, &a, 3, &snapshot);
        let response = world.nodes.restore(&world.address, request, LONG).await;
        let response = response.unwrap();
        let (memory, _, generation) = count(&response.address).await;
        assert_eq!((memory, generation), (2, ahead));
        assert!(!steps(response.clone()).contains(&"create".to_owned()));
        fetch(&response.address, "/log?bytes=500").await;
        let after = log.metadata().unwrap().len();
        assert_eq!(after, before + 500, "the log goes on");
        let snapshot = world.checkpoint(&uid, &a, 4, false).await.unwrap();

        // A workload that the sandbox was not created for.
        let ahead = world.created_ahead("p-0").await;
        let mut request = world.restore_request(&uid, &a, 5, &snapshot);
        let workload = request.workload.as_mut().unwrap();
        workload.containers[0].working_dir = "/app".into();
        let unfit = world.nodes.restore(&world.address, request, LONG).await;
        assert_eq!(failed(unfit).0, Reason::RestoreFailed);
        let next = world.created_ahead("p-0").await;
        assert_ne!(next, ahead);
        assert_eq!(
            files::names(&world.node_dir().join("sandboxes")).unwrap(),
            [next]
        );
        world.settled(1).await;
    });
}

#[test]
fn snapshots_are_kept_published_described_and_deleted() {
    with_node(1, |mut world| async move {
        let uid = world.settled(1).await[0].uid.clone();
        let a = actor("a");
        let address = world.run(&uid, &a, 1).await.unwrap();
        count(&address).await;
        let kept = world.checkpoint(&uid, &a, 2, true).await.unwrap();
        let exists = async |world: &World, snapshot: &crate::proto::atenode::SnapshotRef| {
            let snapshot = Some(snapshot.clone());
            let request = DescribeSnapshotRequest { snapshot };
            let answer = world.nodes.describe_snapshot(&world.address, request, LONG);
            answer.await.unwrap().exists
        };
        let mut published = kept.clone();
        published.local = false;
        assert!(exists(&world, &kept).await && !exists(&world, &published).await);
        // It is still known after a restart, and says what it needs.
        world.stop().await;
        world.start().await;
        world.settled(1).await;
        assert!(exists(&world, &kept).await);
        let reported = || world.apiserver.reports.lock().unwrap().last().cloned();
        let local = reported().unwrap().local_snapshots;
        assert_eq!(local.len(), 1);
        assert_eq!((&local[0].id, &*local[0].name), (&kept.id, "a"));

        let request = PublishRequest {
            like: vec![],
            actor: Some(a.clone()),
            snapshot: Some(published.clone()),
            fence: Some(fence(2)),
        };
        world
            .nodes
            .publish(&world.address, request, LONG)
            .await
            .unwrap();
        assert!(exists(&world, &published).await);
        let address = world.restore(&uid, &a, 3, &kept).await.unwrap();
        assert_eq!(count(&address).await.0, 2);
        let newer = world.checkpoint(&uid, &a, 4, false).await.unwrap();
        let request = PublishRequest {
            like: vec![],
            actor: Some(a.clone()),
            snapshot: Some(newer.clone()),
            fence: Some(fence(4)),
        };
        let done = world.nodes.publish(&world.address, request, LONG);
        done.await.unwrap();

        let request = DeleteSnapshotsRequest {
            actor: Some(a.clone()),
            uri: world.store(),
            before_epoch: 5,
            keep: vec![newer.id.clone()],
        };
        for _ in 0..2 {
            let deleted = world
                .nodes
                .delete_snapshots(&world.address, request.clone(), LONG);
            deleted.await.unwrap();
        }
        assert!(!exists(&world, &published).await && !exists(&world, &kept).await);
        assert!(exists(&world, &newer).await);
        let (reason, message) = failed(world.restore(&uid, &a, 5, &published).await);
        assert_eq!(reason, Reason::SnapshotUnreadable, "{message}");
        // Fetched where there is no node copy.
        std::fs::remove_dir_all(world.node_dir().join("snapshots")).unwrap();
        world.stop().await;
        world.start().await;
        world.settled(1).await;
        let address = world.restore(&uid, &a, 6, &newer).await.unwrap();
        assert_eq!(count(&address).await.0, 3);
    });
}

#[test]
fn a_snapshot_that_cannot_be_published_is_kept() {
    with_node(1, |world| async move {
        let uid = world.settled(1).await[0].uid.clone();
        let a = actor("a");
        let address = world.run(&uid, &a, 1).await.unwrap();
        count(&address).await;
        let mut kept = world.checkpoint(&uid, &a, 2, true).await.unwrap();
        let request = PublishRequest {
            like: vec![],
            actor: Some(a.clone()),
            fence: Some(fence(2)),
            snapshot: Some(SnapshotRef {
                uri: "gs://bucket/".into(),
                local: false,
                ..kept.clone()
            }),
        };
        let result = world.nodes.publish(&world.address, request, LONG).await;
        let (reason, message) = failed(result);
        assert_eq!(reason, Reason::CheckpointFailed);
        assert!(message.contains("gs://bucket/"), "{message}");
        world.settled(1).await;
        kept.uri.clear();
        let address = world.restore(&uid, &a, 3, &kept).await.unwrap();
        assert_eq!(count(&address).await.0, 2);
        let request = DeleteSnapshotsRequest {
            actor: Some(a),
            uri: "gs://bucket/".into(),
            before_epoch: 3,
            keep: vec![],
        };
        let deleted = world.nodes.delete_snapshots(&world.address, request, LONG);
        deleted.await.expect("nothing is where nothing can be");
    });
}

#[test]
fn logs_are_there_while_the_actor_sleeps() {
    with_node(1, |world| async move {
        let uid = world.settled(1).await[0].uid.clone();
        let a = actor("a");
        world.run(&uid, &a, 1).await.unwrap();
        world.checkpoint(&uid, &a, 2, true).await.unwrap();
        let request = LogsRequest {
            actor: Some(a),
            ..LogsRequest::default()
        };
        let logs = world.nodes.logs(&world.address, request, LONG).await;
        let chunk = logs.unwrap().message().await.unwrap().unwrap();
        let text = String::from_utf8(chunk.data).unwrap();
        assert!(text.contains("listening on 8080"), "{text}");
    });
}

#[test]
fn a_new_agent_takes_over_what_runs() {
    with_node(2, |mut world| async move {
        let before = world.settled(2).await;
        let a = actor("a");
        let address = world.run(&before[1].uid, &a, 1).await.unwrap();
        count(&address).await;
        world.stop().await;
        assert_eq!(count(&address).await.0, 2, "it runs without an agent");
        let stray = world.node_dir().join("sandboxes/stray");
        std::fs::create_dir(&stray).unwrap();
        world.start().await;
        let running = |s: &[crate::proto::atenode::Slot]| {
            s.len() == 2 && s[0].phase() == Phase::Free && s[1].phase() == Phase::Running
        };
        let after = world.until("taken over", running).await;
        assert_eq!(after[1].address, address);
        assert_eq!(after[1].actor.as_ref(), Some(&a));
        assert!(!stray.exists());
        for (old, new) in before.iter().zip(&after) {
            assert_eq!(old.uid, new.uid);
        }
        assert_eq!(world.run(&before[1].uid, &a, 1).await.unwrap(), address);
        let snapshot = world.checkpoint(&after[1].uid, &a, 2, false).await.unwrap();
        let address = world
            .restore(&after[0].uid, &a, 3, &snapshot)
            .await
            .unwrap();
        assert_eq!(count(&address).await.0, 3);
    });
}

#[test]
fn what_a_killed_agent_left_half_done_is_removed() {
    with_node(0, |mut world| async move {
        world.stop().await;
        let node = world.node_dir();
        let hex = "0".repeat(64);
        let id = world.snapshot(&actor("a"), 1, true).id;
        let left = [
            "spool/.fetch-Xy12/pages.img".to_owned(),
            "spool/.publish-Xy12/pages.img".to_owned(),
            "spool/fetch-1/pages.img".to_owned(),
            format!("spool/{id}/pages.img"),
            format!("spool/{id}.partial-Xy12/pages.img"),
            "snapshots/.publish-Xy12/pages.img".to_owned(),
            "snapshots/.trash-Xy12/pages.img".to_owned(),
            format!("snapshots/{id}/pages.img"),
            format!("held/{id}.json"),
            format!("held/{id}.json.new"),
            format!("runtimes/.{hex}"),
            format!("images/tmp/{hex}/blobs/0"),
            format!("images/tmp/{hex}.ref"),
            "sandboxes/generation/file".to_owned(),
        ];
        for file in &left {
            let file = node.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "half").unwrap();
        }
        world.start().await;
        world.settled(0).await;
        for dir in [
            "spool",
            "snapshots",
            "held",
            "runtimes",
            "images/tmp",
            "sandboxes",
        ] {
            assert_eq!(files::names(&node.join(dir)).unwrap(), [""; 0], "{dir}");
        }
    });
}

#[test]
fn orders_are_fenced() {
    with_node(2, |world| async move {
        let slots = world.settled(2).await;
        let (slot, other) = (&*slots[0].uid, &*slots[1].uid);
        let a = actor("a");
        let stale = |change: fn(&mut crate::proto::atenode::Fence)| {
            let mut request = world.run_request(slot, &a, 5);
            change(request.fence.as_mut().unwrap());
            world.nodes.run(&world.address, request, LONG)
        };
        refused(stale(|f| f.not_after_ms = Timestamp::now().0 - 2500).await);
        let address = world.run(slot, &a, 5).await.unwrap();
        refused(stale(|f| f.incarnation = 6).await);
        assert_eq!(world.run(slot, &a, 5).await.unwrap(), address);
        refused(world.run(slot, &a, 4).await);
        refused(world.run(slot, &a, 6).await);
        refused(world.run(other, &a, 6).await);
        refused(world.run(slot, &actor("b"), 1).await);
        refused(world.end(slot, &a, 4).await);
        refused(world.checkpoint(slot, &a, 4, true).await);
        let unknown = world.run("no-such-slot", &actor("b"), 1).await;
        assert!(matches!(unknown, Err(NodeError::NotFound { .. })));
        world.end(other, &a, 6).await.unwrap();
        assert_eq!(count(&address).await.0, 1, "it was not on that slot");
        world.end(slot, &a, 6).await.unwrap();
        world.end(slot, &a, 6).await.unwrap();
        refused(world.run(slot, &a, 5).await);
        let request = world.run_request(slot, &a, 7);
        let router = world.client_of("router");
        let denied = router.run(&world.address, request, LONG).await;
        assert!(
            matches!(denied, Err(NodeError::Unexpected(_))),
            "{denied:?}"
        );
    });
}

#[test]
fn a_stop_does_not_wait_for_a_start() {
    with_node(1, |world| async move {
        let slot = world.settled(1).await.remove(0).uid;
        let a = actor("a");
        let mut request = world.run_request(&slot, &a, 1);
        request.workload = Some(world.workload(&[("READY_DELAY_MS", "25000")]));
        let start = world.nodes.run(&world.address, request.clone(), LONG);
        let join = world.nodes.run(&world.address, request, LONG);
        let stop = async {
            world
                .until("under way", |s| {
                    s[0].phase() == Phase::Busy && !s[0].address.is_empty()
                })
                .await;
            let begun = Instant::now();
            world.end(&slot, &a, 2).await.unwrap();
            assert!(begun.elapsed().as_secs() < 15, "it was not stopped");
        };
        let (start, join, ()) = tokio::join!(start, join, stop);
        refused(start);
        refused(join);
        assert_eq!(world.settled(1).await[0].uid, slot);
        world.run(&slot, &a, 3).await.unwrap();
    });
}

#[test]
fn what_cannot_start_says_why_and_leaves_the_slot_free() {
    with_node(1, |world| async move {
        let slot = world.settled(1).await.remove(0).uid;
        let a = actor("a");
        type Spoil = fn(&mut crate::proto::atenode::Workload);
        let spoils: [(Spoil, Reason, &str); 3] = [
            (
                |w| w.containers[0].image = format!("oci-layout:/none@sha256:{}", "0".repeat(64)),
                Reason::ImageUnavailable,
                "not found",
            ),
            (
                |w| w.containers[0].command = vec!["/none".into()],
                Reason::BootFailed,
                "/none",
            ),
            (
                |w| w.containers[0].readyz.as_mut().unwrap().timeout_seconds = 1,
                Reason::BootFailed,
                "ready",
            ),
        ];
        for (n, (spoil, reason, word)) in spoils.into_iter().enumerate() {
            let mut request = world.run_request(&slot, &a, n as u64 + 1);
            let mut workload = world.workload(&[("READY_DELAY_MS", "20000")]);
            spoil(&mut workload);
            request.workload = Some(workload);
            let (why, message) = failed(world.nodes.run(&world.address, request, LONG).await);
            assert_eq!(why, reason, "{message}");
            assert!(message.contains(word), "{message}");
            assert_eq!(world.settled(1).await[0].uid, slot);
        }
        world.run(&slot, &a, 9).await.unwrap();
        // An exit is not an end: somebody has to say what becomes of it.
        let address = world.slots().await[0].address.clone();
        let _ = crate::sandbox::testing::get(
            address.parse::<std::net::SocketAddr>().unwrap(),
            "/exit?code=3",
        )
        .await;
        world
            .until("exited", |s| s[0].phase() == Phase::Exited)
            .await;
        let (reason, _) = failed(world.checkpoint(&slot, &a, 10, true).await);
        assert!(matches!(
            reason,
            Reason::SandboxExited | Reason::CheckpointFailed
        ));
        world.end(&slot, &a, 11).await.unwrap();
        world.settled(1).await;
    });
}

#[test]
fn nothing_of_one_actor_is_seen_by_the_next() {
    with_node(1, |world| async move {
        let slot = world.settled(1).await.remove(0).uid;
        let (a, b) = (actor("a"), actor("b"));
        let mut request = world.run_request(&slot, &a, 1);
        request.workload = Some(world.workload(&[("SECRET", "of-a")]));
        let response = world.nodes.run(&world.address, request, LONG).await;
        let one = response.unwrap().address;
        count(&one).await;
        assert!(fetch(&one, "/env").await.contains("SECRET=of-a"));
        let snapshot = world.checkpoint(&slot, &a, 2, false).await.unwrap();
        let two = world.run(&slot, &b, 1).await.unwrap();
        assert_ne!(one, two, "a port of its own");
        assert!(!fetch(&two, "/env").await.contains("of-a"));
        assert_eq!(fetch(&two, "/files?path=/run/ate/actor-id").await, "b");
        let (memory, file, _) = count(&two).await;
        assert_eq!((memory, file), (1, 1));
        let at_old = one.parse::<std::net::SocketAddr>().unwrap();
        let at_old = crate::sandbox::testing::get(at_old, "/").await;
        assert!(at_old.is_err(), "{at_old:?}");
        world.end(&slot, &b, 2).await.unwrap();
        let three = world.restore(&slot, &a, 3, &snapshot).await.unwrap();
        assert_eq!(fetch(&three, "/files?path=/run/ate/actor-id").await, "a");
        assert_eq!(count(&three).await.0, 2);
    });
}

#[test]
fn pools_shrink_and_grow_around_busy_slots() {
    with_node(3, |mut world| async move {
        let slots = world.settled(3).await;
        let a = actor("a");
        let address = world.run(&slots[2].uid, &a, 1).await.unwrap();
        world.scale(1);
        let only = |s: &[crate::proto::atenode::Slot]| s.len() == 1;
        let left = world.until("one is left", only).await;
        assert_eq!((&left[0].uid, left[0].draining), (&slots[2].uid, false));
        // One that is busy says that it leaves, and waits until its actor has been taken away.
        world.scale(0);
        world.until("it leaves", |s| s[0].draining).await;
        count(&address).await;
        world.scale(2);
        let grown = |s: &[crate::proto::atenode::Slot]| {
            s.len() == 3 && s[..2].iter().all(|s| s.phase() == Phase::Free)
        };
        let grown = world.until("grown", grown).await;
        let names: Vec<_> = grown.iter().map(|s| (&*s.name, s.draining)).collect();
        assert_eq!(names, [("p-0", false), ("p-1", false), ("p-2", true)]);
        world
            .apiserver
            .stop_slots
            .lock()
            .unwrap()
            .push(slots[2].uid.clone());
        world.settled(2).await;
        // A clean end leaves nothing.
        world.stop().await;
        let mut options = world.options().await;
        options.stop_slots_on_exit = true;
        world.start_with(options);
        world.settled(2).await;
        world.stop().await;
        assert_eq!(
            files::names(&world.node_dir().join("slots")).unwrap(),
            [""; 0]
        );
        assert!(!world.run_dir().join("ateoms").exists());
        let links = crate::sandbox::testing::command("ip", &["-o", "link"]);
        assert!(!links.contains("ate-test"), "{links}");
        let reports = world.apiserver.reports.lock().unwrap();
        let last = reports.last().unwrap();
        assert_eq!(
            (&*last.node, last.incarnation),
            ("node-1", fence(1).incarnation)
        );
    });
}
