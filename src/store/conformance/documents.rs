//! Small documents.

use super::*;
use crate::store::StoreError;
use futures::future::poll_immediate;

pub async fn a_document_is_written_against_its_version(store: &dyn Store) {
    let none = store.get_document("pool", "team/p").await.unwrap();
    assert_eq!(none, None);
    let v1 = store.put_document("pool", "team/p", None, Some("{\"a\":1}"));
    let v1 = v1.await.unwrap();
    let again = store.put_document("pool", "team/p", None, Some("{}")).await;
    assert!(matches!(again, Err(StoreError::Exists(_))));
    let read = store.get_document("pool", "team/p").await.unwrap().unwrap();
    assert_eq!((read.version, read.body.as_str()), (v1, "{\"a\":1}"));
    let v2 = store.put_document("pool", "team/p", Some(v1), Some("{}"));
    let v2 = v2.await.unwrap();
    assert!(v2 > v1);
    let late = store.put_document("pool", "team/p", Some(v1), None).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    let v3 = store.put_document("pool", "team/p", Some(v2), None).await;
    assert!(v3.unwrap() > v2);
    let gone = store.put_document("pool", "team/p", Some(v2), None).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))));
    let none = store.get_document("pool", "team/p").await.unwrap();
    assert_eq!(none, None);
}

pub async fn documents_are_listed_and_watched(store: &dyn Store) {
    let (none, start) = store.list_documents("pool", None).await.unwrap();
    assert!(none.is_empty());
    let other = store.put_document("template", "team/t", None, Some("{}"));
    other.await.unwrap();
    for key in ["team/b", "team/a"] {
        let put = store.put_document("pool", key, None, Some("{}"));
        put.await.unwrap();
    }
    let (documents, version) = store.list_documents("pool", None).await.unwrap();
    let keys: Vec<_> = documents.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, ["team/a", "team/b"]);
    let seen = store.document_changes("pool", start, 10, PATIENCE).await;
    let seen = seen.unwrap().items;
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].key.as_str(), &seen[0].before), ("team/b", &None));
    assert!(version >= seen[1].version);
    let mut later = std::pin::pin!(store.document_changes("pool", version, 10, PATIENCE));
    assert!(poll_immediate(&mut later).await.is_none());
    let first = Some(documents[0].version);
    let remove = store.put_document("pool", "team/a", first, None);
    let (later, removed) = tokio::join!(later, remove);
    let removed = removed.unwrap();
    let later = later.unwrap().items;
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].version, removed);
    assert_eq!(
        (later[0].before.as_deref(), &later[0].after),
        (Some("{}"), &None)
    );
    let wait = Duration::from_millis(20);
    let nothing = store.document_changes("pool", removed, 10, wait).await;
    assert!(nothing.unwrap().items.is_empty());
}

pub async fn an_equal_document_is_no_change(store: &dyn Store) {
    let v1 = store.put_document("pool", "team/p", None, Some("{}"));
    let v1 = v1.await.unwrap();
    let same = store.put_document("pool", "team/p", Some(v1), Some("{}"));
    assert_eq!(same.await.unwrap(), v1);
}
