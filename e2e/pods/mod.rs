//! Actors in the pods of a real node: the DaemonSet of `config/` makes workers of the pods that our controller's Deployment has. API
//! server, controller, router and store are processes of the host's. [`world`] has them; one test at a time uses them.

mod agents;
mod faults;
mod journey;
mod world;
