//! Users and groups as an image's own `/etc/passwd` and `/etc/group` name them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::error::io;
use super::{ImageError, Result};

/// Cap on each of the two files, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Who a process in an image runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// The user's other groups; empty when a group was named.
    pub additional_gids: Vec<u32>,
}

/// Resolves `user` or `user:group` as container engines do: a name must be in the image, a number need not; without a
/// group it is the one of the user's line in `/etc/passwd`, or 0.
pub(super) fn resolve(rootfs: &Path, user: &str) -> Result<ResolvedUser> {
    let bad = |reason: String| ImageError::BadUser {
        user: user.to_owned(),
        reason,
    };
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let passwd = read(rootfs, "etc/passwd")?;
    let line = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let login = fields.next()?;
        let uid = fields.nth(1)?.parse::<u32>().ok()?;
        let gid = fields.next()?.parse::<u32>().ok()?;
        (login == name || number == Some(uid)).then_some((login, uid, gid))
    });
    let (login, uid, primary) = match (line, number) {
        (Some((login, uid, gid)), _) => (Some(login), uid, gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => return Err(bad(format!("the image's /etc/passwd has no {name:?}"))),
    };
    let groups = read(rootfs, "etc/group")?;
    let mut groups = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let group = fields.next()?;
        let gid = fields.nth(1)?.parse::<u32>().ok()?;
        Some((group, gid, fields.next().unwrap_or_default()))
    });
    if let Some(group) = group.filter(|g| !g.is_empty()) {
        let named = groups
            .find(|(name, _, _)| *name == group)
            .map(|(_, gid, _)| gid);
        let gid = named.or_else(|| group.parse().ok());
        let missing = || bad(format!("the image's /etc/group has no {group:?}"));
        return Ok(ResolvedUser {
            uid,
            gid: gid.ok_or_else(missing)?,
            additional_gids: Vec::new(),
        });
    }
    let has = |members: &str| login.is_some_and(|l| members.split(',').any(|m| m == l));
    let mut additional_gids: Vec<u32> = groups
        .filter(|(_, gid, members)| *gid != primary && has(members))
        .map(|(_, gid, _)| gid)
        .collect();
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(ResolvedUser {
        uid,
        gid: primary,
        additional_gids,
    })
}

/// A file of the image as text, empty if there is none. Symlinks are followed inside the image only.
fn read(rootfs: &Path, name: &str) -> Result<String> {
    let path = rootfs.join(name);
    match open_in(rootfs, name) {
        Ok(file) if file.metadata().is_ok_and(|m| m.is_file()) => {
            let mut bytes = Vec::new();
            let done = file.take(MAX_FILE).read_to_end(&mut bytes);
            done.map_err(io("read", &path))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Ok(_) => Ok(String::new()),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        Err(e) => Err(io("read", &path)(e)),
    }
}

fn open_in(rootfs: &Path, name: &str) -> std::io::Result<File> {
    let root: OwnedFd = File::open(rootfs)?.into();
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(&root, name, how)?.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let passwd = "# users\nroot:x:0:0:r:/root:/bin/sh\nbroken\napp:x:1000:1001::/:/bin/sh\n";
        let group = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:app\nvideo:x:44:app\nx:x:bad:app\n";
        std::fs::write(etc.join("passwd"), passwd).unwrap();
        std::fs::write(etc.join("group"), group).unwrap();
        dir
    }

    fn user(uid: u32, gid: u32, more: &[u32]) -> ResolvedUser {
        ResolvedUser {
            uid,
            gid,
            additional_gids: more.to_vec(),
        }
    }

    #[test]
    fn names_and_numbers() {
        let image = image();
        for (given, expected) in [
            ("", user(0, 0, &[10])),
            ("root", user(0, 0, &[10])),
            ("app", user(1000, 1001, &[10, 44])),
            ("1000", user(1000, 1001, &[10, 44])),
            ("4242", user(4242, 0, &[])),
            ("app:video", user(1000, 44, &[])),
            ("app:7", user(1000, 7, &[])),
            ("4242:app", user(4242, 1001, &[])),
            (":10", user(0, 10, &[])),
        ] {
            assert_eq!(resolve(image.path(), given).unwrap(), expected, "{given}");
        }
        for bad in ["nobody", "app:none", "-1", "4294967296"] {
            let error = resolve(image.path(), bad).unwrap_err();
            assert!(
                matches!(error, ImageError::BadUser { .. }),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn an_image_without_users_runs_by_number() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(resolve(empty.path(), "5:6").unwrap(), user(5, 6, &[]));
        assert_eq!(resolve(empty.path(), "").unwrap(), user(0, 0, &[]));
    }

    #[test]
    fn the_nodes_own_users_are_not_read() {
        let image = image();
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("passwd"), "evil:x:0:0::/:/bin/sh\n").unwrap();
        std::fs::remove_file(image.path().join("etc/passwd")).unwrap();
        symlink(other.path().join("passwd"), image.path().join("etc/passwd")).unwrap();
        assert!(resolve(image.path(), "evil").is_err());
        // The same link is followed where it leads to something in the image.
        let inside = image.path().join(other.path().strip_prefix("/").unwrap());
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("passwd"), "inner:x:7:8::/:/bin/sh\n").unwrap();
        assert_eq!(resolve(image.path(), "inner").unwrap(), user(7, 8, &[]));
    }
}
