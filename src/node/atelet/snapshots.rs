//! Snapshots on this node: fetched for a restore, kept after a checkpoint, published, described, deleted.
//!
//! Beside every node copy, `held/ID.json` says what it is of, what it needs, and whether it is the only one there is:
//! those are pinned until they are published or deleted.

use super::error::{Error, io};
use super::files::{self, Identity, Target};
use super::layout::Layout;
use super::outcome::Failure;
use super::runtime::Runtime;
use crate::api::{Epoch, Reason, SnapshotId};
use crate::snapshot::{
    self, ActorIdentity, Cpu, LocalCache, Meta, Pin, RuntimeIdentity, SnapshotError, Stores,
};
use crate::telemetry::chain;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How often a publication is tried.
const PUBLISH_ATTEMPTS: u32 = 3;
/// Pause before the second try; doubled for the third.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

/// Name of an image in its directory of the spool.
pub(super) const IMAGE: &str = "image";

/// What is known of a node copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    meta: Meta,
    /// As it would count: stored bytes if it was published, else those on the node.
    bytes: u64,
    /// There is no other copy.
    only: bool,
}

pub(super) struct Snapshots {
    cache: LocalCache,
    stores: Arc<Stores>,
    held_dir: PathBuf,
    spool: PathBuf,
    cpu: Cpu,
    held: Mutex<HashMap<String, (Held, Option<Pin>)>>,
    /// One fetch a snapshot at a time.
    fetches: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Snapshots {
    /// Opens what is on the node.
    pub async fn open(
        layout: &Layout,
        stores: Arc<Stores>,
        budget: u64,
    ) -> Result<Snapshots, Error> {
        // The cache may evict when it is opened; those that are to stay are pinned right after.
        let cache = LocalCache::open(&layout.snapshots(), budget).await?;
        let snapshots = Snapshots {
            cache,
            stores,
            held_dir: layout.held(),
            spool: layout.spool(),
            cpu: cpu(),
            held: Mutex::default(),
            fetches: Mutex::default(),
        };
        for name in files::names(&snapshots.held_dir)? {
            let id = name.strip_suffix(".json").unwrap_or_default();
            let path = snapshots.held_dir.join(&name);
            let held = files::read::<Held>(&path).ok().flatten();
            match (held, snapshots.cache.pin(id)) {
                (Some(held), Some(pin)) => {
                    let pin = held.only.then_some(pin);
                    snapshots.held().insert(id.to_owned(), (held, pin));
                }
                _ => files::remove_file(&path)?,
            }
        }
        Ok(snapshots)
    }

    /// The ids of snapshots that are on this node only.
    pub fn local_ids(&self) -> Vec<String> {
        let held = self.held();
        let mut ids: Vec<_> = held
            .iter()
            .filter(|(_, (held, _))| held.only)
            .map(|(id, _)| id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Bytes of the copies here.
    pub fn bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// Where the image of a checkpoint goes until it is published or kept.
    pub fn spool(&self, id: &str) -> PathBuf {
        self.spool_dir(id).join(IMAGE)
    }

    /// The directory that the image is written in: whoever writes it needs no other.
    pub fn spool_dir(&self, id: &str) -> PathBuf {
        self.spool.join(id)
    }

    /// What is in the spool of an actor: whole images, and those that a killed executor left half written.
    pub fn spooled(&self, actor: &Identity) -> Result<Vec<PathBuf>, Error> {
        let Ok(uid) = uuid::Uuid::try_parse(&actor.uid) else {
            return Ok(vec![]);
        };
        // Ids begin with the actor's uid.
        let own = uid.simple().to_string();
        let names = files::names(&self.spool)?.into_iter();
        let names = names.filter(|name| name.starts_with(&own));
        Ok(names.map(|name| self.spool.join(name)).collect())
    }

    /// Removes what nobody will publish any more: all of the spool but `wanted`.
    pub fn sweep_spool(&self, wanted: &BTreeSet<String>) -> Result<(), Error> {
        for name in files::names(&self.spool)? {
            if !wanted.contains(&name) {
                files::remove_dir(&self.spool.join(name))?;
            }
        }
        Ok(())
    }

    /// A node copy of the snapshot, fetched if there is none, that `runtime` on this machine can restore.
    pub async fn copy(&self, target: &Target, runtime: &Runtime) -> Result<Pin, Failure> {
        if let Some(pin) = self.cached(&target.id).await? {
            self.check(&target.id, runtime)?;
            return Ok(pin);
        }
        if target.local {
            return Err(Failure::Failed(
                Reason::SnapshotUnreadable,
                format!("snapshot {} is not on this node", target.id),
            ));
        }
        let flight = self.flight(&target.id);
        let _one = flight.lock().await;
        if let Some(pin) = self.cached(&target.id).await? {
            self.check(&target.id, runtime)?;
            return Ok(pin);
        }
        let at = self.stores.open(&target.uri).await?;
        let manifest = snapshot::read_manifest(&at, &target.id).await?;
        self.fits(&target.id, &manifest.meta, runtime)?;
        let draft = self.spool.join(format!("fetch-{}", uuid::Uuid::new_v4()));
        let manifest = snapshot::fetch(&at, &target.id, &draft).await?;
        let held = Held {
            bytes: manifest.total_stored_bytes,
            meta: manifest.meta.clone(),
            only: false,
        };
        let adopted = self
            .adopt(&target.id, &draft, Some(manifest.sums()), held)
            .await;
        if adopted.is_err() {
            let _ = std::fs::remove_dir_all(&draft);
        }
        Ok(adopted?)
    }

    async fn cached(&self, id: &str) -> Result<Option<Pin>, Failure> {
        if !self.held().contains_key(id) {
            return Ok(None);
        }
        match self.cache.get(id).await {
            Ok(Some(pin)) => Ok(Some(pin)),
            Ok(None) => {
                self.forget(id);
                Ok(None)
            }
            Err(error) => {
                let only = self.held().get(id).is_some_and(|(held, _)| held.only);
                self.forget(id);
                // A published one is fetched again.
                if only { Err(error.into()) } else { Ok(None) }
            }
        }
    }

    fn check(&self, id: &str, runtime: &Runtime) -> Result<(), Failure> {
        let meta = self.held().get(id).map(|(held, _)| held.meta.clone());
        meta.map_or(Ok(()), |meta| self.fits(id, &meta, runtime))
    }

    /// Refuses a snapshot that this machine or this runtime would fail to restore, with the reason.
    fn fits(&self, id: &str, meta: &Meta, runtime: &Runtime) -> Result<(), Failure> {
        let unfit = |why: String| {
            Err(Failure::Failed(
                Reason::SnapshotUnreadable,
                format!("snapshot {id} cannot be restored here: {why}"),
            ))
        };
        let made_by = &meta.runtime;
        if made_by.class != CLASS || made_by.build != runtime.build {
            return unfit(format!(
                "it was made by {} {}, the runtime is {CLASS} {}",
                made_by.class, made_by.build, runtime.build
            ));
        }
        if meta.cpu.arch != self.cpu.arch {
            let (theirs, ours) = (&meta.cpu.arch, &self.cpu.arch);
            return unfit(format!("it was made on {theirs}, this machine is {ours}"));
        }
        let ours: BTreeSet<&str> = self.cpu.baseline.split(' ').collect();
        let lacking = meta.cpu.baseline.split(' ').filter(|f| !ours.contains(f));
        let lacking: Vec<&str> = lacking.collect();
        if !lacking.is_empty() && !meta.cpu.baseline.is_empty() {
            return unfit(format!("this processor lacks {}", lacking.join(" ")));
        }
        Ok(())
    }

    /// Publishes the image in the spool, tried a few times, then keeps it as a node copy. Returns the bytes as stored. After an error it
    /// is a node copy, the only one there is.
    pub async fn publish_spooled(
        &self,
        target: &Target,
        actor: &Identity,
        build: &str,
    ) -> Result<u64, Failure> {
        let (spool, meta) = (self.spool(&target.id), self.meta(actor, build));
        match self.publish_from(&spool, target, &meta).await {
            Ok((bytes, sums)) => {
                let held = Held {
                    meta,
                    bytes,
                    only: false,
                };
                self.enter(&target.id, &spool, Some(sums), held).await;
                Ok(bytes)
            }
            Err(error) => {
                self.keep_spooled(target, actor, build).await?;
                Err(Failure::because(Reason::CheckpointFailed, &error))
            }
        }
    }

    /// Keeps the image in the spool as a node copy, the only one there is. Returns its bytes.
    pub async fn keep_spooled(
        &self,
        target: &Target,
        actor: &Identity,
        build: &str,
    ) -> Result<u64, Failure> {
        let spool = self.spool(&target.id);
        let failed = |e: &dyn std::error::Error| Failure::because(Reason::CheckpointFailed, e);
        let held = Held {
            meta: self.meta(actor, build),
            bytes: size(&spool).map_err(|e| failed(&e))?,
            only: true,
        };
        let bytes = held.bytes;
        match self.adopt(&target.id, &spool, None, held).await {
            Ok(_) => Ok(bytes),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Publishes a node copy. Returns the bytes as stored.
    pub async fn publish_held(&self, target: &Target) -> Result<u64, Failure> {
        let held = self.held().get(&target.id).map(|(held, _)| held.clone());
        let (Some(held), Some(pin)) = (held, self.cached(&target.id).await?) else {
            let message = format!("snapshot {} is not on this node", target.id);
            return Err(Failure::NotFound(message));
        };
        if !held.only {
            return Ok(held.bytes);
        }
        let published = self.publish_from(pin.path(), target, &held.meta).await;
        let (bytes, _) = published.map_err(|e| Failure::because(Reason::CheckpointFailed, &e))?;
        let held = Held {
            bytes,
            only: false,
            ..held
        };
        self.note(&target.id, held, None)
            .map_err(|e| Failure::because(Reason::CheckpointFailed, &e))?;
        Ok(bytes)
    }

    async fn publish_from(
        &self,
        dir: &Path,
        target: &Target,
        meta: &Meta,
    ) -> Result<(u64, Vec<snapshot::FileSum>), SnapshotError> {
        let at = self.stores.open(&target.uri).await?;
        let mut pause = PUBLISH_PAUSE;
        let mut attempt = 1;
        loop {
            let error = match snapshot::publish(&at, &target.id, dir, meta.clone()).await {
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
            if !passing || attempt == PUBLISH_ATTEMPTS {
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

    /// What is known of a snapshot: bytes, runtime and architecture; `None` when it does not exist.
    pub async fn describe(&self, target: &Target) -> Result<Option<(u64, Meta)>, Failure> {
        let known = self.held().get(&target.id).map(|(held, _)| held.clone());
        if target.local {
            return Ok(match (known, self.cached(&target.id).await?) {
                (Some(held), Some(_)) => Some((held.bytes, held.meta)),
                _ => None,
            });
        }
        let at = self.stores.open(&target.uri).await?;
        match snapshot::read_manifest(&at, &target.id).await {
            Ok(manifest) => Ok(Some((manifest.total_stored_bytes, manifest.meta))),
            Err(SnapshotError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of a snapshot that an order to save has led to already, and the build that made it.
    pub fn saved(&self, target: &Target) -> Option<(u64, String)> {
        let held = self.held();
        let (held, _) = held.get(&target.id)?;
        let saved = || (held.bytes, held.meta.runtime.build.clone());
        (target.local || !held.only).then(saved)
    }

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
            self.forget(&id);
            self.cache.remove(&id).await?;
        }
        if uri.is_empty() {
            return Ok(());
        }
        match self.unpublish(uri, actor, goes).await {
            // Nothing was ever put where nothing can be; whoever waits for its end would wait for good.
            Err(SnapshotError::BadLocation { .. }) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Removes those of the actor's published snapshots that `goes` names.
    async fn unpublish(
        &self,
        uri: &str,
        actor: uuid::Uuid,
        goes: impl Fn(&str) -> bool,
    ) -> Result<(), SnapshotError> {
        let at = self.stores.open(uri).await?;
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

    fn meta(&self, actor: &Identity, build: &str) -> Meta {
        Meta {
            created: jiff::Timestamp::now(),
            actor: ActorIdentity {
                namespace: actor.namespace.clone(),
                name: actor.name.clone(),
                uid: actor.uid.clone(),
            },
            template: format!("{}/{}", actor.template_namespace, actor.template_name),
            runtime: RuntimeIdentity {
                class: CLASS.to_owned(),
                build: build.to_owned(),
            },
            cpu: self.cpu.clone(),
        }
    }

    /// Like [`Snapshots::adopt`], for one that is published: without a node copy the next restore is slower, no more.
    async fn enter(&self, id: &str, dir: &Path, sums: Option<Vec<snapshot::FileSum>>, held: Held) {
        if let Err(error) = self.adopt(id, dir, sums, held).await {
            tracing::warn!(id, error = chain(&error), "no node copy of a snapshot");
            let _ = std::fs::remove_dir_all(dir);
        }
    }

    /// Moves `dir` into the cache. What is known of it comes first: without that it would not be found again.
    async fn adopt(
        &self,
        id: &str,
        dir: &Path,
        sums: Option<Vec<snapshot::FileSum>>,
        held: Held,
    ) -> Result<Pin, SnapshotError> {
        if !self.held().contains_key(id) {
            // Left by an earlier life that did not come to write down what it is.
            self.cache.remove(id).await?;
        }
        let path = self.file(id);
        files::write(&path, &held).map_err(|e| SnapshotError::Bug { what: chain(&e) })?;
        let pin = self.cache.adopt(id, dir, sums).await?;
        let kept = held.only.then(|| self.cache.pin(id)).flatten();
        self.held().insert(id.to_owned(), (held, kept));
        Ok(pin)
    }

    fn note(&self, id: &str, held: Held, pin: Option<Pin>) -> Result<(), Error> {
        files::write(&self.file(id), &held)?;
        self.held().insert(id.to_owned(), (held, pin));
        Ok(())
    }

    fn forget(&self, id: &str) {
        self.held().remove(id);
        if let Err(error) = files::remove_file(&self.file(id)) {
            tracing::warn!(id, %error, "cannot forget a snapshot");
        }
    }

    fn file(&self, id: &str) -> PathBuf {
        self.held_dir.join(format!("{id}.json"))
    }

    fn flight(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = fetches.get(id).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::default();
        fetches.insert(id.to_owned(), Arc::downgrade(&flight));
        flight
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, (Held, Option<Pin>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sandbox class of this node agent's slots.
const CLASS: &str = "gvisor";

fn size(dir: &Path) -> Result<u64, Error> {
    let entries = std::fs::read_dir(dir).map_err(io("list", dir))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum())
}

/// This machine's processor: the flags of `/proc/cpuinfo`, sorted.
fn cpu() -> Cpu {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags: BTreeSet<&str> = line
        .and_then(|line| line.split_once(':'))
        .map(|(_, flags)| flags.split_whitespace().collect())
        .unwrap_or_default();
    Cpu {
        arch: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        baseline: flags.into_iter().collect::<Vec<_>>().join(" "),
    }
}
