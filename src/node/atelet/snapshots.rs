//! Snapshots on this node: fetched for a restore, kept after a checkpoint and published from there ([`spool`]), described,
//! removed ([`remove`]).
//!
//! Beside every node copy, `held/ID.json` says what it is of, what it needs, and whether it is the only one there is:
//! those are the node's spool, and pinned until they are published or deleted.

mod remove;
mod spool;

use super::error::{Error, io};
use super::files::{self, Identity, Target};
use super::layout::Layout;
use super::outcome::Failure;
use super::runtime::Runtime;
use crate::api::Reason;
use crate::proto::atenode::{LocalSnapshot, NodeUsage};
use crate::snapshot::{
    self, ActorIdentity, Cpu, LocalCache, Location, Manifest, Meta, Pin, RuntimeIdentity,
    SnapshotError, Stores,
};
use crate::telemetry::chain;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Snapshots that are published at the same time.
const PUBLISHED_AT_ONCE: u32 = 2;

/// Name of an image in the directory that it is written in.
pub(super) const IMAGE: &str = "image";

/// What is known of a node copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    meta: Meta,
    /// As it would count: stored bytes if it was published, else those on the node.
    bytes: u64,
    /// There is no other copy.
    only: bool,
    /// The start of the machine since which its files are there without hashes: nothing says that they outlive another one.
    #[serde(default)]
    unhashed_since: Option<String>,
}

/// What is done about a snapshot, one thing at a time.
#[derive(Default)]
struct Flight {
    turn: tokio::sync::Mutex<()>,
    /// It is not needed any more.
    cancel: CancellationToken,
}

pub(super) struct Snapshots {
    cache: LocalCache,
    stores: Arc<Stores>,
    held_dir: PathBuf,
    /// Where images are written, and fetched to.
    drafts: PathBuf,
    cpu: Cpu,
    /// Which start of the machine this is.
    boot: String,
    /// Bytes that the spool may take before a suspend waits for its publication.
    spool_bytes: u64,
    held: Mutex<HashMap<String, (Held, Option<Pin>)>>,
    flights: Mutex<HashMap<String, Weak<Flight>>>,
    publishing: Semaphore,
    /// One after another: it is bound by disk and processor anyway, and nobody waits for it.
    hashing: Semaphore,
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
            drafts: layout.spool(),
            cpu: cpu(),
            boot: boot()?,
            spool_bytes: budget,
            held: Mutex::default(),
            flights: Mutex::default(),
            publishing: Semaphore::new(PUBLISHED_AT_ONCE as usize),
            hashing: Semaphore::new(1),
        };
        for name in files::names(&snapshots.held_dir)? {
            let id = name.strip_suffix(".json").unwrap_or_default();
            let path = snapshots.held_dir.join(&name);
            let held = files::read::<Held>(&path).ok().flatten();
            let torn = |held: &Held| {
                held.unhashed_since
                    .as_ref()
                    .is_some_and(|at| *at != snapshots.boot)
            };
            if held.as_ref().is_some_and(torn) {
                tracing::error!(
                    id,
                    "a snapshot was lost with the machine, before it was published"
                );
                snapshots.cache.remove(id).await?;
            }
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

    /// The snapshots that are on this node only, and whose they are.
    pub fn local(&self) -> Vec<LocalSnapshot> {
        let held = self.held();
        let only = held.iter().filter(|(_, (held, _))| held.only);
        let mut all: Vec<_> = only
            .map(|(id, (held, _))| LocalSnapshot {
                id: id.clone(),
                namespace: held.meta.actor.namespace.clone(),
                name: held.meta.actor.name.clone(),
            })
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// What the copies here take, and those that are nowhere else.
    pub fn usage(&self) -> NodeUsage {
        NodeUsage {
            cache_bytes: self.cache.bytes(),
            spool_bytes: self.spooled(),
            capacity_bytes: self.spool_bytes,
        }
    }

    /// Where the image of a checkpoint is written.
    pub fn draft(&self, id: &str) -> PathBuf {
        self.draft_dir(id).join(IMAGE)
    }

    /// The directory that the image is written in: whoever writes it needs no other.
    pub fn draft_dir(&self, id: &str) -> PathBuf {
        self.drafts.join(id)
    }

    /// What was written for an actor: whole images, and those that a killed executor left half written.
    pub fn drafts(&self, actor: &Identity) -> Result<Vec<PathBuf>, Error> {
        let Ok(uid) = uuid::Uuid::try_parse(&actor.uid) else {
            return Ok(vec![]);
        };
        // Ids begin with the actor's uid.
        let own = uid.simple().to_string();
        let names = files::names(&self.drafts)?.into_iter();
        let names = names.filter(|name| name.starts_with(&own));
        Ok(names.map(|name| self.drafts.join(name)).collect())
    }

    /// Removes what nobody will keep any more: all that was written but `wanted`.
    pub fn sweep_drafts(&self, wanted: &BTreeSet<String>) -> Result<(), Error> {
        for name in files::names(&self.drafts)? {
            if !wanted.contains(&name) {
                files::remove_dir(&self.drafts.join(name))?;
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
        let flight = self.flight(&target.id);
        let _one = flight.turn.lock().await;
        if let Some(pin) = self.cached(&target.id).await? {
            self.check(&target.id, runtime)?;
            return Ok(pin);
        }
        let manifest = self.published(target).await?;
        let Some((at, manifest)) = manifest else {
            let place = if target.local {
                "neither on this node nor"
            } else {
                "not"
            };
            return Err(Failure::Failed(
                Reason::SnapshotUnreadable,
                format!("snapshot {} is {place} in {}", target.id, target.uri),
            ));
        };
        self.fits(&target.id, &manifest.meta, runtime)?;
        let draft = self.drafts.join(format!("fetch-{}", uuid::Uuid::new_v4()));
        snapshot::fetch(&self.stores, &self.cache, &at, &manifest, &draft).await?;
        let held = Held {
            bytes: manifest.total_stored_bytes,
            meta: manifest.meta.clone(),
            only: false,
            unhashed_since: None,
        };
        let adopted = self
            .adopt(&target.id, &draft, Some(manifest.sums()), held)
            .await;
        if adopted.is_err() {
            let _ = std::fs::remove_dir_all(&draft);
        }
        Ok(adopted?)
    }

    /// Where the snapshot is published, with its manifest, if it is.
    async fn published(
        &self,
        target: &Target,
    ) -> Result<Option<(Location, Manifest)>, SnapshotError> {
        let at = self.stores.open(&target.uri).await?;
        match snapshot::read_manifest(&at, &target.id).await {
            Ok(manifest) => Ok(Some((at, manifest))),
            Err(SnapshotError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
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

    /// What is known of a snapshot: bytes, runtime and architecture; `None` when it does not exist.
    pub async fn describe(&self, target: &Target) -> Result<Option<(u64, Meta)>, Failure> {
        let known = self.held().get(&target.id).map(|(held, _)| held.clone());
        if target.local {
            return Ok(match (known, self.cached(&target.id).await?) {
                (Some(held), Some(_)) => Some((held.bytes, held.meta)),
                _ => None,
            });
        }
        let manifest = self.published(target).await?;
        Ok(manifest.map(|(_, manifest)| (manifest.total_stored_bytes, manifest.meta)))
    }

    /// Bytes of a snapshot that an order to save has led to already, and the build that made it.
    pub fn saved(&self, id: &str) -> Option<(u64, String)> {
        let held = self.held();
        let (held, _) = held.get(id)?;
        Some((held.bytes, held.meta.runtime.build.clone()))
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

    fn flight(&self, id: &str) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(id).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::default();
        flights.insert(id.to_owned(), Arc::downgrade(&flight));
        flight
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, (Held, Option<Pin>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sandbox class of this node agent's slots.
const CLASS: &str = "gvisor";

/// Names this start of the machine.
fn boot() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let read = std::fs::read_to_string(path).map_err(io("read", path))?;
    Ok(read.trim().to_owned())
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
