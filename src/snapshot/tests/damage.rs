//! Bytes that change where snapshots lie.

use super::like::{Node, memory};
use super::*;

#[tokio::test]
async fn a_changed_byte_in_any_object_is_refused() {
    for under_test in stores().await {
        let dir = tempfile::tempdir().unwrap();
        let at = under_test.at("p/");
        publish_image(&at, dir.path(), "s1").await;
        let store = &*under_test.store;
        let objects = store.list("p/s1/", None).await.unwrap().keys;
        assert_eq!(objects.len(), 4);
        for object in &objects {
            let whole = get_small(store, object, 1 << 20).await.unwrap();
            for bad in spoiled(&whole) {
                put(store, object, &bad).await;
                let into = dir.path().join("into");
                let error = fetch(&at, "s1", &into).await.unwrap_err();
                let name = object.trim_start_matches("p/s1/");
                let named = name.trim_end_matches(".zst");
                let named = named.split_once('.').filter(|(n, _)| n.len() == 16);
                let named = named.map_or(name, |(_, n)| n);
                assert!(matches!(error, SnapshotError::Damaged { .. }), "{error:?}");
                assert!(error.to_string().contains(named), "{named}: {error}");
                assert!(!into.exists());
            }
            put(store, object, &whole).await;
        }
        let names = contents(dir.path());
        assert_eq!(names.len(), 1, "nothing temporary stays: {names:?}");
        fetch(&at, "s1", &dir.path().join("into")).await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_object_is_named() {
    for under_test in stores().await {
        let dir = tempfile::tempdir().unwrap();
        let at = under_test.at("p/");
        let done = publish_image(&at, dir.path(), "s1").await;
        let pages = done.manifest.files[1].data.as_ref().unwrap();
        let key = format!("p/s1/{}", pages.object);
        under_test.store.delete(&key).await.unwrap();
        let error = fetch(&at, "s1", &dir.path().join("into"))
            .await
            .unwrap_err();
        assert!(
            error.to_string().starts_with("pages.img of snapshot s1"),
            "{error}"
        );
        under_test.store.delete("p/s1/manifest.json").await.unwrap();
        let error = fetch(&at, "s1", &dir.path().join("into"))
            .await
            .unwrap_err();
        assert!(matches!(error, SnapshotError::NotFound { .. }), "{error}");
    }
}

/// An object with one bit flipped, cut short, empty, and longer.
fn spoiled(whole: &[u8]) -> [Vec<u8>; 4] {
    let middle = whole.len() / 2;
    let mut flipped = whole.to_vec();
    flipped[middle] ^= 1;
    let longer = [whole, b"x"].concat();
    [flipped, whole[..middle].to_vec(), vec![], longer]
}

async fn put(store: &dyn ObjectStore, key: &str, content: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    store.put_file(key, file.path()).await.unwrap();
}

/// A snapshot that is made of one before it and of a golden one, as the node has it that made it.
async fn layered<'a>(under_test: &'a UnderTest) -> (Node<'a>, Location, Vec<u64>) {
    let node = Node::new(under_test).await;
    let (g, at) = (under_test.at("g/"), under_test.at("p/"));
    let (golden, mut pages) = memory(2);
    node.publish(&g, "g", &golden, &[]).await.unwrap();
    node.publish(&at, "s1", &pages, &[(&g, "g")]).await.unwrap();
    pages[10] = 50_000;
    pages.push(50_001);
    let done = node
        .publish(&at, "s2", &pages, &[(&at, "s1")])
        .await
        .unwrap();
    assert!(done.bytes < 128 << 10);
    (node, at, pages)
}

#[tokio::test]
async fn a_changed_byte_in_anything_that_it_is_made_of_is_refused() {
    for under_test in stores().await {
        let (_, at, pages) = layered(&under_test).await;
        let store = &*under_test.store;
        let node = Node::new(&under_test).await;
        let mut objects = Vec::new();
        for (prefix, count) in [("p/s2/", 5), ("p/s1/", 5), ("g/g/", 7)] {
            let keys = store.list(prefix, None).await.unwrap().keys;
            assert_eq!(keys.len(), count, "{keys:?}");
            let own = prefix == "p/s2/";
            objects.extend(
                keys.into_iter()
                    .filter(|k| own || k.ends_with("pages.img.zst")),
            );
        }
        assert_eq!(objects.len(), 7);
        for object in &objects {
            let whole = get_small(store, object, 8 << 20).await.unwrap();
            for bad in spoiled(&whole) {
                put(store, object, &bad).await;
                damaged(node.fetch(&at, "s2").await, object);
            }
            store.delete(object).await.unwrap();
            match node.fetch(&at, "s2").await {
                Err(SnapshotError::NotFound { .. }) if object.ends_with("manifest.json") => {}
                refused => damaged(refused, object),
            }
            put(store, object, &whole).await;
        }
        node.has(&at, "s2", &pages).await;
    }
}

fn damaged(fetched: Result<Vec<u8>>, object: &str) {
    let error = fetched.unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error:?}");
    let (_, name) = object.rsplit_once('/').unwrap();
    let small = name.ends_with("meta.img.zst") || name.ends_with("checkpoint.img.zst");
    let named = match small {
        true => &name[17..name.len() - 4],
        false => name,
    };
    assert!(error.to_string().contains(named), "{named}: {error}");
}

#[tokio::test]
async fn a_changed_byte_in_a_copy_of_what_it_is_made_of_does_no_harm() {
    let under_test = file_store();
    let (node, at, pages) = layered(&under_test).await;
    node.copies.remove("s2").await.unwrap();
    for id in ["g", "s1"] {
        let copy = node.copies.get(id).await.unwrap().unwrap();
        let path = copy.path().join("pages.img");
        let whole = std::fs::read(&path).unwrap();
        for at_byte in [0, 120 * 4096, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at_byte] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            node.has(&at, "s2", &pages).await;
        }
        std::fs::write(&path, whole).unwrap();
    }
    // With the copies as they were, their objects are not read.
    for prefix in ["g/g/", "p/s1/"] {
        for key in under_test.store.list(prefix, None).await.unwrap().keys {
            if key.ends_with("pages.img.zst") {
                under_test.store.delete(&key).await.unwrap();
            }
        }
    }
    node.has(&at, "s2", &pages).await;
    let nothing = Node::new(&under_test).await;
    assert!(nothing.fetch(&at, "s2").await.is_err());
}
