//! The small files that a node agent keeps, and how they are written.

use super::error::{Error, io};
use super::provider::{ExecutorRecord, Place};
use crate::api::Epoch;
use crate::proto::atenode as wire;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Who an actor is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub namespace: String,
    pub name: String,
    pub actor_id: String,
    pub template_namespace: String,
    pub template_name: String,
    pub uid: String,
}

/// `slot.json`: what a slot is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SlotFile {
    pub place: Place,
    /// How many it has had.
    pub executors: u64,
    pub executor: Option<ExecutorRecord>,
}

/// `desired.json`: what a slot shall do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct DesiredFile {
    pub assignment: Option<Assignment>,
    /// Actors (by uid) and epochs of the assignments that ended last, newest last.
    pub ended: Vec<(String, Epoch)>,
    /// The sandbox that was created ahead: while the slot is free, or is about to start, or because it did not fit.
    #[serde(default)]
    pub ahead: Option<Ahead>,
}

/// A sandbox created ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ahead {
    /// Of the assignment that takes it: names the sandbox's directory.
    pub generation: String,
    /// What an assignment must be made of to take it.
    pub fits: String,
    /// Images that it is made of, as the workload names them.
    #[serde(default)]
    pub images: Vec<String>,
}

/// What a slot is assigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub actor: Identity,
    pub epoch: Epoch,
    pub phase: Phase,
    /// Port of this assignment on the slot's address; 0 while there is none yet.
    pub host_port: u16,
    /// Names the sandbox's directory.
    pub generation: String,
    /// Of the runtime that runs it; empty while it is not known yet.
    pub runtime_build: String,
    /// Its images, which stay on the node meanwhile; empty while they are not known yet.
    #[serde(default)]
    pub images: Vec<String>,
}

/// How far an assignment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    Starting,
    Serving,
    Saving(Target),
    Ending,
}

/// Where a snapshot shall go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub id: String,
    pub uri: String,
    pub local: bool,
}

impl Identity {
    /// Whether `other` is this actor. Without a uid on one side the name decides: that of a deleted actor's is not known.
    pub fn is(&self, other: &Identity) -> bool {
        let named = self.namespace == other.namespace && self.name == other.name;
        match self.uid.is_empty() || other.uid.is_empty() {
            true => named,
            false => self.uid == other.uid,
        }
    }
}

impl From<Identity> for wire::ActorIdentity {
    fn from(actor: Identity) -> wire::ActorIdentity {
        wire::ActorIdentity {
            namespace: actor.namespace,
            name: actor.name,
            actor_id: actor.actor_id,
            template_namespace: actor.template_namespace,
            template_name: actor.template_name,
            uid: actor.uid,
        }
    }
}

/// Replaces `path` at once. Not flushed: after a crash of the machine no sandbox is left that it would speak of.
pub(super) fn write(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    let json = serde_json::to_vec(content).map_err(|source| Error::Damaged {
        path: path.to_owned(),
        source,
    })?;
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    std::fs::write(&fresh, json).map_err(io("write", &fresh))?;
    std::fs::rename(&fresh, path).map_err(io("replace", path))
}

/// Reads what [`write`] wrote; `None` when there is nothing.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let json = match std::fs::read(path) {
        Ok(json) => json,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("read", path)(e)),
    };
    let parsed = serde_json::from_slice(&json);
    parsed.map(Some).map_err(|source| Error::Damaged {
        path: path.to_owned(),
        source,
    })
}

/// Removes a directory and all in it; none is fine.
pub(super) fn remove_dir(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Removes a file; none is fine.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// The names in a directory.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io("list", dir)(e)),
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}
