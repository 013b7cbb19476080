//! Agent Substrate: many stateful actors (agent sessions) share a small pool of warm workers.
//!
//! The rooms, from the bottom up. A room imports only from rooms below it; `e2e/layers.rs` enforces it.
//!
//! **Vocabulary.** [`api`] holds the kinds that users write and the records that we keep; [`proto`] the
//! gRPC wire formats. No I/O.
//!
//! **Decisions.** [`lifecycle`] says what the next step is: pure functions from what is desired and what is
//! observed. No clock, no randomness, no async.
//!
//! **Keys and certificates.** [`identity`]: who somebody is.
//!
//! **The outside, one thing a room.** [`store`] (Redis or Valkey), [`snapshot`] (object storage), [`image`] (OCI
//! images), [`sandbox`] (gVisor), [`network`] (netlink and nftables), [`kube`] (the Kubernetes API as a client),
//! [`rpc`] (our own gRPC clients and servers, TLS).
//!
//! **Motion.** [`engine`] carries an actor's steps out across store and node; [`node`] does the same for a slot.
//!
//! **Access.** [`access`] says who calls and whether they may, for both doors of the API: as Kubernetes does in a cluster,
//! by certificates alone under `ate dev`.
//!
//! **Services.** [`controller`], [`apiserver`], [`control`], [`router`] and [`kubectl`] each are a process or a
//! door of one; none imports another.
//!
//! **Composition.** [`cli`] parses arguments and puts services together; [`dev`] runs them all on one machine.
//!
//! [`telemetry`] and [`failpoint`] may be used anywhere.

pub mod access;
pub mod api;
pub mod apiserver;
pub mod cli;
pub mod control;
pub mod controller;
pub mod dev;
pub mod engine;
pub mod failpoint;
pub mod identity;
pub mod image;
pub mod kube;
pub mod kubectl;
pub mod lifecycle;
pub mod network;
pub mod node;
pub mod proto;
pub mod router;
pub mod rpc;
pub mod sandbox;
#[cfg(test)]
#[path = "../e2e/parts/server.rs"]
mod server;
pub mod snapshot;
pub mod store;
pub mod telemetry;
