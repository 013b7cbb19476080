use super::super::testing::{contents, image, tree};
use super::*;

const IMAGE_BYTES: u64 = 303_500;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    async fn open(&self) -> LocalCache {
        self.open_with(u64::MAX).await
    }

    async fn open_with(&self, budget: u64) -> LocalCache {
        LocalCache::open(&self.root(), budget).await.unwrap()
    }

    async fn adopt(&self, cache: &LocalCache, id: &str) -> Pin {
        let from = image(self.dir.path(), &format!("from-{id}"), id.len() as u8);
        let pin = cache.adopt(id, &from, None).await.unwrap();
        cache.seal(id, None).await.unwrap();
        pin
    }
}

fn ids(cache: &LocalCache) -> Vec<String> {
    let mut ids = cache.ids();
    ids.sort();
    ids
}

#[tokio::test]
async fn what_moves_in_is_found_also_after_a_restart() {
    let f = Fixture::new();
    let from = image(f.dir.path(), "from", 1);
    let before = contents(&from);
    let cache = f.open().await;
    let pin = cache.adopt("one", &from, None).await.unwrap();
    assert!(!from.exists());
    assert_eq!(contents(pin.path()), before);
    assert_eq!(cache.bytes(), IMAGE_BYTES);
    assert!(cache.get("two").await.unwrap().is_none());

    let again = f.open().await;
    assert_eq!(again.bytes(), IMAGE_BYTES);
    let pin = again.get("one").await.unwrap().unwrap();
    assert_eq!(contents(pin.path()), before);
}

#[tokio::test]
async fn a_second_copy_of_one_id_is_refused_and_stays_where_it_was() {
    let f = Fixture::new();
    let cache = f.open().await;
    f.adopt(&cache, "one").await;
    let other = image(f.dir.path(), "other", 9);
    let error = cache.adopt("one", &other, None).await.unwrap_err();
    assert!(
        matches!(error, SnapshotError::AlreadyExists { .. }),
        "{error}"
    );
    assert_eq!(contents(&other).len(), 3);
    assert!(f.open().await.get("one").await.unwrap().is_some());
}

#[tokio::test]
async fn known_sums_are_compared_by_length() {
    let f = Fixture::new();
    let cache = f.open().await;
    let from = image(f.dir.path(), "from", 1);
    let mut sums = disk::hash_all(&from).unwrap();
    sums[1].bytes += 1;
    let refused = cache.adopt("one", &from, Some(sums.clone())).await;
    assert!(matches!(refused, Err(SnapshotError::Damaged { .. })));
    sums[1].bytes -= 1;
    cache.adopt("one", &from, Some(sums)).await.unwrap();
    assert!(f.open().await.get("one").await.unwrap().is_some());
}

#[tokio::test]
async fn what_was_made_here_is_there_at_once_and_hashed_later() {
    let f = Fixture::new();
    let from = image(f.dir.path(), "from", 1);
    let sums = disk::hash_all(&from).unwrap();
    let cache = f.open().await;
    drop(cache.adopt("one", &from, None).await.unwrap());
    assert!(cache.get("one").await.unwrap().is_some());
    // Not hashed before the cache was opened again: lengths are all that is known.
    let cache = f.open().await;
    assert!(cache.get("one").await.unwrap().is_some());
    let mut others = sums.clone();
    others[0].bytes += 1;
    let refused = cache.seal("one", Some(others)).await;
    assert!(matches!(refused, Err(SnapshotError::Damaged { .. })));
    cache.seal("one", Some(sums.clone())).await.unwrap();
    let noted = std::fs::read(f.root().join("one.json")).unwrap();
    cache.seal("one", None).await.unwrap();
    let hashed = std::fs::read(f.root().join("one.json")).unwrap();
    assert_eq!(noted, hashed, "both ways say the same");
    flip(&f.root().join("one/pages.img"), 150_000);
    let error = f.open().await.get("one").await.unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
    assert!(cache.seal("none", None).await.is_err());
}

#[tokio::test]
async fn every_damage_is_seen_after_a_restart() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("pages.img", |d| flip(&d.join("one/pages.img"), 150_000)),
        ("checkpoint.img", |d| {
            let path = d.join("one/checkpoint.img");
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(2_999).unwrap();
        }),
        ("pages_meta.img", |d| {
            std::fs::remove_file(d.join("one/pages_meta.img")).unwrap();
        }),
        ("extra", |d| {
            std::fs::write(d.join("one/extra"), "x").unwrap()
        }),
        ("list of files", |d| flip(&d.join("one.json"), 0)),
        ("", |d| flip(&d.join("one.json"), 80)),
    ];
    for (named, damage) in damages {
        let f = Fixture::new();
        drop(f.adopt(&f.open().await, "one").await);
        damage(&f.root());
        let cache = f.open().await;
        let error = cache.get("one").await.unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(cache.get("one").await.unwrap().is_none(), "{named}");
        assert_eq!(tree(&f.root()), Vec::<PathBuf>::new(), "{named}");
    }
}

#[tokio::test]
async fn what_somebody_takes_away_is_missed_at_its_next_use() {
    let f = Fixture::new();
    let cache = f.open().await;
    for (id, gone) in [("a", "a"), ("b", "b/pages.img"), ("c", "c.json")] {
        f.adopt(&cache, id).await;
        assert!(cache.get(id).await.unwrap().is_some());
        let gone = f.root().join(gone);
        if gone.is_dir() {
            std::fs::remove_dir_all(&gone).unwrap();
        } else {
            std::fs::remove_file(&gone).unwrap();
        }
        let missed = cache.get(id).await.unwrap_err();
        assert!(matches!(missed, SnapshotError::Damaged { .. }), "{missed}");
        assert!(cache.get(id).await.unwrap().is_none());
        f.adopt(&cache, id).await;
        assert!(
            cache.get(id).await.unwrap().is_some(),
            "there is room for another"
        );
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn the_least_recently_used_that_is_not_pinned_goes() {
    let f = Fixture::new();
    let cache = f.open_with(3 * IMAGE_BYTES).await;
    let first = f.adopt(&cache, "a").await;
    for id in ["b", "c"] {
        drop(f.adopt(&cache, id).await);
    }
    drop(cache.get("b").await.unwrap());
    drop(f.adopt(&cache, "d").await);
    assert_eq!(
        ids(&cache),
        ["a", "b", "d"],
        "c was used longest ago, a is pinned"
    );
    drop(first);
    drop(f.adopt(&cache, "e").await);
    assert_eq!(ids(&cache), ["b", "d", "e"]);
    assert_eq!(tree(&f.root()).len(), 3 * 5, "{:?}", tree(&f.root()));
}

#[tokio::test]
async fn a_budget_that_is_pinned_away_is_exceeded() {
    let f = Fixture::new();
    let cache = f.open_with(IMAGE_BYTES).await;
    let a = f.adopt(&cache, "a").await;
    let b = f.adopt(&cache, "b").await;
    assert_eq!(ids(&cache), ["a", "b"]);
    drop((a, b));
    drop(f.adopt(&cache, "c").await);
    assert_eq!(ids(&cache), ["c"]);
}

#[tokio::test]
async fn what_was_used_last_outlives_a_restart() {
    let f = Fixture::new();
    let cache = f.open().await;
    for id in ["a", "b"] {
        drop(f.adopt(&cache, id).await);
    }
    // The clock of the file system may be coarse: age what shall be older.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let sums = f.root().join("b.json");
    let sums = std::fs::File::options().append(true).open(sums).unwrap();
    sums.set_modified(old).unwrap();
    let cache = f.open_with(2 * IMAGE_BYTES).await;
    drop(f.adopt(&cache, "c").await);
    assert_eq!(ids(&cache), ["a", "c"]);
}

#[tokio::test]
async fn a_crash_while_moving_in_or_out_leaves_all_or_nothing() {
    let f = Fixture::new();
    drop(f.adopt(&f.open().await, "whole").await);
    let root = f.root();
    // Adopt: sums written, directory not moved. Remove: directory moved to the trash, sums still there.
    std::fs::write(root.join("half.json"), "[]").unwrap();
    image(&root, ".trash-1", 1);
    // What no step of ours leaves, but a hand might.
    image(&root, "stranger", 2);
    let cache = f.open().await;
    assert_eq!(ids(&cache), ["whole"]);
    assert!(cache.get("whole").await.unwrap().is_some());
    assert_eq!(tree(&root).len(), 5, "{:?}", tree(&root));
}

#[tokio::test]
async fn remove_is_final_and_may_be_repeated() {
    let f = Fixture::new();
    let cache = f.open().await;
    let pin = f.adopt(&cache, "one").await;
    for _ in 0..2 {
        cache.remove("one").await.unwrap();
    }
    drop(pin);
    assert!(cache.get("one").await.unwrap().is_none());
    assert_eq!(tree(&f.root()), Vec::<PathBuf>::new());
    f.adopt(&cache, "one").await;
}
