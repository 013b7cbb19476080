//! Links, addresses and packet filters, by netlink and `nft`.
//!
//! [`slot`]: the network of one slot, set up by its executor in the network namespace of the worker. The sandbox sits in an
//! interior namespace whose address is the same everywhere; nftables in the worker's namespace translates. [`host`]: what stands
//! in for a pod's network where there is no Kubernetes, set up by the node agent. Who gets which port, and when the gate opens, is
//! decided by the callers in `node`.

mod cidr;
mod error;
pub mod host;
mod netfilter;
mod netns;
mod nft;
mod route;
pub mod slot;
#[cfg(test)]
pub(crate) mod testing;

pub use cidr::Cidr;
pub use error::Error;
