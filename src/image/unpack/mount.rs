//! Where something is mounted in an image that is unpacked: the runtime would make it itself, were it to write there.

use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::tree::{self, Missing, Tree};
use crate::image::Result;
use crate::image::error::refused;

/// Makes the directory `name` of the image in `rootfs` if it is missing, and those on the way.
pub(in super::super) fn make_dir(rootfs: &Path, name: &str) -> Result<()> {
    let tree = Tree::open(rootfs)?;
    tree.dir(name.as_bytes(), Missing::Create).map(drop)
}

/// Makes `name` of the image in `rootfs` a file, and the directories on the way.
pub(in super::super) fn make_file(rootfs: &Path, name: &str) -> Result<()> {
    let tree = Tree::open(rootfs)?;
    let Some(place) = tree.place(name.as_bytes(), Missing::Create)? else {
        return Ok(());
    };
    let there = tree::stat(place.dir.as_fd(), &place.name);
    let there = there.map_err(|e| tree.failed("read", &place.path, e))?;
    let file = place.name.as_os_str();
    match there {
        Some(there) if tree::is(&there, SFlag::S_IFREG) => return Ok(()),
        Some(there) if tree::is(&there, SFlag::S_IFLNK) => {
            unlinkat(&place.dir, file, UnlinkatFlags::NoRemoveDir)
                .map_err(|e| tree.failed("remove", &place.path, e))?;
        }
        Some(_) => return Err(refused(name, "it is neither a file nor a symlink")),
        None => {}
    }
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(&place.dir, file, flags, Mode::from_bits_truncate(0o644));
    made.map(drop)
        .map_err(|e| tree.failed("create", &place.path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_made_where_there_is_none_and_nothing_outside_is() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        make_file(root, "etc/hosts").unwrap();
        std::fs::write(root.join("etc/hosts"), "kept").unwrap();
        make_file(root, "etc/hosts").unwrap();
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(read("etc/hosts"), "kept");

        // As images have it, to where nothing is; and as one would that is built to lead out.
        let target = outside.path().join("target");
        for (name, to) in [
            (
                "etc/resolv.conf",
                Path::new("../run/systemd/resolve/stub-resolv.conf"),
            ),
            ("etc/hostname", &target),
        ] {
            symlink(to, root.join(name)).unwrap();
            make_file(root, name).unwrap();
            assert!(
                root.join(name).symlink_metadata().unwrap().is_file(),
                "{name}"
            );
            assert_eq!(read(name), "");
        }
        assert!(!target.exists() && !root.join("run").exists());

        std::fs::create_dir_all(root.join("dir/there")).unwrap();
        assert!(make_file(root, "dir/there").is_err());
        symlink(outside.path(), root.join("away")).unwrap();
        assert!(make_file(root, "away/file").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
