//! Removing snapshots that nobody needs any more.

use super::super::outcome::Failure;
use super::Snapshots;
use crate::api::{Epoch, SnapshotId};
use crate::snapshot::{self, SnapshotError};
use std::sync::atomic::Ordering;

impl Snapshots {
    /// Removes the actor's snapshots older than `before` that are not to be kept, in the object store and on this node.
    pub async fn delete(
        &self,
        uri: &str,
        actor: uuid::Uuid,
        before: Epoch,
        keep: &[String],
    ) -> Result<(), Failure> {
        let goes = |id: &str| {
            let parsed = id.parse::<SnapshotId>();
            parsed.is_ok_and(|p| p.actor == actor && p.epoch < before)
                && !keep.iter().any(|k| k == id)
        };
        let local: Vec<String> = self.cache.ids().into_iter().filter(|id| goes(id)).collect();
        let mut half_published = vec![];
        for id in local {
            if self.discard(&id).await? {
                half_published.push(id);
            }
        }
        if uri.is_empty() {
            return Ok(());
        }
        match self.unpublish(uri, actor, &half_published, goes).await {
            // Nothing was ever put where nothing can be; whoever waits for its end would wait for good.
            Err(SnapshotError::BadLocation { .. }) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Removes a node copy. A publication of it that is under way stops. Returns whether one was, and left something behind.
    pub async fn discard(&self, id: &str) -> Result<bool, SnapshotError> {
        let flight = self.flight(id);
        flight.cancel.cancel();
        let _one = flight.turn.lock().await;
        self.forget(id);
        self.cache.remove(id).await?;
        Ok(flight.publishes.load(Ordering::Relaxed))
    }

    /// Removes those of the actor's published snapshots that `goes` names, and what is there of `half_published` ones.
    async fn unpublish(
        &self,
        uri: &str,
        actor: uuid::Uuid,
        half_published: &[String],
        goes: impl Fn(&str) -> bool,
    ) -> Result<(), SnapshotError> {
        let at = self.stores.open(uri).await?;
        for id in half_published {
            snapshot::delete(&at, id).await?;
        }
        // Ids begin with the actor's uid, and listings are ordered: only this actor's are read.
        let own = actor.simple().to_string();
        let mut from = Some(format!("{}{own}", at.prefix));
        loop {
            let page = snapshot::list(&at, from.as_deref()).await?;
            for id in page.ids.iter().filter(|id| goes(id)) {
                snapshot::delete(&at, id).await?;
            }
            let beyond = page.ids.iter().any(|id| !id.starts_with(&own));
            from = page.next.filter(|_| !beyond);
            if from.is_none() {
                return Ok(());
            }
        }
    }
}
