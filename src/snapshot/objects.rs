//! What publishing and fetching need of a place that keeps objects.

use std::fmt;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Result, SnapshotError, blocking};

/// Most keys in one [`Page`].
pub const PAGE_KEYS: usize = 1000;

/// Longest key, in bytes (S3's own limit).
pub const MAX_KEY: usize = 1024;

/// The bytes of an object. Read them on a thread that may block.
pub type Body = Box<dyn BufRead + Send>;

/// Some keys, in the order that the store keeps them in: of whole keys on most servers, of directory by directory on some.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most [`PAGE_KEYS`] keys.
    pub keys: Vec<String>,
    /// Whether there are keys after the last of these.
    pub more: bool,
}

/// A flat namespace of objects. Keys are relative paths of plain segments (`prefix/id/name`).
///
/// After an `Ok` of `put_file` or `put_if_absent` the object survives a crash of the store and is what every later `get` and
/// `list` sees. Nobody ever sees part of an object. After `Unavailable` or `Io` a write may or may not have happened.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// The name for people and logs: `s3://bucket/` or `file:///dir/`.
    fn name(&self) -> String;

    /// Where a file for [`ObjectStore::put_file`] is best made, if that matters to the store; the directory exists.
    fn spool(&self) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    /// Stores the content of `file`, in place of an older object if there is one. The file may be gone afterwards.
    async fn put_file(&self, key: &str, file: &Path) -> Result<()>;

    /// Stores a small object if there is none of that key; tells whether it did. Of several concurrent calls one does.
    async fn put_if_absent(&self, key: &str, bytes: Vec<u8>) -> Result<bool>;

    /// The object's bytes; `NoObject` when there is none.
    async fn get(&self, key: &str) -> Result<Body>;

    /// Removes the object if it is there.
    async fn delete(&self, key: &str) -> Result<()>;

    /// The keys that start with `prefix` and come after `after`: a key of an earlier page, or what
    /// several directories' names begin with. `prefix` is empty or ends with `/`.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page>;
}

/// Reads an object of at most `limit` bytes.
///
/// # Errors
/// `TooLarge` when it is longer; else those of [`ObjectStore::get`].
pub(super) async fn get_small(store: &dyn ObjectStore, key: &str, limit: usize) -> Result<Vec<u8>> {
    let body = store.get(key).await?;
    let (store, key) = (store.name(), key.to_owned());
    blocking(move || {
        let mut bytes = Vec::new();
        let read = body.take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| SnapshotError::Unavailable {
            store,
            operation: format!("reading {key}"),
            source: e.into(),
        })?;
        if bytes.len() > limit {
            return Err(SnapshotError::TooLarge {
                what: format!("object {key}"),
                limit: limit as u64,
            });
        }
        Ok(bytes)
    })
    .await
}

/// Whether a key is one that every store can hold: plain segments only.
pub(super) fn check_key(key: &str) -> Result<()> {
    let plain = |s: &str| !s.is_empty() && s != "." && s != ".." && !s.contains(['\0', '\\', '\n']);
    if key.len() <= MAX_KEY && key.split('/').all(plain) {
        Ok(())
    } else {
        Err(SnapshotError::Bug {
            what: format!("{key:?} is no object key"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::stores;
    use super::*;

    async fn put(store: &dyn ObjectStore, key: &str, content: &[u8]) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, content).unwrap();
        store.put_file(key, &file).await.unwrap();
    }

    #[tokio::test]
    async fn reads_back_what_was_put_last() {
        for under_test in stores().await {
            let store = &*under_test.store;
            put(store, "a/b/one", b"first").await;
            put(store, "a/b/one", b"second").await;
            assert_eq!(get_small(store, "a/b/one", 6).await.unwrap(), b"second");
            let error = get_small(store, "a/b/one", 5).await.unwrap_err();
            assert!(matches!(error, SnapshotError::TooLarge { .. }), "{error}");
            let error = get_small(store, "a/b/none", 5).await.unwrap_err();
            assert!(matches!(error, SnapshotError::NoObject { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_large_object_comes_back_whole() {
        for under_test in stores().await {
            let content: Vec<u8> = (0..50u32 << 20).map(|i| (i >> 9) as u8).collect();
            put(&*under_test.store, "large", &content).await;
            let read = get_small(&*under_test.store, "large", content.len()).await;
            assert!(read.unwrap() == content, "{:?}", under_test.store);
        }
    }

    #[tokio::test]
    async fn of_many_conditional_writers_one_wins() {
        for under_test in stores().await {
            let writers = (0..8u8).map(|i| {
                let store = under_test.store.clone();
                tokio::spawn(async move {
                    let won = store.put_if_absent("x/only", vec![i; 10]).await.unwrap();
                    won.then_some(i)
                })
            });
            let winners: Vec<_> = futures::future::join_all(writers)
                .await
                .into_iter()
                .filter_map(|w| w.unwrap())
                .collect();
            assert_eq!(winners.len(), 1, "{:?}", under_test.store);
            let read = get_small(&*under_test.store, "x/only", 10).await.unwrap();
            assert_eq!(read, vec![winners[0]; 10]);
        }
    }

    #[tokio::test]
    async fn delete_removes_and_may_be_repeated() {
        for under_test in stores().await {
            let store = &*under_test.store;
            put(store, "d/e/f", b"x").await;
            put(store, "d/g", b"y").await;
            for _ in 0..2 {
                store.delete("d/e/f").await.unwrap();
            }
            assert!(store.get("d/e/f").await.is_err());
            assert_eq!(store.list("", None).await.unwrap().keys, ["d/g"]);
            put(store, "d/e/f", b"again").await;
            assert_eq!(get_small(store, "d/e/f", 10).await.unwrap(), b"again");
        }
    }

    #[tokio::test]
    async fn lists_from_where_it_left_off() {
        for under_test in stores().await {
            let store = &*under_test.store;
            let keys = ["p/a-b/1", "p/a/1", "p/a/2", "p/a0", "p/b/1"];
            for key in keys.iter().chain(&["q/a", "pp/a"]) {
                put(store, key, b"x").await;
            }
            let all = store.list("p/", None).await.unwrap();
            let mut sorted = all.keys.clone();
            sorted.sort();
            assert_eq!((sorted, all.more), (keys.map(String::from).into(), false));
            for (at, key) in all.keys.iter().enumerate() {
                let page = store.list("p/", Some(key)).await.unwrap();
                assert_eq!(page.keys, all.keys[at + 1..], "{:?}", under_test.store);
            }
            let rest = store.list("p/", Some("p/a-")).await.unwrap().keys;
            assert!(rest.contains(&"p/a-b/1".into()) && rest.contains(&"p/b/1".into()));
            assert_eq!(store.list("none/", None).await.unwrap(), Page::default());
        }
    }

    #[tokio::test]
    async fn keys_that_leave_the_store_are_refused() {
        for under_test in stores().await {
            for key in ["../x", "/etc/x", "a//b", "", "a/./b"] {
                assert!(under_test.store.get(key).await.is_err(), "{key}");
                let put = under_test.store.put_if_absent(key, vec![1]).await;
                assert!(matches!(put, Err(SnapshotError::Bug { .. })), "{key}");
            }
        }
    }
}
