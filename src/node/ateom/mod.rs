//! The executor of one slot (`ate ateom`): the only one that runs sandbox commands. It is pid 1 of its own pid namespace, with its own
//! mounts and network, so that killing it kills its sandbox and everything else that it started.
//!
//! [`run`] is the executor, a gRPC server on a unix socket. [`Process`] starts one from the node agent, adopts one that an
//! earlier node agent started, and proves one dead; [`connect`] talks to it. What a slot shall run is decided by the node agent.

mod bind;
mod client;
mod convert;
mod error;
mod executor;
mod leftovers;
mod process;
mod server;
#[cfg(test)]
mod tests;

pub use bind::{Bind, LENT};
pub use client::connect;
pub use error::Error;
pub use process::Process;
pub use server::{Options, run, socket_path};
