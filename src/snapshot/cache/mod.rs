//! The node's own copies of snapshots: uncompressed, ready to restore from, within a budget of bytes.
//!
//! On disk, below one directory: `ID/` holds the image's files, `ID.json` their lengths and hashes, written before the
//! directory moves in. An entry is there exactly when both are; whatever else a crash left is removed when the cache is
//! opened. What came from elsewhere was verified on its way in. What was made here is there at once, and its hashes follow
//! ([`LocalCache::seal`]). Everything is verified again at its first use after the cache was opened, by what is known of it; at each use it is
//! still there, file by file.

mod disk;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::manifest::FileSum;
use super::{Result, SnapshotError, blocking, check_id};
use disk::{Depth, Disk};

/// A directory of uncompressed snapshots. Clones share it; one process at a time may have it open.
#[derive(Clone, Debug)]
pub struct LocalCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Disk,
    budget: u64,
    state: Mutex<State>,
    /// One verification after another: they are bound by disk and processor anyway.
    verifying: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// Counts uses; the order of use is all that eviction asks for.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    used: u64,
    verified: bool,
    pins: usize,
}

/// Keeps a cached snapshot from being evicted for as long as it is held.
#[derive(Debug)]
pub struct Pin {
    inner: Arc<Inner>,
    id: String,
    path: PathBuf,
}

impl Pin {
    /// The directory with the image's files. It must not be written to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The snapshot's id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(entry) = self.inner.state().entries.get_mut(&self.id) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }
}

impl LocalCache {
    /// Opens the cache in `root` (made if missing) and removes what is not a whole entry. Keeps to `budget` bytes from the next
    /// [`LocalCache::adopt`] on, so that the caller can pin first what must stay.
    ///
    /// # Errors
    /// `Io`.
    pub async fn open(root: &Path, budget: u64) -> Result<Self> {
        let disk = Disk::new(root);
        blocking(move || {
            let mut state = State::default();
            for (id, bytes) in disk.recover()? {
                state.uses += 1;
                let entry = Entry {
                    bytes,
                    used: state.uses,
                    verified: false,
                    pins: 0,
                };
                state.entries.insert(id, entry);
            }
            Ok(Self {
                inner: Arc::new(Inner {
                    disk,
                    budget,
                    state: Mutex::new(state),
                    verifying: tokio::sync::Mutex::default(),
                }),
            })
        })
        .await
    }

    /// Moves the finished image directory `dir` in as snapshot `id`, then evicts what is over budget.
    ///
    /// With `sums` (of the manifest that [`super::fetch`] or [`super::publish`] returned) only lengths are compared, since
    /// those hashed every byte already; without, lengths are all that is known until [`LocalCache::seal`]. Nothing is read. `dir` must be on the cache's file system.
    /// When everything else is pinned the cache goes over its budget rather than refuse.
    ///
    /// # Errors
    /// `AlreadyExists`; `BadId`, `BadImage`; `Damaged` when `sums` do not fit; `Io`. On an error `dir` is where it was.
    pub async fn adopt(&self, id: &str, dir: &Path, sums: Option<Vec<FileSum>>) -> Result<Pin> {
        check_id(id)?;
        let (inner, id, dir) = (self.inner.clone(), id.to_owned(), dir.to_owned());
        blocking(move || {
            let sums = match sums {
                Some(sums) => disk::compare(&id, &dir, sums, disk::Depth::Lengths)?,
                None => disk::measure_all(&dir)?,
            };
            let trash = {
                let mut state = inner.state();
                if state.entries.contains_key(&id) {
                    return Err(SnapshotError::AlreadyExists {
                        what: format!("a local copy of snapshot {id}"),
                    });
                }
                inner.disk.enter(&id, &dir, &sums)?;
                let entry = Entry {
                    bytes: sums.iter().map(|s| s.bytes).sum(),
                    used: 0,
                    verified: true,
                    // The pin that is returned below.
                    pins: 1,
                };
                state.entries.insert(id.clone(), entry);
                state.touch(&id);
                inner.evict(&mut state)
            };
            trash.into_iter().for_each(disk::discard);
            let path = inner.disk.dir(&id);
            Ok(Pin { inner, id, path })
        })
        .await
    }

    /// Notes the hashes of the copy of snapshot `id`: `sums`, which fit, or as its files are now.
    ///
    /// # Errors
    /// `Damaged` when `sums` do not fit; `Io`, also when there is no copy.
    pub async fn seal(&self, id: &str, sums: Option<Vec<FileSum>>) -> Result<()> {
        check_id(id)?;
        let (disk, id) = (self.inner.disk.clone(), id.to_owned());
        blocking(move || {
            let dir = disk.dir(&id);
            let sums = match sums {
                Some(sums) => disk::compare(&id, &dir, sums, Depth::Lengths)?,
                None => disk::hash_all(&dir)?,
            };
            disk.note(&id, &sums)
        })
        .await
    }

    /// The copy of snapshot `id`, verified, if there is one.
    ///
    /// # Errors
    /// `Damaged`, naming the file, when a byte changed since it was adopted, or it is gone: the copy is removed then. `Io`.
    pub async fn get(&self, id: &str) -> Result<Option<Pin>> {
        let Some(pin) = self.pin(id) else {
            return Ok(None);
        };
        if self.is_verified(id) {
            return check(pin, Depth::Lengths).await;
        }
        let _one = self.inner.verifying.lock().await;
        let depth = match self.is_verified(id) {
            true => Depth::Lengths,
            false => Depth::Hashes,
        };
        check(pin, depth).await
    }

    /// Keeps the copy of snapshot `id` from being evicted while the pin is held; `None` if there is no copy. Counts as a use, and
    /// verifies nothing.
    pub fn pin(&self, id: &str) -> Option<Pin> {
        let mut state = self.inner.state();
        state.entries.get_mut(id)?.pins += 1;
        state.touch(id);
        Some(Pin {
            inner: self.inner.clone(),
            id: id.to_owned(),
            path: self.inner.disk.dir(id),
        })
    }

    /// Removes the copy of snapshot `id`, pinned or not; no error if there is none. Files that are open stay readable.
    ///
    /// # Errors
    /// `Io`.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        blocking(move || inner.remove(&id)).await
    }

    /// Ids of what is there, in no order.
    pub fn ids(&self) -> Vec<String> {
        self.inner.state().entries.keys().cloned().collect()
    }

    /// Uncompressed bytes of what is there.
    pub fn bytes(&self) -> u64 {
        self.inner.state().bytes()
    }

    fn is_verified(&self, id: &str) -> bool {
        let state = self.inner.state();
        state.entries.get(id).is_some_and(|e| e.verified)
    }
}

/// Holds what is on disk against its sums. What does not fit is removed.
async fn check(pin: Pin, depth: Depth) -> Result<Option<Pin>> {
    blocking(move || match pin.inner.disk.verify(&pin.id, depth) {
        Ok(()) => {
            if let Some(entry) = pin.inner.state().entries.get_mut(&pin.id) {
                entry.verified = true;
            }
            Ok(Some(pin))
        }
        Err(e) => {
            if matches!(e, SnapshotError::Damaged { .. }) {
                tracing::error!(id = pin.id, error = %e, "local copy of a snapshot removed");
                pin.inner.remove(&pin.id)?;
            }
            Err(e)
        }
    })
    .await
}

impl Inner {
    /// A panic while the lock is held leaves plain counters behind, which are still right to go on with.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn remove(&self, id: &str) -> Result<()> {
        let trash = {
            let mut state = self.state();
            if !state.entries.contains_key(id) {
                return Ok(());
            }
            let trash = self.disk.leave(id)?;
            state.entries.remove(id);
            trash
        };
        disk::discard(trash);
        Ok(())
    }

    /// Takes out the least recently used entries that are not pinned until the rest fits; returns what to delete.
    fn evict(&self, state: &mut State) -> Vec<PathBuf> {
        let mut trash = Vec::new();
        while state.bytes() > self.budget {
            let free = state.entries.iter().filter(|(_, e)| e.pins == 0);
            let Some((id, _)) = free.min_by_key(|(_, e)| e.used) else {
                tracing::warn!(
                    bytes = state.bytes(),
                    budget = self.budget,
                    "snapshot cache is over its budget, all of it is pinned"
                );
                break;
            };
            let id = id.clone();
            match self.disk.leave(&id) {
                Ok(dir) => trash.push(dir),
                Err(error) => {
                    tracing::warn!(id, %error, "cannot evict a local copy of a snapshot");
                    break;
                }
            }
            state.entries.remove(&id);
            tracing::debug!(id, "local copy of a snapshot evicted");
        }
        trash
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.entries.values().map(|e| e.bytes).sum()
    }

    fn touch(&mut self, id: &str) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(id) {
            entry.used = self.uses;
        }
    }
}
