//! Which images stay on the node's disk: those that are pinned, those used a moment ago, and of the others the ones used last, as far
//! as the budget goes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::error::io;
use super::store::{Inner, Record, remove_dir, try_lock};
use super::{Digest, Result};

/// Whoever was just given an image has so long to pin it: as long as a sandbox may take to come up, and some more.
const GRACE: Duration = Duration::from_secs(15 * 60);

/// An image on disk, as the choice sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) used: SystemTime,
}

/// The images that have to go so that the rest takes at most `budget` bytes, the one that was not used for longest first. Pinned ones stay
/// even beyond the budget.
pub(super) fn surplus(
    mut kept: Vec<Kept>,
    budget: u64,
    pinned: &HashSet<Digest>,
    now: SystemTime,
) -> Vec<Digest> {
    kept.sort_by_key(|image| image.used);
    let total = |sum: u64, image: &Kept| sum.saturating_add(image.bytes);
    let mut bytes = kept.iter().fold(0, total);
    let mut gone = Vec::new();
    for image in kept {
        let fresh = now.duration_since(image.used).is_ok_and(|age| age < GRACE);
        // A time to come is that of a clock that was set back.
        if bytes <= budget || fresh || pinned.contains(&image.digest) {
            continue;
        }
        bytes -= image.bytes.min(bytes);
        gone.push(image.digest);
    }
    gone
}

impl Inner {
    /// Removes what the cache has too much of, and says what that was.
    pub(super) fn trim(&self, budget: u64, pinned: &HashSet<Digest>) -> Result<Vec<Digest>> {
        let images = self.root.join("images");
        let mut kept = Vec::new();
        for hex in names(&images)? {
            let path = images.join(&hex).join("image.json");
            // One that cannot be read is not counted: it is made anew when somebody asks for it.
            let (Ok(json), Ok(meta)) = (fs::read(&path), fs::metadata(&path)) else {
                continue;
            };
            let Ok(record) = serde_json::from_slice::<Record>(&json) else {
                continue;
            };
            let written = meta.modified().map_err(io("read", &path))?;
            let used = self.uses.last(&record.digest, written);
            if used > written {
                // For the next process.
                let file = File::options().write(true).open(&path);
                let noted = file.and_then(|file| file.set_modified(used));
                noted.map_err(io("write", &path))?;
            }
            kept.push(Kept {
                used,
                digest: record.digest,
                bytes: record.bytes,
            });
        }
        let mut pinned = pinned.clone();
        pinned.extend(self.chosen(&pinned)?);
        let gone = surplus(kept, budget, &pinned, SystemTime::now());
        for digest in &gone {
            self.remove(digest)?;
        }
        Ok(gone)
    }

    /// The images that were chosen from those of `pinned` that are indexes.
    fn chosen(&self, pinned: &HashSet<Digest>) -> Result<Vec<Digest>> {
        let refs = self.root.join("refs");
        let mut chosen = Vec::new();
        for index in pinned {
            let path = refs.join(index.hex());
            match fs::read_to_string(&path) {
                Ok(text) => chosen.extend(text.parse()),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(io("read", &path)(e)),
            }
        }
        Ok(chosen)
    }

    /// Takes an image away, at once for whoever asks for it.
    fn remove(&self, digest: &Digest) -> Result<()> {
        let Some(_held) = try_lock(&self.root.join("locks").join(digest.hex()))? else {
            return Ok(());
        };
        let (from, to) = (self.image(digest), self.tmp(digest));
        remove_dir(&to)?;
        fs::rename(&from, &to).map_err(io("remove", &from))?;
        self.uses.forget(digest);
        let refs = self.root.join("refs");
        for name in names(&refs)? {
            let path = refs.join(&name);
            if fs::read_to_string(&path).is_ok_and(|text| text == digest.to_string()) {
                fs::remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        remove_dir(&to)
    }
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(dir).map_err(io("list", dir))?;
    entries
        .map(|entry| Ok(entry.map_err(io("list", dir))?.file_name()))
        .collect()
}

/// When images were asked for since this process began.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<HashMap<Digest, SystemTime>>);

impl Uses {
    pub(super) fn note(&self, digest: &Digest) {
        self.lock().insert(digest.clone(), SystemTime::now());
    }

    /// The later of `before` and what was noted.
    pub(super) fn last(&self, digest: &Digest, before: SystemTime) -> SystemTime {
        self.lock()
            .get(digest)
            .map_or(before, |used| before.max(*used))
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.lock().remove(digest);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, SystemTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        format!("sha256:{}", hex::encode([n; 32])).parse().unwrap()
    }

    #[test]
    fn the_least_recently_used_goes_and_pinned_and_fresh_ones_stay() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let kept = |n: u8, bytes, age: u64| Kept {
            digest: digest(n),
            bytes,
            used: now - Duration::from_secs(age),
        };
        let all = || {
            vec![
                kept(1, 40, 5000),
                kept(2, 30, 9000),
                kept(3, 20, 7000),
                kept(4, 10, 10),
            ]
        };
        for (budget, pinned, gone) in [
            (100, &[][..], &[][..]),
            (99, &[], &[2]),
            (70, &[], &[2]),
            (69, &[], &[2, 3]),
            (0, &[], &[2, 3, 1]),
            (69, &[2], &[3, 1]),
            (0, &[1, 2, 3], &[]),
        ] {
            let pinned: HashSet<Digest> = pinned.iter().map(|n| digest(*n)).collect();
            let gone: Vec<Digest> = gone.iter().map(|n| digest(*n)).collect();
            assert_eq!(
                surplus(all(), budget, &pinned, now),
                gone,
                "{budget} {pinned:?}"
            );
        }
    }
}
