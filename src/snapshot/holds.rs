//! Who needs the objects of a snapshot beside the snapshots that lie with it: a mark below its id for each attempt to publish one.
//!
//! The mark is there before what needs it is visible, and goes after that has gone. Whoever deletes the snapshot removes its
//! manifest first and looks for marks then; whoever begins to need it sets the mark first and looks for the manifest then. So one
//! of the two sees the other, and the last to go takes the objects along.

use super::objects::Page;
use super::{Location, MANIFEST_NAME, Result, SnapshotError};

/// How the names of marks begin.
const MARK: &str = "held-by.";

/// An attempt to publish a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// The snapshot.
    pub id: String,
    /// What its objects' names begin with.
    pub name: String,
}

impl Attempt {
    pub(super) fn new(id: &str) -> Attempt {
        Attempt {
            id: id.to_owned(),
            name: format!("{:016x}", rand::random::<u64>()),
        }
    }

    /// The attempt of `id` that an object of this name is of.
    pub(super) fn of(id: &str, object: &str) -> Option<Attempt> {
        let (name, _) = object.split_once('.')?;
        Some(Attempt {
            id: id.to_owned(),
            name: name.to_owned(),
        })
    }

    fn mark(&self, at: &Location, owner: &str) -> String {
        let Attempt { id, name } = self;
        format!("{}{MARK}{id}.{name}", at.keys_of(owner))
    }
}

/// Marks that `by` needs objects of the snapshot `owner` at `at`.
pub(super) async fn hold(at: &Location, owner: &str, by: &Attempt) -> Result<()> {
    let put = at
        .store
        .put_if_absent(&by.mark(at, owner), vec![b'1'])
        .await;
    put.map(drop)
}

/// Whether the snapshot can be read, and not just objects of it that others need.
pub(super) async fn is_published(at: &Location, id: &str) -> Result<bool> {
    match at.store.get(&at.manifest_of(id)).await {
        Ok(_) => Ok(true),
        Err(SnapshotError::NoObject { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes the mark back. Returns whether it was the last one of a snapshot that has gone: then its objects are to go.
pub(super) async fn release(at: &Location, owner: &str, by: &Attempt) -> Result<bool> {
    at.store.delete(&by.mark(at, owner)).await?;
    if is_published(at, owner).await? {
        return Ok(false);
    }
    let names = names(at, owner).await?;
    Ok(!names.iter().any(|name| is_mark(name)))
}

/// Whether an object of this name is a mark.
pub(super) fn is_mark(name: &str) -> bool {
    name.starts_with(MARK)
}

/// Names of the objects below a snapshot's id, but for its manifest.
pub(super) async fn names(at: &Location, id: &str) -> Result<Vec<String>> {
    let prefix = at.keys_of(id);
    let mut names = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let Page { keys, more } = at.store.list(&prefix, after.as_deref()).await?;
        let found = keys.iter().filter_map(|key| key.strip_prefix(&prefix));
        names.extend(
            found
                .filter(|name| *name != MANIFEST_NAME)
                .map(str::to_owned),
        );
        after = keys.last().cloned();
        if !more {
            return Ok(names);
        }
    }
}
