//! The map of a file: encoded, read, checked.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::PAGE;
use crate::snapshot::is_plain_name;
use crate::snapshot::manifest::FileEntry;
use crate::snapshot::sum::{self, CHUNK, Hash};

/// Source of a run: pages of zeros.
pub(in crate::snapshot) const ZERO: u32 = 0;
/// Source of a run: this snapshot's own data object.
pub(in crate::snapshot) const OWN: u32 = 1;
/// Source of a run: the first base; the others follow.
pub(in crate::snapshot) const BASES: u32 = 2;

/// Cap on an encoded map, before and after compression: the hashes of 64 GiB and [`super::diff::MAX_RUNS`] runs fit.
pub(in crate::snapshot) const MAX_MAP_BYTES: usize = 32 << 20;

/// A data object of an earlier snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::snapshot) struct Base {
    /// Where the snapshot lies; empty: where the map does.
    pub uri: String,
    /// The snapshot that the object belongs to.
    pub id: String,
    /// The object's name below the snapshot's id.
    pub object: String,
    /// Its length in pages.
    pub pages: u64,
    /// Length of the object in bytes.
    pub stored_bytes: u64,
}

/// Pages that follow one another in the file and in what they are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::snapshot) struct Run {
    /// [`ZERO`], [`OWN`], or a base from [`BASES`] on.
    pub source: u32,
    /// The first page in the source, uncompressed; 0 for zeros.
    pub start: u64,
    /// How many.
    pub pages: u64,
}

/// What a file of pages is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::snapshot) struct Map {
    /// The hash of each chunk of the file.
    pub chunks: Vec<Hash>,
    /// Objects of earlier snapshots.
    pub bases: Vec<Base>,
    /// The file's pages in their order.
    pub runs: Vec<Run>,
}

impl Map {
    /// The bytes to store.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let raw = postcard::to_allocvec(self).map_err(std::io::Error::other)?;
        let mut encoder = zstd::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        std::io::Write::write_all(&mut encoder, &raw)?;
        encoder.finish()
    }

    /// Reads what [`Map::encode`] wrote; else says what is wrong.
    pub fn decode(stored: &[u8]) -> Result<Map, String> {
        let decoder = zstd::Decoder::with_buffer(stored).map_err(|e| e.to_string())?;
        let mut raw = Vec::new();
        let mut capped = decoder.take(MAX_MAP_BYTES as u64 + 1);
        capped.read_to_end(&mut raw).map_err(|e| e.to_string())?;
        if raw.len() > MAX_MAP_BYTES {
            return Err(format!("over {MAX_MAP_BYTES} bytes"));
        }
        match postcard::take_from_bytes::<Map>(&raw) {
            Ok((map, [])) => Ok(map),
            Ok(_) => Err("bytes after its end".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// What must hold of the map of a file, whoever wrote it.
    pub fn check(&self, entry: &FileEntry) -> Result<(), String> {
        let own = entry.data.as_ref().map_or(0, |d| d.bytes) / PAGE as u64;
        let mut pages = 0u64;
        for run in &self.runs {
            let there = match run.source {
                ZERO => u64::MAX,
                OWN => own,
                base => {
                    let base = self.bases.get((base - BASES) as usize);
                    base.ok_or("a run is of no base")?.pages
                }
            };
            let end = run.start.checked_add(run.pages).filter(|end| *end <= there);
            if run.pages == 0 || end.is_none() {
                return Err("a run leaves its object".to_owned());
            }
            pages = pages.saturating_add(run.pages);
        }
        if pages.saturating_mul(PAGE as u64) != entry.bytes {
            return Err("its runs are not as long as the file".to_owned());
        }
        if self.chunks.len() as u64 != entry.bytes.div_ceil(CHUNK as u64)
            || sum::of(&self.chunks) != entry.hash
        {
            return Err("its hashes do not make up the file's".to_owned());
        }
        let plain = |base: &Base| is_plain_name(&base.id) && is_plain_name(&base.object);
        match self.bases.iter().all(plain) {
            true => Ok(()),
            false => Err("it names a base that cannot be".to_owned()),
        }
    }

    /// How many pages are from each source.
    pub fn used(&self) -> Vec<u64> {
        let mut used = vec![0; BASES as usize + self.bases.len()];
        for run in &self.runs {
            if let Some(used) = used.get_mut(run.source as usize) {
                *used += run.pages;
            }
        }
        used
    }
}
