//! Where objects are kept, as the handlers need it: JSON objects by key, in pages, with a change log.
//!
//! [`actor`] and [`worker`] are views of the store's records, [`document`] keeps whole objects (templates and pools under
//! `ate dev`), [`namespace`] makes up the namespaces that are in use, [`node`] shows what nodes reported last.

pub mod actor;
pub mod document;
pub mod namespace;
pub mod node;
pub mod worker;

pub use actor::ActorStorage;
pub use document::DocumentStorage;
pub use namespace::NamespaceStorage;
pub use node::NodeStorage;
pub use worker::WorkerStorage;

use crate::api::names::ResourceVersion;
use crate::api::time::Timestamp;
use crate::api::validate::Violation;
use crate::apiserver::meta;
use crate::store::{Change, Changes, Expired, Image, StoreError};
use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Names an object; `namespace` is empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// A key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// Why a storage refuses.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Not there.
    #[error("not found")]
    NotFound,
    /// Created before.
    #[error("already exists")]
    Exists,
    /// Changed since it was read.
    #[error("modified meanwhile")]
    Conflict,
    /// Something about the object forbids it.
    #[error("{0}")]
    Refused(String),
    /// The log no longer reaches back that far.
    #[error("too old a version: {}", .0.why)]
    Expired(Expired),
    /// Somebody has to allow it first.
    #[error("{0}")]
    Forbidden(String),
    /// A cap is reached.
    #[error("{0}")]
    Full(String),
    /// Try again.
    #[error("{0}")]
    Unavailable(String),
    /// Only read.
    #[error("read-only")]
    ReadOnly,
    /// The object cannot be kept.
    #[error("invalid")]
    Invalid(Vec<Violation>),
    /// A bug, or a foreign hand in the store.
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for StorageError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Unavailable(source) => {
                tracing::warn!(
                    error = &*source as &dyn std::error::Error,
                    "the store is unavailable"
                );
                Self::Unavailable(format!("{message}: {source}"))
            }
            StoreError::Exists(_) => Self::Exists,
            StoreError::NotFound(_) => Self::NotFound,
            StoreError::Conflict(_) | StoreError::Fenced(_) => Self::Conflict,
            StoreError::CapReached { .. } => Self::Full(message),
            StoreError::Expired(what) => Self::Expired(what),
            StoreError::Corrupt { .. } => Self::Internal(message),
        }
    }
}

/// Which objects are listed, and as of when.
#[derive(Clone, Copy, Debug)]
pub struct ObjectList<'a> {
    /// Only those of a namespace.
    pub namespace: Option<&'a str>,
    /// Only the one of this name.
    pub name: Option<&'a str>,
    /// Only those after a key.
    pub after: Option<&'a ObjectKey>,
    /// At most so many, at least 1.
    pub limit: usize,
    /// The state at this version; `None`: the newest.
    pub at: Option<ResourceVersion>,
}

/// An object of a page. One that only passes through is written as it is, and never taken apart.
pub trait Object: Send + Sync + 'static {
    /// Names it.
    fn key(&self) -> ObjectKey;

    /// Its fields.
    fn into_fields(self: Box<Self>) -> Result<Value, StorageError>;

    /// Appends it as JSON.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), StorageError>;
}

impl Object for Value {
    fn key(&self) -> ObjectKey {
        ObjectKey::new(meta::text(self, "namespace"), meta::text(self, "name"))
    }

    fn into_fields(self: Box<Self>) -> Result<Value, StorageError> {
        Ok(*self)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), StorageError> {
        append(out, self)
    }
}

/// Appends something as JSON.
pub(super) fn append(out: &mut Vec<u8>, object: &impl Serialize) -> Result<(), StorageError> {
    serde_json::to_writer(out, object).map_err(|e| StorageError::Internal(e.to_string()))
}

/// A page of a list.
#[derive(Default)]
pub struct ObjectPage {
    /// In the order of their keys.
    pub items: Vec<Box<dyn Object>>,
    /// The page is the state at this version; a watch from here shows every change that is not in it, and no other.
    pub version: ResourceVersion,
    /// Where the next page starts, if more follow.
    pub next: Option<ObjectKey>,
    /// Objects that follow the page.
    pub remaining: u64,
}

impl ObjectPage {
    /// The fields of its objects.
    pub fn into_fields(self) -> Result<Vec<Value>, StorageError> {
        self.items.into_iter().map(|o| o.into_fields()).collect()
    }

    /// A page of a list that was read whole.
    fn of<T>(
        list: &ObjectList<'_>,
        version: ResourceVersion,
        all: &[T],
        key: impl Fn(&T) -> ObjectKey,
        object: impl Fn(&T) -> Result<Value, StorageError>,
    ) -> Result<Self, StorageError> {
        let mut wanted: Vec<_> = all
            .iter()
            .map(|item| (key(item), item))
            .filter(|(key, _)| list.namespace.is_none_or(|n| key.namespace == n))
            .filter(|(key, _)| list.name.is_none_or(|n| key.name == n))
            .filter(|(key, _)| list.after.is_none_or(|a| key > a))
            .collect();
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        let remaining = wanted.len().saturating_sub(list.limit);
        wanted.truncate(list.limit);
        let last = wanted.last().filter(|_| remaining > 0);
        Ok(Self {
            next: last.map(|(key, _)| key.clone()),
            items: wanted
                .iter()
                .map(|(_, item)| Ok(Box::new(object(item)?) as Box<dyn Object>))
                .collect::<Result<_, StorageError>>()?,
            version,
            remaining: remaining as u64,
        })
    }
}

/// A piece of the change log.
#[derive(Clone, Debug)]
pub struct ObjectChanges {
    /// In order.
    pub items: Vec<ObjectChange>,
    /// Nothing is missing up to here: go on from it.
    pub upto: ResourceVersion,
}

impl ObjectChanges {
    /// A piece of the store's log, each change as `change` shows it.
    fn of<T>(
        changes: &Changes<T>,
        change: impl Fn(&T) -> Result<ObjectChange, StorageError>,
    ) -> Result<Self, StorageError> {
        let items = changes.items.iter().map(|c| change(c));
        Ok(Self {
            items: items.collect::<Result<_, _>>()?,
            upto: changes.upto,
        })
    }

    /// The same of records, each image as `object` shows it.
    fn of_records(
        changes: &Changes<Change>,
        object: impl Fn(&Image) -> Result<Option<Value>, StorageError>,
    ) -> Result<Self, StorageError> {
        let shown = |image: &Option<Image>, version| {
            let Some(image) = image else { return Ok(None) };
            let mut shown = object(image)?;
            if let Some(object) = &mut shown {
                stamp(object, version);
            }
            Ok::<_, StorageError>(shown)
        };
        Self::of(changes, |c| {
            Ok(ObjectChange {
                version: c.version,
                before: shown(&c.before, c.version)?,
                after: shown(&c.after, c.version)?,
            })
        })
    }
}

/// A change of an object. `before` is absent at creation, `after` at removal; both carry the change's
/// version, as an object that leaves a watch does.
#[derive(Clone, Debug)]
pub struct ObjectChange {
    /// Its place in the log.
    pub version: ResourceVersion,
    /// The object before.
    pub before: Option<Value>,
    /// The object after.
    pub after: Option<Value>,
}

/// What became of an object that was written or deleted.
#[derive(Clone, Debug)]
pub enum Written {
    /// It is there, like this.
    Kept(Value),
    /// It is gone; it was last like this.
    Gone(Value),
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but `status`.
    Spec,
    /// `status` alone.
    Status,
}

/// What objects are shown by beside what is stored of them: parts by name, whether each is in order, and since when.
/// When one changes, objects look different that nobody has written.
pub type Backdrop = BTreeMap<String, (bool, Timestamp)>;

/// Keeps the objects of a kind. Objects come with their metadata complete, except for `resourceVersion`, which the
/// storage sets; they are valid.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Reads an object.
    async fn get(&self, key: &ObjectKey) -> Result<Value, StorageError>;

    /// A page of a list. `Expired` when the log no longer reaches back to the version that is asked for.
    async fn list(&self, list: &ObjectList<'_>) -> Result<ObjectPage, StorageError>;

    /// The newest version: every write that begins from now on gets a later one.
    async fn version(&self) -> Result<ResourceVersion, StorageError>;

    /// Changes after a version, in order, a bounded number; waits up to `wait` for the first. Without a wait nothing is
    /// missing that was written here before. `Expired` when the log no longer reaches back that far; `ReadOnly` where nothing is kept of
    /// changes, and the kind is not watched.
    async fn changes(
        &self,
        _after: ResourceVersion,
        _wait: Duration,
    ) -> Result<ObjectChanges, StorageError> {
        Err(StorageError::ReadOnly)
    }

    /// The backdrop of its objects; `None`: not known yet, or there is none.
    fn backdrop(&self) -> Option<Backdrop> {
        None
    }

    /// The part of the backdrop that an object is shown by.
    fn part_of(&self, _object: &Value) -> Option<String> {
        None
    }

    /// Refuses what [`Storage::create`] would refuse, but for a name that is taken. Nothing is written.
    async fn check_create(&self, _key: &ObjectKey, _object: &Value) -> Result<(), StorageError> {
        Ok(())
    }

    /// Adds an object.
    async fn create(&self, _key: &ObjectKey, _object: Value) -> Result<Value, StorageError> {
        Err(StorageError::ReadOnly)
    }

    /// Replaces a part of an object that is at `expected`. One that is being deleted goes with its last finalizer.
    async fn update(
        &self,
        _key: &ObjectKey,
        _part: Part,
        _object: Value,
        _expected: ResourceVersion,
    ) -> Result<Written, StorageError> {
        Err(StorageError::ReadOnly)
    }

    /// Deletes an object that is at `expected`; `marked` is the object with its `deletionTimestamp`, to be kept while
    /// something holds it.
    async fn delete(
        &self,
        _key: &ObjectKey,
        _marked: Value,
        _expected: ResourceVersion,
    ) -> Result<Written, StorageError> {
        Err(StorageError::ReadOnly)
    }
}

/// Puts a version into an object's metadata.
pub(super) fn stamp(object: &mut Value, version: ResourceVersion) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), version.to_string().into());
    }
}

/// Whether an object is being deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string)
}

/// Whether an object has finalizers.
pub(super) fn has_finalizers(object: &Value) -> bool {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|all| !all.is_empty())
}
