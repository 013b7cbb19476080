//! Nodes that come and go.

use super::second::Second;
use super::traffic::{Ending, traffic};
use super::world::{Actor, ROLLED_BACK, World, world};
use crate::aggregated::{eventually, root};
use crate::parts::look::{LOOK, until};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How soon the actors of a lost node go on elsewhere.
const LOST: Duration = Duration::from_secs(120);
/// A lease of nodes, in seconds, for tests that wait until it lapses. Long enough for other nodes to find the API server that is left.
const LEASE: &str = "leases.node=40";

#[test]
fn actors_move_to_another_node_and_leave_it_one_at_a_time_when_it_is_drained() {
    let w = world();
    if w.left_out("it starts another node") {
        return;
    }
    let (busy, quiet) = (w.actor("busy"), w.actor("quiet"));
    assert_eq!((busy.visit(), quiet.visit()), ((1, 1), (1, 1)));
    busy.sleep();
    quiet.sleep();
    let second = Second::start(&w);
    second.gather();
    assert_eq!((busy.visit(), quiet.visit()), ((2, 2), (2, 2)));
    for actor in [&busy, &quiet] {
        assert_eq!(actor.field(".status.worker.node"), second.name());
    }
    let over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&busy, &over));
        let ending = Ending(&over);
        let drain = ["drain", &second.name(), "--ignore-daemonsets"];
        let said = w.kubectl(&[&drain[..], &["--timeout=120s"]].concat());
        drop(ending);
        // There may be no worker for a while.
        traffic.join().unwrap();
        said
    });
    assert!(said.contains("disruption budget"), "{said}");
    let (memory, file) = busy.visit();
    assert!(memory > 2 && memory == file, "{memory} {file}");
    assert_eq!(quiet.visit(), (3, 3));
    for actor in [&busy, &quiet] {
        assert_eq!(actor.field(".status.worker.node"), second.first());
        assert_eq!(actor.field(ROLLED_BACK), "");
        actor.sleep();
    }
    w.kubectl(&["uncordon", &second.name()]);
    second.spread();
}

/// The installation with nodes' leases as they are by default, from when this is dropped.
struct Leases<'a>(&'a World);

impl Leases<'_> {
    fn set(&self, value: &str) -> Result<String, String> {
        let chart = root("charts/substrate");
        let upgrade = ["upgrade", "substrate", chart.to_str().unwrap()];
        let set = ["--reuse-values", "--set", value];
        self.0.helm(&[&upgrade[..], &set].concat())?;
        let status = ["rollout", "status", "deployment/ate-api-server"];
        let status = [&status[..], &["--timeout=120s"]].concat();
        self.0.try_kubectl_system(&status)
    }
}

impl Drop for Leases<'_> {
    fn drop(&mut self) {
        let set = self.set("leases.node=null");
        if !std::thread::panicking() {
            set.unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// Asks an actor where it was, on its node, until `over`; when it last answered.
fn haunt(second: &Second<'_>, address: &str, over: &AtomicBool) -> Instant {
    let mut last = Instant::now();
    while !over.load(Relaxed) {
        if second.answers(address) {
            last = Instant::now();
        }
        std::thread::sleep(LOOK);
    }
    last
}

#[test]
fn the_actor_of_a_lost_node_goes_on_elsewhere_and_its_old_sandbox_never_again() {
    let w = world();
    if w.left_out("it takes the network of a node away") {
        return;
    }
    let leases = Leases(&w);
    let second = Second::start(&w);
    leases.set(LEASE).unwrap_or_else(|e| panic!("{e}"));
    let replicas = second.pods("ate-system", "app=ate-apiserver", ".items[*].metadata.name");
    assert_eq!(
        replicas.split_whitespace().count(),
        1,
        "one is lost, too: {replicas}"
    );
    second.spread();
    let both = ["one", "other"].map(|name| (name, w.actor(name)));
    for (_, actor) in &both {
        for visits in 1..=3 {
            assert_eq!(actor.visit(), (visits, visits));
        }
    }
    let node = |actor: &Actor<'_>| actor.field(".status.worker.node");
    let on = |name: &str| both.iter().find(|(_, a)| node(a) == name).unwrap();
    let ((_, stays), (name, actor)) = (on(&second.first()), on(&second.name()));
    // It wakes where it was, since the other worker is taken.
    actor.sleep();
    for visits in 4..=20 {
        assert_eq!(actor.visit(), (visits, visits));
    }
    assert_eq!(node(actor), second.name());
    stays.sleep();
    let pod = actor.worker();
    let address = second.address(&actor.field(".status.worker.ip"), name);
    assert!(second.answers(&address));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let haunted = scope.spawn(|| haunt(&second, &address, &over));
        let ending = Ending(&over);
        let cut = second.cut();
        // As of its snapshot, and some that were sent again.
        let elsewhere = || {
            let visited = actor.try_visit().ok()?;
            (node(actor) == second.first()).then_some(visited)
        };
        let (memory, file) = until(LOST, "it goes on elsewhere", elsewhere);
        let answered = Instant::now();
        assert!(
            (4..20).contains(&memory) && memory == file,
            "{memory} {file}"
        );
        let said = w.kubectl(&["describe", "actor", name]);
        for told in ["RolledBack", "NodeLost"] {
            assert!(said.contains(told), "{said}");
        }
        assert_eq!(actor.visit(), (memory + 1, file + 1));

        drop(cut);
        eventually("the worker of the node that is back is free", || {
            w.free().iter().any(|(name, _)| *name == pod).then_some(())
        });
        drop(ending);
        let last = haunted.join().unwrap();
        assert!(last < answered, "{:?} after the other", last - answered);
        assert_eq!(actor.visit(), (memory + 2, file + 2));
        actor.sleep();
        assert_eq!(actor.visit(), (memory + 3, file + 3));
    });
    assert_eq!(actor.field(ROLLED_BACK), "");
}
