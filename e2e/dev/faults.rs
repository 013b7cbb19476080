//! kill -9 of one or all.

use super::harness::{Dev, PATIENCE, eventually, image, kill, signal};
use nix::sys::signal::Signal;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn everything_killed_comes_back_and_no_acknowledged_suspend_is_lost() {
    let mut dev = Dev::start(&["--operation-lease", "2", "--node-lease", "10"]);
    dev.with_counter(2);
    for name in ["asleep", "awake"] {
        dev.actor(name, "counter");
        assert_eq!(dev.visit(name), (1, 1));
    }
    dev.plugin(&["suspend", "asleep", "awake"]);
    assert_eq!(
        dev.visit("awake"),
        (2, 2),
        "this visit will be lost, and be said to be"
    );
    dev.kill_everything();

    dev.restart();
    let visited = dev.visit("asleep");
    assert_eq!(visited, (2, 2), "its wake waited for the slots");
    let visited = dev.served("awake");
    assert_eq!(visited, (2, 2), "it went on from its last snapshot");
    let why = dev.field(
        "awake",
        ".status.conditions[?(@.type==\"RolledBack\")].message",
    );
    assert!(why.contains("is lost"), "{why:?}");
}

#[test]
fn a_killed_executor_rolls_its_actor_back_and_its_slot_is_rebuilt() {
    let dev = Dev::start(&["--operation-lease", "2"]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    dev.visit("a");
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.visit("a"), (2, 2));
    dev.processes("ateom").into_iter().for_each(kill);
    let visited = dev.served("a");
    assert_eq!(visited, (2, 2), "it went on from its last snapshot");
    assert_eq!(
        dev.field("a", ".status.conditions[?(@.type==\"RolledBack\")].status"),
        "True"
    );
}

#[test]
fn an_actor_outlives_the_node_agent_and_the_api_server() {
    let dev = Dev::start(&["--operation-lease", "2"]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    for component in [
        "/ate atelet",
        "/ate apiserver",
        "/ate controller",
        "/ate router",
        "valkey-server",
    ] {
        let before = dev.processes(component);
        assert!(!before.is_empty(), "{component} runs");
        before.iter().for_each(|pid| kill(*pid));
        eventually("it is started again", || {
            let now = dev.processes(component);
            (!now.is_empty() && now.iter().all(|pid| !before.contains(pid))).then_some(())
        });
    }
    let visited = dev.served("a");
    assert_eq!(visited.0, visited.1);
    assert!(visited.0 >= 2, "its memory went on: {visited:?}");
    eventually("it can be suspended", || {
        dev.try_plugin(&["suspend", "a"]).ok()
    });
}

#[test]
fn a_sandbox_that_exits_by_itself_is_noticed() {
    let dev = Dev::start(&["--operation-lease", "2"]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    dev.visit("a");
    dev.plugin(&["suspend", "a"]);
    dev.visit("a");
    let _ = dev.try_get("a", "/exit?code=3");
    let visited = dev.served("a");
    assert_eq!(visited, (2, 2), "from its last snapshot");
}

#[test]
fn an_actor_stands_still_while_the_api_server_is_silent() {
    let dev = Dev::start(&["--operation-lease", "2", "--node-lease", "6"]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    dev.visit("a");
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.visit("a"), (2, 2));
    let address = dev.address("a");
    TcpStream::connect(&address).expect("the actor is reachable");
    let silent = dev.processes("/ate apiserver");
    assert_eq!(silent.len(), 1);
    silent.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    eventually("it stands still", || {
        let refused = TcpStream::connect(&address).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    assert!(
        !dev.processes("runsc-sandbox").is_empty(),
        "it was not ended"
    );

    silent.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    let visited = dev.served("a");
    if visited != (3, 3) {
        assert_eq!(visited, (2, 2), "from its last snapshot");
        let said = dev.field("a", ".status.conditions[?(@.type==\"RolledBack\")].status");
        assert_eq!(said, "True");
    }
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.visit("a"), (visited.0 + 1, visited.1 + 1));
}

#[test]
fn a_golden_actor_that_never_gets_ready_does_not_hold_up_the_end() {
    /// Far less than readiness is waited for.
    const PROMPT: Duration = Duration::from_secs(10);
    let mut dev = Dev::start(&[]);
    let env = "    env: [{name: READY_DELAY_MS, value: \"600000\"}]\n";
    dev.apply(&format!(
        "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: pool, namespace: default}}\nspec: {{replicas: 1}}\n---\n{}{env}",
        dev.template("hanging", &image())
    ));
    eventually("its sandbox runs", || {
        (!dev.processes("runsc-sandbox").is_empty()).then_some(())
    });
    let begun = Instant::now();
    let said = dev.stop();
    let took = begun.elapsed();
    assert!(
        said.lines().any(|line| line.starts_with("stopped ")),
        "{said}"
    );
    assert!(took < PROMPT, "it took {took:?}: {said}");
    assert!(!said.contains("killing"), "{said}");
    assert_eq!(dev.processes(""), [0; 0]);
}

#[test]
fn an_actor_that_is_older_than_its_template_is_waited_for() {
    let dev = Dev::start(&[]);
    dev.actor("early", "counter");
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    let wait = ["wait", "--for=condition=Ready", "actor/early", &limit];
    let early = std::thread::scope(|threads| {
        let waiting = threads.spawn(|| dev.try_kubectl(&wait));
        dev.with_counter(1);
        waiting.join().unwrap()
    });
    assert!(early.is_ok(), "{early:?}");
    assert_eq!(dev.visit("early"), (1, 1));
    let golden = dev.kubectl(&["get", "actors", "-l", "ate.dev/golden=true", "-o", "name"]);
    assert!(golden.contains("counter-golden"), "{golden}");
    assert_eq!(golden.lines().count(), 1, "{golden}");
}
