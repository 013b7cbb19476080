//! Bytes that change or go missing where snapshots lie: refused with the reason, never wrong memory.

use super::harness::{Dev, eventually, kill};
use super::objects::{BUCKET, Objects, apply, forget_copies, objects, ready};
use crate::parts::versitygw::{ACCESS_KEY, SECRET_KEY};
use std::path::{Path, PathBuf};

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flipped,
    Truncated,
    Gone,
}

const DAMAGES: [Damage; 3] = [Damage::Flipped, Damage::Truncated, Damage::Gone];

/// Does it; returns how the file was. It stays the same file, with what the server notes of it.
fn damage(file: &Path, how: Damage) -> Vec<u8> {
    let was = std::fs::read(file).unwrap();
    let (mut now, middle) = (was.clone(), was.len() / 2);
    match how {
        Damage::Flipped => now[middle] ^= 1,
        Damage::Truncated => now.truncate(middle),
        Damage::Gone => {
            std::fs::rename(file, file.with_extension("gone")).unwrap();
            return was;
        }
    }
    std::fs::write(file, now).unwrap();
    was
}

fn mend(file: &Path, how: Damage, was: &[u8]) {
    if let Damage::Gone = how {
        std::fs::rename(file.with_extension("gone"), file).unwrap();
    }
    std::fs::write(file, was).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The objects of an actor's snapshot, as the server keeps them.
fn stored(objects: &Objects, dev: &Dev, actor: &str) -> Vec<PathBuf> {
    let (id, manifest) = (dev.field(actor, ".status.snapshot.id"), "manifest.json");
    let keys = objects.keys();
    let own = keys.iter().filter(|key| key.contains(&format!("/{id}/")));
    let files: Vec<_> = own.map(|key| objects.bucket().join(key)).collect();
    assert!(
        files.iter().any(|file| file.ends_with(manifest)),
        "{keys:?}"
    );
    files
}

/// It does not wake, and says why, with these words.
#[track_caller]
fn refused(dev: &Dev, actor: &str, words: &str) {
    let said = dev.try_plugin(&["resume", actor]).unwrap_err();
    let described = dev.kubectl(&["describe", "actor", actor]);
    for text in [said, described] {
        let why = text.contains("SnapshotUnreadable") && text.contains(words);
        assert!(why, "{words}: {text}");
    }
}

#[test]
fn what_changed_in_the_store_is_refused_until_it_is_as_it_was() {
    let objects = objects(false);
    let dev = objects.dev_at(&objects.server.url(), ACCESS_KEY, SECRET_KEY);
    apply(&dev, &format!("s3://{BUCKET}"));
    ready(&dev);
    dev.actor("first", "counter");
    assert_eq!(dev.visit("first"), (1, 1));
    dev.plugin(&["suspend", "first"]);
    let count = stored(&objects, &dev, "first").len();

    // An actor for each object and damage: those that fail often wait longer.
    let mut cases = vec![];
    for (n, how) in DAMAGES.into_iter().enumerate() {
        for object in 0..count {
            let actor = format!("a{n}-{object}");
            dev.actor(&actor, "counter");
            assert_eq!(dev.visit(&actor), (1, 1));
            assert_eq!(dev.visit(&actor), (2, 2));
            dev.plugin(&["suspend", &actor]);
            let file = stored(&objects, &dev, &actor).swap_remove(object);
            let was = damage(&file, how);
            cases.push((actor, file, how, was));
        }
    }
    forget_copies(&dev);
    for (actor, file, how, was) in cases {
        let id = dev.field(&actor, ".status.snapshot.id");
        refused(&dev, &actor, &id);
        mend(&file, how, &was);
        assert_eq!(dev.served(&actor), (3, 3), "{how:?} {}", file.display());
        dev.plugin(&["suspend", &actor]);
    }
    assert_eq!(dev.served("first"), (2, 2), "others are not concerned");
}

/// The node agent is killed, and is there again.
fn restart_agent(dev: &Dev) {
    let before = dev.processes("/ate atelet");
    before.iter().for_each(|pid| kill(*pid));
    eventually("it is started again", || {
        let now = dev.processes("/ate atelet");
        (!now.is_empty() && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });
}

/// The files of an actor's copy on the node, once they are hashed.
fn copy(dev: &Dev, actor: &str) -> Vec<PathBuf> {
    let id = dev.field(actor, ".status.snapshot.id");
    let held = dev.path(&format!("lib/node/held/{id}.json"));
    eventually("it is hashed", || {
        let held = std::fs::read(&held).ok()?;
        let held: serde_json::Value = serde_json::from_slice(&held).ok()?;
        held["unhashed_since"].is_null().then_some(())
    });
    files(&dev.path(&format!("lib/node/snapshots/{id}")))
}

#[test]
fn what_changed_on_the_node_over_a_restart_is_refused_or_fetched_again() {
    let dev = Dev::start(&["--operation-lease", "2"]);
    dev.with_counter(1);
    let mut only_here = vec![];
    for (n, how) in DAMAGES.into_iter().enumerate() {
        // Three files.
        for file in 0..3 {
            let (here, published) = (format!("here{n}-{file}"), format!("published{n}-{file}"));
            for (actor, order) in [(&here, "pause"), (&published, "suspend")] {
                dev.actor(actor, "counter");
                assert_eq!(dev.visit(actor), (1, 1));
                dev.plugin(&["suspend", actor]);
                assert_eq!(dev.visit(actor), (2, 2));
                dev.plugin(&[order, actor]);
                let file = copy(&dev, actor).swap_remove(file);
                damage(&file, how);
                only_here.extend((order == "pause").then(|| (actor.clone(), file)));
            }
        }
    }
    restart_agent(&dev);
    for (n, _) in DAMAGES.iter().enumerate() {
        for file in 0..3 {
            let actor = format!("published{n}-{file}");
            assert_eq!(dev.served(&actor), (3, 3), "from the store");
            dev.plugin(&["suspend", &actor]);
        }
    }
    for (actor, file) in only_here {
        refused(&dev, &actor, file.file_name().unwrap().to_str().unwrap());
        dev.plugin(&["boot", &actor]);
        assert_eq!(dev.visit(&actor).0, 1);
        dev.plugin(&["suspend", &actor]);
    }
}
