//! What a sandbox is made of.

use crate::api::resources::Limits;
use crate::api::security::Capability;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One step of a call and how long it took.
pub type Step = (&'static str, Duration);

/// The steps of a call, in order.
#[derive(Debug, Clone, Default)]
pub struct Steps(Vec<Step>);

impl Steps {
    /// Awaits `work` and notes its duration under `name`, also when it fails.
    pub async fn time<T>(&mut self, name: &'static str, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = work.await;
        self.0.push((name, start.elapsed()));
        result
    }

    /// Appends the steps of a call that was part of this one.
    pub fn extend(&mut self, other: Steps) {
        self.0.extend(other.0);
    }

    /// The steps, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Step> {
        self.0.iter()
    }
}

/// A sandbox: its containers and the directories and network that are given to it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Content of `/run/ate/actor-id`, without newline. Nobody's name while it is created ahead.
    pub actor_id: String,
    /// Content of `/run/ate/generation`, without newline; differs at every boot and restore.
    pub generation: String,
    /// One: it is the sandbox's root. Several: they share a pause root.
    pub containers: Vec<Container>,
    /// Its own address in there.
    pub address: IpAddr,
    /// How names are resolved.
    pub dns: Dns,
    /// What all of it may take.
    pub limits: Limits,
    /// The runtime's executable.
    pub runtime: PathBuf,
    /// File of the network namespace, with `eth0`, its address and its routes.
    pub netns: PathBuf,
    /// Directory of this actor for what the sandbox writes; must exist. A sandbox never finds in it what another one wrote.
    pub state_dir: PathBuf,
    /// Directory of this actor's logs, `NAME.log` per container; must exist.
    pub log_dir: PathBuf,
}

/// One container of a sandbox. At a restore all of it but the environment must be what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// A DNS label, unique in the sandbox.
    pub name: String,
    /// The unpacked image, shared. Nothing is written to it, but that the runtime makes the empty directory `/run/ate`,
    /// the mount point, where it is missing; so it may be read-only only if it has that.
    pub rootfs: PathBuf,
    /// The command line.
    pub args: Vec<String>,
    /// Names and values.
    pub env: Vec<(String, String)>,
    /// Working directory; empty is `/`.
    pub cwd: String,
    /// User id of the process.
    pub uid: u32,
    /// Group id of the process.
    pub gid: u32,
    /// Further groups of the process.
    pub additional_gids: Vec<u32>,
    /// Whether nothing of the image can be written to.
    pub read_only_rootfs: bool,
    /// What it may do within its sandbox.
    pub capabilities: BTreeSet<Capability>,
}

/// How names are resolved: beginning with what the executor's own configuration says, unless it is `alone`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Without the executor's.
    pub alone: bool,
    /// Addresses.
    pub nameservers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// `NAME` or `NAME:VALUE`.
    pub options: Vec<String>,
}
