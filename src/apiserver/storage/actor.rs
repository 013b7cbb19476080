//! Actors: objects are views of the store's records; deletion goes through whoever moves actors.

use super::{ObjectChange, ObjectKey, ObjectPage, Part, Storage, StorageError, Written, stamp};
use crate::api::actor::Actor;
use crate::api::names::{ActorKey, ResourceVersion};
use crate::api::record::{ActorRecord, Header, MetaRecord, SpecRecord, StatusRecord};
use crate::api::time::Timestamp;
use crate::api::validate::{Cause, Violation};
use crate::api::view;
use crate::apiserver::driver::{ActorDriver, DriveError};
use crate::store::{Image, Kind, Store};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Changes read at once.
const BATCH: usize = 500;
/// A deletion that takes longer than this is answered before it is complete.
const DELETE_PATIENCE: Duration = Duration::from_secs(1);
/// Actors that a namespace may have unless the installation says otherwise.
pub const DEFAULT_CAP: u64 = 100_000;

/// Shows and writes actors.
pub struct ActorStorage {
    store: Arc<dyn Store>,
    driver: Arc<dyn ActorDriver>,
    cap: u64,
}

impl ActorStorage {
    /// Of a store; `cap` bounds the actors of a namespace.
    pub fn new(store: Arc<dyn Store>, driver: Arc<dyn ActorDriver>, cap: u64) -> Self {
        Self { store, driver, cap }
    }

    /// Lets the driver delete; waits a little for actors that go at once. The driver's own errors do not undo the wish, which is stored.
    async fn drive_deletion(&self, key: &ActorKey) {
        let (driver, key) = (self.driver.clone(), key.clone());
        let task = tokio::spawn(async move {
            match driver.delete(&key).await {
                Ok(()) | Err(DriveError::NotFound(_)) => {}
                Err(error) => tracing::warn!(actor = %key, %error, "deletion goes on later"),
            }
        });
        let _ = tokio::time::timeout(DELETE_PATIENCE, task).await;
    }

    /// After a deletion was driven.
    async fn after_deletion(&self, key: &ActorKey, last: Value) -> Result<Written, StorageError> {
        match self.store.get_actor(key).await {
            Ok(record) => Ok(Written::Kept(object(&record)?)),
            Err(crate::store::StoreError::NotFound(_)) => Ok(Written::Gone(last)),
            Err(other) => Err(other.into()),
        }
    }

    async fn write(
        &self,
        key: &ActorKey,
        object: Value,
        expected: ResourceVersion,
    ) -> Result<ActorRecord, StorageError> {
        let (spec, meta, _) = record_parts(key, object)?;
        Ok(self.store.update_spec(key, expected, &spec, &meta).await?)
    }
}

/// The object that clients see.
pub fn object(record: &ActorRecord) -> Result<Value, StorageError> {
    serde_json::to_value(view::actor(record)).map_err(|e| StorageError::Internal(e.to_string()))
}

/// The key, if the names can be an actor's; what else is asked for does not exist.
pub fn actor_key(key: &ObjectKey) -> Result<ActorKey, StorageError> {
    ActorKey::parse(&key.namespace, &key.name).map_err(|_| StorageError::NotFound)
}

fn invalid(field: &str, message: impl ToString) -> StorageError {
    StorageError::Invalid(vec![Violation {
        field: field.to_owned(),
        cause: Cause::Invalid,
        message: message.to_string(),
    }])
}

fn record_parts(
    key: &ActorKey,
    object: Value,
) -> Result<(SpecRecord, MetaRecord, Actor), StorageError> {
    let actor: Actor = serde_json::from_value(object).map_err(|e| invalid("spec", e))?;
    let mut spec = view::spec_record(key, &actor.spec).map_err(|e| invalid("spec", e))?;
    let metadata = &actor.metadata;
    spec.generation = metadata
        .generation
        .and_then(|g| u32::try_from(g).ok())
        .unwrap_or(1);
    spec.deleted = metadata
        .deletion_timestamp
        .as_ref()
        .map(|t| Timestamp(u64::try_from(t.0.as_millisecond()).unwrap_or(0)));
    let meta = view::meta_record(metadata);
    Ok((spec, meta, actor))
}

#[async_trait]
impl Storage for ActorStorage {
    async fn get(&self, key: &ObjectKey) -> Result<Value, StorageError> {
        object(&self.store.get_actor(&actor_key(key)?).await?)
    }

    async fn list(
        &self,
        namespace: Option<&str>,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<ObjectPage, StorageError> {
        let after = after.map(|k| ActorKey::new(&k.namespace, &k.name));
        let page = self
            .store
            .list_actors(namespace, after.as_ref(), limit)
            .await?;
        Ok(ObjectPage {
            items: page.items.iter().map(object).collect::<Result<_, _>>()?,
            version: page.version,
            next: page.next.map(|k| ObjectKey::new(k.namespace, k.name)),
        })
    }

    async fn changes(
        &self,
        after: ResourceVersion,
        wait: Duration,
    ) -> Result<Vec<ObjectChange>, StorageError> {
        let changes = self.store.changes(Kind::Actor, after, BATCH, wait).await?;
        let image = |image: Option<Image>, version| match image {
            Some(Image::Actor(record)) => {
                let mut object = object(&record)?;
                stamp(&mut object, version);
                Ok(Some(object))
            }
            Some(Image::Worker(_)) | None => Ok::<_, StorageError>(None),
        };
        changes
            .into_iter()
            .map(|c| {
                Ok(ObjectChange {
                    version: c.version,
                    before: image(c.before, c.version)?,
                    after: image(c.after, c.version)?,
                })
            })
            .collect()
    }

    async fn create(&self, key: &ObjectKey, object: Value) -> Result<Value, StorageError> {
        let key = actor_key(key)?;
        let (spec, meta, actor) = record_parts(&key, object)?;
        let uid = actor.metadata.uid.as_deref().unwrap_or_default();
        let record = ActorRecord {
            status: StatusRecord {
                uid: uid.parse().map_err(|e| invalid("metadata.uid", e))?,
                created: Timestamp::now(),
                ..StatusRecord::default()
            },
            header: Header::default(),
            key,
            spec,
            meta,
        };
        self::object(&self.store.create_actor(record, self.cap).await?)
    }

    async fn update(
        &self,
        key: &ObjectKey,
        part: Part,
        object: Value,
        expected: ResourceVersion,
    ) -> Result<Written, StorageError> {
        let key = actor_key(key)?;
        match part {
            Part::Status => return Err(StorageError::ReadOnly),
            Part::Spec => {}
        }
        let record = self.write(&key, object, expected).await?;
        let shown = self::object(&record)?;
        if record.spec.deleted.is_none() || !record.meta.finalizers.is_empty() {
            return Ok(Written::Kept(shown));
        }
        self.drive_deletion(&key).await;
        self.after_deletion(&key, shown).await
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        marked: Value,
        expected: ResourceVersion,
    ) -> Result<Written, StorageError> {
        let key = actor_key(key)?;
        let record = self.write(&key, marked, expected).await?;
        let shown = object(&record)?;
        self.drive_deletion(&key).await;
        self.after_deletion(&key, shown).await
    }
}
