//! Actors: objects are views of the store's records; deletion goes through whoever moves actors.

use super::{
    Backdrop, Object, ObjectChanges, ObjectKey, ObjectList, ObjectPage, Part, Storage,
    StorageError, Written, append,
};
use crate::api::actor::Actor;
use crate::api::names::{ActorKey, ResourceVersion, TemplateKey};
use crate::api::record::{ActorRecord, Header, MetaRecord, SpecRecord, StatusRecord};
use crate::api::template::ActorTemplate;
use crate::api::time::Timestamp;
use crate::api::view::{self, Obstacle};
use crate::apiserver::driver::{ActorDriver, DriveError};
use crate::apiserver::violation;
use crate::kube::{ActorCaps, Catalog};
use crate::lifecycle::placement;
use crate::store::{Image, Kind, ListRequest, Store, StoreError};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Changes read at once.
const BATCH: usize = 500;
/// A deletion that takes longer than this is answered before it is complete.
const DELETE_PATIENCE: Duration = Duration::from_secs(3);

/// Shows actors: as their records say, and their templates.
#[derive(Clone)]
pub struct Look(pub Arc<dyn Catalog>);

impl Look {
    /// The object that clients see.
    pub fn object(&self, record: &ActorRecord) -> Result<Value, StorageError> {
        let obstacle = self.obstacle(record);
        serde_json::to_value(view::actor(record, obstacle.as_ref()))
            .map_err(|e| StorageError::Internal(e.to_string()))
    }

    /// What its template puts in the way of a wake.
    fn obstacle(&self, record: &ActorRecord) -> Option<Obstacle> {
        let template = self.0.template(&record.spec.template);
        self.0
            .is_synced()
            .then(|| placement::start(record, template.as_deref()).err())
            .flatten()
    }

    /// Whether the actor may be made of its template. One that does not exist yet forbids nothing; a wake asks again.
    fn admit(&self, key: &ActorKey, template: &TemplateKey) -> Result<(), StorageError> {
        if template.namespace == key.namespace {
            return Ok(());
        }
        if !self.0.is_synced() {
            let why = "templates are not known yet; try again";
            return Err(StorageError::Unavailable(why.into()));
        }
        let Some(known) = self.0.template(template) else {
            return Ok(());
        };
        placement::admit(template, &known.spec, &key.namespace)
            .map_err(|(_, why)| StorageError::Forbidden(why))
    }
}

/// An actor of a page.
struct Listed {
    record: ActorRecord,
    look: Look,
}

impl Object for Listed {
    fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.record.key.namespace, &self.record.key.name)
    }

    fn into_fields(self: Box<Self>) -> Result<Value, StorageError> {
        self.look.object(&self.record)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), StorageError> {
        let obstacle = self.look.obstacle(&self.record);
        append(out, &view::actor(&self.record, obstacle.as_ref()))
    }
}

/// Shows and writes actors.
pub struct ActorStorage {
    store: Arc<dyn Store>,
    driver: Arc<dyn ActorDriver>,
    look: Look,
    caps: ActorCaps,
}

impl ActorStorage {
    /// Of a store; `caps` bound the actors of namespaces.
    pub fn new(
        store: Arc<dyn Store>,
        driver: Arc<dyn ActorDriver>,
        look: Look,
        caps: ActorCaps,
    ) -> Self {
        Self {
            store,
            driver,
            look,
            caps,
        }
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
            Ok(record) => Ok(Written::Kept(self.look.object(&record)?)),
            Err(StoreError::NotFound(_)) => Ok(Written::Gone(last)),
            Err(other) => Err(other.into()),
        }
    }

    /// Only a change of the template asks whether it lets the actor in: a label can always be written.
    async fn admit_change(&self, key: &ActorKey, object: &Value) -> Result<(), StorageError> {
        let (spec, _, _) = record_parts(key, object.clone())?;
        if spec.template.namespace == key.namespace {
            return Ok(());
        }
        let before = self.store.get_actor(key).await?.spec.template;
        if before == spec.template {
            return Ok(());
        }
        self.look.admit(key, &spec.template)
    }

    /// `Full` when a namespace has as many actors as it may.
    async fn check_room(&self, namespace: &str) -> Result<(), StorageError> {
        let cap = self.caps.of(namespace);
        let first = ListRequest {
            namespace: Some(namespace),
            name: None,
            after: None,
            limit: 1,
            at: None,
        };
        let page = self.store.actors_at(&first).await?;
        if page.items.len() as u64 + page.remaining < cap {
            return Ok(());
        }
        let namespace = namespace.to_owned();
        Err(StoreError::CapReached { namespace, cap }.into())
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

/// The key, if the names can be an actor's; what else is asked for does not exist.
pub fn actor_key(key: &ObjectKey) -> Result<ActorKey, StorageError> {
    ActorKey::parse(&key.namespace, &key.name).map_err(|_| StorageError::NotFound)
}

fn invalid(field: &str, message: impl ToString) -> StorageError {
    StorageError::Invalid(vec![violation::in_words(field, message.to_string())])
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
    spec.deleted = metadata.deletion_timestamp.as_ref().map(Timestamp::from);
    let meta = view::meta_record(metadata);
    Ok((spec, meta, actor))
}

#[async_trait]
impl Storage for ActorStorage {
    async fn get(&self, key: &ObjectKey) -> Result<Value, StorageError> {
        let record = self.store.get_actor(&actor_key(key)?).await?;
        self.look.object(&record)
    }

    async fn list(&self, list: &ObjectList<'_>) -> Result<ObjectPage, StorageError> {
        let after = list.after.map(|k| ActorKey::new(&k.namespace, &k.name));
        let request = ListRequest {
            namespace: list.namespace,
            // A name alone may be found in every namespace.
            name: list.namespace.and(list.name),
            after: after.as_ref(),
            limit: list.limit,
            at: list.at,
        };
        let page = self.store.actors_at(&request).await?;
        let listed = |record| {
            let look = self.look.clone();
            Box::new(Listed { record, look }) as Box<dyn Object>
        };
        Ok(ObjectPage {
            items: page.items.into_iter().map(listed).collect(),
            version: page.version,
            next: page.next.map(|k| ObjectKey::new(k.namespace, k.name)),
            remaining: page.remaining,
        })
    }

    async fn version(&self) -> Result<ResourceVersion, StorageError> {
        Ok(self.store.version().await?)
    }

    async fn changes(
        &self,
        after: ResourceVersion,
        wait: Duration,
    ) -> Result<ObjectChanges, StorageError> {
        let changes = self.store.changes(Kind::Actor, after, BATCH, wait).await?;
        ObjectChanges::of_records(&changes, |image| match image {
            Image::Actor(record) => self.look.object(record).map(Some),
            Image::Worker(_) => Ok(None),
        })
    }

    fn backdrop(&self) -> Option<Backdrop> {
        let catalog = &self.look.0;
        let part = |t: Arc<ActorTemplate>| {
            let meta = &t.metadata;
            let name = format!("{}/{}", meta.namespace.as_ref()?, meta.name.as_ref()?);
            let all = t.status.iter().flat_map(|s| &s.conditions);
            let ready = all
                .filter(|c| c.type_ == "Ready")
                .map(|c| &c.last_transition_time);
            let turned = ready.chain(&meta.creation_timestamp);
            let since = turned.map(Timestamp::from).max().unwrap_or_default();
            Some((name, (placement::has_start(&t), since)))
        };
        catalog
            .is_synced()
            .then(|| catalog.templates().into_iter().filter_map(part).collect())
    }

    fn part_of(&self, object: &Value) -> Option<String> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let namespace =
            text("/spec/templateRef/namespace").or_else(|| text("/metadata/namespace"))?;
        Some(format!("{namespace}/{}", text("/spec/templateRef/name")?))
    }

    async fn check_create(&self, key: &ObjectKey, object: &Value) -> Result<(), StorageError> {
        let key = actor_key(key)?;
        let (spec, _, _) = record_parts(&key, object.clone())?;
        self.look.admit(&key, &spec.template)?;
        self.check_room(&key.namespace).await
    }

    async fn create(&self, key: &ObjectKey, object: Value) -> Result<Value, StorageError> {
        let key = actor_key(key)?;
        let (spec, meta, actor) = record_parts(&key, object)?;
        self.look.admit(&key, &spec.template)?;
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
        let cap = self.caps.of(&record.key.namespace);
        let record = self.store.create_actor(record, cap).await?;
        self.look.object(&record)
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
        self.admit_change(&key, &object).await?;
        let record = self.write(&key, object, expected).await?;
        let shown = self.look.object(&record)?;
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
        let shown = self.look.object(&record)?;
        self.drive_deletion(&key).await;
        // What somebody's finalizer holds is shown as it was marked: they may be done with it by now.
        match record.meta.finalizers.is_empty() {
            true => self.after_deletion(&key, shown).await,
            false => Ok(Written::Kept(shown)),
        }
    }
}
