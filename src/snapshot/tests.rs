//! Snapshots as their users see them: published, fetched, damaged, interrupted, deleted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::objects::{Body, Page, get_small};
use super::testing::{UnderTest, contents, file_store, image, meta, stores};
use super::versitygw::Versitygw;
use super::*;

mod damage;
mod like;

/// Publishes a snapshot that is like no other.
async fn publish(to: &Location, id: &str, from: &Path, meta: Meta) -> Result<Published> {
    super::publish(&Stores::default(), to, id, from, meta, &[]).await
}

async fn publish_image(to: &Location, dir: &Path, id: &str) -> Published {
    let from = image(dir, &format!("image-{id}"), id.len() as u8);
    publish(to, id, &from, meta("a")).await.unwrap()
}

/// Fetches a snapshot of which this node has nothing.
async fn fetch(from: &Location, id: &str, into: &Path) -> Result<Manifest> {
    let nothing = tempfile::tempdir().unwrap();
    let copies = LocalCache::open(nothing.path(), u64::MAX).await.unwrap();
    let manifest = read_manifest(from, id).await?;
    let fetched = super::fetch(&Stores::default(), &copies, from, &manifest, into).await;
    fetched.map(|()| manifest)
}

async fn delete(at: &Location, id: &str) -> Result<()> {
    super::delete(&Stores::default(), at, |other| other == id).await
}

/// The ids of what is published.
async fn published(at: &Location) -> Vec<String> {
    let page = at.store.list(&at.prefix, None).await.unwrap();
    assert!(!page.more);
    let id = |key: &String| {
        let path = key.strip_prefix(&at.prefix).unwrap();
        Some(path.strip_suffix("/manifest.json")?.to_owned())
    };
    page.keys.iter().filter_map(id).collect()
}

#[tokio::test]
async fn what_is_published_can_be_fetched() {
    for under_test in stores().await {
        let dir = tempfile::tempdir().unwrap();
        let at = under_test.at("team/x/");
        let done = publish_image(&at, dir.path(), "s1").await;
        assert_eq!(done.manifest.total_bytes, 303_500);
        assert_eq!(done.bytes, done.manifest.total_stored_bytes);

        let into = dir.path().join("into");
        let manifest = fetch(&at, "s1", &into).await.unwrap();
        assert_eq!(manifest, done.manifest);
        assert_eq!(manifest.meta, meta("a"));
        assert_eq!(contents(&into), contents(&dir.path().join("image-s1")));
        assert_eq!(read_manifest(&at, "s1").await.unwrap(), manifest);
        let names = contents(dir.path());
        assert_eq!(names.len(), 2, "nothing temporary stays: {names:?}");
    }
}

#[tokio::test]
async fn large_files_keep_their_bytes() {
    for under_test in stores().await {
        let dir = tempfile::tempdir().unwrap();
        let from = image(dir.path(), "image", 1);
        let pages: Vec<u8> = (0..40u32 << 20)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8)
            .collect();
        std::fs::write(from.join("pages.img"), &pages).unwrap();
        let at = under_test.at("");
        publish(&at, "big", &from, meta("a")).await.unwrap();
        let into = dir.path().join("into");
        fetch(&at, "big", &into).await.unwrap();
        assert!(std::fs::read(into.join("pages.img")).unwrap() == pages);
    }
}

#[tokio::test]
async fn a_snapshot_is_published_once() {
    for under_test in stores().await {
        let dir = tempfile::tempdir().unwrap();
        let at = under_test.at("p/");
        let first = publish_image(&at, dir.path(), "s1").await;
        let other = image(dir.path(), "other", 99);
        let error = publish(&at, "s1", &other, meta("b")).await.unwrap_err();
        assert!(
            matches!(error, SnapshotError::AlreadyExists { .. }),
            "{error}"
        );
        let into = dir.path().join("into");
        assert_eq!(fetch(&at, "s1", &into).await.unwrap(), first.manifest);
        assert_eq!(under_test.store.list("", None).await.unwrap().keys.len(), 4);
    }
}

#[tokio::test]
async fn of_publishers_at_the_same_time_one_wins_whole() {
    for under_test in stores().await {
        let dir = tempfile::tempdir().unwrap();
        let at = under_test.at("p/");
        let images: Vec<_> = (0..4)
            .map(|i| image(dir.path(), &format!("i{i}"), i))
            .collect();
        let racers = images.iter().map(|i| publish(&at, "s1", i, meta("a")));
        let done = futures::future::join_all(racers).await;
        let won: Vec<usize> = (0..4).filter(|i| done[*i].is_ok()).collect();
        assert_eq!(won.len(), 1, "{done:?}");
        let into = dir.path().join("into");
        fetch(&at, "s1", &into).await.unwrap();
        assert_eq!(contents(&into), contents(&images[won[0]]));
        assert_eq!(under_test.store.list("", None).await.unwrap().keys.len(), 4);
    }
}

#[tokio::test]
async fn delete_removes_everything_of_one_snapshot_only() {
    for under_test in stores().await {
        let dir = tempfile::tempdir().unwrap();
        let at = under_test.at("p/");
        for id in ["s1", "s10", "s1-"] {
            publish_image(&at, dir.path(), id).await;
        }
        for _ in 0..2 {
            delete(&at, "s1").await.unwrap();
        }
        assert_eq!(published(&at).await, ["s1-", "s10"]);
        assert!(
            under_test
                .store
                .list("p/s1/", None)
                .await
                .unwrap()
                .keys
                .is_empty()
        );
        fetch(&at, "s10", &dir.path().join("into")).await.unwrap();
        publish_image(&at, dir.path(), "s1").await;
    }
}

#[tokio::test]
async fn long_listings_are_read_to_their_end() {
    let under_test = file_store();
    let at = under_test.at("p/");
    for i in 0..700 {
        for name in ["data.zst", "manifest.json"] {
            let key = format!("p/s{i:04}/{name}");
            under_test.store.put_if_absent(&key, vec![1]).await.unwrap();
        }
    }
    under_test
        .store
        .put_if_absent("p/t/data.zst", vec![1])
        .await
        .unwrap();
    super::delete(&under_test.stores, &at, |id| id.starts_with('s'))
        .await
        .unwrap();
    let left = under_test.store.list("", None).await.unwrap().keys;
    assert_eq!(left, ["p/t/data.zst"]);
}

#[tokio::test]
async fn only_plain_files_and_plain_ids_are_published() {
    let under_test = file_store();
    let dir = tempfile::tempdir().unwrap();
    let at = under_test.at("");
    let good = image(dir.path(), "good", 1);
    for id in ["", "..", ".x", "a/b", &"x".repeat(129)] {
        let refused = publish(&at, id, &good, meta("a")).await;
        assert!(matches!(refused, Err(SnapshotError::BadId { .. })), "{id}");
    }
    let link = image(dir.path(), "link", 1);
    std::os::unix::fs::symlink("/etc/passwd", link.join("passwd")).unwrap();
    let sub = image(dir.path(), "sub", 1);
    image(&sub, "below", 1);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for bad in [link, sub, empty] {
        let refused = publish(&at, "s1", &bad, meta("a")).await;
        assert!(
            matches!(refused, Err(SnapshotError::BadImage { .. })),
            "{bad:?}"
        );
    }
    let keys = under_test.store.list("", None).await.unwrap().keys;
    assert_eq!(keys, Vec::<String>::new());
}

/// A store that stops working at its `n`th call, as if the process died there: nothing after it happens, also no clean-up.
#[derive(Debug)]
struct Dies {
    store: Arc<dyn ObjectStore>,
    calls: AtomicUsize,
    at: usize,
}

impl Dies {
    fn step(&self) -> Result<()> {
        if self.calls.fetch_add(1, Ordering::SeqCst) < self.at {
            return Ok(());
        }
        Err(SnapshotError::Unavailable {
            store: "test".into(),
            operation: "anything".into(),
            source: "died".into(),
        })
    }
}

#[async_trait]
impl ObjectStore for Dies {
    fn name(&self) -> String {
        self.store.name()
    }
    async fn put_file(&self, key: &str, file: &Path) -> Result<()> {
        self.step()?;
        self.store.put_file(key, file).await
    }
    async fn put_if_absent(&self, key: &str, bytes: Vec<u8>) -> Result<bool> {
        self.step()?;
        self.store.put_if_absent(key, bytes).await
    }
    async fn get(&self, key: &str) -> Result<Body> {
        self.step()?;
        self.store.get(key).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.step()?;
        self.store.delete(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.step()?;
        self.store.list(prefix, after).await
    }
}

/// Runs `work` against a store that dies at its first, second, ... call, until it gets through; tells `after` each time.
async fn dying<W, A>(work: W, after: A)
where
    W: AsyncFn(&Location, usize) -> bool,
    A: AsyncFn(&UnderTest, &Location, bool, usize),
{
    for at in 0..100 {
        let under_test = file_store();
        let dies = Dies {
            store: under_test.store.clone(),
            calls: AtomicUsize::new(0),
            at,
        };
        let dying = Location {
            store: Arc::new(dies),
            prefix: "p/".into(),
        };
        let done = work(&dying, at).await;
        after(&under_test, &under_test.at("p/"), done, at).await;
        if done {
            assert!(at > 3, "the work made no calls");
            return;
        }
    }
    panic!("never gets through");
}

#[tokio::test]
async fn a_publisher_that_dies_anywhere_leaves_nothing_visible() {
    let dir = tempfile::tempdir().unwrap();
    let from = image(dir.path(), "image", 1);
    dying(
        async |at, _| publish(at, "s1", &from, meta("a")).await.is_ok(),
        async |under_test, at, done, step| {
            let visible = published(at).await;
            assert_eq!(visible.is_empty(), !done, "step {step}");
            let into = dir.path().join(format!("into-{step}"));
            if done {
                fetch(at, "s1", &into).await.unwrap();
                return;
            }
            let error = fetch(at, "s1", &into).await.unwrap_err();
            assert!(matches!(error, SnapshotError::NotFound { .. }), "{error}");
            // The next attempt is not disturbed by what was left, and delete removes all of it.
            publish(at, "s1", &from, meta("a")).await.unwrap();
            fetch(at, "s1", &into).await.unwrap();
            delete(at, "s1").await.unwrap();
            assert!(
                under_test
                    .store
                    .list("", None)
                    .await
                    .unwrap()
                    .keys
                    .is_empty()
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_delete_that_dies_anywhere_leaves_all_or_nothing_visible() {
    let dir = tempfile::tempdir().unwrap();
    let from = image(dir.path(), "image", 1);
    dying(
        async |at, step| {
            // Published through a store that lives: its calls are not those under test.
            let living = testing::living(at).at(&at.prefix);
            publish(&living, "s1", &from, meta("a")).await.unwrap();
            assert!(step < 50);
            delete(at, "s1").await.is_ok()
        },
        async |under_test, at, done, step| {
            let into = dir.path().join(format!("into-{step}"));
            match published(at).await.is_empty() {
                false => drop(fetch(at, "s1", &into).await.unwrap()),
                true => assert!(fetch(at, "s1", &into).await.is_err()),
            }
            delete(at, "s1").await.unwrap();
            let left = under_test.store.list("", None).await.unwrap().keys;
            assert!(left.is_empty(), "{done} {left:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_store_that_is_not_there_is_to_be_tried_again_and_a_wrong_key_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Versitygw::start(dir.path(), None);
    let mut config = testing::config(&server);
    let stores = Stores::new(config.clone());
    let at = stores.open("s3://none/x/").await.unwrap();
    let error = read_manifest(&at, "s1").await.unwrap_err();
    assert!(
        matches!(error, SnapshotError::BadLocation { .. }),
        "{error:?}"
    );

    config.credentials.as_mut().unwrap().secret_access_key = "wrong".into();
    let at = Stores::new(config).open("s3://none/x/").await.unwrap();
    let error = read_manifest(&at, "s1").await.unwrap_err();
    assert!(
        matches!(error, SnapshotError::NotAllowed { .. }),
        "{error:?}"
    );

    let mut config = testing::config(&server);
    drop(server);
    config.region = None;
    let at = Stores::new(config).open("s3://none/x/").await.unwrap();
    let error = read_manifest(&at, "s1").await.unwrap_err();
    assert!(
        matches!(error, SnapshotError::Unavailable { .. }),
        "{error:?}"
    );
}
