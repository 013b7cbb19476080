//! A file of pages, made again from what its map names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::{Map, OWN, PAGE, ZERO};
use crate::snapshot::BUFFER;
use crate::snapshot::codec::{self, ExpandError};
use crate::snapshot::manifest::DataObject;
use crate::snapshot::sum::{self, CHUNK};

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

/// Writes the `parts` of an object as it comes.
pub(in crate::snapshot) fn scatter(
    from: impl Read,
    object: &DataObject,
    parts: &[Part],
    file: &File,
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
    Ok(true)
}

/// Holds the whole file against its map: where it differs first, in bytes.
pub(in crate::snapshot) fn verify(mut file: &File, map: &Map) -> io::Result<Option<u64>> {
    let (mut chunk, mut at) = (vec![0; CHUNK], 0);
    for hash in &map.chunks {
        let n = sum::fill(&mut file, &mut chunk)?;
        if blake3::hash(&chunk[..n]).as_bytes() != hash {
            return Ok(Some(at));
        }
        at += n as u64;
    }
    Ok(None)
}
