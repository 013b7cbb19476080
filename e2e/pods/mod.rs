//! Everything in the pods of a real node, installed by Helm. [`world`] has it; one test at a time uses it.

mod agents;
mod door;
mod faults;
mod howto;
mod journey;
mod metrics;
mod nodes;
mod outages;
mod second;
mod secrets;
mod soak;
mod traffic;
mod world;
