//! What a node agent is told at its start.

use crate::network::Cidr;
use crate::rpc::TlsFiles;
use crate::snapshot::S3Config;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a node agent needs to know.
#[derive(Debug)]
pub struct Options {
    /// The node's name.
    pub node: String,
    /// For everything that is large or must outlive a reboot (`/var/lib/ate`).
    pub dir: PathBuf,
    /// For sockets and the executors' small state: a short path, for sockets have names of at most 107 bytes.
    pub run_dir: PathBuf,
    /// Where orders arrive.
    pub listener: TcpListener,
    /// `host:port` of the listener, as the API server reaches it.
    pub advertised: String,
    /// `host:port` of the API server.
    pub apiserver: String,
    /// File with a token that says on which node we are, for API servers that ask for one.
    pub token_file: Option<PathBuf>,
    /// Our certificate, with the name `atelet`.
    pub tls: TlsFiles,
    /// SHA-256 sums, in lower-case hex, of the runtimes that templates may name.
    pub allowed_runtimes: BTreeSet<String>,
    /// Whether the `runsc` found on PATH is allowed, and is what templates run that name no runtime.
    pub allow_runsc_on_path: bool,
    /// Bytes that node copies of snapshots may take; those that exist nowhere else are kept in any case. When these alone take more,
    /// a suspend keeps its slot until it is published.
    pub cache_bytes: u64,
    /// Bytes that images may take; those that run or are of golden snapshots are kept in any case.
    pub image_bytes: u64,
    /// Docker configuration that images are pulled with, after the pull secrets of their templates; read at each pull, and may be
    /// missing.
    pub docker_config: Option<PathBuf>,
    /// How S3 is reached.
    pub s3: S3Config,
    /// What slots are made of.
    pub form: Form,
    /// Ends all slots on a graceful stop. Otherwise they go on running, for the next node agent to adopt.
    pub stop_slots_on_exit: bool,
}

/// What slots are made of.
#[derive(Debug)]
pub enum Form {
    /// Our child processes, as many as pools ask for.
    Processes(Processes),
    /// The pods of this node that are workers.
    Pods(watch::Receiver<Vec<WorkerPod>>),
}

/// Slots that are our child processes.
#[derive(Debug)]
pub struct Processes {
    /// How many slots each pool shall have here. The value that it has at the start counts already: a pool that is missing loses its
    /// free slots.
    pub pools: watch::Receiver<Vec<PoolSlots>>,
    /// The executable that becomes an executor: `EXE ateom --uid UID --dir DIR [--refuse CIDR]...`.
    pub executable: PathBuf,
    /// Begins the names of the slots' links, and is the name of their nftables table: 1 to 10 letters, digits or dashes.
    pub network_name: String,
    /// Addresses for the slots, four for each; `10.231.0.0/16` unless something else on the machine has it.
    pub network: Cidr,
    /// Further networks that sandboxes must not reach. The slots' own and link-local ones are refused anyway.
    pub refused: Vec<Cidr>,
}

/// How many slots a pool shall have on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSlots {
    /// Namespace of the pool.
    pub namespace: String,
    /// Name of the pool.
    pub pool: String,
    /// Sandbox class: `gvisor`.
    pub class: String,
    /// Number of slots.
    pub replicas: usize,
}

/// A pod that is a worker of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPod {
    /// Its namespace, and the pool's.
    pub namespace: String,
    /// Its name, and the worker's.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Name of the pool.
    pub pool: String,
    /// Sandbox class: `gvisor`.
    pub class: String,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// Its containers were started.
    pub runs: bool,
    /// It was deleted, and goes when its containers have ended.
    pub leaving: bool,
}
