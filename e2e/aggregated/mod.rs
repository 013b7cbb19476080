//! The aggregated API behind a real kube-apiserver: the checks of its wire contract, each a test `check_NN_...`, with real
//! clients. [`harness`] has a cluster, Valkey and two replicas of `ate apiserver`, [`turns`] says who uses it when; [`direct`] asks a
//! replica itself, as kube-apiserver or a stranger would; [`goclient`] is client-go; [`node`] is a node with sandboxes, for
//! the few tests that wake actors; [`twin`] replays requests to us and to a custom resource alike.
//! Tests of faults have a store and replicas of their own ([`own`]) where they can; [`follow`] has clients that write and
//! watch through whatever happens; [`controller`] has our controller, and what Kubernetes makes of its Deployments; in [`certs`] it issues the certificates of all, and in
//! [`admission`] it says what is wrong with what is written.

mod access;
mod admission;
mod availability;
mod certs;
mod charts;
mod clients;
mod controller;
mod direct;
mod faults;
mod follow;
mod fuzz;
mod gitops;
mod goclient;
mod harness;
mod kubectl;
mod limits;
mod logs;
mod namespace;
mod node;
mod own;
mod protocol;
pub mod shell;
mod store_faults;
mod teams;
mod turns;
mod twin;
mod watches;

pub use goclient::build;
pub use harness::{Cluster, eventually, root};
pub use node::port_of;
