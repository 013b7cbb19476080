//! The Kubernetes API as a client: how it is reached, and templates and pools as a local cache.
//!
//! [`catalog`] is what the engine needs to know, [`reflected`] keeps it by watches, [`namespaces`] says where new objects may go and [`inhabited`]
//! where some ever went, [`caps`] how many, [`secrets`] what templates take from Secrets, [`worker_pods`] which pods of a node are workers, [`client`] connects. Under `ate dev` the other side is our own API server, by the same protocol.

pub mod caps;
pub mod catalog;
pub mod client;
mod inhabited;
pub mod namespaces;
pub mod reflected;
pub mod secrets;
mod workers;

pub use caps::ActorCaps;
pub use catalog::Catalog;
pub use client::{ClientError, client};
pub use namespaces::{Everywhere, Lifecycle, Namespaces, ReflectedNamespaces};
pub use reflected::ReflectedCatalog;
pub use secrets::{SecretError, Secrets};
pub use workers::worker_pods;
