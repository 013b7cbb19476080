//! A file of pages, made again from what its map names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use super::{Map, OWN, PAGE, ZERO};
use crate::snapshot::BUFFER;
use crate::snapshot::codec::{self, ExpandError};
use crate::snapshot::manifest::DataObject;
use crate::snapshot::sum::CHUNK;

/// Pages of an object, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::snapshot) struct Part {
    /// The first, in the object.
    pub from: u64,
    /// The first, in the file.
    pub to: u64,
    /// How many.
    pub pages: u64,
}

/// What the file needs of each source but zeros, in the sources' order.
pub(in crate::snapshot) fn parts(map: &Map) -> BTreeMap<u32, Vec<Part>> {
    let mut parts: BTreeMap<u32, Vec<Part>> = BTreeMap::new();
    let mut to = 0;
    for run in &map.runs {
        if run.source != ZERO {
            parts.entry(run.source).or_default().push(Part {
                from: run.start,
                to,
                pages: run.pages,
            });
        }
        to += run.pages;
    }
    parts
        .values_mut()
        .for_each(|of| of.sort_by_key(|part| part.from));
    parts
}

/// What of a file is there, while several write it: names each chunk when its last page is, so that it is verified meanwhile.
pub(in crate::snapshot) struct Tally {
    /// Pages that each chunk lacks.
    lacking: Vec<AtomicU64>,
    complete: mpsc::Sender<usize>,
}

impl Tally {
    /// Of a new file, which has its zeros already; and where its chunks are named.
    pub fn new(map: &Map) -> (Tally, mpsc::Receiver<usize>) {
        let (complete, chunks) = mpsc::channel();
        let mut lacking = vec![0; map.chunks.len()];
        let mut first = 0;
        for run in &map.runs {
            if run.source != ZERO {
                by_chunk(first, run.pages).for_each(|(chunk, pages)| lacking[chunk] += pages);
            }
            first += run.pages;
        }
        let tally = Tally {
            lacking: lacking.iter().copied().map(AtomicU64::new).collect(),
            complete,
        };
        let there = (0..lacking.len()).filter(|chunk| lacking[*chunk] == 0);
        there.for_each(|chunk| tally.name(chunk));
        (tally, chunks)
    }

    /// These pages are written, once.
    fn wrote(&self, first: u64, pages: u64) {
        for (chunk, pages) in by_chunk(first, pages) {
            if self.lacking[chunk].fetch_sub(pages, Ordering::AcqRel) == pages {
                self.name(chunk);
            }
        }
    }

    fn name(&self, chunk: usize) {
        // Fails when nobody verifies any more.
        let _ = self.complete.send(chunk);
    }
}

/// How many of these pages are in which chunk.
fn by_chunk(first: u64, pages: u64) -> impl Iterator<Item = (usize, u64)> {
    const PAGES: u64 = (CHUNK / PAGE) as u64;
    let end = first + pages;
    let of = move |chunk: u64| end.min((chunk + 1) * PAGES) - first.max(chunk * PAGES);
    (first / PAGES..end.div_ceil(PAGES)).map(move |chunk| (chunk as usize, of(chunk)))
}

/// Writes the `parts` of an object as it comes.
pub(in crate::snapshot) fn scatter(
    from: impl BufRead,
    object: &DataObject,
    parts: &[Part],
    file: &File,
    tally: &Tally,
) -> Result<(), ExpandError> {
    let (mut first, mut next) = (0, 0);
    // Those that have begun. The same pages may go to several places.
    let mut open: Vec<Part> = Vec::new();
    codec::unpack(from, object, |bytes| {
        let end = first + (bytes.len() / PAGE) as u64;
        let begun = parts[next..].iter().take_while(|part| part.from < end);
        open.extend(begun);
        next = parts.partition_point(|part| part.from < end);
        for part in &open {
            let from = part.from.max(first);
            let until = (part.from + part.pages).min(end);
            let there = (from - first) as usize * PAGE..(until - first) as usize * PAGE;
            let to = part.to + from - part.from;
            file.write_all_at(&bytes[there], to * PAGE as u64)?;
            tally.wrote(to, until - from);
        }
        open.retain(|part| part.from + part.pages > end);
        first = end;
        Ok(())
    })
}

/// Writes the `parts` of the own object of `owner` from the file that it is the map of, as far as they are there; returns whether all are.
pub(in crate::snapshot) fn copy(
    copy: &File,
    owner: &Map,
    wanted: &[Part],
    file: &File,
    tally: &Tally,
) -> io::Result<bool> {
    let own = parts(owner).remove(&OWN).unwrap_or_default();
    let mut buffer = vec![0; BUFFER];
    for part in wanted {
        let mut part = *part;
        while part.pages > 0 {
            let after = own.partition_point(|own| own.from <= part.from);
            let run = own[..after].last();
            let Some(run) = run.filter(|run| run.from + run.pages > part.from) else {
                return Ok(false);
            };
            let there = run.from + run.pages - part.from;
            let pages = part.pages.min(there).min((BUFFER / PAGE) as u64);
            let bytes = &mut buffer[..pages as usize * PAGE];
            let at = run.to + part.from - run.from;
            copy.read_exact_at(bytes, at * PAGE as u64)?;
            file.write_all_at(bytes, part.to * PAGE as u64)?;
            part = Part {
                from: part.from + pages,
                to: part.to + pages,
                pages: part.pages - pages,
            };
        }
    }
    // Not before: else they are written again.
    wanted
        .iter()
        .for_each(|part| tally.wrote(part.to, part.pages));
    Ok(true)
}

/// Holds chunks of the file against its map as they are named: where it differs first, in bytes, once nobody writes any more. A chunk that
/// was not named differs.
pub(in crate::snapshot) fn verify(
    file: &File,
    map: &Map,
    chunks: &mpsc::Receiver<usize>,
) -> io::Result<Option<u64>> {
    let (length, mut buffer) = (file.metadata()?.len(), vec![0; CHUNK]);
    let mut equal = vec![false; map.chunks.len()];
    for chunk in chunks {
        let at = (chunk * CHUNK) as u64;
        let bytes = &mut buffer[..CHUNK.min(length.saturating_sub(at) as usize)];
        file.read_exact_at(bytes, at)?;
        equal[chunk] = blake3::hash(bytes).as_bytes() == &map.chunks[chunk];
    }
    let differs = equal.iter().position(|equal| !equal);
    Ok(differs.map(|chunk| (chunk * CHUNK) as u64))
}
