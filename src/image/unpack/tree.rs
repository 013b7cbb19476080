//! Names of an image resolved to directories on disk, one component at a time.
//!
//! Each step opens one component relative to its parent's descriptor without following symlinks; a symlink is read and its
//! target's components are walked the same way, from the image's root when it is absolute. That is what
//! `openat2(RESOLVE_IN_ROOT)` does, except that a step above the root is refused rather than clamped to it, and that
//! the real path is known afterwards. No path with more than one component is ever handed to the kernel.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;

use crate::image::error::{io, refused};
use crate::image::{ImageError, Result};

/// Symlinks that one name may go through (the kernel's own limit).
const MAX_LINKS: usize = 40;
/// Longest real path below the root, in bytes; well below what the kernel takes.
const MAX_PATH: usize = 3000;
/// Directories on the way to an entry: each is open meanwhile.
const MAX_DEPTH: usize = 256;
/// Mode of directories that an image implies without an entry for them.
const IMPLIED_MODE: Mode = Mode::from_bits_truncate(0o755);

/// The root of an image on disk.
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    /// Directories that were made for want of an entry, since they were last counted.
    implied: Cell<u64>,
}

/// Where an entry belongs: a name in a directory.
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
    /// Real path below the root, without symlinks.
    pub(super) path: PathBuf,
}

/// What to do when a directory on the way is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Tell,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(root, flags, Mode::empty());
        Ok(Self {
            root: opened.map_err(io("open", root))?,
            path: root.to_owned(),
            implied: Cell::default(),
        })
    }

    /// How many directories were made on the way since this was last asked.
    pub(super) fn take_implied(&self) -> u64 {
        self.implied.take()
    }

    /// The place of `name`; `None` for the root itself, or when a directory is missing and shall not be made.
    pub(super) fn place(&self, name: &[u8], missing: Missing) -> Result<Option<Place>> {
        let mut parts = components(name)?;
        let Some(last) = parts.pop_back() else {
            return Ok(None);
        };
        let Some((dir, mut path)) = self.walk(name, parts, missing)? else {
            return Ok(None);
        };
        path.push(&last);
        if path.as_os_str().len() > MAX_PATH {
            return Err(refused(shown(name), "its path is too long"));
        }
        Ok(Some(Place {
            dir,
            name: last,
            path,
        }))
    }

    /// The directory that `name` is, symlinks followed.
    pub(super) fn dir(&self, name: &[u8], missing: Missing) -> Result<Option<(OwnedFd, PathBuf)>> {
        self.walk(name, components(name)?, missing)
    }

    /// The root as the place of the entry `./`.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The error for a system call that failed on `path` below the root.
    pub(super) fn failed(&self, operation: &'static str, path: &Path, errno: Errno) -> ImageError {
        match errno {
            // What the image asks for, not what the node fails to do.
            Errno::ENAMETOOLONG | Errno::EINVAL | Errno::ELOOP => {
                refused(shown(path.as_os_str().as_bytes()), errno.desc())
            }
            _ => io(operation, &self.path.join(path))(errno),
        }
    }

    /// Sets the time of a directory if it is still there.
    pub(super) fn set_dir_time(&self, path: &Path, seconds: i64) -> Result<()> {
        let name = path.as_os_str().as_bytes();
        let time = TimeSpec::new(seconds, 0);
        let set = |dir: BorrowedFd, name: &OsStr| {
            utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        };
        let done = match self.place(name, Missing::Tell)? {
            None if name.is_empty() => set(self.root(), OsStr::new(".")),
            None => return Ok(()),
            Some(place) => match stat(place.dir.as_fd(), &place.name) {
                Ok(Some(found)) if is(&found, SFlag::S_IFDIR) => {
                    set(place.dir.as_fd(), &place.name)
                }
                _ => return Ok(()),
            },
        };
        done.map_err(|e| self.failed("set the time of", path, e))
    }

    fn walk(
        &self,
        name: &[u8],
        mut todo: VecDeque<OsString>,
        missing: Missing,
    ) -> Result<Option<(OwnedFd, PathBuf)>> {
        let mut stack: Vec<(OwnedFd, OsString)> = Vec::new();
        // How many of the components to do come from symlinks.
        let mut linked = 0usize;
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            let from_link = linked > 0;
            linked = linked.saturating_sub(1);
            if part == ".." {
                if stack.pop().is_none() {
                    return Err(refused(
                        shown(name),
                        "it goes through a symlink that leads out of the image",
                    ));
                }
                continue;
            }
            let here = stack.last().map_or(self.root(), |(fd, _)| fd.as_fd());
            let fail = |e| self.failed("open", Path::new(OsStr::from_bytes(name)), e);
            let next = match open_path(here, &part) {
                Err(Errno::ENOENT) if missing == Missing::Tell => return Ok(None),
                Err(Errno::ENOENT) if from_link => {
                    return Err(refused(
                        shown(name),
                        "it goes through a symlink to nowhere in the image",
                    ));
                }
                Err(Errno::ENOENT) => {
                    mkdirat(here, part.as_os_str(), IMPLIED_MODE).map_err(fail)?;
                    self.implied.update(|n| n + 1);
                    open_path(here, &part).map_err(fail)?
                }
                opened => opened.map_err(fail)?,
            };
            let kind = fstat(&next).map_err(fail)?;
            if is(&kind, SFlag::S_IFDIR) {
                if stack.len() == MAX_DEPTH {
                    return Err(too_deep(name));
                }
                stack.push((next, part));
            } else if is(&kind, SFlag::S_IFLNK) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(refused(shown(name), "it goes through too many symlinks"));
                }
                let target = readlinkat(&next, "").map_err(fail)?;
                if target.as_bytes().starts_with(b"/") {
                    stack.clear();
                }
                let target = Path::new(&target).components().filter_map(step);
                for part in target.rev() {
                    todo.push_front(part);
                    linked += 1;
                }
            } else if missing == Missing::Tell {
                return Ok(None);
            } else {
                return Err(refused(
                    shown(name),
                    "a part of its path is not a directory",
                ));
            }
        }
        let path = stack.iter().map(|(_, name)| name).collect();
        let dir = match stack.pop() {
            Some((fd, _)) => Ok(fd),
            None => self.root.try_clone(),
        };
        Ok(Some((dir.map_err(io("open", &self.path))?, path)))
    }
}

/// A component of a symlink's target that moves.
fn step(component: Component) -> Option<OsString> {
    match component {
        Component::ParentDir => Some("..".into()),
        Component::Normal(name) => Some(name.to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }
}

/// The components of an entry's name. A leading `/` means the image's root, as `ko` and others write it.
fn components(name: &[u8]) -> Result<VecDeque<OsString>> {
    let mut parts = VecDeque::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused(shown(name), "its name has '..' in it")),
            _ if part.contains(&0) => return Err(refused(shown(name), "its name has a NUL in it")),
            _ => parts.push_back(OsString::from_vec(part.to_vec())),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(too_deep(name));
    }
    Ok(parts)
}

fn too_deep(name: &[u8]) -> ImageError {
    refused(shown(name), "it is in too many directories")
}

fn open_path(dir: BorrowedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// What is there under this very name, symlinks not followed.
pub(super) fn stat(dir: BorrowedFd, name: &OsStr) -> nix::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether it is of this kind.
pub(super) fn is(found: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == kind
}

/// An entry's name for people, cut where somebody made it very long.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let short: String = text.chars().take(200).collect();
    format!("entry {short:?}")
}
