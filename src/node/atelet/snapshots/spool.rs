//! The spool: images that are complete on this node and are nowhere else. They are node copies from the first moment, so that
//! a wake may start from them while they are published.

use super::super::error::{Error, io};
use super::super::files::{Identity, Target};
use super::super::outcome::Failure;
use super::{Held, Snapshots};
use crate::api::Reason;
use crate::failpoint;
use crate::snapshot::{self, FileSum, Meta, Reference, SnapshotError};
use crate::telemetry::chain;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a publication is tried.
const PUBLISH_ATTEMPTS: u32 = 3;
/// Pause before the second try; doubled for the third.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);
/// After so long it is not tried again: whoever ordered it is to learn why it failed, and waits little longer than one try may take.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(60);

impl Snapshots {
    /// Takes in the complete image that was written for `target`: it moves, and nothing of it is read. Once more is fine. Returns its bytes.
    pub async fn keep(
        &self,
        target: &Target,
        actor: &Identity,
        build: &str,
    ) -> Result<u64, SnapshotError> {
        if let Some((bytes, _)) = self.saved(&target.id) {
            return Ok(bytes);
        }
        let draft = self.draft(&target.id);
        let bytes = size(&draft).map_err(|e| SnapshotError::Bug { what: chain(&e) })?;
        let held = Held {
            meta: self.meta(actor, build),
            bytes,
            only: true,
            unhashed_since: Some(self.boot.clone()),
        };
        failpoint::crash("spool.keep.before");
        self.adopt(&target.id, &draft, None, held).await?;
        failpoint::crash("spool.keep.after");
        Ok(bytes)
    }

    /// Whether the spool has more than it shall have.
    pub fn is_full(&self) -> bool {
        self.spooled() > self.spool_bytes
    }

    /// Bytes of the snapshots that are on this node only.
    pub(super) fn spooled(&self) -> u64 {
        let held = self.held();
        let only = held.values().filter(|(held, _)| held.only);
        only.map(|(held, _)| held.bytes).sum()
    }

    /// Publishes a snapshot of the spool, beside nothing that is published already.
    pub async fn publish(&self, target: &Target) -> Result<u64, Failure> {
        self.publish_like(target, &[]).await
    }

    /// Publishes a snapshot of the spool: what is not in one of `like`, the first that can be read. What is published already, or by somebody
    /// else meanwhile, is not published twice. Returns the bytes as stored. Dropped before its end it leaves objects behind, so
    /// orders do not drop it.
    pub async fn publish_like(&self, target: &Target, like: &[Target]) -> Result<u64, Failure> {
        let flight = self.flight(&target.id);
        let published = async {
            let _one = flight.turn.lock().await;
            self.publish_in_turn(target, like).await
        };
        tokio::select! {
            biased;
            () = flight.cancel.cancelled() => Err(gone(&target.id)),
            published = published => published,
        }
    }

    /// Waits for the publications that were ordered by now.
    pub async fn are_published(&self) {
        drop(self.publishing.acquire_many(super::PUBLISHED_AT_ONCE).await);
    }

    async fn publish_in_turn(&self, target: &Target, like: &[Target]) -> Result<u64, Failure> {
        let held = self.held().get(&target.id).map(|(held, _)| held.clone());
        if let Some(held) = held.as_ref().filter(|held| !held.only) {
            return Ok(held.bytes);
        }
        let (Some(held), Some(pin)) = (held, self.cached(&target.id).await?) else {
            // Published by an earlier order, and not kept here since.
            let published = self.published(target).await?;
            return published
                .map(|(_, manifest)| manifest.total_stored_bytes)
                .ok_or_else(|| gone(&target.id));
        };
        let closed = |_| Failure::Refused("the node agent ends".into());
        let _place = self.publishing.acquire().await.map_err(closed)?;
        failpoint::crash("spool.publish.before");
        let published = self
            .publish_from(pin.path(), target, like, &held.meta)
            .await;
        failpoint::crash("spool.publish.after");
        match published {
            Ok((bytes, sums)) => {
                let held = Held {
                    bytes,
                    only: false,
                    ..held
                };
                self.seal(&target.id, held, Some(sums)).await;
                Ok(bytes)
            }
            Err(error) => {
                self.seal(&target.id, held, None).await;
                Err(Failure::because(Reason::CheckpointFailed, &error))
            }
        }
    }

    async fn publish_from(
        &self,
        dir: &Path,
        target: &Target,
        like: &[Target],
        meta: &Meta,
    ) -> Result<(u64, Vec<FileSum>), SnapshotError> {
        let at = self.stores.open(&target.uri).await?;
        let like = self.references(like).await;
        let begun = Instant::now();
        let mut pause = PUBLISH_PAUSE;
        let mut attempt = 1;
        loop {
            let (stores, meta) = (&self.stores, meta.clone());
            let published = snapshot::publish(stores, &at, &target.id, dir, meta, &like).await;
            let error = match published {
                Ok(done) => return Ok((done.bytes, done.manifest.sums())),
                // An earlier attempt whose answer was lost.
                Err(SnapshotError::AlreadyExists { .. }) => {
                    let manifest = snapshot::read_manifest(&at, &target.id).await?;
                    return Ok((manifest.total_stored_bytes, manifest.sums()));
                }
                Err(error) => error,
            };
            let passing = matches!(
                error,
                SnapshotError::Unavailable { .. } | SnapshotError::Io { .. }
            );
            let late = begun.elapsed() > PUBLISH_PATIENCE;
            if !passing || late || attempt == PUBLISH_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(
                id = target.id,
                error = chain(&error),
                "publishing is tried again"
            );
            tokio::time::sleep(pause).await;
            attempt += 1;
            pause *= 2;
        }
    }

    /// Their copies stay on the node meanwhile.
    async fn references(&self, like: &[Target]) -> Vec<Reference> {
        let mut references = Vec::with_capacity(like.len());
        for target in like {
            let Ok(at) = self.stores.open(&target.uri).await else {
                continue;
            };
            references.push(Reference {
                at,
                id: target.id.clone(),
                copy: self.cached(&target.id).await.ok().flatten(),
            });
        }
        references
    }

    /// Hashes what was kept, so that it is known again after another start of the machine.
    pub async fn hash(&self, id: &str) {
        let Ok(_one) = self.hashing.acquire().await else {
            return;
        };
        let flight = self.flight(id);
        let _turn = flight.turn.lock().await;
        let held = self.held().get(id).map(|(held, _)| held.clone());
        if let Some(held) = held {
            self.seal(id, held, None).await;
        }
    }

    /// The ids of what was kept and not hashed before this node agent started.
    pub fn unhashed(&self) -> Vec<String> {
        let held = self.held();
        let unhashed = held
            .iter()
            .filter(|(_, (held, _))| held.unhashed_since.is_some());
        unhashed.map(|(id, _)| id.clone()).collect()
    }

    /// Notes what has become of a snapshot, and the hashes of its files: `sums`, or as they are. What cannot be noted is as before: it is
    /// in the spool until its actor's record says otherwise.
    async fn seal(&self, id: &str, mut held: Held, sums: Option<Vec<FileSum>>) {
        if held.unhashed_since.is_some() {
            failpoint::crash("spool.seal.before");
            if let Err(error) = self.cache.seal(id, sums).await {
                tracing::warn!(id, error = chain(&error), "a snapshot is not hashed");
                return;
            }
            failpoint::crash("spool.seal.after");
            held.unhashed_since = None;
        }
        let pin = held.only.then(|| self.cache.pin(id)).flatten();
        if let Err(error) = self.note(id, held, pin) {
            tracing::warn!(id, error = chain(&error), "cannot note what a snapshot is");
        }
    }
}

fn gone(id: &str) -> Failure {
    Failure::NotFound(format!("snapshot {id} is not on this node"))
}

fn size(dir: &Path) -> Result<u64, Error> {
    let entries = std::fs::read_dir(dir).map_err(io("list", dir))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum())
}
