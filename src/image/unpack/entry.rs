//! One entry of a layer.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, mkfifoat, symlinkat};
use tar::EntryType;

use super::Unpack;
use super::tree::{Missing, Place, is, shown, stat};
use super::whiteout::{self, Whiteout};
use crate::image::error::{io as failed, refused};
use crate::image::{BUFFER, Result};

const PERMISSIONS: u32 = 0o7777;
/// Extended attributes are names after this in the headers of PAX archives.
const XATTR: &str = "SCHILY.xattr.";
/// The attributes that mean something to a program in a sandbox.
const XATTRS_KEPT: [&str; 2] = ["user.", "security.capability"];

/// What an entry says of its owner, rights and time.
struct Meta {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    time: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Unpack {
    /// Applies one entry.
    pub(super) fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = entry.path_bytes().into_owned();
        if let Some(whiteout) = whiteout::parse(&name)? {
            return match whiteout {
                Whiteout::Opaque(dir) => self.opaque(&dir),
                Whiteout::Remove(target) => self.remove_lower(&target),
                Whiteout::Ignored => Ok(()),
            };
        }
        if matches!(kind, EntryType::Block | EntryType::Char) {
            self.totals.skipped_devices += 1;
            tracing::debug!(entry = shown(&name), "device node left out");
            return Ok(());
        }
        let meta = Meta::read(entry, &name)?;
        let Some(place) = self.tree.place(&name, Missing::Create)? else {
            return self.root_entry(&name, kind, &meta);
        };
        self.make_room(&place, kind)?;
        match kind {
            EntryType::Directory => self.directory(&place, &meta)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&place, &meta, entry)?;
            }
            EntryType::Symlink => self.symlink(&place, &meta, &link_name(entry, &name)?)?,
            EntryType::Link => self.hard_link(&place, &link_name(entry, &name)?)?,
            EntryType::Fifo => self.fifo(&place, &meta)?,
            other => {
                let reason = format!("entries of type {:?} are not unpacked", other.as_byte());
                return Err(refused(shown(&name), reason));
            }
        }
        self.note_made(place.path);
        Ok(())
    }

    /// The entry `./`.
    fn root_entry(&mut self, name: &[u8], kind: EntryType, meta: &Meta) -> Result<()> {
        if kind != EntryType::Directory {
            return Err(refused(
                shown(name),
                "only a directory can be the image's root",
            ));
        }
        let root = self.tree.root();
        let done =
            openat(root, ".", dir_flags(), Mode::empty()).and_then(|dir| meta.apply(dir.as_fd()));
        done.map_err(|e| self.tree.failed("set the rights of", Path::new(""), e))?;
        self.dir_times.insert(PathBuf::new(), meta.time);
        Ok(())
    }

    /// Removes what is in the entry's place, except a directory for a directory.
    fn make_room(&mut self, place: &Place, kind: EntryType) -> Result<()> {
        let there = stat(place.dir.as_fd(), &place.name);
        match there.map_err(|e| self.tree.failed("read", &place.path, e))? {
            Some(there) if kind == EntryType::Directory && is(&there, SFlag::S_IFDIR) => Ok(()),
            Some(_) => self.remove(place),
            None => Ok(()),
        }
    }

    fn directory(&mut self, place: &Place, meta: &Meta) -> Result<()> {
        let made = match mkdirat(&place.dir, place.name.as_os_str(), Mode::S_IRWXU) {
            Err(Errno::EEXIST) => Ok(()),
            made => made,
        };
        let done = made
            .and_then(|()| {
                openat(
                    &place.dir,
                    place.name.as_os_str(),
                    dir_flags(),
                    Mode::empty(),
                )
            })
            .and_then(|dir| meta.apply(dir.as_fd()));
        done.map_err(|e| self.tree.failed("create", &place.path, e))?;
        self.dir_times.insert(place.path.clone(), meta.time);
        Ok(())
    }

    fn file(&self, place: &Place, meta: &Meta, content: &mut impl Read) -> Result<()> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fail = |e| self.tree.failed("create", &place.path, e);
        let file = openat(&place.dir, place.name.as_os_str(), flags, Mode::S_IRWXU);
        let mut file = File::from(file.map_err(fail)?);
        let mut buffer = vec![0; BUFFER.min(64 << 10)];
        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(super::not_tar(e)),
            };
            file.write_all(&buffer[..n])
                .map_err(failed("write", &place.path))?;
        }
        meta.apply(file.as_fd()).map_err(fail)?;
        self.time(place, meta)
    }

    fn symlink(&self, place: &Place, meta: &Meta, target: &[u8]) -> Result<()> {
        let fail = |e| self.tree.failed("create", &place.path, e);
        let target = OsStr::from_bytes(target);
        symlinkat(target, &place.dir, place.name.as_os_str()).map_err(fail)?;
        self.own(place, meta)?;
        self.time(place, meta)
    }

    /// A second name for a file of this or an earlier layer. A symlink is linked itself, not what it names.
    fn hard_link(&self, place: &Place, target: &[u8]) -> Result<()> {
        let lost = || {
            refused(
                shown(target),
                "a hard link names it, but it is not in the image",
            )
        };
        let to = self.tree.place(target, Missing::Tell)?.ok_or_else(lost)?;
        match stat(to.dir.as_fd(), &to.name) {
            Ok(Some(found)) if is(&found, SFlag::S_IFDIR) => {
                return Err(refused(
                    shown(target),
                    "a hard link names it, but it is a directory",
                ));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(lost()),
            Err(e) => return Err(self.tree.failed("read", &to.path, e)),
        }
        let (old, new) = (to.name.as_os_str(), place.name.as_os_str());
        let linked = linkat(&to.dir, old, &place.dir, new, AtFlags::empty());
        linked.map_err(|e| self.tree.failed("link", &place.path, e))
    }

    fn fifo(&self, place: &Place, meta: &Meta) -> Result<()> {
        let made = mkfifoat(&place.dir, place.name.as_os_str(), meta.mode);
        made.map_err(|e| self.tree.failed("create", &place.path, e))?;
        self.own(place, meta)?;
        self.time(place, meta)
    }

    fn own(&self, place: &Place, meta: &Meta) -> Result<()> {
        let (uid, gid) = (Some(meta.uid), Some(meta.gid));
        let name = place.name.as_os_str();
        fchownat(&place.dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|e| self.tree.failed("set the owner of", &place.path, e))
    }

    fn time(&self, place: &Place, meta: &Meta) -> Result<()> {
        let time = TimeSpec::new(meta.time, 0);
        let name = place.name.as_os_str();
        utimensat(
            &place.dir,
            name,
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(|e| self.tree.failed("set the time of", &place.path, e))
    }

    /// Remembers an entry of this layer and the directories above it.
    fn note_made(&mut self, path: PathBuf) {
        for above in path.ancestors().skip(1) {
            if above.as_os_str().is_empty() || !self.made.insert(above.to_owned()) {
                break;
            }
        }
        self.made.insert(path);
    }
}

impl Meta {
    fn read<R: Read>(entry: &mut tar::Entry<'_, R>, name: &[u8]) -> Result<Self> {
        let bad = |field: &str| {
            refused(
                shown(name),
                format!("its {field} is not a number that we take"),
            )
        };
        let number = |field: &[u8], read: io::Result<u64>| {
            // As Go's reader has it: a field that was left out is 0.
            let empty = field.iter().all(|b| matches!(b, 0 | b' '));
            if empty { Some(0) } else { read.ok() }
        };
        let id = |field: &[u8], read| {
            let id = u32::try_from(number(field, read)?).ok()?;
            (id != u32::MAX).then_some(id)
        };
        let header = entry.header();
        let raw = header.as_old();
        let uid = id(&raw.uid, header.uid()).ok_or_else(|| bad("owner"))?;
        let gid = id(&raw.gid, header.gid()).ok_or_else(|| bad("group"))?;
        let mode = number(&raw.mode, header.mode().map(u64::from)).ok_or_else(|| bad("mode"))?;
        Ok(Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            mode: Mode::from_bits_truncate(mode as u32 & PERMISSIONS),
            // A time before 1970, which some tools write for "none", is as good as none.
            time: header.mtime().map_or(0, |t| i64::try_from(t).unwrap_or(0)),
            xattrs: xattrs(entry).map_err(super::not_tar)?,
        })
    }

    /// Owner before rights: a change of owner takes setuid away.
    fn apply(&self, file: BorrowedFd) -> nix::Result<()> {
        nix::unistd::fchown(file, Some(self.uid), Some(self.gid))?;
        fchmod(file, self.mode)?;
        for (name, value) in &self.xattrs {
            set_xattr(file, name, value)?;
        }
        Ok(())
    }
}

fn xattrs<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix(XATTR)) else {
            continue;
        };
        if XATTRS_KEPT.iter().any(|kept| name.starts_with(kept)) {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

/// Sets an extended attribute; on a file system without them it is left out.
fn set_xattr(file: BorrowedFd, name: &str, value: &[u8]) -> nix::Result<()> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the pointers are to a NUL-terminated string and to `value.len()` bytes, both alive during the call.
    let done = unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    match Errno::result(done) {
        Ok(_) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(e) => Err(e),
    }
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, name: &[u8]) -> Result<Vec<u8>> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() => Ok(target.into_owned()),
        _ => Err(refused(shown(name), "it is a link without a target")),
    }
}

fn dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}
