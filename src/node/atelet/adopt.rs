//! What an earlier node agent left: executors that run are taken over, everything that nobody wants is removed.

use super::error::Error;
use super::files::{self, Phase};
use super::logs::CONTAINERS;
use super::slot::{Node, Slot};
use crate::telemetry::chain;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Actors that do not run here and whose logs are kept.
const MAX_LOGGED: usize = 1000;

/// The slots that are on disk. Afterwards there is nothing on the node that belongs to none of them.
pub(super) async fn adopt(node: &Arc<Node>) -> Result<Vec<Arc<Slot>>, Error> {
    let mut slots = Vec::new();
    for name in files::names(&node.layout.slots())? {
        let dir = node.layout.slots().join(&name);
        match Slot::load(&dir) {
            Ok(Some((mut file, desired))) => {
                let executor = match &file.executor {
                    Some(record) => node.provider.adopt(&file.place, record).await?,
                    None => None,
                };
                match (&executor, file.executor.take()) {
                    (Some(executor), _) => {
                        tracing::info!(
                            slot = name,
                            uid = executor.record.uid,
                            "slot is taken over"
                        );
                        file.executor = Some(executor.record.clone());
                    }
                    // Before anybody can ask us what runs: what does not answer is no longer there.
                    (None, Some(record)) => node.provider.end(&file.place, &record).await?,
                    (None, None) => {}
                }
                slots.push(Arc::new(Slot::new(node.clone(), file, desired, executor)));
            }
            Ok(None) => files::remove_dir(&dir)?,
            Err(error @ Error::Damaged { .. }) => {
                // Its executor is unknown, and ended with all others that are.
                tracing::error!(slot = name, error = chain(&error), "a slot is given up");
                files::remove_dir(&dir)?;
            }
            Err(error) => return Err(error),
        }
    }
    sweep(node, &slots).await?;
    Ok(slots)
}

/// Removes the logs of actors that ran here longest ago, when there are those of very many.
pub(super) fn sweep_logs(node: &Node, slots: &[Arc<Slot>]) -> Result<(), Error> {
    let actors = node.layout.actors();
    let names = files::names(&actors)?;
    if names.len() <= MAX_LOGGED {
        return Ok(());
    }
    let used: BTreeSet<PathBuf> = slots
        .iter()
        .filter_map(|slot| slot.assignment())
        .map(|assignment| node.layout.actor(&assignment.actor))
        .collect();
    // The list of containers is written at every start.
    let started = |dir: &PathBuf| {
        let list = std::fs::metadata(dir.join(CONTAINERS));
        list.and_then(|list| list.modified()).ok()
    };
    let dirs = names.into_iter().map(|name| actors.join(name));
    let mut idle: Vec<_> = dirs.filter(|dir| !used.contains(dir)).collect();
    idle.sort_by_cached_key(started);
    let surplus = idle.len().saturating_sub(MAX_LOGGED);
    idle[..surplus]
        .iter()
        .try_for_each(|dir| files::remove_dir(dir))
}

async fn sweep(node: &Node, slots: &[Arc<Slot>]) -> Result<(), Error> {
    let uids: HashSet<String> = slots.iter().filter_map(|slot| slot.uid()).collect();
    node.provider.sweep(&uids).await?;
    let assignments: Vec<_> = slots.iter().filter_map(|slot| slot.assignment()).collect();
    let images: BTreeSet<String> = assignments
        .iter()
        .filter_map(|assignment| match &assignment.phase {
            Phase::Saving(target) => Some(target.id.clone()),
            Phase::Starting | Phase::Serving | Phase::Ending => None,
        })
        .collect();
    node.snapshots.sweep_drafts(&images)?;
    node.runtimes.sweep()?;
    let sandboxes = node.layout.sandboxes();
    for generation in files::names(&sandboxes)? {
        if !slots.iter().any(|slot| slot.has_generation(&generation)) {
            files::remove_dir(&sandboxes.join(generation))?;
        }
    }
    Ok(())
}
