//! The data path: a reverse proxy that takes an HTTP request for an actor's host name to the worker on which the
//! actor runs, and has it woken if it sleeps.
//!
//! `host` reads the Host header, `bindings` remembers where actors are, `resolve` asks who decides it, `pool` keeps
//! connections to workers, `forward` carries one request there and its answer back, `tunnel` what follows an
//! upgrade, `probe` notices who has vanished, and `server` accepts connections within limits. Where an actor runs
//! and how it wakes is decided elsewhere (`control`, by gRPC). `cli` and `dev` start [`serve`].
//!
//! What a client can rely on:
//! - A host name that is no actor's gets 404 in one line; errors of the actor's wake get the codes of [`ResolveError`].
//! - Bodies stream both ways, neither is ever held whole (request bodies of known length up to 64 KiB are, so that
//!   they can be sent again).
//! - A request that met a worker which the actor has left is sent to the new one, once, where that is safe: when
//!   nothing of it was sent; else when the method is idempotent, or when an idle connection turned out dead and the
//!   actor has moved; and always only while its body is still whole.
//! - While an actor is silent, its router asks now and then whether it is still where the request was sent; where it is not,
//!   the request is treated as one whose connection broke.
//! - A response to a request that had to ask for the actor carries `server-timing`: `resolve` (asking, with the wake),
//!   the steps of that wake, `connect` (to the worker), `upstream` (from then to the response's head), each with `dur` in milliseconds (Server
//!   Timing, W3C). What the router itself needed is the rest. A response without it came by a known binding.

mod answer;
mod bindings;
mod forward;
mod headers;
mod host;
mod metrics;
mod pool;
mod probe;
mod resolve;
mod server;
#[cfg(test)]
mod tests;
mod tunnel;

pub use host::{HostError, Target};
pub use resolve::{Binding, ControlResolver, ResolveError, Resolver};
pub use server::{Options, serve};
