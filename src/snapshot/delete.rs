//! Removing snapshots, but for what others are made of.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, TryStreamExt};

use super::fetch::{read_manifest, read_map};
use super::holds::{self, Attempt};
use super::objects::get_small;
use super::pages::{MAX_MAP_BYTES, Map};
use super::{Location, MANIFEST_NAME, Result, SnapshotError, Stores};

/// Objects of one snapshot that are deleted at the same time.
const PARALLEL_DELETES: usize = 4;

/// How the names of maps end.
pub(super) const MAP_SUFFIX: &str = ".map";

/// Names of objects by snapshot.
type Found = BTreeMap<String, Vec<String>>;

/// Objects, by snapshot and name.
type Objects = HashSet<(String, String)>;

/// Of the snapshots at a location, removes those that `goes` names, and what failed publications of them left: each manifest first, so that nobody sees a snapshot without its data, then what no other snapshot is made of. May be repeated; what
/// is left because of another snapshot goes when that goes and this is repeated, or when the last holder elsewhere releases it.
///
/// None of those that stay may be made of one that goes and is not published yet: a snapshot is only published on top of one that stays
/// until then.
///
/// # Errors
/// Those of the store. After an error some may be gone, or their data not; repeat the call.
pub async fn delete(stores: &Stores, at: &Location, goes: impl Fn(&str) -> bool) -> Result<()> {
    let (gone, rest): (Found, Found) = find(at).await?.into_iter().partition(|(id, _)| goes(id));
    if gone.is_empty() {
        return Ok(());
    }
    let needed = needed(at, &rest).await?;
    for (id, names) in gone {
        let names = match names.iter().any(|name| name == MANIFEST_NAME) {
            false => names,
            true => {
                at.store.delete(&at.manifest_of(&id)).await?;
                // Again: who looked for the manifest before may have set a mark.
                holds::names(at, &id).await?
            }
        };
        let Some(needed) = &needed else { continue };
        if !names.iter().any(|name| holds::is_mark(name)) {
            let free = |name: &String| !needed.contains(&(id.clone(), name.clone()));
            remove(stores, at, &id, names.into_iter().filter(free).collect()).await?;
        }
    }
    Ok(())
}

/// What there is at a location.
async fn find(at: &Location) -> Result<Found> {
    let mut found = Found::new();
    let mut from: Option<String> = None;
    loop {
        let page = at.store.list(&at.prefix, from.as_deref()).await?;
        let paths = page
            .keys
            .iter()
            .filter_map(|key| key.strip_prefix(&at.prefix));
        for (id, name) in paths.filter_map(|path| path.split_once('/')) {
            found
                .entry(id.to_owned())
                .or_default()
                .push(name.to_owned());
        }
        from = page.keys.last().cloned();
        if !page.more {
            return Ok(found);
        }
    }
}

/// The objects that the published ones of these snapshots are made of beside their own. `None` when that cannot be known: one is being deleted,
/// or cannot be read.
async fn needed(at: &Location, of: &Found) -> Result<Option<Objects>> {
    let published = |names: &Vec<String>| names.iter().any(|name| name == MANIFEST_NAME);
    let mut needed = Objects::new();
    for (id, _) in of.iter().filter(|(_, names)| published(names)) {
        match bases(at, id).await {
            Ok(bases) => needed.extend(bases),
            Err(
                error @ (SnapshotError::NotFound { .. }
                | SnapshotError::Damaged { .. }
                | SnapshotError::Unsupported { .. }),
            ) => {
                tracing::warn!(id, %error, "what it is made of is not known: no data is deleted");
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(needed))
}

async fn bases(at: &Location, id: &str) -> Result<Objects> {
    let mut bases = Objects::new();
    for file in &read_manifest(at, id).await?.files {
        if let Some(map) = read_map(at, id, file).await? {
            let here = map.bases.into_iter().filter(|base| base.uri.is_empty());
            bases.extend(here.map(|base| (base.id, base.object)));
        }
    }
    Ok(bases)
}

/// Removes objects of a snapshot that is not published. Maps go last: they say what they hold elsewhere.
pub(super) async fn remove(
    stores: &Stores,
    at: &Location,
    id: &str,
    names: Vec<String>,
) -> Result<()> {
    let key = |name: &String| format!("{}{name}", at.keys_of(id));
    let (maps, data): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.ends_with(MAP_SUFFIX));
    // Collected: the compiler cannot show that a lazy closure's futures may move between threads.
    let data: Vec<String> = data.into_iter().map(key).collect();
    let removals: Vec<_> = data.iter().map(|key| at.store.delete(key)).collect();
    futures::stream::iter(removals)
        .buffer_unordered(PARALLEL_DELETES)
        .try_collect::<()>()
        .await?;
    for name in maps {
        let map = match get_small(&*at.store, &key(name), MAX_MAP_BYTES).await {
            Ok(stored) => Map::decode(&stored),
            Err(SnapshotError::NoObject { .. }) => continue,
            Err(e) => return Err(e),
        };
        match (map, Attempt::of(id, name)) {
            (Ok(map), Some(attempt)) => let_go(stores, &map, &attempt).await?,
            (Err(error), _) => tracing::warn!(id, error, "what its map holds elsewhere stays"),
            (Ok(_), None) => {}
        }
        at.store.delete(&key(name)).await?;
    }
    Ok(())
}

async fn let_go(stores: &Stores, map: &Map, attempt: &Attempt) -> Result<()> {
    for base in map.bases.iter().filter(|base| !base.uri.is_empty()) {
        let at = match stores.open(&base.uri).await {
            Ok(at) => at,
            // Nothing can be held where nothing can be.
            Err(SnapshotError::BadLocation { .. }) => continue,
            Err(e) => return Err(e),
        };
        if holds::release(&at, &base.id, attempt).await? {
            // What is held is made of nothing that is elsewhere, so this ends.
            Box::pin(delete(stores, &at, |id| id == base.id)).await?;
        }
    }
    Ok(())
}
