//! Version 2 with directories that look like it; version 1 is this machine's, or shown here too.

use super::super::{Group, Groups};
use super::*;
use crate::api::resources::Limits;

/// Files of the kernel's, and a tree in which `own` is our group with `pids` in it.
struct Kernel {
    dir: tempfile::TempDir,
    own: PathBuf,
}

impl Kernel {
    fn v2(own: &str, mounted: &str, pids: &str) -> Kernel {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let below = Path::new(own)
            .strip_prefix(mounted)
            .unwrap_or(Path::new("elsewhere"));
        let ours = tree.join(below);
        std::fs::create_dir_all(&ours).unwrap();
        std::fs::write(ours.join("cgroup.procs"), pids).unwrap();
        let mountinfo = format!(
            "30 23 0:26 {mounted} {} rw - cgroup2 cgroup2 rw\n",
            tree.display()
        );
        std::fs::write(dir.path().join("mountinfo"), mountinfo).unwrap();
        std::fs::write(dir.path().join("cgroup"), format!("0::{own}\n")).unwrap();
        Kernel { own: ours, dir }
    }

    /// The kernel shows controllers that can be enabled there; here a file that takes what is written.
    fn controllers(&self, dir: &Path, enabled: &str) {
        std::fs::write(dir.join("cgroup.subtree_control"), enabled).unwrap();
    }

    fn base(&self) -> Result<Base, String> {
        // The kernel makes a group's files with it.
        std::fs::create_dir_all(self.own.join("ate-x")).unwrap();
        self.controllers(&self.own.join("ate-x"), "");
        base(self.dir.path(), "x")
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.own.join(file)).unwrap()
    }
}

fn me() -> String {
    std::process::id().to_string()
}

#[test]
fn in_a_group_of_our_own_we_move_aside() {
    // A pod sees the whole tree, or its own part of it.
    for mounted in ["/", "/kubepods/pod1/c1"] {
        let kernel = Kernel::v2("/kubepods/pod1/c1", mounted, &me());
        kernel.controllers(&kernel.own, "");
        let base = kernel.base().unwrap();
        assert_eq!(base, Base::V2(kernel.own.join("ate-x")), "{mounted}");
        assert_eq!(kernel.read("ate-executor/cgroup.procs"), me());
        assert_eq!(kernel.read("cgroup.subtree_control"), "+memory +cpu");
        assert_eq!(kernel.read("ate-x/cgroup.subtree_control"), "+memory +cpu");
    }
}

#[test]
fn limits_are_written_as_the_kernel_reads_them() {
    let kernel = Kernel::v2("/own", "/", &me());
    kernel.controllers(&kernel.own, "cpuset cpu memory");
    let base = kernel.base().unwrap();
    assert_eq!(kernel.read("cgroup.subtree_control"), "cpuset cpu memory");
    let limits = Limits {
        memory: Some(64 << 20),
        cpu: Some(1500),
        share: Some(500),
    };
    let group = Group::make(&base, "s1", &limits).unwrap();
    let of = |file: &str| kernel.read(&format!("ate-x/s1/{file}"));
    assert_eq!(of("memory.max"), (128 << 20).to_string());
    assert_eq!(
        (of("cpu.max"), of("cpu.weight")),
        ("150000 100000".into(), "20".into())
    );
    group.release().unwrap();
    assert_eq!(of("memory.max"), "max");
    group.bind().unwrap();
    assert_eq!(of("memory.max"), (128 << 20).to_string());
    assert!(!group.ran_out());
    let events = |kills: u32| format!("low 0\noom {kills}\noom_kill {kills}\noom_group_kill 0\n");
    std::fs::write(kernel.own.join("ate-x/s1/memory.events"), events(0)).unwrap();
    assert!(!group.ran_out());
    std::fs::write(kernel.own.join("ate-x/s1/memory.events"), events(2)).unwrap();
    assert!(group.ran_out());
    let none = Group::make(&base, "s2", &Limits::default()).unwrap();
    assert_eq!(none.bound(), None);
    assert!(!kernel.own.join("ate-x/s2/memory.max").exists());
    assert_eq!(base.there().unwrap(), ["s1", "s2"]);
}

#[test]
fn among_others_it_is_the_root_or_nothing() {
    let others = format!("{}\n1\n", me());
    let kernel = Kernel::v2("/user.slice/shell", "/", &others);
    let root = kernel.dir.path().join("tree");
    let refused = kernel.base().unwrap_err();
    assert!(
        refused.contains("other processes are in our own control group"),
        "{refused}"
    );
    kernel.controllers(&root, "memory cpu");
    std::fs::create_dir(root.join("ate-x")).unwrap();
    kernel.controllers(&root.join("ate-x"), "");
    assert_eq!(kernel.base(), Ok(Base::V2(root.join("ate-x"))));
    // The root of a container is somebody's group.
    std::fs::write(root.join("cgroup.type"), "domain\n").unwrap();
    assert!(kernel.base().is_err());
    let groups = Groups::open_at(kernel.dir.path(), "x");
    assert!(groups.make("s1", &Limits::default()).unwrap().is_none());
    let limits = Limits {
        memory: Some(1),
        ..Limits::default()
    };
    let refused = groups.make("s1", &limits).unwrap_err().to_string();
    assert!(refused.contains("other processes"), "{refused}");
}

#[test]
fn what_is_mounted_of_version_1_is_found() {
    let groups = "9:cpu,cpuacct:/a\n4:memory:/kube/pod/c\n0::/\n";
    let mounts = mounts(
        "1 2 0:3 / /proc rw - proc proc rw\n\
         31 30 0:27 /kube/pod/c /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
    );
    let base = v1(groups, &mounts, "ate-x").unwrap();
    let [memory, cpu] =
        ["memory/ate-x", "cpu,cpuacct/a/ate-x"].map(|d| Path::new("/sys/fs/cgroup").join(d));
    assert_eq!(base, Base::V1 { memory, cpu });
    let refused = v1("4:memory:/\n", &mounts, "ate-x").unwrap_err();
    assert!(
        refused.contains("memory controller is not mounted"),
        "{refused}"
    );
}
