//! A node whose disk is full: what runs goes on, what sleeps stays as it is, and both say why.

use super::harness::{Dev, PATIENCE, eventually, pack_with};
use super::objects::forget_copies;
use std::fs::{DirBuilder, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the file system.
const SIZE: u64 = 512 << 20;
/// What an actor holds in memory, incompressible: more than is left when a disk is filled up to [`LEFT`].
const HELD_MIB: u64 = 48;
const LEFT: u64 = 16 << 20;
const FULL: &str = "No space left on device";

/// A file system of its own for one directory. It is unmounted with the directory of its `ate dev`.
struct Disk(PathBuf);

impl Disk {
    fn mount(below: &Path, dir: &str) -> Disk {
        let (backing, at) = (below.join(dir.replace('/', "-")), below.join(dir));
        File::create(&backing).unwrap().set_len(SIZE).unwrap();
        DirBuilder::new().recursive(true).create(&at).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        // Nothing is kept back for root.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(&backing));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&backing, &at]));
        Disk(at)
    }

    /// Fills it but for `left` bytes.
    fn fill(&self, left: u64) {
        let fs = nix::sys::statvfs::statvfs(&self.0).unwrap();
        let free = fs.blocks_available() * fs.fragment_size();
        let filler = self.0.join("filler");
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(filler)
            .unwrap();
        // Its own blocks take some.
        let mut bytes = free.saturating_sub(left);
        while nix::fcntl::posix_fallocate(&file, 0, bytes as i64).is_err() {
            bytes -= 64 << 10;
        }
        if left == 0 {
            use std::io::Write;
            let mut file = file;
            while file.write_all(&[1; 4096]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

/// An `ate dev` whose `dir` is on a disk of its own.
fn dev_on(dir: &str) -> (Dev, Disk) {
    let mut disk = None;
    let prepare = |below: &Path| disk = Some(Disk::mount(below, dir));
    let dev = Dev::start_in(prepare, &["--operation-lease", "2"], &[]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    (dev, disk.unwrap())
}

fn free(dev: &Dev) {
    eventually("the worker is free", || {
        let path = "jsonpath={.items[*].status.phase}";
        let phases = dev.try_kubectl(&["get", "workers", "-o", path]).ok()?;
        (phases == "Free").then_some(())
    });
}

#[track_caller]
fn told(dev: &Dev, answer: Result<String, String>, reason: &str) {
    let said = answer.unwrap_err();
    let described = dev.kubectl(&["describe", "actor", "a"]);
    for text in [said, described] {
        let text = text.to_lowercase();
        let full = text.contains(&FULL.to_lowercase());
        assert!(full && text.contains(&reason.to_lowercase()), "{text}");
    }
}

#[test]
fn an_actor_goes_on_where_there_is_no_room_for_its_checkpoint() {
    let (dev, disk) = dev_on("lib/node");
    assert_eq!(dev.visit("a"), (1, 1));
    let memory = dev.get("a", &format!("/mem?mb={HELD_MIB}"));

    for left in [LEFT, 0] {
        disk.fill(left);
        for order in ["suspend", "pause"] {
            told(&dev, dev.try_plugin(&[order, "a"]), "CheckpointFailed");
            assert_eq!(dev.field("a", ".status.phase"), "Running");
            assert_eq!(dev.get("a", "/mem"), memory, "{left} left");
        }
        disk.empty();
    }
    assert_eq!(dev.visit("a"), (2, 2));
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.visit("a"), (3, 3));
    assert_eq!(dev.get("a", "/mem"), memory);
}

#[test]
fn an_actor_sleeps_on_where_there_is_no_room_for_it_to_wake() {
    let (dev, disk) = dev_on("lib/node");
    assert_eq!(dev.visit("a"), (1, 1));
    let memory = dev.get("a", &format!("/mem?mb={HELD_MIB}"));
    dev.plugin(&["suspend", "a"]);
    free(&dev);

    disk.fill(0);
    told(&dev, dev.try_plugin(&["resume", "a"]), "Failed");
    free(&dev);
    disk.empty();
    assert_eq!(dev.served("a"), (2, 2), "from the node's copy");
    dev.plugin(&["suspend", "a"]);
    free(&dev);

    forget_copies(&dev);
    disk.fill(LEFT);
    told(&dev, dev.try_plugin(&["resume", "a"]), "RestoreFailed");
    free(&dev);
    let drafts = std::fs::read_dir(dev.path("lib/node/spool")).unwrap();
    assert_eq!(drafts.count(), 0, "nothing of what was fetched is left");
    disk.empty();
    assert_eq!(dev.served("a"), (3, 3), "from the published snapshot");
    assert_eq!(dev.get("a", "/mem"), memory);
}

#[test]
fn a_snapshot_stays_on_its_node_while_there_is_no_room_to_publish_it() {
    let (dev, disk) = dev_on("lib/snapshots");
    assert_eq!(dev.visit("a"), (1, 1));
    let memory = dev.get("a", &format!("/mem?mb={HELD_MIB}"));
    disk.fill(LEFT);
    told(&dev, dev.try_plugin(&["suspend", "a"]), "CheckpointFailed");
    assert_eq!(dev.field("a", ".status.phase"), "Paused");
    free(&dev);
    assert_eq!(dev.served("a"), (2, 2));
    disk.empty();
    dev.plugin(&["suspend", "a"]);
    free(&dev);
    forget_copies(&dev);
    assert_eq!(dev.served("a"), (3, 3), "what was published then is whole");
    assert_eq!(dev.get("a", "/mem"), memory);
}

#[test]
fn an_image_that_does_not_fit_says_so_and_leaves_nothing() {
    let (dev, disk) = dev_on("lib/node");
    let at = dev.path("large");
    DirBuilder::new()
        .recursive(true)
        .create(at.join("rootfs"))
        .unwrap();
    std::fs::write(at.join("rootfs/ballast"), vec![7; 2 * LEFT as usize]).unwrap();
    let image = pack_with(&at, "large");

    disk.fill(LEFT);
    dev.apply(&dev.template("large", &image));
    eventually("the template says why", || {
        let said = dev.template_says("large")?;
        let described = dev.kubectl(&["describe", "actortemplate", "large"]);
        (said.starts_with("ImageUnavailable") && said.contains(FULL) && described.contains(FULL))
            .then_some(())
    });
    assert_eq!(dev.served("a"), (1, 1), "others are served");
    let half = std::fs::read_dir(dev.path("lib/node/images/tmp")).unwrap();
    assert_eq!(half.count(), 0, "nothing of it is left");
    disk.empty();
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    dev.plugin(&["suspend", "a"]);
    dev.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "actortemplate/large",
        &limit,
    ]);
}
