//! A crash at every step and around every store call: the process that passes it is killed, and no actor is lost, runs
//! twice or is stuck. The points come from the enums and the list of scripts, so that a new one cannot be forgotten.

use super::harness::{Dev, eventually};
use std::path::Path;
use strum::VariantNames;
use substrate::lifecycle;

/// Steps that only a take-over after a crash comes to; armed together with the crash that leads there.
const AFTER_CRASH: &[(&str, &str)] = &[
    ("FindClaim", "engine.Start.before"),
    ("Observe", "engine.Start.after"),
    ("FindSnapshot", "engine.Checkpoint.after"),
    ("Stop", "engine.Commit.before"),
];

/// So many points are armed for one actor's life.
const TOGETHER: usize = 4;

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
    let saved = dev.field(actor, ".status.snapshot.id");
    assert!(!saved.is_empty(), "an acknowledged suspend has a snapshot");
    let (after, disk) = visit();
    assert_eq!(after, disk);
    assert!(
        after > memory,
        "went back from {memory} to {after} after an acknowledged suspend"
    );
    eventually("pause", || dev.try_plugin(&["pause", actor]).ok());
    eventually("suspend", || dev.try_plugin(&["suspend", actor]).ok());
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

#[test]
fn a_crash_at_any_step_or_store_call_loses_nothing() {
    let armed = tempfile::tempdir().unwrap();
    let crash_dir = [("ATE_CRASH_DIR", armed.path().to_str().unwrap())];
    let dev = Dev::start_with(
        &["--operation-lease", "1", "--node-lease", "10"],
        &crash_dir,
    );
    dev.with_counter(2);
    let steps = lifecycle::actor::Step::VARIANTS
        .iter()
        .map(|step| format!("engine.{step}"));
    let stores = substrate::store::redis::SCRIPTS
        .iter()
        .map(|script| format!("store.{script}"));
    let all: Vec<_> = steps
        .chain(stores)
        .flat_map(|p| [format!("{p}.before"), format!("{p}.after")])
        .collect();
    let mut passed = 0;
    for (i, points) in all.chunks(TOGETHER).enumerate() {
        println!("{points:?}");
        for point in points {
            let step = point.split('.').nth(1).unwrap();
            for (_, first) in AFTER_CRASH.iter().filter(|(later, _)| *later == step) {
                arm(armed.path(), first);
            }
            arm(armed.path(), point);
        }
        live(&dev, &format!("a{i}"));
        let untouched = |point: &&String| std::fs::remove_file(armed.path().join(point)).is_ok();
        passed += points.len() - points.iter().filter(untouched).count();
        at_rest(&dev);
    }
    println!("{passed} of {} crash points were passed", all.len());
    assert!(passed > 40, "only {passed} crash points were passed");
}
