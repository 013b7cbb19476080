//! What keeps a node agent from working.

use crate::{image, network, node::ateom, rpc, snapshot};
use std::path::{Path, PathBuf};

/// Why the node agent, or one of its slots, cannot work. What goes wrong with a single order is answered to whoever gave it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Set-up: certificates or addresses.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// The node copies of snapshots cannot be opened.
    #[error("the node's copies of snapshots cannot be used")]
    Snapshots(#[from] snapshot::SnapshotError),
    /// The images cannot be opened.
    #[error("the node's images cannot be used")]
    Images(#[from] image::ImageError),
    /// The slots' network cannot be made. May be worth another try.
    #[error("the network of the slots cannot be made")]
    Network(#[from] network::Error),
    /// A slot's executor cannot be started, or does not answer. May be worth another try.
    #[error("the executor of a slot failed")]
    Executor(#[from] ateom::Error),
    /// A slot's executor did not come up or end in time. May be worth another try.
    #[error("the executor of slot {slot} {what}")]
    Slow {
        /// The slot.
        slot: String,
        /// What it did not do; where its log is.
        what: String,
    },
    /// A slot on disk that another form of node agent made: after it was started with other `--slots`.
    #[error(
        "slot {slot} is of a node agent with other --slots; drain the node, then remove the slot's directory"
    )]
    Strange {
        /// The slot.
        slot: String,
    },
    /// The executor's process cannot be seen: the node agent is in a pid namespace of its own.
    #[error(
        "the executor of slot {slot} runs where the node agent does not see its process; give the node agent hostPID"
    )]
    Unseen {
        /// The slot.
        slot: String,
    },
    /// A frozen sandbox does not go on. Worth another try.
    #[error("a frozen sandbox does not go on")]
    Thaw(#[source] Box<tonic::Status>),
    /// Another node agent works in the same directory.
    #[error("another node agent uses {}; stop it first or choose another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file of ours holds something else.
    #[error("{} is damaged; remove it if nothing of it is needed", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A local file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The gRPC server ended.
    #[error("cannot serve orders")]
    Serve(#[source] tonic::transport::Error),
}

/// Names the operation and path of an I/O error: `read(path).map_err(io("read", path))`.
pub(super) fn io<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
