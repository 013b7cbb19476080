//! Snapshots that are like others: what is stored of them, and what may go when.

use super::*;
use crate::snapshot::testing::heap;

const MIB: u64 = 1 << 20;
/// Pages of a MiB.
const MIB_PAGES: u64 = 256;
/// More than what is stored of an image beside its pages: the small files, and a map.
const BESIDE: u64 = 32 << 10;

/// A node, and what it publishes and fetches.
pub struct Node<'a> {
    under_test: &'a UnderTest,
    dir: tempfile::TempDir,
    pub copies: LocalCache,
}

impl<'a> Node<'a> {
    pub async fn new(under_test: &'a UnderTest) -> Node<'a> {
        let dir = tempfile::tempdir().unwrap();
        let copies = dir.path().join("copies");
        Node {
            under_test,
            copies: LocalCache::open(&copies, u64::MAX).await.unwrap(),
            dir,
        }
    }

    /// Publishes a snapshot with these pages, and keeps its copy.
    pub async fn publish(
        &self,
        at: &Location,
        id: &str,
        pages: &[u64],
        like: &[(&Location, &str)],
    ) -> Result<Published> {
        let mut references = Vec::new();
        for (at, id) in like {
            references.push(Reference {
                at: (*at).clone(),
                id: (*id).to_owned(),
                copy: self.copies.get(id).await.unwrap(),
            });
        }
        let from = heap(self.dir.path(), &format!("image-{id}"), pages);
        let stores = &self.under_test.stores;
        let done = super::super::publish(stores, at, id, &from, meta("a"), &references).await;
        if let Ok(done) = &done {
            let sums = Some(done.manifest.sums());
            drop(self.copies.adopt(id, &from, sums).await);
        }
        done
    }

    /// The pages of a snapshot as this node fetches them.
    pub async fn fetch(&self, at: &Location, id: &str) -> Result<Vec<u8>> {
        let into = self.dir.path().join("into");
        let stores = &self.under_test.stores;
        let manifest = read_manifest(at, id).await?;
        super::super::fetch(stores, &self.copies, at, &manifest, &into).await?;
        let pages = std::fs::read(into.join("pages.img")).unwrap();
        std::fs::remove_dir_all(into).unwrap();
        Ok(pages)
    }

    pub async fn has(&self, at: &Location, id: &str, pages: &[u64]) {
        let expected: Vec<u8> = pages.iter().flat_map(|p| testing::page(*p)).collect();
        assert!(self.fetch(at, id).await.unwrap() == expected, "{id}");
    }

    async fn delete(&self, at: &Location, goes: &[&str]) -> Result<()> {
        let goes = |id: &str| goes.contains(&id);
        super::super::delete(&self.under_test.stores, at, goes).await
    }

    async fn keys(&self) -> Vec<String> {
        let page = self.under_test.store.list("", None).await.unwrap();
        assert!(!page.more);
        page.keys
    }
}

/// A golden snapshot's memory, and that of an actor that has changed some of it.
pub fn memory(mib: u64) -> (Vec<u64>, Vec<u64>) {
    let golden: Vec<u64> = (1..=mib * MIB_PAGES).collect();
    let mut changed = golden.clone();
    let changes = changed.iter_mut().skip(100).take(MIB_PAGES as usize);
    changes.for_each(|page| *page += 1_000_000);
    (golden, changed)
}

#[tokio::test]
async fn only_what_is_new_is_stored_and_all_of_it_comes_back() {
    for under_test in stores().await {
        let node = Node::new(&under_test).await;
        let (g, a) = (under_test.at("ns/golden/"), under_test.at("ns/a/"));
        let (golden, changed) = memory(8);
        node.publish(&g, "g", &golden, &[]).await.unwrap();
        let same = node
            .publish(&a, "a1", &golden, &[(&a, "a0"), (&g, "g")])
            .await;
        assert!(same.unwrap().bytes < BESIDE);
        let new = node
            .publish(&a, "a2", &changed, &[(&a, "a1"), (&g, "g")])
            .await
            .unwrap();
        assert!((MIB..MIB + BESIDE).contains(&new.bytes), "{}", new.bytes);
        assert_eq!(new.bytes, new.manifest.total_stored_bytes);
        let elsewhere = Node::new(&under_test).await;
        for node in [&node, &elsewhere] {
            node.has(&g, "g", &golden).await;
            node.has(&a, "a1", &golden).await;
            node.has(&a, "a2", &changed).await;
        }
    }
}

#[tokio::test]
async fn what_64_mib_cost() {
    let under_test = file_store();
    let node = Node::new(&under_test).await;
    let counts = Arc::new(Dies {
        store: under_test.store.clone(),
        calls: AtomicUsize::new(0),
        at: usize::MAX,
    });
    let at = Location {
        store: counts.clone(),
        prefix: "ns/a/".into(),
    };
    let calls = || counts.calls.swap(0, Ordering::SeqCst);
    let (first, changed) = memory(64);
    let done = node.publish(&at, "a1", &first, &[]).await.unwrap();
    assert!(done.bytes < 64 * MIB + 2 * BESIDE, "{}", done.bytes);
    calls();
    let done = node
        .publish(&at, "a2", &first, &[(&at, "a1")])
        .await
        .unwrap();
    assert!(done.bytes < BESIDE, "unchanged: {}", done.bytes);
    assert_eq!(calls(), 7, "3 reads; 2 small files, map, manifest");
    let done = node
        .publish(&at, "a3", &changed, &[(&at, "a2")])
        .await
        .unwrap();
    assert!(done.bytes < MIB + BESIDE, "1 MiB changed: {}", done.bytes);
    assert_eq!(calls(), 8, "and one object of pages");
    let elsewhere = Node::new(&under_test).await;
    elsewhere.has(&at, "a3", &changed).await;
    assert_eq!(
        calls(),
        6,
        "manifest, 2 small files, map, 2 objects of pages"
    );
}

#[tokio::test]
async fn what_a_snapshot_is_made_of_outlives_those_before() {
    for under_test in stores().await {
        let node = Node::new(&under_test).await;
        let at = under_test.at("ns/a/");
        let (mut pages, _) = memory(1);
        node.publish(&at, "a00", &pages, &[]).await.unwrap();
        for n in 1..20usize {
            let [before, id] = [n - 1, n].map(|n| format!("a{n:02}"));
            pages[n * 3] += 5_000;
            pages[200] = 9_000 + n as u64;
            node.publish(&at, &id, &pages, &[(&at, &before)])
                .await
                .unwrap();
            node.delete(&at, &[&before]).await.unwrap();
            assert_eq!(published(&at).await, [&*id]);
            let gone = node.fetch(&at, &before).await.unwrap_err();
            assert!(matches!(gone, SnapshotError::NotFound { .. }), "{gone}");
            Node::new(&under_test).await.has(&at, &id, &pages).await;
            // An order that comes late knows nothing of the newest two.
            let old: Vec<_> = (0..n.saturating_sub(1))
                .map(|n| format!("a{n:02}"))
                .collect();
            let old: Vec<&str> = old.iter().map(|id| &**id).collect();
            node.delete(&at, &old).await.unwrap();
            let keys = node.keys().await;
            assert!(keys.len() <= 5 + 8, "nothing piles up: {keys:?}");
            Node::new(&under_test).await.has(&at, &id, &pages).await;
        }
        node.delete(&at, &["a19"]).await.unwrap();
        assert!(!node.keys().await.is_empty(), "only what was named goes");
        let all: Vec<_> = (0..20).map(|n| format!("a{n:02}")).collect();
        let all: Vec<&str> = all.iter().map(|id| &**id).collect();
        node.delete(&at, &all).await.unwrap();
        assert_eq!(node.keys().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_is_made_of_a_golden_snapshot_outlives_it_and_the_last_takes_it_along() {
    for under_test in stores().await {
        let node = Node::new(&under_test).await;
        let g = under_test.at("ns/golden/");
        let actors = ["a", "b"].map(|name| under_test.at(&format!("ns/{name}/")));
        let (golden, changed) = memory(1);
        node.publish(&g, "g", &golden, &[]).await.unwrap();
        for at in &actors {
            node.publish(at, "s1", &golden, &[(&g, "g")]).await.unwrap();
            node.copies.remove("s1").await.unwrap();
        }
        node.delete(&g, &["g"]).await.unwrap();
        assert_eq!(published(&g).await, [""; 0]);
        let elsewhere = Node::new(&under_test).await;
        elsewhere.has(&actors[0], "s1", &golden).await;
        // It can be built upon through those that hold it, and by nobody else.
        let on_top = node
            .publish(&actors[0], "s2", &changed, &[(&actors[0], "s1")])
            .await;
        assert!(on_top.unwrap().bytes < 2 * MIB);
        let c = under_test.at("ns/c/");
        let alone = node.publish(&c, "c", &golden, &[(&g, "g")]).await.unwrap();
        assert!(alone.bytes > MIB);
        node.delete(&c, &["c"]).await.unwrap();

        node.delete(&actors[1], &["s1"]).await.unwrap();
        node.delete(&actors[0], &["s1"]).await.unwrap();
        elsewhere.has(&actors[0], "s2", &changed).await;
        node.delete(&actors[0], &["s1", "s2"]).await.unwrap();
        assert_eq!(node.keys().await, Vec::<String>::new());
    }
}

/// A store in which a snapshot is deleted just before or after a mark is set.
#[derive(Debug)]
struct Meddles {
    store: Arc<dyn ObjectStore>,
    /// Where all goes then.
    deletes: &'static str,
    before: bool,
}

#[async_trait]
impl ObjectStore for Meddles {
    fn name(&self) -> String {
        self.store.name()
    }
    async fn put_file(&self, key: &str, file: &Path) -> Result<()> {
        self.store.put_file(key, file).await
    }
    async fn put_if_absent(&self, key: &str, bytes: Vec<u8>) -> Result<bool> {
        let marks = key.contains("held-by.");
        let meddle = async || {
            let at = testing::at(self.store.clone(), self.deletes);
            super::super::delete(&Stores::default(), &at, |_| true).await
        };
        if marks && self.before {
            meddle().await?;
        }
        let put = self.store.put_if_absent(key, bytes).await?;
        if marks && !self.before {
            meddle().await?;
        }
        Ok(put)
    }
    async fn get(&self, key: &str) -> Result<Body> {
        self.store.get(key).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.store.list(prefix, after).await
    }
}

#[tokio::test]
async fn a_golden_snapshot_that_goes_while_it_is_built_upon_is_not() {
    for before in [true, false] {
        let under_test = file_store();
        let node = Node::new(&under_test).await;
        let (g, a) = (under_test.at("g/"), under_test.at("a/"));
        let (golden, _) = memory(1);
        node.publish(&g, "g", &golden, &[]).await.unwrap();
        let going = Location {
            store: Arc::new(Meddles {
                store: under_test.store.clone(),
                deletes: "g/",
                before,
            }),
            prefix: "g/".into(),
        };
        let done = node
            .publish(&a, "s", &golden, &[(&going, "g")])
            .await
            .unwrap();
        assert!(done.bytes > MIB, "all of it is its own");
        node.has(&a, "s", &golden).await;
        node.delete(&a, &["s"]).await.unwrap();
        node.delete(&g, &["g"]).await.unwrap();
        assert_eq!(node.keys().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_publisher_on_top_that_dies_anywhere_leaves_nothing_for_good() {
    let (golden, changed) = memory(1);
    dying(
        async |dying, _| {
            let living = testing::living(dying);
            let node = Node::new(&living).await;
            let (g, a) = (living.at("g/"), dying);
            node.publish(&g, "g", &golden, &[]).await.unwrap();
            let g = testing::at(dying.store.clone(), "g/");
            node.publish(a, "s", &changed, &[(&g, "g")]).await.is_ok()
        },
        async |under_test, at, done, step| {
            let node = Node::new(under_test).await;
            let g = under_test.at("g/");
            assert_eq!(published(at).await.len(), usize::from(done), "step {step}");
            if !done {
                node.publish(at, "s", &changed, &[(&g, "g")]).await.unwrap();
            }
            node.delete(&g, &["g"]).await.unwrap();
            node.has(at, "s", &changed).await;
            node.delete(at, &["s"]).await.unwrap();
            node.delete(&g, &["g"]).await.unwrap();
            assert_eq!(node.keys().await, Vec::<String>::new(), "step {step}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_delete_that_dies_anywhere_spares_what_stays() {
    let (golden, changed) = memory(1);
    dying(
        async |dying, _| {
            let living = testing::living(dying);
            let node = Node::new(&living).await;
            let (g, a) = (living.at("g/"), living.at("p/"));
            node.publish(&g, "g", &golden, &[]).await.unwrap();
            node.publish(&a, "s1", &golden, &[(&g, "g")]).await.unwrap();
            let once = [&golden[..], &[77_000]].concat();
            node.publish(&a, "s2", &once, &[(&a, "s1")]).await.unwrap();
            let last = [&changed[..], &[77_000]].concat();
            node.publish(&a, "s3", &last, &[(&a, "s2")]).await.unwrap();
            let all = super::super::delete(&living.stores, dying, |id| id < "s3").await;
            all.is_ok()
        },
        async |under_test, at, done, step| {
            let node = Node::new(under_test).await;
            let g = under_test.at("g/");
            let last = [&changed[..], &[77_000]].concat();
            node.has(at, "s3", &last).await;
            for id in ["s1", "s2"] {
                match node.fetch(at, id).await {
                    Ok(_) => assert!(!done),
                    Err(e) => assert!(matches!(e, SnapshotError::NotFound { .. }), "{step} {e}"),
                }
            }
            node.delete(at, &["s1", "s2"]).await.unwrap();
            node.delete(&g, &["g"]).await.unwrap();
            node.has(at, "s3", &last).await;
            node.delete(at, &["s1", "s2", "s3"]).await.unwrap();
            assert_eq!(node.keys().await, Vec::<String>::new(), "step {step}");
        },
    )
    .await;
}
