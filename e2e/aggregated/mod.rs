//! The aggregated API behind a real kube-apiserver: the checks of its wire contract, each a test `check_NN_...`, with real
//! clients. [`harness`] has the cluster (one for all tests), Valkey and two replicas of `ate apiserver`; [`direct`] asks a
//! replica itself, as kube-apiserver or a stranger would; [`goclient`] is client-go.

mod access;
mod availability;
mod clients;
mod direct;
mod goclient;
mod harness;
mod kubectl;
mod protocol;
mod teams;
mod watches;
