//! Mounts that propagate to other mount namespaces, by the calls of open_tree(2) and its kin.
//!
//! A bind mount that is made read-only when it is there already has propagated before that: whoever got it may write. So it is
//! made apart, set, and put in its place last.

use super::error::{Error, io};
use super::provider::Access;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::ffi::CString;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// linux/mount.h
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Shows `source` at `target`, which is made; what was shown there is not any more.
pub(super) fn bind(source: &Path, target: &Path, access: Access) -> Result<(), Error> {
    remove(target)?;
    let made = match source.is_dir() {
        true => std::fs::create_dir(target),
        false => std::fs::File::create_new(target).map(drop),
    };
    made.map_err(io("create", target))?;
    let tree = clone(source).map_err(io("show", source))?;
    set(&tree, access).map_err(io("show", source))?;
    put(&tree, target).map_err(io("mount at", target))
}

/// Takes what is shown at `target` away, and `target` itself; nothing is fine. What it showed stays as it is.
pub(super) fn remove(target: &Path) -> Result<(), Error> {
    // Nothing is mounted there, or nothing is there.
    let done = |e| matches!(e, Errno::EINVAL | Errno::ENOENT);
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(e) if done(e) => break,
            Err(e) => return Err(io("unmount", target)(e.into())),
        }
    }
    // Never what is in it: should it still be shown, that is somebody else's.
    let removed = match target.is_dir() {
        true => std::fs::remove_dir(target),
        false => std::fs::remove_file(target),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io("remove", target)(e)),
        _ => Ok(()),
    }
}

fn clone(source: &Path) -> std::io::Result<OwnedFd> {
    let path = CString::new(source.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(std::io::Error::other)?;
    // SAFETY: the kernel just gave it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set(tree: &OwnedFd, access: Access) -> std::io::Result<()> {
    let attributes = Attributes {
        set: match access {
            Access::Read => MOUNT_ATTR_RDONLY,
            Access::Write => 0,
        },
        clear: 0,
        // What is mounted in the source later is not meant.
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: an empty C string and a struct of the size that is told, both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

fn put(tree: &OwnedFd, target: &Path) -> std::io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both are C strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    /// Runs `test` in a thread with a mount namespace of its own, in which `dir` is a tmpfs that is shared.
    fn apart(test: impl FnOnce(&Path) + Send + 'static) {
        let thread = std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
            let tmpfs = Some("tmpfs");
            mount(tmpfs, dir.path(), tmpfs, MsFlags::empty(), none).unwrap();
            mount(none, dir.path(), none, MsFlags::MS_SHARED, none).unwrap();
            test(dir.path());
            umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
        });
        thread.join().unwrap();
    }

    #[test]
    fn what_is_lent_to_be_read_arrives_read_only_wherever_it_propagates() {
        apart(|dir| {
            let [source, worker, pod] = ["source", "worker", "pod"].map(|name| dir.join(name));
            for dir in [&source, &worker, &pod] {
                std::fs::create_dir(dir).unwrap();
            }
            std::fs::write(source.join("file"), "a").unwrap();
            // As the container of a pod has the worker's directory.
            let (none, bound) = (None::<&str>, MsFlags::MS_BIND);
            mount(Some(&worker), &pod, none, bound, none).unwrap();
            mount(none, &pod, none, MsFlags::MS_SLAVE, none).unwrap();

            bind(&source, &worker.join("read"), Access::Read).unwrap();
            bind(&source, &worker.join("write"), Access::Write).unwrap();
            bind(&source.join("file"), &worker.join("one"), Access::Read).unwrap();
            for place in [&worker, &pod] {
                let read = place.join("read/file");
                assert_eq!(std::fs::read_to_string(&read).unwrap(), "a");
                assert_eq!(std::fs::read_to_string(place.join("one")).unwrap(), "a");
                for file in [read, place.join("one")] {
                    let refused = std::fs::write(file, "b").unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
                }
            }
            std::fs::write(pod.join("write/new"), "b").unwrap();

            // Again: the same place, another source.
            std::fs::write(dir.join("other"), "c").unwrap();
            bind(&dir.join("other"), &worker.join("one"), Access::Read).unwrap();
            assert_eq!(std::fs::read_to_string(pod.join("one")).unwrap(), "c");

            for name in ["read", "write", "one", "never"] {
                remove(&worker.join(name)).unwrap();
                assert!(!pod.join(name).exists(), "{name}");
            }
            assert_eq!(std::fs::read_to_string(source.join("new")).unwrap(), "b");
        });
    }

    #[test]
    fn what_nobody_lent_is_not_removed() {
        apart(|dir| {
            let own = dir.join("own");
            std::fs::create_dir(&own).unwrap();
            std::fs::write(own.join("file"), "a").unwrap();
            assert!(remove(&own).is_err());
            assert!(own.join("file").exists());
        });
    }
}
