//! `ate dev` as its user has it: real kubectl, real requests, real sandboxes, kill -9.

mod crash;
mod faults;
mod grpc;
pub mod harness;
mod images;
mod input;
mod journey;
mod objects;
mod runtimes;
mod web_identity;
