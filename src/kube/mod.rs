//! The Kubernetes API as a client: templates and pools as a local cache.

pub mod catalog;

pub use catalog::Catalog;
