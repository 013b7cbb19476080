//! What ends under an actor.

use super::traffic::{Ending, traffic};
use super::world::{ROLLED_BACK, World, shows_table, world};
use crate::aggregated::eventually;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Says how long it took to notice something, which may be 10 s.
fn noticed(what: &str, begun: Instant) {
    if shows_table() {
        println!("{:8.1} s  {what} is noticed", begun.elapsed().as_secs_f64());
    }
}

fn workers(w: &World) -> String {
    w.field("workers", ".items[*].metadata.name")
}

#[test]
fn a_deleted_pod_is_noticed_and_its_actor_goes_on_from_its_snapshot() {
    let w = world();
    let actor = w.actor("evicted");
    assert_eq!(actor.visit(), (1, 1));
    actor.sleep();
    assert_eq!(actor.visit(), (2, 2));
    let pod = actor.worker();
    let begun = Instant::now();
    w.kubectl(&[
        "delete",
        "pod",
        &pod,
        "--force",
        "--grace-period=0",
        "--wait=false",
    ]);
    eventually("the worker is gone", || {
        (!workers(&w).contains(&pod)).then_some(())
    });
    noticed("a deleted pod", begun);
    assert_eq!(actor.visit(), (2, 2), "as of its snapshot, and one more");
    assert_ne!(actor.worker(), pod);
}

#[test]
fn a_container_that_is_killed_is_noticed_and_its_worker_made_anew() {
    let w = world();
    let actor = w.actor("killed");
    assert_eq!(actor.visit(), (1, 1));
    actor.sleep();
    assert_eq!(actor.visit(), (2, 2));
    let pod = actor.worker();
    let worker = format!("worker/{pod}");
    let uid = w.field(&worker, ".metadata.uid");
    let begun = Instant::now();
    w.signal("-KILL", &[w.executor(&pod)]);
    eventually("it is rolled back", || {
        (actor.field(ROLLED_BACK) == "True").then_some(())
    });
    noticed("a killed container", begun);
    assert_eq!(actor.visit(), (2, 2), "as of its snapshot, and one more");
    actor.sleep();
    w.settled();
    assert_ne!(w.field(&worker, ".metadata.uid"), uid, "another executor");
    let same = w.field(&format!("pod/{pod}"), ".metadata.uid");
    assert_eq!(w.field(&worker, ".status.podUID"), same);
}

#[test]
fn actors_go_on_when_their_node_agent_is_killed() {
    let w = world();
    let actor = w.actor("orphan");
    assert_eq!(actor.visit(), (1, 1));
    let before = w.kill_agent();
    assert_eq!(actor.visit(), (2, 2));
    eventually("another agent works", || {
        w.agent().filter(|now| *now != before)
    });
    actor.sleep();
    assert_eq!(actor.visit(), (3, 3));
    assert_eq!(
        actor.field(".status.conditions[?(@.type==\"RolledBack\")].status"),
        ""
    );
}

#[test]
fn no_request_is_lost_while_everything_is_replaced() {
    let w = world();
    let actor = w.actor("busy");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&actor, &over));
        let ending = Ending(&over);
        for what in [
            "deployment/ate-api-server",
            "deployment/ate-controller",
            "deployment/atenet-router",
            "daemonset/atelet",
        ] {
            w.kubectl_system(&["rollout", "restart", what]);
            w.kubectl_system(&["rollout", "status", what, "--timeout=120s"]);
        }
        w.kubectl(&["delete", "pods", "-l", "ate.dev/worker-pool"]);
        drop(ending);
        assert_eq!(traffic.join().unwrap(), [] as [&str; 0]);
    });
}
