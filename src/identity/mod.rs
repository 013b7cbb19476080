//! Keys and certificates: who a process or a client is, and how the other side checks it.
//!
//! [`Authority`] issues: for `ate dev` and tests from a directory, for a cluster as the controller says. [`Certificate`] is what one says.
//! [`tls`] builds TLS from PEM for rustls, whoever issued it. [`peer`] reads a client's name and groups from its
//! certificate, and [`kubeconfig`] writes what kubectl needs. Who may do what is not decided here.
//!
//! Called by dev and controller (issue), rpc (TLS between our processes), access (peers).

pub mod authority;
pub mod certificate;
pub mod files;
pub mod kubeconfig;
pub mod peer;
pub mod tls;

pub use authority::{Authority, LEAF_VALIDITY, Leaf, LeafRequest, Usage};
pub use certificate::Certificate;
pub use kubeconfig::kubeconfig;
pub use peer::Peer;

use std::path::PathBuf;

/// `File` is for the operator (rights, space); `Bad` and `Unusable` mean that a file is damaged or does not belong
/// to the others; `Issue` is a bug.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A PEM text that does not hold what it should.
    #[error("{what} is not usable: {why}")]
    Bad {
        /// What the text was to be.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Certificate and key do not make a TLS configuration.
    #[error("the TLS configuration is refused: check that certificate, key and CA belong together")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A certificate could not be made.
    #[error("cannot issue a certificate for {name:?}")]
    Issue {
        /// Whom it was for.
        name: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
}

pub(crate) fn bad(what: impl Into<String>, why: impl ToString) -> IdentityError {
    IdentityError::Bad {
        what: what.into(),
        why: why.to_string(),
    }
}
