//! Waking and sleeping.

use super::world::{NAMESPACE, WORKERS, world};
use crate::aggregated::eventually;
use crate::parts::look::outcome;

#[test]
fn an_actor_sleeps_in_one_pod_and_wakes_in_another_with_memory_and_files() {
    let w = world();
    let actor = w.actor("traveller");
    assert_eq!(actor.visit(), (1, 1));
    assert_eq!(actor.visit(), (2, 2));
    let first = actor.worker();
    // The worker is the pod.
    let uid = w.field(&format!("pod/{first}"), ".metadata.uid");
    let ip = w.field(&format!("pod/{first}"), ".status.podIP");
    let worker = format!("worker/{first}");
    assert_eq!(w.field(&worker, ".status.podUID"), uid);
    assert_eq!(w.field(&worker, ".status.ip"), ip);
    let lent = w.lent(&uid);
    assert!(lent.contains_key("state"), "{lent:?}");
    actor.get("/log?bytes=100").unwrap();
    eventually("its log can be read", || {
        (w.raw(&actor.path("log")).len() >= 100).then_some(())
    });

    actor.sleep();
    w.settled();
    let ahead = w.lent(&uid);
    let others = |name: &&String| !name.starts_with("rootfs-") && *name != "runtime";
    let others: Vec<_> = ahead.keys().filter(others).collect();
    assert!(
        others.iter().all(|name| *name == "state"),
        "only what is created ahead: {ahead:?}"
    );
    let state = ahead.get("state");
    assert!(
        state.is_none() || state != lent.get("state"),
        "nothing of it is left: {ahead:?}"
    );
    w.kubectl(&["delete", "pod", &first]);
    w.settled();
    assert_eq!(w.directories(&uid), [] as [String; 0], "nor on the node");
    assert_eq!(actor.visit(), (3, 3));
    assert_ne!(actor.worker(), first);
}

#[test]
fn an_actor_whose_node_lost_its_copy_wakes_from_s3() {
    let w = world();
    let actor = w.actor("bereft");
    assert_eq!(actor.visit(), (1, 1));
    actor.sleep();
    let id = actor.field(".status.snapshot.id");
    assert!(w.published(&id) > 0, "the S3 server has it");
    assert!(w.lose_copy(&id) > 0, "the node had one");
    // Its agent finds out when it starts.
    let before = w.kill_agent();
    eventually("another agent works", || {
        w.agent().filter(|now| *now != before)
    });
    assert_eq!(actor.visit(), (2, 2));
    assert!(w.lose_copy(&id) > 0, "and has it again");
}

#[test]
fn the_charts_own_test_passes() {
    let w = world();
    let said = w.helm(&["test", "substrate", "--logs"]);
    let said = said.unwrap_or_else(|e| panic!("{e}"));
    for answers in ["the API answers", "the router answers"] {
        assert!(said.contains(answers), "{said}");
    }
}

#[test]
fn the_store_is_for_those_of_us_that_need_it() {
    let w = world();
    let store = w.door("ate-store", 6379);
    let ping = |secret: Option<&str>| {
        let mut openssl = w.openssl(&store, "ate-store.ate-system.svc", secret);
        outcome("openssl", &openssl.output().unwrap())
    };
    let has = |secret| ping(secret).is_ok_and(|said| said.contains("+PONG"));
    assert!(has(Some("ate-apiserver-tls")));
    for other in [Some("ate-router-tls"), None] {
        assert!(!has(other), "{other:?}");
    }
}

#[test]
fn actors_go_on_while_their_node_agent_is_replaced() {
    let w = world();
    let actor = w.actor("patient");
    assert_eq!(actor.visit(), (1, 1));
    w.kubectl_system(&["rollout", "restart", "ds/atelet"]);
    w.kubectl_system(&["rollout", "status", "ds/atelet", "--timeout=120s"]);
    assert_eq!(actor.visit(), (2, 2));
    actor.sleep();
    assert_eq!(actor.visit(), (3, 3));
    assert_eq!(
        actor.field(".status.conditions[?(@.type==\"RolledBack\")].status"),
        ""
    );
}

#[test]
fn a_pod_that_is_deleted_lets_its_actor_go_to_sleep_first() {
    let w = world();
    let actor = w.actor("mover");
    assert_eq!(actor.visit(), (1, 1));
    let first = actor.worker();
    // Requests go on coming meanwhile, and wait.
    w.kubectl(&["delete", "pod", &first, "--wait=false"]);
    let mut before = 1;
    eventually("the pod is gone", || {
        let (memory, file) = actor.visit();
        assert!(memory > before && memory == file, "nothing is lost");
        before = memory;
        let pods = w.field("pods", ".items[*].metadata.name");
        (!pods.contains(&first)).then_some(())
    });
    assert_ne!(actor.worker(), first);
}

#[test]
fn a_sandbox_reaches_neither_its_node_nor_the_kubernetes_api() {
    let w = world();
    let actor = w.actor("curious");
    actor.visit();
    let node = w.field(&format!("pod/{}", actor.worker()), ".status.hostIP");
    let api = w.service("kubernetes");
    // DNS's port takes connections.
    let dns = format!("{}:53", w.service("kube-dns"));
    let said = actor.get(&format!("/dial?addr={dns}"));
    assert!(said.is_ok_and(|said| said.starts_with("connected")));
    for address in [format!("{node}:10250"), format!("{api}:443")] {
        let said = actor.get(&format!("/dial?addr={address}"));
        assert!(said.is_err_and(|e| e.contains("dial tcp")), "{address}");
    }
}

#[test]
fn a_worker_pod_sees_its_own_only_and_cannot_write_what_is_shared() {
    let w = world();
    let (mine, other) = (w.actor("mine"), w.actor("other"));
    mine.visit();
    other.visit();
    let pod = mine.worker();
    let uid = w.field(&format!("pod/{pod}"), ".metadata.uid");
    let process = format!("/proc/{}", w.executor(&pod));
    for (dir, seen) in [
        ("root/var/lib/ate", &["own", "workers"][..]),
        ("root/var/lib/ate/workers", &[&uid]),
        ("root/run/ate", &["ateoms", "own"]),
        ("root/run/ate/ateoms", &[&uid]),
    ] {
        let listed = w.on_node(&["ls", &format!("{process}/{dir}")]);
        let names: Vec<_> = listed.lines().collect();
        assert_eq!(names, seen, "{dir}");
    }
    let mounts = w.on_node(&["cat", &format!("{process}/mountinfo")]);
    for (name, access) in [
        ("rootfs-app", "ro"),
        ("runtime", "ro"),
        ("snapshot", "ro"),
        ("state", "rw"),
        ("logs", "rw"),
    ] {
        let ends = format!("/lent/{name}");
        let lines = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        let options: Vec<_> = lines
            .filter(|fields| fields[4].ends_with(&ends))
            .map(|fields| fields[5].split(',').next().unwrap().to_owned())
            .collect();
        // Where the pod mounts its own, and where the node has it.
        assert_eq!(options, [access; 2], "{name}");
    }
}

#[test]
fn another_pod_reaches_an_actor_by_the_routers_name() {
    let w = world();
    let _actor = w.actor("called");
    let said = w.ask_from_pod("called", NAMESPACE);
    assert!(said.contains(r#""memory":1"#), "{said}");
}

#[test]
fn a_pool_that_shrinks_puts_its_actors_to_sleep() {
    let w = world();
    let actor = w.actor("sleeper");
    assert_eq!(actor.visit(), (1, 1));
    w.kubectl(&["scale", "workerpool/pool", "--replicas=0"]);
    eventually("all workers are gone", || {
        w.field("workers,pods", ".items[*].metadata.name")
            .is_empty()
            .then_some(())
    });
    assert_eq!(actor.field(".status.phase"), "Suspended");
    w.kubectl(&["scale", "workerpool/pool", &format!("--replicas={WORKERS}")]);
    w.settled();
    assert_eq!(actor.visit(), (2, 2));
}
