//! A crash at every step and around every store call: the process that passes it is killed, and no actor is lost, runs
//! twice or is stuck. The points come from the enums and the list of scripts, so that a new one cannot be forgotten.

use super::harness::{Dev, PATIENCE, eventually, kill, pack_with, signal};
use crate::layers::sources;
use nix::sys::signal::Signal;
use std::net::TcpStream;
use std::path::Path;
use strum::VariantNames;
use substrate::lifecycle;

/// Steps that only a take-over after a crash comes to; armed together with the crash that leads there.
const AFTER_CRASH: &[(&str, &str)] = &[
    ("FindClaim", "engine.Start.before"),
    ("Observe", "engine.Checkpoint.before"),
    ("FindSnapshot", "engine.Checkpoint.after"),
    ("Stop", "engine.Commit.before"),
];

/// Points that are named one by one: what a room does, and the steps of it.
const NAMED: [(&str, &[&str]); 3] = [
    ("spool", &["keep", "publish", "seal"]),
    (
        "executor",
        &["prepare", "start", "save", "clean", "freeze", "thaw"],
    ),
    ("image", &["unpack", "complete"]),
];

/// Points that have the names of steps and scripts.
const DERIVED: [&str; 3] = ["engine.", "slot.", "store."];

/// Something that happens beside an actor's life.
type Beside = fn(&Dev);

/// What must happen for points to be passed.
const BESIDE: &[(&[&str], Beside)] = &[
    (&["store.get_flat"], ask_for_a_flat_id),
    (&["store.update_spec"], label),
    (&["store.raise"], list_of_old),
    (&["store.list"], |dev| list(dev, "actors")),
    (&["store.get_document"], |dev| list(dev, "workerpool/pool")),
    (&["store.documents"], |dev| list(dev, "actortemplates")),
    (&["store.put_document", "store.remove_worker"], scale),
    (&["slot.rebuild"], kill_executors),
    (&["slot.freeze", "slot.thaw"], silence),
    (&["executor.freeze.before"], silence),
    (&["executor.freeze.after"], silence),
    (&["executor.thaw.before"], silence),
    (&["executor.thaw.after"], silence),
    (&["image."], unpack_another),
];

/// Points that no test can lead to at will; what happens there is shown by simulated schedules and the store's own tests.
const BY_CHANCE: &[&str] = &[
    "engine.AwaitNode",    // the owner dies while its order is under way
    "engine.Abandon",      // a node stays away for longer than its lease
    "engine.Done.after",   // nothing follows
    "engine.Remove.after", // nor here, for the one that removed it
    "store.recover",       // the store lost writes
    "store.renew",         // an operation takes longer than a third of its lease
    "store.touch",         // nobody reports activity
    "store.boot",          // the store's server starts
    "store.log_before",    // a list of workers or documents goes on while they change
    "store.log_tail",      // a list goes on after very many changes
    "store.holder",        // a claim that was made by an owner that died
    "store.remove_node",   // no node is removed
    "slot.ask",            // an executor is busy when it is looked at
    "slot.wait",           // not a step that is carried out
    "slot.freeze",         // the executor stands still by itself, often at the same moment
    "slot.give-up-saving", // a sandbox ends by itself while it is saved
];

/// So many points are armed for one actor's life.
const TOGETHER: usize = 6;

fn arm(dir: &Path, point: &str) {
    std::fs::write(dir.join(point), "").unwrap();
}

/// Wakes, visits, sleeps and deletes actors; every call is tried again until it gets through.
fn live(dev: &Dev, actor: &str) {
    let visit = || dev.served(actor);
    eventually("create", || {
        let made = dev.try_kubectl(&["get", "actor", actor]);
        made.ok().map(|_| ()).or_else(|| create(dev, actor))
    });
    let (memory, disk) = visit();
    assert_eq!(memory, disk, "memory and files are of one moment");
    let slept = eventually("suspend", || dev.try_plugin(&["suspend", actor]).ok());
    assert!(slept.contains("suspended"), "{slept}");
    eventually("an acknowledged suspend has a snapshot", || {
        Some(dev.field(actor, ".status.snapshot.id")).filter(|id| !id.is_empty())
    });
    let (after, disk) = visit();
    assert_eq!(after, disk);
    assert!(
        after > memory,
        "went back from {memory} to {after} after an acknowledged suspend"
    );
    eventually("pause", || dev.try_plugin(&["pause", actor]).ok());
    eventually("suspend", || dev.try_plugin(&["suspend", actor]).ok());
    // Deleted while it runs.
    visit();
    delete(dev, actor);
}

fn ask_for_a_flat_id(dev: &Dev) {
    let request = r#"{"actor_id": "nobody"}"#;
    eventually("an answer by gRPC", || {
        let asked = dev.try_grpcurl(&["-d", request], "ateapi.Control/GetActor");
        asked.err().filter(|e| e.contains("NotFound"))
    });
}

fn label(dev: &Dev) {
    let actor = "labelled";
    eventually("create", || create(dev, actor));
    eventually("a label", || {
        dev.try_kubectl(&["label", "--overwrite", "actor", actor, "a=b"])
            .ok()
    });
    delete(dev, actor);
}

fn list(dev: &Dev, what: &str) {
    eventually("a list", || dev.try_kubectl(&["get", what]).ok());
}

/// A list at a version, which is compared with the newest.
fn list_of_old(dev: &Dev) {
    let path = "/apis/runtime.ate.dev/v1alpha1/actors?resourceVersion=1&resourceVersionMatch=Exact";
    eventually("an answer", || {
        match dev.try_kubectl(&["get", "--raw", path]) {
            Ok(_) => Some(()),
            Err(why) => why.contains("too old").then_some(()),
        }
    });
}

/// One worker more, and it goes again.
fn scale(dev: &Dev) {
    for replicas in [3, 2] {
        let patch = format!(r#"{{"spec": {{"replicas": {replicas}}}}}"#);
        eventually("the pool is changed", || {
            dev.try_kubectl(&["patch", "workerpool", "pool", "--type=merge", "-p", &patch])
                .ok()
        });
        eventually("the pool has as many workers", || {
            let workers = dev.try_kubectl(&["get", "workers", "-o", "name"]).ok()?;
            (workers.lines().count() == replicas).then_some(())
        });
    }
}

fn kill_executors(dev: &Dev) {
    dev.processes("/ate ateom").into_iter().for_each(kill);
}

/// The API server does not answer until the node's lease has lapsed.
fn silence(dev: &Dev) {
    let actor = "still";
    eventually("create", || create(dev, actor));
    dev.served(actor);
    let address = dev.address(actor);
    let silent = dev.processes("/ate apiserver");
    silent.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    eventually("it stands still", || TcpStream::connect(&address).err());
    silent.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    dev.served(actor);
    delete(dev, actor);
}

/// An image that the node has not seen.
fn unpack_another(dev: &Dev) {
    let image = pack_with(&dev.path("another"), "another");
    eventually("another template", || {
        let file = dev.path("another.yaml");
        std::fs::write(&file, dev.template("another", &image)).unwrap();
        dev.try_kubectl(&["apply", "-f", file.to_str()?]).ok()
    });
    eventually("it is ready", || {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        let wait = [
            "wait",
            "--for=condition=Ready",
            "actortemplate/another",
            &limit,
        ];
        dev.try_kubectl(&wait).ok()
    });
}

fn delete(dev: &Dev, actor: &str) {
    eventually("delete", || {
        let _ = dev.try_kubectl(&["delete", "actor", actor, "--wait=false"]);
        dev.try_kubectl(&["get", "actor", actor])
            .err()
            .filter(|e| e.contains("NotFound"))
    });
}

fn create(dev: &Dev, actor: &str) -> Option<()> {
    let file = dev.path("crash.yaml");
    let yaml = format!(
        "apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nmetadata: {{name: {actor}, namespace: default}}\nspec: {{templateRef: {{name: counter}}}}\n"
    );
    std::fs::write(&file, yaml).unwrap();
    dev.try_kubectl(&["apply", "-f", file.to_str()?])
        .ok()
        .map(|_| ())
}

/// Both slots are free and clean again, and nothing of deleted actors is left.
fn at_rest(dev: &Dev) {
    eventually("both workers are free", || {
        let phases = dev
            .try_kubectl(&["get", "workers", "-o", "jsonpath={.items[*].status.phase}"])
            .ok()?;
        (phases == "Free Free").then_some(())
    });
    let actors = dev.kubectl(&["get", "actors", "-o", "name"]);
    assert_eq!(
        actors.lines().filter(|l| !l.contains("golden")).count(),
        0,
        "{actors}"
    );
}

/// An `ate dev` that crashes once at each of these points, before and after what happens there.
fn crash_at(names: impl Iterator<Item = String>) {
    let armed = tempfile::tempdir().unwrap();
    let crash_dir = [("ATE_CRASH_DIR", armed.path().to_str().unwrap())];
    let dev = Dev::start_with(
        &["--operation-lease", "1", "--node-lease", "10"],
        &crash_dir,
    );
    dev.with_counter(2);
    let all: Vec<_> = names
        .flat_map(|p| [format!("{p}.before"), format!("{p}.after")])
        .collect();
    let mut missed = Vec::new();
    for (i, points) in all.chunks(TOGETHER).enumerate() {
        println!("{points:?}");
        for point in points {
            let step = point.split('.').nth(1).unwrap();
            for (_, first) in AFTER_CRASH.iter().filter(|(later, _)| *later == step) {
                arm(armed.path(), first);
            }
            arm(armed.path(), point);
        }
        let armed_here = |names: &[&str]| {
            let of = |name: &&str| points.iter().any(|point| point.starts_with(name));
            names.iter().any(of)
        };
        for (_, beside) in BESIDE.iter().filter(|(names, _)| armed_here(names)) {
            beside(&dev);
        }
        live(&dev, &format!("a{i}"));
        let untouched = |point: &&String| std::fs::remove_file(armed.path().join(point)).is_ok();
        missed.extend(points.iter().filter(untouched));
        at_rest(&dev);
    }
    println!(
        "{} of {} crash points were passed",
        all.len() - missed.len(),
        all.len()
    );
    missed.retain(|point| !BY_CHANCE.iter().any(|p| point.starts_with(p)));
    assert!(missed.is_empty(), "never passed: {missed:?}");
}

#[test]
fn a_crash_at_any_step_of_an_actor_loses_nothing() {
    let steps = lifecycle::actor::Step::VARIANTS;
    crash_at(steps.iter().map(|step| format!("engine.{step}")));
}

#[test]
fn a_crash_around_any_store_call_loses_nothing() {
    let scripts = substrate::store::redis::SCRIPTS;
    crash_at(scripts.iter().map(|script| format!("store.{script}")));
}

fn named(room: &str) -> impl Iterator<Item = String> {
    let rooms = NAMED.into_iter().filter(move |(name, _)| *name == room);
    rooms.flat_map(|(room, steps)| steps.iter().map(move |step| format!("{room}.{step}")))
}

#[test]
fn a_crash_at_any_step_of_the_spool_loses_nothing() {
    crash_at(named("spool"));
}

#[test]
fn a_crash_of_an_executor_at_any_of_its_calls_loses_nothing() {
    crash_at(named("executor"));
}

#[test]
fn a_crash_while_an_image_is_unpacked_leaves_nothing_half_made() {
    crash_at(named("image"));
}

#[test]
fn there_is_a_crash_at_every_point_of_the_source() {
    let mut files = vec![];
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let covered: Vec<_> = NAMED.iter().flat_map(|(room, _)| named(room)).collect();
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let calls = text.split("failpoint::crash(").skip(1);
        for point in calls.filter_map(|call| call.split('"').nth(1)) {
            let derived = DERIVED.iter().any(|room| point.starts_with(room));
            let step = point
                .strip_suffix(".before")
                .or(point.strip_suffix(".after"));
            let named = step.is_some_and(|step| covered.iter().any(|known| known == step));
            assert!(
                derived || named,
                "{point} of {}: add it to NAMED",
                file.display()
            );
            seen += 1;
        }
    }
    assert!(seen > covered.len(), "{seen}");
}

#[test]
fn a_crash_at_any_step_of_a_slot_loses_nothing() {
    let steps = lifecycle::slot::STEPS;
    let steps = steps.iter().map(|step| format!("slot.{}", step.name()));
    crash_at(steps);
}
