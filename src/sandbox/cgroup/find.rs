//! Where groups can be made: from what the kernel says of our own, and of what is mounted.

use super::remove_dir;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Controllers that limits need.
const CONTROLLERS: [&str; 2] = ["memory", "cpu"];
/// Our own group in version 2, once groups for sandboxes are beside us: one with controllers for others has no processes itself.
const OWN_LEAF: &str = "ate-executor";

/// How long who has ended may be in a group still.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// The directories of an executor's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// A tree per controller.
    V1 { memory: PathBuf, cpu: PathBuf },
    /// One tree.
    V2(PathBuf),
}

impl Base {
    pub fn dirs(&self) -> Vec<&Path> {
        match self {
            Base::V1 { memory, cpu } if memory == cpu => vec![memory],
            Base::V1 { memory, cpu } => vec![memory, cpu],
            Base::V2(dir) => vec![dir],
        }
    }

    pub fn there(&self) -> io::Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for dir in self.dirs() {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    names.extend(entry.file_name().into_string());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Removes the groups of sandboxes in which nothing runs.
    pub fn empty(&self) {
        for id in self.there().unwrap_or_default() {
            for dir in self.dirs() {
                let _ = std::fs::remove_dir(dir.join(&id));
            }
        }
    }

    /// Nothing is to be in them any more.
    pub fn remove(&self) {
        for dir in self.dirs() {
            if let Err(error) = std::fs::remove_dir(dir) {
                tracing::debug!(dir = %dir.display(), %error, "a control group stays");
            }
        }
    }
}

/// A mounted tree: where, what of it, and of which controllers.
struct Mount {
    point: PathBuf,
    root: PathBuf,
    version: u8,
    controllers: String,
}

/// What mountinfo says of groups (proc_pid_mountinfo(5)).
fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?.into(), fields.next()?.into());
        let mut after = after.split(' ');
        let version = match after.next()? {
            "cgroup" => 1,
            "cgroup2" => 2,
            _ => return None,
        };
        let controllers = after.nth(1).unwrap_or_default().to_owned();
        Some(Mount {
            point,
            root,
            version,
            controllers,
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Our own group in the tree of `controller` (proc_pid_cgroup(5)); that of version 2 has no name.
fn own<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let ours = controllers.split(',').any(|c| c == controller);
        ours.then_some(path)
    })
}

/// Makes and finds the base of `name`, or says why there can be none.
pub(super) fn base(proc: &Path, name: &str) -> Result<Base, String> {
    let read = |file: &str| {
        let path = proc.join(file);
        std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let (groups, mounts) = (read("cgroup")?, mounts(&read("mountinfo")?));
    let name = directory(name);
    let base = match own(&groups, "memory") {
        Some(_) => v1(&groups, &mounts, &name)?,
        None => Base::V2(v2(own(&groups, ""), &mounts)?.join(&name)),
    };
    for dir in base.dirs() {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(dir, &e)),
            _ => {}
        }
    }
    if let Base::V2(dir) = &base {
        enable(dir)?;
    }
    Ok(base)
}

fn directory(name: &str) -> String {
    format!("ate-{name}")
}

fn cannot(path: &Path, error: &io::Error) -> String {
    format!(
        "{}: {error}; the worker must be root, or its pod privileged, with control groups mounted for writing",
        path.display()
    )
}

fn v1(groups: &str, mounts: &[Mount], name: &str) -> Result<Base, String> {
    let dir = |controller: &str| {
        let mounted =
            |m: &&Mount| m.version == 1 && m.controllers.split(',').any(|c| c == controller);
        let own = own(groups, controller);
        let parent = own.and_then(|own| mounts.iter().filter(mounted).find_map(|m| seen(m, own)));
        let none = || format!("the control group of the {controller} controller is not mounted");
        Ok::<_, String>(parent.ok_or_else(none)?.join(name))
    };
    let [memory, cpu] = CONTROLLERS.map(dir);
    Ok(Base::V1 {
        memory: memory?,
        cpu: cpu?,
    })
}

/// Where the group is seen in that mount: below what of the tree is mounted there.
fn seen(mount: &Mount, group: &str) -> Option<PathBuf> {
    let below = Path::new(group).strip_prefix(&mount.root).ok()?;
    Some(mount.point.join(below))
}

/// The group below which others can be made: our own, if nobody else is in there, else the root of all.
fn v2(own: Option<&str>, mounts: &[Mount]) -> Result<PathBuf, String> {
    let mount = mounts.iter().find(|m| m.version == 2);
    let (Some(own), Some(mount)) = (own, mount) else {
        return Err("control groups are not mounted".to_owned());
    };
    let ours = seen(mount, own);
    let failed = match &ours {
        None => format!(
            "our own control group {own} is not below {}",
            mount.point.display()
        ),
        Some(ours) => match settle(ours) {
            Ok(()) => return Ok(ours.clone()),
            Err(why) => why,
        },
    };
    // Only the root of all has no type: it may have processes and groups.
    let root = mount.root == Path::new("/") && !mount.point.join("cgroup.type").exists();
    match root.then(|| enable(&mount.point)) {
        Some(Ok(())) => Ok(mount.point.clone()),
        Some(Err(_)) | None => Err(failed),
    }
}

/// Makes our own group one that groups with limits can be made below.
fn settle(own: &Path) -> Result<(), String> {
    let procs = own.join("cgroup.procs");
    let there = std::fs::read_to_string(&procs).map_err(|e| cannot(&procs, &e))?;
    let me = std::process::id().to_string();
    if there.lines().any(|pid| pid != me) {
        return Err(format!(
            "other processes are in our own control group {}; give the worker one of its own",
            own.display()
        ));
    }
    if !there.is_empty() {
        let leaf = own.join(OWN_LEAF);
        let moved = std::fs::create_dir_all(&leaf)
            .and_then(|()| std::fs::write(leaf.join("cgroup.procs"), &me));
        moved.map_err(|e| cannot(&leaf, &e))?;
    }
    enable(own)
}

/// Has the groups below `dir` have controllers.
fn enable(dir: &Path) -> Result<(), String> {
    let file = dir.join("cgroup.subtree_control");
    let there = std::fs::read_to_string(&file).map_err(|e| cannot(&file, &e))?;
    let missing = CONTROLLERS
        .iter()
        .filter(|c| !there.split_whitespace().any(|t| t == **c));
    let wanted: Vec<_> = missing.map(|c| format!("+{c}")).collect();
    match wanted.is_empty() {
        true => Ok(()),
        false => std::fs::write(&file, wanted.join(" ")).map_err(|e| cannot(&file, &e)),
    }
}

/// Removes the groups of the executor `name`, which has ended, wherever they can be. Blocks while something is in them still.
pub fn remove_all(name: &str) {
    let read = |file: &str| std::fs::read_to_string(Path::new(super::PROC).join(file));
    let (Ok(groups), Ok(mountinfo)) = (read("cgroup"), read("mountinfo")) else {
        return;
    };
    for mount in mounts(&mountinfo) {
        let mut parents = vec![mount.point.clone()];
        let first = mount.controllers.split(',').find_map(|c| own(&groups, c));
        let group = if mount.version == 2 {
            own(&groups, "")
        } else {
            first
        };
        parents.extend(group.and_then(|group| seen(&mount, group)));
        for parent in parents {
            remove_below(&parent.join(directory(name)));
        }
    }
}

fn remove_below(dir: &Path) {
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    // A group's files are the kernel's: only groups can be removed, and files are not in the way.
    let below = below.map(|entry| entry.path());
    for group in below.chain([dir.to_owned()]) {
        let _ = remove_dir(&group, Instant::now() + END_TIMEOUT);
    }
}

#[cfg(test)]
mod tests;
