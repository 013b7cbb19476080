//! The node's side: slots converge on what is assigned to them.

pub mod ateom;
