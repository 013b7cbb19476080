//! Every way in which runsc can fail, at every call that a wake and a suspend make of it.

use super::harness::{Dev, eventually, image, signal};
use super::wrapper::{Fault, Wrapper};
use Fault::*;
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

/// A worker is free again, or its actor goes on, this soon after an order that met a fault.
const BOUND: Duration = Duration::from_secs(60);
/// What the wrapper complains of.
const FLUX: &str = "exit status: 1: the flux is out of phase";
const FAULTS: [Fault; 7] = [Refuses, Hangs, Lies, Dies, Crashes, Lingers, Denies];

/// A call of runsc that is to fail, the order that leads to it, and what has to fail before so that it does.
type Target = (&'static str, &'static str, &'static [&'static str]);

const TARGETS: [Target; 8] = [
    // The first one creates a sandbox ahead.
    ("create", "resume", &["create"]),
    ("start", "boot", &[]),
    ("restore", "resume", &[]),
    ("state", "suspend", &[]),
    ("pause", "suspend", &[]),
    ("checkpoint", "suspend", &[]),
    ("resume", "suspend", &["checkpoint"]),
    ("delete", "suspend", &[]),
];

/// An actor that sleeps and wakes on a slot of its own.
struct Lane<'a> {
    dev: &'a Dev,
    wrapper: &'a Wrapper,
    name: &'static str,
    slot: String,
    /// Its count in the last snapshot that was acknowledged.
    durable: u64,
}

impl<'a> Lane<'a> {
    fn new(dev: &'a Dev, wrapper: &'a Wrapper, name: &'static str) -> Self {
        let file = dev.path(&format!("{name}.yaml"));
        let yaml = format!(
            "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: {name}, namespace: default, labels: {{lane: {name}}}}}\nspec: {{replicas: 1}}\n---\n\
             apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  templateRef: {{name: counter}}\n  workerSelector: {{matchLabels: {{lane: {name}}}}}\n"
        );
        std::fs::write(&file, yaml).unwrap();
        dev.kubectl(&["apply", "-f", file.to_str().unwrap()]);
        let slot = format!("{name}-0");
        Lane {
            dev,
            wrapper,
            name,
            slot,
            durable: 0,
        }
    }

    fn order(&self, what: &str) -> Result<String, String> {
        self.dev.try_plugin(&[what, self.name])
    }

    fn phase(&self) -> String {
        self.dev.field(self.name, ".status.phase")
    }

    fn sleep(&mut self, count: u64) {
        let slept = eventually("suspend", || self.order("suspend").ok());
        assert!(slept.contains("suspended"), "{slept}");
        self.durable = count;
        self.worker_is_free();
    }

    fn worker_is_free(&self) {
        let path = "jsonpath={.status.phase}";
        let args = ["get", "worker", &self.slot, "-o", path];
        eventually("the worker is free", || {
            (self.dev.try_kubectl(&args).ok()? == "Free").then_some(())
        });
    }

    /// One fault at one call; says what does not hold.
    fn meet(&mut self, target: &Target, fault: Fault) -> Result<(), String> {
        let (call, order, after) = *target;
        let (before, _) = self.dev.served(self.name);
        for first in after {
            let fault = if *first == call { fault } else { Refuses };
            self.wrapper.arm(&self.slot, first, fault);
        }
        if order != "suspend" {
            self.sleep(before);
        }
        self.wrapper.arm(&self.slot, call, fault);
        if call == "state" {
            eventually("a look meets it", || {
                self.wrapper.met(&self.slot, call).then_some(())
            });
        }

        let begun = Instant::now();
        let answer = self.order(order);
        let described = self.dev.kubectl(&["describe", "actor", self.name]);
        if self.phase() != "Running" {
            self.worker_is_free();
        }
        let took = begun.elapsed();
        ensure(took < BOUND, format!("the worker was free after {took:?}"))?;
        let met = self.wrapper.met(&self.slot, call);
        self.wrapper.disarm(&self.slot);
        ensure(met, format!("never met: {answer:?}"))?;
        match (words(call, fault), &answer) {
            (None, Ok(_)) => {}
            (Some(words), Err(said)) => {
                let told = |text: &str| text.contains(&words);
                ensure(told(said), format!("said {said}, not {words}"))?;
                ensure(told(&described), format!("{words} is not in {described}"))?;
            }
            (words, answer) => return Err(format!("{answer:?}, not {words:?}")),
        }

        let (count, file) = self.dev.served(self.name);
        ensure(count == file, format!("memory {count}, files {file}"))?;
        let loss = ".status.conditions[?(@.type==\"RolledBack\")].status";
        let lost = count == self.durable + 1 && self.dev.field(self.name, loss) == "True";
        ensure(
            count == before + 1 || lost,
            format!("from {before} to {count}, and nothing is said"),
        )?;
        self.sleep(count);
        Ok(())
    }
}

fn ensure(holds: bool, what: String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what) }
}

/// What a person reads of it; `None`: the order is carried out all the same.
fn words(call: &str, fault: Fault) -> Option<String> {
    let failed = |why: &str| Some(format!("runsc {call} failed: {why}"));
    match (call, fault) {
        // What is to end ends with its executor, a checkpoint pauses by itself, and who looks looks again.
        ("delete" | "state", _) | ("pause", Lies) => None,
        ("create", Lies) => failed("it left no process id"),
        ("start" | "restore", Lies) => Some("not ready within".to_owned()),
        ("checkpoint", Lies) => Some("the checkpoint is not complete".to_owned()),
        ("resume", Lies) => Some(format!("runsc checkpoint failed: {FLUX}")),
        (_, Lies) => unreachable!("{call} does not lie"),
        (_, Refuses | Denies) => failed(FLUX),
        (_, Crashes) => failed("signal: 11 (SIGSEGV): panic: the flux is out of phase"),
        (_, Dies) => failed("signal: 9 (SIGKILL)"),
        (_, Hangs | Lingers) => Some(format!("runsc {call} did not end within")),
    }
}

#[test]
fn whatever_runsc_does_the_worker_is_free_soon_and_the_reason_is_said() {
    let (dev, wrapper) = Wrapper::dev(&["--operation-lease", "2"]);
    dev.with_counter(1);
    let lane = |target: &'static Target| -> Vec<String> {
        let mut lane = Lane::new(&dev, &wrapper, target.0);
        let meet = |fault| Some((fault, lane.meet(target, fault).err()?));
        let wrong = FAULTS.into_iter().filter_map(meet);
        wrong
            .map(|(fault, why)| format!("{} {fault:?}: {why}", target.0))
            .collect()
    };
    let wrong: Vec<String> = std::thread::scope(|threads| {
        let lanes = TARGETS
            .each_ref()
            .map(|target| threads.spawn(|| lane(target)));
        lanes
            .into_iter()
            .flat_map(|lane| lane.join().unwrap())
            .collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Of several containers each is asked how it ended.
#[test]
fn a_container_that_ended_is_noticed_though_runsc_does_not_say_how() {
    let (dev, wrapper) = Wrapper::dev(&["--operation-lease", "2"]);
    dev.with_counter(1);
    let side = format!(
        "  - name: side\n    image: {}\n    env: [{{name: PORT, value: \"8081\"}}]\n",
        image()
    );
    dev.apply(&(dev.template("pair", &image()) + &side));
    dev.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "actortemplate/pair",
        "--timeout=90s",
    ]);
    dev.actor("a", "pair");
    for (fault, count) in [Refuses, Hangs, Lies].into_iter().zip(1..) {
        assert_eq!(dev.served("a"), (count, count));
        dev.plugin(&["suspend", "a"]);
        assert_eq!(dev.visit("a").0, count + 1);
        wrapper.arm("pool-0", "wait", fault);
        let begun = Instant::now();
        let _ = dev.try_get("a", "/exit?code=3");
        eventually("it is asked how it ended", || {
            wrapper.met("pool-0", "wait").then_some(())
        });
        eventually("it is said to have gone back", || {
            let loss = ".status.conditions[?(@.type==\"RolledBack\")].status";
            (dev.field("a", loss) == "True").then_some(())
        });
        assert!(begun.elapsed() < BOUND, "{fault:?}: {:?}", begun.elapsed());
        wrapper.disarm("pool-0");
    }
}

#[test]
fn no_call_of_runsc_is_left_out() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox/gvisor/runsc.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    let named = ["quick(\"", "name: \""];
    let calls = named.iter().flat_map(|way| code.split(way).skip(1));
    let calls: Vec<_> = calls.filter_map(|rest| rest.split('"').next()).collect();
    let covered =
        |call: &&str| *call == "wait" || TARGETS.iter().any(|(known, _, _)| known == call);
    assert!(calls.iter().all(covered), "{calls:?}");
    assert_eq!(calls.len(), TARGETS.len() + 1);
}

/// Whatever else fails, what may not run any more does not: with the node agent there, and without.
#[test]
fn a_sandbox_that_does_not_freeze_when_the_lease_has_lapsed_is_ended() {
    let (dev, wrapper) = Wrapper::dev(&["--operation-lease", "2", "--node-lease", "6"]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    let (mut durable, _) = dev.visit("a");
    for silent in [&["/ate apiserver"][..], &["/ate apiserver", "/ate atelet"]] {
        dev.plugin(&["suspend", "a"]);
        assert_eq!(dev.visit("a").0, durable + 1);
        let before = dev.processes("runsc-sandbox");
        assert_eq!(before.len(), 1);
        for call in ["pause", "delete"] {
            wrapper.arm_for_good("pool-0", call, Hangs);
        }
        let pids: Vec<_> = silent.iter().flat_map(|name| dev.processes(name)).collect();
        assert_eq!(pids.len(), silent.len());
        pids.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        let begun = Instant::now();
        eventually("it is ended", || {
            (!dev.processes("runsc-sandbox").contains(&before[0])).then_some(())
        });
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        wrapper.disarm("pool-0");
        pids.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
        eventually("it is said to have gone back", || {
            let loss = ".status.conditions[?(@.type==\"RolledBack\")].status";
            (dev.field("a", loss) == "True").then_some(())
        });
        assert_eq!(dev.served("a"), (durable + 1, durable + 1));
        durable += 1;
    }
}
