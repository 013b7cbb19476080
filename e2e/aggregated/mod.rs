//! The aggregated API behind a real kube-apiserver: the checks of its wire contract, each a test `check_NN_...`, with real
//! clients. [`harness`] has the cluster (one for all tests), Valkey and two replicas of `ate apiserver`; [`direct`] asks a
//! replica itself, as kube-apiserver or a stranger would.

mod access;
mod availability;
mod direct;
mod harness;
mod kubectl;
mod protocol;
mod teams;
