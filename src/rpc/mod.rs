//! Our own gRPC clients and servers: mutual TLS from files, deadlines, who the peer is, the node agents' client
//! and the channel to the API server; TLS in front of servers that are not ours.
//!
//! What the calls mean does not live here (that is `engine`, `control` and `node`), nor do keys and certificates
//! get made here ([`crate::identity`]). Called by every process of ours that talks to another one.

pub mod control;
pub mod deadline;
pub mod front;
pub mod incoming;
pub mod nodes;
pub mod tls;

mod peer;
#[cfg(test)]
pub(crate) mod testing;

pub use control::Link;
pub use nodes::{NodeClient, NodeError, TonicNodes};
pub use peer::client_identity;
pub use tls::{Tls, TlsFiles};

use std::path::PathBuf;

/// Name in the API server's certificate.
pub const APISERVER: &str = "apiserver";
/// Name in the controller's certificate.
pub const CONTROLLER: &str = "controller";
/// Name in the router's certificate.
pub const ROUTER: &str = "router";
/// Name in a node agent's certificate.
pub const ATELET: &str = "atelet";
/// Name in the certificate of the store that we bring.
pub const STORE: &str = "store";
/// Name in the certificate of the S3 server that we bring.
pub const OBJECTS: &str = "objects";

/// What keeps a process of ours from talking to another one. But for `NoCertificateYet` all are set-up: nothing here is worth
/// a retry before somebody changed a file, an address or a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read the {what} {}", path.display())]
    Unreadable {
        /// `CA certificate`, `certificate` or `private key`.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} holds no {what} in PEM form", path.display())]
    NotPem {
        /// `CA certificate`, `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: rustls::pki_types::pem::Error,
    },
    /// TLS refused the CA, the certificate or the key: they do not belong together, or are of an unknown kind.
    #[error(
        "the CA, certificate and private key cannot be used for TLS; check that the key belongs to the certificate"
    )]
    UnusableTls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A peer whose certificate our CA did not sign, or that is not valid now.
    #[error("the peer is none of ours")]
    NotOurs(#[source] crate::identity::IdentityError),
    /// The certificate that we show is still to be issued: worth a retry.
    #[error("there is no certificate for this process yet; it is being issued")]
    NoCertificateYet,
    /// Not `host:port`.
    #[error("cannot prepare a connection to {address:?}: it must be host:port")]
    BadAddress {
        /// As given.
        address: String,
        /// What was refused.
        source: tonic::transport::Error,
    },
}
