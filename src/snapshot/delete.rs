//! Removing and listing snapshots.

use futures::{StreamExt, TryStreamExt};

use super::{Location, MANIFEST_NAME, Result, check_id};

/// Objects of one snapshot that are deleted at the same time.
const PARALLEL_DELETES: usize = 4;

/// Some of the snapshots at a location.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Ids of published snapshots.
    pub ids: Vec<String>,
    /// Where to go on, when there are more.
    pub next: Option<String>,
}

/// Removes snapshot `id` and whatever failed publications of it left: the manifest first, so that nobody sees a
/// snapshot without its data, then the data. May be repeated; nothing there is no error.
///
/// # Errors
/// `BadId`; those of the store. After an error the snapshot may be gone already, its data not; repeat the call.
pub async fn delete(at: &Location, id: &str) -> Result<()> {
    check_id(id)?;
    at.store.delete(&at.manifest_of(id)).await?;
    let prefix = at.keys_of(id);
    let mut after = None;
    loop {
        let page = at.store.list(&prefix, after.as_deref()).await?;
        // Collected: the compiler cannot show that a lazy closure's futures may move between threads.
        let removals: Vec<_> = page.keys.iter().map(|key| at.store.delete(key)).collect();
        futures::stream::iter(removals)
            .buffer_unordered(PARALLEL_DELETES)
            .try_collect::<()>()
            .await?;
        after = page.keys.last().cloned();
        if !page.more {
            return Ok(());
        }
    }
}

/// Published snapshots in the order in which the store keeps them, a page at a time; `from` is the `next` of the page before.
///
/// # Errors
/// Those of the store.
pub async fn list(at: &Location, from: Option<&str>) -> Result<Listing> {
    let page = at.store.list(&at.prefix, from).await?;
    let id = |key: &String| {
        let (id, name) = key.strip_prefix(&at.prefix)?.split_once('/')?;
        (name == MANIFEST_NAME).then(|| id.to_owned())
    };
    Ok(Listing {
        ids: page.keys.iter().filter_map(id).collect(),
        next: page.keys.last().filter(|_| page.more).cloned(),
    })
}
