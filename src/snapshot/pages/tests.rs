use std::collections::HashMap;
use std::fs::File;

use proptest::prelude::*;

use super::assemble;
use super::diff::{Known, diff};
use super::*;
use crate::snapshot::manifest::{DataObject, FileEntry};
use crate::snapshot::testing::{file_store, page};
use crate::snapshot::{sum, sum::CHUNK};

fn bytes(pages: &[u64]) -> Vec<u8> {
    pages.iter().flat_map(|seed| page(*seed)).collect()
}

/// What is published of a file, generation by generation, in a directory.
struct History {
    dir: tempfile::TempDir,
    known: Option<Known>,
    generations: usize,
}

impl History {
    fn new() -> History {
        History {
            dir: tempfile::tempdir().unwrap(),
            known: None,
            generations: 0,
        }
    }

    fn object(&self, id: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{id}.zst"))
    }

    /// Publishes a file of these pages; returns how many were stored.
    fn publish(&mut self, pages: &[u64]) -> u64 {
        let id = format!("g{}", self.generations);
        self.generations += 1;
        let file = self.dir.path().join(&id);
        std::fs::write(&file, bytes(pages)).unwrap();
        let made = diff(&file, &self.object(&id), self.known.as_ref()).unwrap();
        assert_eq!(made.data.is_some(), self.object(&id).exists());
        let data = made.data.map(|(bytes, stored_bytes)| DataObject {
            object: "pages".into(),
            bytes,
            stored_bytes,
        });
        let entry = FileEntry {
            name: "pages.img".into(),
            bytes: made.bytes,
            hash: sum::of(&made.map.chunks),
            data,
            map: None,
        };
        let map = Map::decode(&made.map.encode().unwrap()).unwrap();
        map.check(&entry).unwrap();
        assert_eq!(sum::hash(&file).unwrap(), (entry.bytes, entry.hash.clone()));
        self.known = Some(Known {
            at: file_store().at(""),
            uri: String::new(),
            id,
            entry,
            map,
            copy: Some(file),
        });
        made.data.map_or(0, |(bytes, _)| bytes / PAGE as u64)
    }

    /// The latest file, from its map and the objects that it names.
    fn assembled(&self) -> Vec<u8> {
        let Known { id, entry, map, .. } = self.known.as_ref().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(entry.bytes).unwrap();
        let (tally, chunks) = assemble::Tally::new(map);
        for (source, parts) in assemble::parts(map) {
            let (id, object) = match source.checked_sub(BASES) {
                None => (id, entry.data.clone().unwrap()),
                Some(i) => {
                    let base = &map.bases[i as usize];
                    let object = DataObject {
                        object: base.object.clone(),
                        bytes: base.pages * PAGE as u64,
                        stored_bytes: base.stored_bytes,
                    };
                    (&base.id, object)
                }
            };
            let from = std::io::BufReader::new(File::open(self.object(id)).unwrap());
            assemble::scatter(from, &object, &parts, &file, &tally).unwrap();
        }
        drop(tally);
        assert_eq!(assemble::verify(&file, map, &chunks).unwrap(), None);
        let mut read = vec![0; entry.bytes as usize];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
        read
    }

    fn bases(&self) -> usize {
        self.known.as_ref().unwrap().map.bases.len()
    }
}

fn seeds(range: std::ops::Range<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn only_pages_that_are_new_are_stored() {
    let mut history = History::new();
    let first = seeds(1..301);
    assert_eq!(history.publish(&first), 300);
    assert_eq!(history.publish(&first), 0, "nothing changed");

    let mut changed = first.clone();
    changed[70] = 1000;
    changed[200] = 1001;
    assert_eq!(history.publish(&changed), 2);

    let moved = [&[0, 2000][..], &changed[..100], &changed[150..], &[0; 64]].concat();
    assert_eq!(
        history.publish(&moved),
        1,
        "found elsewhere; zeros cost nothing"
    );
    assert!(history.assembled() == bytes(&moved));
    assert_eq!(history.bases(), 2);
}

#[test]
fn without_the_copy_whole_chunks_are_found_and_a_changed_copy_is_not_believed() {
    for damage in [false, true] {
        let mut history = History::new();
        let first = seeds(1..301);
        history.publish(&first);
        let known = history.known.as_mut().unwrap();
        let copy = known.copy.clone().unwrap();
        let mut second = first.clone();
        second[70] = 1000;
        if damage {
            // The copy was changed after it was verified, and what was restored from it with it.
            let mut bytes = std::fs::read(&copy).unwrap();
            bytes[64 * PAGE..65 * PAGE].copy_from_slice(&page(5000));
            std::fs::write(&copy, bytes).unwrap();
            second[64] = 5000;
        } else {
            known.copy = None;
        }
        let chunk = (CHUNK / PAGE) as u64;
        assert_eq!(history.publish(&second), chunk);
        assert!(history.assembled() == bytes(&second));
    }
}

#[test]
fn what_hangs_on_stays_bounded() {
    let mut history = History::new();
    let mut pages = seeds(1..1025);
    history.publish(&pages);
    let mut stored = 0;
    for generation in 0..60u64 {
        // Two pages of their own, one that changes each time, and now and then a quarter of all.
        pages[generation as usize * 2] = 10_000 + generation;
        pages[generation as usize * 2 + 1] = 20_000 + generation;
        pages[1000] = 30_000 + generation;
        if generation % 20 == 19 {
            pages[300..556].iter_mut().for_each(|page| *page += 50_000);
        }
        stored += history.publish(&pages);
        let known = history.known.as_ref().unwrap();
        assert!(known.map.bases.len() < MAX_BASES, "{:?}", known.map.bases);
        let own = known
            .entry
            .data
            .as_ref()
            .map_or(0, |d| d.bytes / PAGE as u64);
        let hanging: u64 = own + known.map.bases.iter().map(|b| b.pages).sum::<u64>();
        assert!(hanging <= 3 * 1024, "{hanging}");
    }
    assert!(history.assembled() == bytes(&pages));
    let changed = 60 * 3 + 3 * 256;
    assert!(
        stored < changed * 3,
        "{stored} pages were stored for {changed} that changed"
    );
}

#[test]
fn maps_that_cannot_be_are_refused() {
    let mut history = History::new();
    history.publish(&seeds(1..101));
    history.publish(&[seeds(1..65), seeds(500..536)].concat());
    let Known { map, entry, .. } = history.known.unwrap();
    assert!(!map.bases.is_empty());
    type Spoil = fn(&mut Map);
    let spoils: [Spoil; 9] = [
        |m| m.runs[0].pages += 1,
        |m| m.runs[0].pages = 0,
        |m| m.runs[0].start = u64::MAX,
        |m| m.runs[0].source = 99,
        |m| m.runs.truncate(1),
        |m| m.chunks[0][0] ^= 1,
        |m| m.chunks.truncate(1),
        |m| m.bases[0].pages = 1,
        |m| m.bases[0].id = "../x".into(),
    ];
    for (n, spoil) in spoils.into_iter().enumerate() {
        let mut bad = map.clone();
        spoil(&mut bad);
        let bad = Map::decode(&bad.encode().unwrap()).unwrap();
        assert!(bad.check(&entry).is_err(), "{n}");
    }
    let stored = map.encode().unwrap();
    for at in 0..stored.len() {
        assert!(Map::decode(&stored[..at]).is_err(), "{at}");
    }
    assert!(Map::decode(&[&stored[..], b"x"].concat()).is_err());
}

#[test]
fn copies_yield_what_objects_do() {
    let mut history = History::new();
    let old = [seeds(1..100), vec![0; 30], seeds(200..300)].concat();
    history.publish(&old);
    let owner = history.known.clone().unwrap();
    let new = [seeds(250..290), seeds(20..150)].concat();
    history.publish(&new);
    let map = &history.known.as_ref().unwrap().map;
    let parts = assemble::parts(map);
    let file = tempfile::tempfile().unwrap();
    let length = history.known.as_ref().unwrap().entry.bytes;
    file.set_len(length).unwrap();
    let copy = File::open(owner.copy.as_ref().unwrap()).unwrap();
    let (tally, chunks) = assemble::Tally::new(map);
    let copied = |of: &Map, tally: &assemble::Tally| {
        assemble::copy(&copy, of, &parts[&BASES], &file, tally).unwrap()
    };
    assert!(copied(&owner.map, &tally));
    let there: HashMap<u64, Vec<u8>> = read_parts(&file, &parts[&BASES]);
    for (at, found) in there {
        assert!(found == page(new[at as usize]), "{at}");
    }
    // What is not there yet differs.
    drop(tally);
    let own = parts[&OWN][0].to * PAGE as u64;
    let differs = assemble::verify(&file, map, &chunks).unwrap();
    assert_eq!(differs, Some(own / CHUNK as u64 * CHUNK as u64));
    // A map that does not have the pages.
    assert!(!copied(map, &assemble::Tally::new(map).0));
}

fn read_parts(file: &File, parts: &[assemble::Part]) -> HashMap<u64, Vec<u8>> {
    let pages = parts.iter().flat_map(|part| part.to..part.to + part.pages);
    let read = |at: u64| {
        let mut page = vec![0; PAGE];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut page, at * PAGE as u64).unwrap();
        (at, page)
    };
    pages.map(read).collect()
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, u64),
    Zero(usize, usize),
    Move(usize, usize, usize),
    Grow(usize),
    Shrink(usize),
    LoseCopy,
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..400usize;
    prop_oneof![
        (at.clone(), 1..2000u64).prop_map(|(at, seed)| Change::Write(at, seed)),
        (at.clone(), 1..90usize).prop_map(|(at, n)| Change::Zero(at, n)),
        (at.clone(), at.clone(), 1..150usize).prop_map(|(a, b, n)| Change::Move(a, b, n)),
        (1..100usize).prop_map(Change::Grow),
        (1..100usize).prop_map(Change::Shrink),
        Just(Change::LoseCopy),
    ]
}

fn apply(change: &Change, pages: &mut Vec<u64>, history: &mut History) {
    let len = pages.len();
    match *change {
        Change::Write(at, seed) => pages[at % len] = seed,
        Change::Zero(at, n) => pages[at % len..].iter_mut().take(n).for_each(|p| *p = 0),
        Change::Move(from, to, n) => {
            let block: Vec<u64> = pages[from % len..].iter().copied().take(n).collect();
            let to = to % len;
            pages.splice(to..to, block);
        }
        Change::Grow(n) => pages.extend((0..n as u64).map(|i| 7000 + i)),
        Change::Shrink(n) => pages.truncate((len - n.min(len)).max(1)),
        Change::LoseCopy => {
            if let Some(known) = &mut history.known {
                known.copy = None;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_changes_the_file_comes_back(
        generations in prop::collection::vec(prop::collection::vec(change(), 0..4), 1..12),
    ) {
        let mut history = History::new();
        let mut pages = seeds(1..200);
        history.publish(&pages);
        for changes in &generations {
            changes.iter().for_each(|change| apply(change, &mut pages, &mut history));
            history.publish(&pages);
            prop_assert!(history.assembled() == bytes(&pages));
            prop_assert!(history.bases() < MAX_BASES);
        }
    }

    #[test]
    fn no_bytes_make_a_map_panic(stored in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Map::decode(&stored);
        let raw = zstd::encode_all(&stored[..], 1).unwrap();
        let _ = Map::decode(&raw);
    }
}
