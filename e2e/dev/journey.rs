//! A newcomer's way: template, actors, requests, sleep, wake, delete.

use super::harness::{Dev, eventually};

#[test]
fn actors_sleep_free_their_worker_and_wake_with_memory_and_files() {
    let mut dev = Dev::start(&[]);
    dev.with_counter(2);
    for name in ["a", "b", "c"] {
        assert!(dev.actor(name, "counter").contains("created"));
    }
    assert_eq!(dev.visit("a"), (1, 1));
    assert_eq!(dev.visit("a"), (2, 2));
    assert_eq!(dev.visit("b"), (1, 1));

    let (status, body) = dev.try_get("c", "/").unwrap();
    assert_eq!((status, body.trim()), (503, "no free workers available"));

    let said = dev.plugin(&["suspend", "a", "b"]);
    assert!(
        said.contains("actor.runtime.ate.dev/a suspended in"),
        "{said}"
    );
    let steps = dev.field("a", ".status.lastTransition.steps[*].name");
    assert_eq!(steps, "checkpoint release publish");
    let described = dev.kubectl(&["describe", "actor", "a"]);
    assert!(described.contains("publish"), "{described}");
    let shown = dev.kubectl(&["get", "actors"]);
    assert!(shown.starts_with("NAME"), "{shown}");
    let row = shown
        .lines()
        .find(|l| l.starts_with("a "))
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>();
    assert_eq!(
        row[..5],
        ["a", "counter", "Suspended", "True", "<none>"],
        "{shown}"
    );

    assert_eq!(dev.visit("c"), (1, 1));
    assert_eq!(
        dev.visit("a"),
        (3, 3),
        "memory and files went on, perhaps on another worker"
    );
    let workers = dev.kubectl(&["get", "workers"]);
    assert!(
        workers.contains("default/a") && workers.contains("default/c"),
        "{workers}"
    );
    let top = dev.plugin(&["top"]);
    let nodes: Vec<_> = top
        .lines()
        .map_while(|l| l.split_whitespace().nth(1))
        .collect();
    assert_eq!(nodes, ["PHASE", "Ready"], "{top}");
    assert!(top.contains("SPOOL") && top.contains("default/a"), "{top}");
    let counted = dev.kubectl(&[
        "get",
        "nodeagents",
        "-o",
        "jsonpath={.items[*].status.slots}",
    ]);
    let slots = r#"{"claimed":2,"free":0,"total":2}"#;
    assert_eq!(counted, slots);

    dev.kubectl(&["delete", "actor", "a", "--timeout=60s"]);
    assert_eq!(dev.try_get("a", "/").unwrap().0, 404);
    eventually("the snapshots of a deleted actor are gone", || {
        (!dev.path("lib/snapshots/default/a").exists()
            || is_empty(&dev.path("lib/snapshots/default/a")))
        .then_some(())
    });
    let said = dev.stop();
    assert!(said.contains("stopped"), "{said}");
    assert!(dev.processes("").is_empty(), "nothing is left running");

    dev.restart();
    assert_eq!(
        dev.field("c", ".status.phase"),
        "Suspended",
        "a clean stop suspends"
    );
    assert_eq!(dev.served("c"), (2, 2));
}

fn is_empty(dir: &std::path::Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut d| d.next().is_none())
}

#[test]
fn a_deleted_template_goes_with_its_last_actor_and_takes_its_golden_one_with_it() {
    let dev = Dev::start(&[]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    let said = |path: &str| {
        let path = format!("jsonpath={{.status.{path}}}");
        dev.kubectl(&["get", "actortemplate", "counter", "-o", &path])
    };
    let golden = said("goldenActorID").replace(".default", "");
    let snapshots = dev.path("lib/snapshots/default").join(golden);
    assert!(!is_empty(&snapshots) && snapshots.exists());
    dev.kubectl(&["delete", "actortemplate", "counter", "--wait=false"]);
    eventually("the template says who needs it", || {
        let message = said("conditions[?(@.type==\"DeletionBlocked\")].message");
        (message == "1 actor uses the template: a; it goes with that").then_some(())
    });
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.visit("a"), (2, 2), "it goes on as before");
    dev.kubectl(&["delete", "actor", "a", "--timeout=60s"]);
    let gone = [
        "wait",
        "--for=delete",
        "actortemplate/counter",
        "--timeout=60s",
    ];
    dev.kubectl(&gone);
    eventually("the golden snapshots are gone", || {
        (!snapshots.exists() || is_empty(&snapshots)).then_some(())
    });
}

#[test]
fn pause_keeps_an_actor_on_its_node_and_logs_can_be_read() {
    let dev = Dev::start(&[]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    dev.get("a", "/log?bytes=200");
    let logs = dev.plugin(&["logs", "a"]);
    assert!(!logs.trim().is_empty());
    dev.plugin(&["pause", "a"]);
    assert_eq!(dev.field("a", ".status.phase"), "Paused");
    assert_eq!(dev.field("a", ".status.snapshot.kind"), "Local");
    assert_eq!(dev.visit("a"), (2, 2));
    dev.plugin(&["pause", "a"]);
    dev.plugin(&["suspend", "a"]);
    assert_eq!(
        dev.field("a", ".status.snapshot.kind"),
        "Durable",
        "the pause was published"
    );
    assert_eq!(dev.visit("a"), (3, 3));
}

#[test]
fn nothing_of_one_actor_is_visible_to_the_next_on_its_worker() {
    let dev = Dev::start(&[]);
    dev.with_counter(1);
    for name in ["first", "second"] {
        dev.actor(name, "counter");
    }
    dev.visit("first");
    dev.get("first", "/mem?mb=8");
    let id = dev.get("first", "/files?path=/run/ate/actor-id");
    assert_eq!(id, "first.default");
    let generation = dev.get("first", "/files?path=/run/ate/generation");
    dev.plugin(&["suspend", "first"]);
    assert_eq!(dev.visit("second"), (1, 1), "memory and files are its own");
    assert_eq!(
        dev.get("second", "/files?path=/run/ate/actor-id"),
        "second.default"
    );
    assert_ne!(
        dev.get("second", "/files?path=/run/ate/generation"),
        generation
    );
    let held = dev.get("second", "/mem");
    assert!(held.contains('0'), "{held}");
    assert!(!dev.get("second", "/env").contains("first"));
}

#[test]
fn a_pool_that_shrinks_lets_its_actors_go_to_sleep_first() {
    let dev = Dev::start(&[]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    eventually("its template counts it", || {
        let counts = "jsonpath={.status.actors.total} {.status.actors.awake}";
        let said = dev.kubectl(&["get", "actortemplate", "counter", "-o", counts]);
        (said == "1 1").then_some(())
    });
    let scale = |replicas: &str| dev.kubectl(&["scale", "workerpool", "pool", replicas]);
    scale("--replicas=0");
    eventually("no worker is left", || {
        let workers = dev.kubectl(&["get", "workers", "-o", "name"]);
        workers.trim().is_empty().then_some(())
    });
    assert_eq!(dev.field("a", ".status.phase"), "Suspended");
    scale("--replicas=1");
    assert_eq!(dev.served("a"), (2, 2), "nothing is lost");
    let rolled_back = ".status.conditions[?(@.type==\"RolledBack\")].status";
    assert_ne!(dev.field("a", rolled_back), "True");
}
