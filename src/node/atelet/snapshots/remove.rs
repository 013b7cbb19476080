//! Removing snapshots that nobody needs any more.

use super::super::outcome::Failure;
use super::Snapshots;
use crate::api::{Epoch, SnapshotId};
use crate::snapshot::{self, SnapshotError};

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
        for id in local {
            self.discard(&id).await?;
        }
        if uri.is_empty() {
            return Ok(());
        }
        let unpublished = async {
            let at = self.stores.open(uri).await?;
            snapshot::delete(&self.stores, &at, goes).await
        };
        match unpublished.await {
            // Nothing was ever put where nothing can be; whoever waits for its end would wait for good.
            Err(SnapshotError::BadLocation { .. }) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Removes a node copy. A publication of it that is under way stops.
    pub async fn discard(&self, id: &str) -> Result<(), SnapshotError> {
        let flight = self.flight(id);
        flight.cancel.cancel();
        let _one = flight.turn.lock().await;
        self.forget(id);
        self.cache.remove(id).await
    }
}
