//! Waking and sleeping.

use super::world::world;

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
    assert!(w.lent(&uid) > 0, "it sees what it was lent");

    actor.sleep();
    w.settled();
    assert_eq!(w.lent(&uid), 0, "nothing of it is left in the pod");
    w.kubectl(&["delete", "pod", &first]);
    w.settled();
    assert_eq!(w.directories(&uid), [] as [String; 0], "nor on the node");
    assert_eq!(actor.visit(), (3, 3));
    assert_ne!(actor.worker(), first);
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
    w.kubectl(&["delete", "pod", &first, "--timeout=30s"]);
    assert_eq!(actor.visit(), (2, 2), "nothing is lost");
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
