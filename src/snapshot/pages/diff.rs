//! What a file of pages is made of, beside an earlier snapshot's.
//!
//! A chunk whose hash is that of the earlier file's chunk is that chunk: nothing else is read for it. Of the others, pages are looked up by
//! a hash of 128 bits among those of the earlier file's other chunks, as its copy on this node has them. That copy is held against the
//! published hashes first, so that nothing is referred to that is not in the store. Somebody who made two pages with one hash would
//! make a snapshot of their own unreadable, which its map's hashes show: nobody is given other pages for theirs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use super::{BASES, Base, MAX_BASES, Map, OWN, PAGE, Run, ZERO};
use crate::snapshot::codec::Packer;
use crate::snapshot::manifest::{DataObject, FileEntry};
use crate::snapshot::sum::{self, CHUNK, Sum};
use crate::snapshot::{BUFFER, Location};

/// Most runs of a map: from there on everything is stored anew, as one more run.
pub(in crate::snapshot) const MAX_RUNS: usize = 1 << 20;

/// Most pages that are looked up, which takes some 60 MiB of memory; those beyond are only found where whole chunks are equal.
const MAX_LOOKED_UP: usize = 1 << 20;

const CHUNK_PAGES: u64 = (CHUNK / PAGE) as u64;

/// A file of an earlier snapshot, which is published and will stay so until the new one is.
#[derive(Clone, Debug)]
pub(in crate::snapshot) struct Known {
    pub at: Location,
    /// How the new map says where it lies; empty: where the new one will.
    pub uri: String,
    pub id: String,
    pub entry: FileEntry,
    pub map: Map,
    /// The file on this node, if it is here.
    pub copy: Option<PathBuf>,
}

/// A file and its map; its data object is in the file that was asked for, if there is any new page.
pub(in crate::snapshot) struct Made {
    pub map: Map,
    pub bytes: u64,
    /// Uncompressed bytes of the object, and its own.
    pub data: Option<(u64, u64)>,
}

/// Maps the file `from`, and writes the pages that are not in `known` to the new object `to`.
pub(in crate::snapshot) fn diff(from: &Path, to: &Path, known: Option<&Known>) -> io::Result<Made> {
    let file = File::open(from)?;
    let bytes = file.metadata()?.len();
    let (chunks, pieces) = compare(&file, known)?;
    let places = known.map(Places::new);
    let index = match (&places, known.and_then(|known| known.copy.as_deref())) {
        (Some(places), Some(copy)) => Index::new(places, copy, &pieces).unwrap_or_else(|error| {
            tracing::warn!(copy = %copy.display(), %error, "pages are not looked up");
            Index::default()
        }),
        _ => Index::default(),
    };
    let mut out = Out {
        file,
        to,
        packer: None,
        runs: Vec::new(),
        done: 0,
        stored: 0,
    };
    for piece in pieces {
        match places.as_ref().filter(|_| piece.equal) {
            Some(places) => {
                for (place, pages) in places.locate(piece.first, piece.pages) {
                    out.refer(place, pages)?;
                }
            }
            None => out.search(piece.pages, places.as_ref(), &index)?,
        }
    }
    let data = out.packer.map(Packer::finish).transpose()?;
    let bases = places.map(|places| places.bases).unwrap_or_default();
    Ok(Made {
        map: pruned(Map {
            chunks,
            bases,
            runs: out.runs,
        }),
        bytes,
        data,
    })
}

/// Pages that are those of the known file, or not.
#[derive(Clone, Copy)]
struct Piece {
    equal: bool,
    first: u64,
    pages: u64,
}

/// Hashes the file, and tells the chunks apart that are in `known` at their place.
fn compare(mut file: &File, known: Option<&Known>) -> io::Result<(Vec<sum::Hash>, Vec<Piece>)> {
    let (mut sum, mut buffer) = (Sum::default(), vec![0; BUFFER]);
    let mut pieces: Vec<Piece> = Vec::new();
    loop {
        let n = sum::fill(&mut file, &mut buffer)?;
        let (at, mut first) = (sum.chunks.len(), sum.bytes / PAGE as u64);
        sum.update(&buffer[..n]);
        for (i, chunk) in buffer[..n].chunks(CHUNK).enumerate() {
            let then = known.and_then(|known| known.map.chunks.get(at + i));
            let equal = then == sum.chunks.get(at + i);
            let pages = (chunk.len() / PAGE) as u64;
            match pieces.last_mut() {
                Some(last) if last.equal == equal => last.pages += pages,
                _ => pieces.push(Piece {
                    equal,
                    first,
                    pages,
                }),
            }
            first += pages;
        }
        if n < buffer.len() {
            return Ok((sum.chunks, pieces));
        }
    }
}

/// A page's place: a source of the new map, and where in it.
type Place = Option<(u32, u64)>;

/// Where the pages of a known file are, in the words of the new map; `None`: in an object that the new snapshot shall not hang on.
struct Places<'a> {
    known: &'a Known,
    bases: Vec<Base>,
    /// By the known map's source.
    sources: Vec<Option<u32>>,
    /// Where each run of the known map ends.
    ends: Vec<u64>,
}

impl<'a> Places<'a> {
    fn new(known: &'a Known) -> Places<'a> {
        let mut places = Places {
            known,
            bases: Vec::new(),
            sources: vec![Some(ZERO)],
            ends: Vec::new(),
        };
        let own = known.entry.data.as_ref();
        let own = own.map(
            |DataObject {
                 object,
                 bytes,
                 stored_bytes,
             }| Base {
                uri: known.uri.clone(),
                id: known.id.clone(),
                object: object.clone(),
                pages: bytes / PAGE as u64,
                stored_bytes: *stored_bytes,
            },
        );
        let bases = known.map.bases.iter().cloned().map(Some);
        let all: Vec<_> = std::iter::once(own).chain(bases).collect();
        let lengths = all.iter().map(|base| match base {
            Some(base) if base.uri.is_empty() => Some(base.pages),
            _ => None,
        });
        let kept = kept(
            &lengths.collect::<Vec<_>>(),
            &known.map.used()[OWN as usize..],
        );
        for (base, kept) in all.into_iter().zip(kept) {
            let base = base.filter(|_| kept);
            let source = BASES + places.bases.len() as u32;
            places.sources.push(base.is_some().then_some(source));
            places.bases.extend(base);
        }
        let mut end = 0;
        places.ends.extend(known.map.runs.iter().map(|run| {
            end += run.pages;
            end
        }));
        places
    }

    /// Where pages are that follow one another, run by run.
    fn locate(&self, first: u64, pages: u64) -> impl Iterator<Item = (Place, u64)> {
        let from = self.ends.partition_point(|end| *end <= first);
        let runs = self.known.map.runs[from..].iter().zip(&self.ends[from..]);
        let last = first + pages;
        runs.map_while(move |(run, end)| {
            let begin = end - run.pages;
            let at = first.max(begin);
            let pages = last.min(*end).checked_sub(at).filter(|n| *n > 0)?;
            let source = self.sources.get(run.source as usize).copied().flatten();
            let start = if run.source == ZERO {
                0
            } else {
                run.start + at - begin
            };
            Some((source.map(|source| (source, start)), pages))
        })
    }

    fn place(&self, page: u64) -> Place {
        self.locate(page, 1).next()?.0
    }
}

/// Which objects a new snapshot may go on to hang on. `lengths` are in pages, `None` of those that are others' and shared; `used`: how
/// many of them the snapshot before needs.
///
/// Of an object that is less than half needed the rest is stored anew: so what hangs on is never much more than twice what
/// is needed. When there are too many, the smaller half is.
fn kept(lengths: &[Option<u64>], used: &[u64]) -> Vec<bool> {
    let worth = |i: usize| lengths[i].is_none_or(|length| used[i] * 2 >= length);
    let mut own: Vec<usize> = (0..lengths.len())
        .filter(|i| lengths[*i].is_some() && worth(*i))
        .collect();
    if own.len() >= MAX_BASES {
        own.sort_by_key(|i| std::cmp::Reverse(used[*i]));
        own.truncate(MAX_BASES / 2);
    }
    let keeps = |i: usize| used[i] > 0 && (lengths[i].is_none() || own.contains(&i));
    (0..lengths.len()).map(keeps).collect()
}

/// The known file's pages that are not at their place any more, by their hashes.
#[derive(Default)]
struct Index(HashMap<u128, u64>);

impl Index {
    fn new(places: &Places, copy: &Path, pieces: &[Piece]) -> io::Result<Index> {
        let (copy, mut index) = (File::open(copy)?, Index::default());
        let pages = places.known.entry.bytes / PAGE as u64;
        let equal = pieces.iter().filter(|piece| piece.equal);
        let mut next = 0;
        for piece in equal {
            index.add(places, &copy, next, piece.first.min(pages))?;
            next = piece.first + piece.pages;
        }
        index.add(places, &copy, next, pages)?;
        Ok(index)
    }

    /// Adds the pages from `first`, the first of a chunk, until `end`.
    fn add(&mut self, places: &Places, copy: &File, first: u64, end: u64) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        let mut first = first;
        while first < end && self.0.len() < MAX_LOOKED_UP {
            let pages = CHUNK_PAGES.min(end - first);
            let chunk = &mut buffer[..pages as usize * PAGE];
            copy.read_exact_at(chunk, first * PAGE as u64)?;
            let published = places.known.map.chunks.get((first / CHUNK_PAGES) as usize);
            if published == Some(blake3::hash(chunk).as_bytes()) {
                for (i, page) in chunk.chunks(PAGE).enumerate() {
                    let at = first + i as u64;
                    if matches!(places.place(at), Some((source, _)) if source != ZERO) {
                        self.0.entry(xxh3_128(page)).or_insert(at);
                    }
                }
            } else {
                tracing::error!(
                    id = places.known.id,
                    first,
                    "a local copy differs from what is published"
                );
            }
            first += pages;
        }
        Ok(())
    }

    /// The known page with these bytes.
    fn find(&self, page: &[u8]) -> Option<u64> {
        match self.0.is_empty() {
            true => None,
            false => self.0.get(&xxh3_128(page)).copied(),
        }
    }
}

/// The new map and the new object.
struct Out<'a> {
    file: File,
    to: &'a Path,
    packer: Option<Packer>,
    runs: Vec<Run>,
    /// Pages of the file that are done.
    done: u64,
    /// Pages in the object.
    stored: u64,
}

impl Out<'_> {
    /// The next pages are these.
    fn refer(&mut self, place: Place, pages: u64) -> io::Result<()> {
        match place {
            Some((source, start)) if self.runs.len() < MAX_RUNS => {
                self.push(source, start, pages);
                Ok(())
            }
            _ => self.read(pages, |out, bytes| out.store(bytes)),
        }
    }

    /// Looks the next pages up, and stores those that are not found.
    fn search(&mut self, pages: u64, places: Option<&Places>, index: &Index) -> io::Result<()> {
        self.read(pages, |out, bytes| {
            let mut new = 0..0;
            for (i, page) in bytes.chunks(PAGE).enumerate() {
                let place = match page.iter().all(|byte| *byte == 0) {
                    true => Some((ZERO, 0)),
                    false => match (places, index.find(page)) {
                        (Some(places), Some(at)) => places.place(at),
                        _ => None,
                    },
                };
                let place = place.filter(|_| out.runs.len() < MAX_RUNS);
                if let Some((source, start)) = place {
                    out.store(&bytes[new])?;
                    out.push(source, start, 1);
                    new = (i + 1) * PAGE..(i + 1) * PAGE;
                } else {
                    new.end += page.len();
                }
            }
            out.store(&bytes[new])
        })
    }

    /// Gives `each` the bytes of the next pages.
    fn read(
        &mut self,
        pages: u64,
        mut each: impl FnMut(&mut Self, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = self.done + pages;
        let mut buffer = vec![0; BUFFER.min(pages as usize * PAGE)];
        while self.done < end {
            let n = buffer.len().min((end - self.done) as usize * PAGE);
            self.file
                .read_exact_at(&mut buffer[..n], self.done * PAGE as u64)?;
            each(self, &buffer[..n])?;
        }
        Ok(())
    }

    /// The next pages are new.
    fn store(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let packer = match &mut self.packer {
            Some(packer) => packer,
            none => none.insert(Packer::new(self.to)?),
        };
        packer.write(bytes)?;
        let pages = (bytes.len() / PAGE) as u64;
        self.push(OWN, self.stored, pages);
        self.stored += pages;
        Ok(())
    }

    fn push(&mut self, source: u32, start: u64, pages: u64) {
        self.done += pages;
        match self.runs.last_mut() {
            Some(last)
                if last.source == source
                    && (source == ZERO || last.start + last.pages == start) =>
            {
                last.pages += pages;
            }
            _ => self.runs.push(Run {
                source,
                start,
                pages,
            }),
        }
    }
}

/// Without the bases that no run is of.
fn pruned(mut map: Map) -> Map {
    let used = map.used();
    let mut sources = vec![ZERO, OWN];
    let mut bases = Vec::new();
    for (base, used) in map.bases.into_iter().zip(&used[BASES as usize..]) {
        sources.push(BASES + bases.len() as u32);
        bases.extend((*used > 0).then_some(base));
    }
    for run in &mut map.runs {
        run.source = sources[run.source as usize];
    }
    map.bases = bases;
    map
}
