//! What a sandbox may take, with this machine's control groups.

use super::*;
use crate::api::resources::SANDBOX_OVERHEAD;
use std::path::Component;

const MIB: u64 = 1 << 20;

fn bounded(spec: Spec, memory: u64) -> Spec {
    let limits = Limits {
        memory: Some(memory),
        ..Limits::default()
    };
    Spec { limits, ..spec }
}

/// Directories of the sandbox's groups, as its process says.
fn groups_of(pid: Pid) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |controller: &str| {
        let line = text
            .lines()
            .find(|l| l.contains(&format!(":{controller}:")));
        let group = line.unwrap().rsplit(':').next().unwrap();
        let below = Path::new(group)
            .components()
            .filter(|c| *c != Component::RootDir);
        Path::new("/sys/fs/cgroup")
            .join(controller)
            .join(below.collect::<PathBuf>())
    };
    ["memory", "cpu"].map(of).into()
}

fn number(file: PathBuf, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

async fn killed(slot: &Slot, megabytes: u64) -> String {
    let asked = get((INNER, 8080), &format!("/mem?mb={megabytes}")).await;
    assert!(asked.is_err(), "{asked:?}");
    let ended = tokio::time::timeout(testing::PATIENCE, slot.gvisor.exited()).await;
    let ended = ended.unwrap();
    let observed = slot.gvisor.observe().await.unwrap();
    assert_eq!(observed, Observed::Exited(ended.clone()));
    ended.to_string()
}

#[test]
fn a_sandbox_that_takes_too_much_memory_is_killed_and_it_is_said() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor
            .run(&bounded(slot.spec("a", 1), 128 * MIB))
            .await
            .unwrap();
        answer(8080, "/mem?mb=64").await;
        let groups = groups_of(slot.pid());
        let bound = number(groups[0].join("memory.limit_in_bytes"), "");
        assert_eq!(bound, 128 * MIB + SANDBOX_OVERHEAD);
        let said = killed(&slot, 400).await;
        assert_eq!(
            said,
            "it took more memory than the 128Mi of its limits, and was killed"
        );
        slot.gvisor.stop().await.unwrap();
        assert_eq!(slot.gvisor.residue().unwrap(), Vec::<String>::new());
        assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");

        // What another one runs has nothing of it.
        slot.gvisor.run(&slot.spec("b", 2)).await.unwrap();
        answer(8080, "/mem?mb=400").await;
        let left = groups_of(slot.pid())[0].parent().unwrap().join("left");
        std::fs::create_dir(&left).unwrap();
        slot.gvisor.stop().await.unwrap();
        assert_eq!(slot.gvisor.residue().unwrap(), ["control group left"]);
        std::fs::remove_dir(left).unwrap();
    });
}

#[test]
fn full_to_its_limit_it_is_saved_and_restored_with_the_same_limit() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let image = Path::new("/var/tmp").join(uuid::Uuid::new_v4().to_string());
        slot.gvisor
            .run(&bounded(slot.spec("a", 1), 128 * MIB))
            .await
            .unwrap();
        // It takes of what is beside what containers may take, too.
        let memory = answer(8080, "/mem?mb=144").await;
        slot.gvisor.checkpoint(&image).await.unwrap();

        // Created ahead with it.
        let spec = bounded(slot.spec("b", 2), 128 * MIB);
        slot.gvisor.prepare(&slot.ahead(&spec)).await.unwrap();
        assert_eq!(slot.gvisor.residue().unwrap(), Vec::<String>::new());
        let steps = slot.gvisor.restore(&spec, &image).await.unwrap();
        assert_eq!(names(&steps), ["restore"]);
        assert_eq!(answer(8080, "/mem").await, memory);
        let said = killed(&slot, 400).await;
        assert!(said.contains("128Mi"), "{said}");
        slot.gvisor.stop().await.unwrap();

        // With another limit it does not fit.
        let spec = bounded(slot.spec("c", 3), 128 * MIB);
        slot.gvisor.prepare(&slot.ahead(&spec)).await.unwrap();
        let more = bounded(spec, 1024 * MIB);
        let steps = slot.gvisor.restore(&more, &image).await.unwrap();
        assert_eq!(names(&steps), ["create", "restore"]);
        answer(8080, "/mem?mb=200").await;
        slot.gvisor.stop().await.unwrap();
        assert_eq!(slot.gvisor.residue().unwrap(), Vec::<String>::new());
        std::fs::remove_dir_all(image).unwrap();
    });
}

/// All processes of the slot are in the groups of its sandbox.
fn all_inside(slot: &Slot) {
    let groups = groups_of(slot.pid());
    let there = others();
    assert!(there.len() > 1, "a sandbox is several processes: {there:?}");
    for pid in there {
        let pid = Pid::from_raw(pid.parse().unwrap());
        assert_eq!(groups_of(pid), groups, "{pid}");
    }
}

#[test]
fn all_processes_of_a_sandbox_are_in_its_groups() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        for (n, names) in [&["app"][..], &["one", "two"]].into_iter().enumerate() {
            let spec = |actor: String| {
                let containers = names.iter().zip(8081..);
                let containers = containers.map(|(name, port)| container(name, port));
                Spec {
                    containers: containers.collect(),
                    ..bounded(slot.spec(&actor, 1), 1024 * MIB)
                }
            };
            let image = PathBuf::from(format!("/run/image-{n}"));
            slot.gvisor.run(&spec(format!("a{n}"))).await.unwrap();
            count(8081).await;
            all_inside(&slot);
            slot.gvisor.checkpoint(&image).await.unwrap();
            let again = spec(format!("b{n}"));
            slot.gvisor.prepare(&slot.ahead(&again)).await.unwrap();
            slot.gvisor.restore(&again, &image).await.unwrap();
            count(8081).await;
            all_inside(&slot);
            slot.gvisor.stop().await.unwrap();
        }
    });
}

#[test]
fn processors_are_bounded_and_shared() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let limits = Limits {
            memory: None,
            cpu: Some(200),
            share: Some(100),
        };
        let spec = Spec {
            limits,
            ..slot.spec("a", 1)
        };
        slot.gvisor.run(&spec).await.unwrap();
        answer(8080, "/").await;
        let cpu = groups_of(slot.pid()).remove(1);
        assert_eq!(number(cpu.join("cpu.cfs_quota_us"), ""), 20_000);
        assert_eq!(number(cpu.join("cpu.shares"), ""), 102);
        answer(8080, "/mem?mb=32").await;
        assert!(number(cpu.join("cpu.stat"), "nr_throttled ") > 0);
        slot.gvisor.stop().await.unwrap();
    });
}
