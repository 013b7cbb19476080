//! Whiteouts: entries that take away what earlier layers put there (OCI image-spec `layer.md`, "Whiteouts").
//!
//! They apply to earlier layers only, wherever in its layer a whiteout stands: what the same layer made stays.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::SFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Unpack;
use super::tree::{Missing, Place, is, shown, stat};
use crate::image::Result;
use crate::image::error::{io as failed, refused};

const PREFIX: &[u8] = b".wh.";
/// Reserved names, of which only the opaque mark is in the specification; the others are aufs's own bookkeeping.
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a whiteout takes away.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// Everything in this directory.
    Opaque(Vec<u8>),
    /// This entry.
    Remove(Vec<u8>),
    /// Nothing.
    Ignored,
}

/// Reads an entry's name as that of a whiteout, if it is one.
pub(super) fn parse(name: &[u8]) -> Result<Option<Whiteout>> {
    let end = name.iter().rposition(|b| *b != b'/').map_or(0, |i| i + 1);
    let name = &name[..end];
    let split = name.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    let (parent, last) = name.split_at(split);
    if last == OPAQUE {
        return Ok(Some(Whiteout::Opaque(parent.to_vec())));
    }
    if last.starts_with(META) {
        return Ok(Some(Whiteout::Ignored));
    }
    match last.strip_prefix(PREFIX) {
        None => Ok(None),
        Some(b"" | b"." | b"..") => Err(refused(shown(name), "it is a whiteout of nothing")),
        Some(target) => Ok(Some(Whiteout::Remove([parent, target].concat()))),
    }
}

impl Unpack {
    /// Takes away what earlier layers put into the directory `name`.
    pub(super) fn opaque(&mut self, name: &[u8]) -> Result<()> {
        let Some((dir, path)) = self.tree.dir(name, Missing::Tell)? else {
            return Ok(());
        };
        for child in self.names_in(&dir, &path)? {
            let place = Place {
                dir: dir.try_clone().map_err(failed("open", &path))?,
                path: path.join(&child),
                name: child,
            };
            self.remove_lower_at(&place)?;
        }
        Ok(())
    }

    /// Takes away what earlier layers put under `name`.
    pub(super) fn remove_lower(&mut self, name: &[u8]) -> Result<()> {
        match self.tree.place(name, Missing::Tell)? {
            Some(place) => self.remove_lower_at(&place),
            None => Ok(()),
        }
    }

    fn remove_lower_at(&mut self, place: &Place) -> Result<()> {
        if !self.made.contains(&place.path) {
            return self.remove(place);
        }
        let there = stat(place.dir.as_fd(), &place.name);
        match there.map_err(|e| self.tree.failed("read", &place.path, e))? {
            Some(there) if is(&there, SFlag::S_IFDIR) => {
                self.opaque(place.path.as_os_str().as_bytes())
            }
            _ => Ok(()),
        }
    }

    /// Removes whatever is at a place, with all that is in it.
    pub(super) fn remove(&mut self, place: &Place) -> Result<()> {
        let name = place.name.as_os_str();
        match unlinkat(&place.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(e) => return Err(self.tree.failed("remove", &place.path, e)),
        }
        // Below the name the library follows no symlink.
        std::fs::remove_dir_all(by_descriptor(&place.dir).join(name))
            .map_err(failed("remove", &place.path))
    }

    fn names_in(&self, dir: &OwnedFd, path: &Path) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(by_descriptor(dir)).map_err(failed("list", path))? {
            names.push(entry.map_err(failed("list", path))?.file_name());
        }
        Ok(names)
    }
}

/// The path of an open directory; going through it follows the descriptor, not a name that might have changed.
fn by_descriptor(dir: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_whiteouts() {
        let read = |name: &str| parse(name.as_bytes()).unwrap();
        assert_eq!(read("a/b"), None);
        assert_eq!(read("a/.wh.b/c"), None);
        assert_eq!(read("a/.wh.b"), Some(Whiteout::Remove(b"a/b".into())));
        assert_eq!(read(".wh.b/"), Some(Whiteout::Remove(b"b".into())));
        assert_eq!(read("a/.wh..wh..opq"), Some(Whiteout::Opaque(b"a/".into())));
        assert_eq!(read(".wh..wh..opq"), Some(Whiteout::Opaque(b"".into())));
        assert_eq!(read("a/.wh..wh.plnk"), Some(Whiteout::Ignored));
        for bad in [".wh.", "a/.wh..", "a/.wh..."] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
