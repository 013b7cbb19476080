//! The cache's directory: what each file in it means, and the order in which they appear and go. Everything here blocks.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::snapshot::error::io;
use crate::snapshot::manifest::{FileSum, MAX_FILES, MAX_MANIFEST_BYTES};
use crate::snapshot::{Result, SnapshotError, is_plain_name, sum};

/// Directories on their way out.
const TRASH: &str = ".trash-";
const SUMS: &str = ".json";
/// Sums that are being written.
const FRESH: &str = ".json.new";

#[derive(Clone, Debug)]
pub(super) struct Disk {
    root: PathBuf,
}

/// How files are held against their sums.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Lengths,
    Hashes,
}

impl Disk {
    pub(super) fn new(root: &Path) -> Self {
        let root = root.to_owned();
        Self { root }
    }

    pub(super) fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn sums(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}{SUMS}"))
    }

    /// Ids and bytes of the whole entries, the least recently used first. Removes everything else.
    pub(super) fn recover(&self) -> Result<Vec<(String, u64)>> {
        fs::create_dir_all(&self.root).map_err(io("create", &self.root))?;
        let mut found: Vec<(SystemTime, String, u64)> = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(io("list", &self.root))? {
            let entry = entry.map_err(io("list", &self.root))?;
            let path = entry.path();
            let is_dir = entry.file_type().map_err(io("read", &path))?.is_dir();
            let name = entry.file_name().into_string().unwrap_or_default();
            if is_dir {
                match fs::metadata(self.sums(&name)) {
                    Ok(sums) if is_plain_name(&name) => {
                        let used = sums.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                        found.push((used, name, bytes_in(&path)?));
                    }
                    _ => discard(path),
                }
            } else if !name
                .strip_suffix(SUMS)
                .is_some_and(|id| self.dir(id).is_dir())
            {
                fs::remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, id, n)| (id, n)).collect())
    }

    /// Moves `from` in as `id`: its sums first, so that a directory without sums is never one that is whole.
    pub(super) fn enter(&self, id: &str, from: &Path, sums: &[FileSum]) -> Result<()> {
        self.note(id, sums)?;
        let to = self.dir(id);
        let moved = renameat2(AT_FDCWD, from, AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE);
        moved.map_err(|e| io("move into the snapshot cache", from)(e.into()))
    }

    /// Writes the sums of `id`, all at once.
    pub(super) fn note(&self, id: &str, sums: &[FileSum]) -> Result<()> {
        let path = self.sums(id);
        let json = serde_json::to_vec(sums).map_err(|e| SnapshotError::Bug {
            what: format!("sums cannot be encoded: {e}"),
        })?;
        let fresh = self.root.join(format!("{id}{FRESH}"));
        fs::write(&fresh, json).map_err(io("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(io("replace", &path))
    }

    /// Takes entry `id` out; returns the directory to [`discard`].
    pub(super) fn leave(&self, id: &str) -> Result<PathBuf> {
        let trash = format!("{TRASH}{:016x}", rand::random::<u64>());
        let trash = self.root.join(trash);
        let (dir, sums) = (self.dir(id), self.sums(id));
        match fs::rename(&dir, &trash) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io("remove", &dir)(e)),
            _ => {}
        }
        match fs::remove_file(&sums) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(io("remove", &sums)(e)),
            _ => Ok(trash),
        }
    }

    /// Holds the files of `id` against its sums. Those that somebody took away are damage.
    pub(super) fn verify(&self, id: &str, depth: Depth) -> Result<()> {
        let path = self.sums(id);
        let damaged = |reason: String| SnapshotError::Damaged {
            id: id.to_owned(),
            what: "the list of files".to_owned(),
            reason,
        };
        let dir = self.dir(id);
        for there in [&path, &dir] {
            match fs::metadata(there) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    return Err(damaged(format!("{} is gone", there.display())));
                }
                _ => {}
            }
        }
        let length = fs::metadata(&path).map_err(io("read", &path))?.len();
        if length > MAX_MANIFEST_BYTES as u64 {
            return Err(damaged(format!("{length} bytes")));
        }
        let json = fs::read(&path).map_err(io("read", &path))?;
        let sums = serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))?;
        compare(id, &dir, sums, depth)?;
        if depth == Depth::Lengths {
            return Ok(());
        }
        // Remembers the use over a restart; a failure costs nothing but the order of eviction.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            drop(file.set_modified(SystemTime::now()));
        }
        Ok(())
    }
}

/// Deletes a directory that nobody refers to any more.
pub(super) fn discard(dir: PathBuf) {
    if let Err(error) = fs::remove_dir_all(&dir)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "removed snapshot files stay behind");
    }
}

/// Names and lengths of the plain files in `dir`, sorted; it may hold nothing else.
fn files(dir: &Path) -> Result<Vec<(String, u64)>> {
    let bad = |path: PathBuf, reason: &str| SnapshotError::BadImage {
        path,
        reason: reason.to_owned(),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let entry = entry.map_err(io("list", dir))?;
        let meta = entry.metadata().map_err(io("read", &entry.path()))?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if !meta.is_file() || !is_plain_name(&name) {
            return Err(bad(
                entry.path(),
                "it is not a plain file with a plain name",
            ));
        }
        files.push((name, meta.len()));
    }
    if files.is_empty() || files.len() > MAX_FILES {
        return Err(bad(dir.to_owned(), "it must hold 1 to 256 files"));
    }
    files.sort();
    Ok(files)
}

fn bytes_in(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let entry = entry.map_err(io("list", dir))?;
        bytes += entry.metadata().map_or(0, |m| m.len());
    }
    Ok(bytes)
}

/// The lengths of the files of `dir`, as sums without hashes.
pub(super) fn measure_all(dir: &Path) -> Result<Vec<FileSum>> {
    let measured = files(dir)?.into_iter().map(|(name, bytes)| FileSum {
        name,
        bytes,
        hash: String::new(),
    });
    Ok(measured.collect())
}

/// Hashes every file of `dir`.
pub(super) fn hash_all(dir: &Path) -> Result<Vec<FileSum>> {
    let sum = |(name, _): (String, u64)| {
        let path = dir.join(&name);
        let (bytes, hash) = sum::hash(&path).map_err(io("read", &path))?;
        Ok(FileSum { name, bytes, hash })
    };
    files(dir)?.into_iter().map(sum).collect()
}

/// Refuses `dir` unless it holds exactly the files of `sums`; returns them.
pub(super) fn compare(
    id: &str,
    dir: &Path,
    sums: Vec<FileSum>,
    depth: Depth,
) -> Result<Vec<FileSum>> {
    let damaged = |what: &str, reason: &str| SnapshotError::Damaged {
        id: id.to_owned(),
        what: what.to_owned(),
        reason: reason.to_owned(),
    };
    let mut found = files(dir).map_err(|e| match e {
        SnapshotError::BadImage { path, reason } => damaged(&path.display().to_string(), &reason),
        e => e,
    })?;
    for sum in &sums {
        let Some(at) = found.iter().position(|(name, _)| *name == sum.name) else {
            return Err(damaged(&sum.name, "the file is missing"));
        };
        let (name, bytes) = found.swap_remove(at);
        if bytes != sum.bytes {
            return Err(damaged(&name, "its length differs"));
        }
        if depth == Depth::Hashes && !sum.hash.is_empty() {
            let path = dir.join(&name);
            let (_, hash) = sum::hash(&path).map_err(io("read", &path))?;
            if hash != sum.hash {
                return Err(damaged(&name, "its hash differs"));
            }
        }
    }
    match found.first() {
        Some((name, _)) => Err(damaged(name, "the file was not there when it was taken")),
        None => Ok(sums),
    }
}
