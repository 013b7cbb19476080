//! Objects as files below a directory: a shared mount, or `ate dev`'s own disk.
//!
//! A file appears under its key complete and flushed: it is written in the store's spool, flushed, then linked or renamed
//! into place, and the directory is flushed. Directories that become empty are removed.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::error::io as failed;
use super::objects::{Body, ObjectStore, PAGE_KEYS, Page, check_key};
use super::{BUFFER, Result, SnapshotError, blocking};

/// Where files are made before they get their names; not a key, since listings leave it out.
const SPOOL: &str = ".spool";

/// What has not been written to for so long belongs to nobody: other processes and machines may use the store, and none writes a
/// file for so long.
const SPOOL_AGE: Duration = Duration::from_secs(3600);

/// How often a write is tried when its directory vanishes under it (somebody deleted the last object in it).
const PLACE_ATTEMPTS: usize = 5;

/// A directory as an object store.
#[derive(Clone, Debug)]
pub struct FileStore {
    root: PathBuf,
}

impl FileStore {
    /// The store in `root`, which is made when the first object is put.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Removes from the spool what killed processes left there. Blocks.
    pub(super) fn sweep(&self) -> Result<()> {
        let spool = self.root.join(SPOOL);
        let entries = match fs::read_dir(&spool) {
            Ok(entries) => entries,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(failed("list", &spool)(e)),
        };
        for entry in entries {
            let path = entry.map_err(failed("list", &spool))?.path();
            let written = last_written(&path);
            if written.is_none_or(|at| at.elapsed().is_ok_and(|age| age < SPOOL_AGE)) {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                Err(e) if !is_absent(&e) => return Err(failed("remove", &path)(e)),
                _ => tracing::info!(path = %path.display(), "removed what a killed process left"),
            }
        }
        Ok(())
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    /// Gives the flushed file `from` the name `to` by `place`, making directories as needed.
    fn place(&self, to: &Path, place: impl Fn() -> io::Result<()>) -> Result<()> {
        let parent = to.parent().unwrap_or(&self.root);
        for attempt in 1.. {
            make_dirs(parent).map_err(failed("create", parent))?;
            match place() {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::NotFound && attempt < PLACE_ATTEMPTS => {}
                Err(e) => return Err(failed("write", to)(e)),
            }
        }
        sync_dir(parent).map_err(failed("flush", parent))
    }
}

#[async_trait]
impl ObjectStore for FileStore {
    fn name(&self) -> String {
        format!("file://{}/", self.root.display())
    }

    fn spool(&self) -> Result<Option<PathBuf>> {
        let spool = self.root.join(SPOOL);
        make_dirs(&spool).map_err(failed("create", &spool))?;
        Ok(Some(spool))
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<()> {
        let (store, to, file) = (self.clone(), self.path(key)?, file.to_owned());
        blocking(move || {
            sync(&file).map_err(failed("flush", &file))?;
            let moved = store.place(&to, || fs::rename(&file, &to));
            let Err(SnapshotError::Io { source, .. }) = &moved else {
                return moved;
            };
            if source.kind() != ErrorKind::CrossesDevices {
                return moved;
            }
            let spool = store.spool()?.unwrap_or_default();
            let copy =
                tempfile::NamedTempFile::new_in(&spool).map_err(failed("write in", &spool))?;
            fs::copy(&file, copy.path()).map_err(failed("copy", &file))?;
            sync(copy.path()).map_err(failed("flush", copy.path()))?;
            let copy = copy.into_temp_path();
            store.place(&to, || fs::rename(&copy, &to))
        })
        .await
    }

    async fn put_if_absent(&self, key: &str, bytes: Vec<u8>) -> Result<bool> {
        let (store, to) = (self.clone(), self.path(key)?);
        blocking(move || {
            let spool = store.spool()?.unwrap_or_default();
            let mut new =
                tempfile::NamedTempFile::new_in(&spool).map_err(failed("write in", &spool))?;
            new.write_all(&bytes)
                .and_then(|()| new.as_file().sync_all())
                .map_err(failed("write in", &spool))?;
            // A hard link, unlike a rename, never replaces what is there.
            match store.place(&to, || fs::hard_link(new.path(), &to)) {
                Ok(()) => Ok(true),
                Err(SnapshotError::Io { source, .. })
                    if source.kind() == ErrorKind::AlreadyExists =>
                {
                    Ok(false)
                }
                Err(e) => Err(e),
            }
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Body> {
        let (path, key, store) = (self.path(key)?, key.to_owned(), self.name());
        blocking(move || match File::open(&path) {
            Ok(file) if file.metadata().is_ok_and(|m| m.is_file()) => {
                Ok(Box::new(BufReader::with_capacity(BUFFER, file)) as Body)
            }
            Ok(_) => Err(SnapshotError::NoObject { key, store }),
            Err(e) if is_absent(&e) => Err(SnapshotError::NoObject { key, store }),
            Err(e) => Err(failed("open", &path)(e)),
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let (store, path) = (self.clone(), self.path(key)?);
        blocking(move || {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if is_absent(&e) => return Ok(()),
                Err(e) => return Err(failed("remove", &path)(e)),
            }
            let mut dir = path.parent();
            while let Some(empty) = dir.filter(|d| *d != store.root) {
                if fs::remove_dir(empty).is_err() {
                    break;
                }
                dir = empty.parent();
            }
            let Some(dir) = dir else { return Ok(()) };
            if dir == store.root && holds_only_spool(dir) {
                // The last object has gone: so does what was made for the first. Both fail while anything is in there.
                let _ = fs::remove_dir(store.root.join(SPOOL));
                let _ = fs::remove_dir(&store.root);
            }
            match sync_dir(dir) {
                Err(e) if !is_absent(&e) => Err(failed("flush", dir)(e)),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let dir = match prefix.strip_suffix('/') {
            Some(dir) => self.path(dir)?,
            None => self.root.clone(),
        };
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or("").to_owned());
        blocking(move || {
            let mut keys = Vec::new();
            walk(&dir, &prefix, &after, &mut keys).map_err(failed("list", &dir))?;
            let more = keys.len() > PAGE_KEYS;
            keys.truncate(PAGE_KEYS);
            Ok(Page { keys, more })
        })
        .await
    }
}

/// Adds the keys below `dir` after `after` in their order, until there is one more than a page holds.
fn walk(dir: &Path, prefix: &str, after: &str, keys: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name != SPOOL {
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            names.push(format!("{prefix}{name}{slash}"));
        }
    }
    names.sort();
    for key in names {
        if keys.len() > PAGE_KEYS {
            break;
        }
        if key.ends_with('/') {
            if key.as_str() > after || after.starts_with(&key) {
                walk(&dir.join(&key[prefix.len()..]), &key, after, keys)?;
            }
        } else if key.as_str() > after {
            keys.push(key);
        }
    }
    Ok(())
}

fn holds_only_spool(root: &Path) -> bool {
    let mut entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.all(|entry| entry.file_name() == SPOOL)
}

/// When a file, or a directory or anything in it, was written to last; `None` when it has gone.
fn last_written(path: &Path) -> Option<SystemTime> {
    let meta = fs::symlink_metadata(path).ok()?;
    let own = meta.modified().ok()?;
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    inside
        .filter_map(|entry| entry.metadata().ok()?.modified().ok())
        .chain([own])
        .max()
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn sync(file: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes `dir` and what is above it, and flushes the entry of each that is new.
fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent();
    if let Some(parent) = parent {
        make_dirs(parent)?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => parent.map_or(Ok(()), sync_dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{S3Config, Stores};

    #[tokio::test]
    async fn what_killed_processes_left_goes_and_what_is_under_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join(SPOOL);
        let long_ago = SystemTime::now() - 2 * SPOOL_AGE;
        let make = |name: &str, file_is_old: bool, dir_is_old: bool| {
            let dir = spool.join(name);
            fs::create_dir_all(&dir).unwrap();
            let file = File::create(dir.join("pages.img")).unwrap();
            if file_is_old {
                file.set_modified(long_ago).unwrap();
            }
            if dir_is_old {
                File::open(&dir).unwrap().set_modified(long_ago).unwrap();
            }
        };
        make(".publish-left", true, true);
        make(".publish-slow", false, true);
        make(".publish-new", true, false);
        let left = File::create(spool.join(".tmpleft")).unwrap();
        left.set_modified(long_ago).unwrap();
        File::create(spool.join(".tmpnew")).unwrap();
        let stores = Stores::new(S3Config::default());
        let uri = format!("file://{}/", dir.path().display());
        stores.open(&uri).await.unwrap();
        let names = || {
            let entries = fs::read_dir(&spool).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), [".publish-new", ".publish-slow", ".tmpnew"]);
        // Once in the life of a process.
        make(".publish-left", true, true);
        stores.open(&uri).await.unwrap();
        assert_eq!(names().len(), 4);
    }
}
