//! `ate dev` as its user has it: real kubectl, real requests, real sandboxes, kill -9.

mod crash;
mod damage;
mod disk;
mod faults;
mod grpc;
pub mod harness;
mod images;
mod input;
mod journey;
mod neighbours;
mod objects;
mod runsc;
mod runtimes;
mod sandboxes;
mod stalls;
mod web_identity;
mod wrapper;
