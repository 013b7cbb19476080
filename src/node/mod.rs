//! The node's side: slots converge on what is assigned to them.
//!
//! [`atelet`] is the node agent: it takes orders, keeps what is desired on disk and runs one loop per slot. [`ateom`] is
//! the executor of one slot, in a process of its own; the only one that runs sandbox commands. What a slot does next is
//! decided in `lifecycle::slot`; which actor runs where, in `engine`. `cli` and `dev` start both.

pub mod atelet;
pub mod ateom;
mod deadline;
