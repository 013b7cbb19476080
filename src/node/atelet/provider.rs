//! What slots are made of.

use super::error::Error;
use crate::node::ateom::Process;
use crate::proto::atenode::ateom_client::AteomClient;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tonic::transport::Channel;

/// Which slot it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Namespace of its pool.
    pub namespace: String,
    /// Name of its pool.
    pub pool: String,
    /// Sandbox class.
    pub class: String,
    /// Its number in the pool.
    pub number: u16,
    /// Its number on the node: no other slot has it.
    pub index: u16,
}

impl Place {
    /// The worker's name.
    pub fn name(&self) -> String {
        format!("{}-{}", self.pool, self.number)
    }
}

/// How an executor is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorRecord {
    /// The worker's uid: of this executor and no other, ever.
    pub uid: String,
    /// Its pid; 0 before it was started.
    pub pid: u32,
    /// When it was started, in clock ticks since boot.
    pub start_time: u64,
}

/// A slot's executor that runs.
#[derive(Clone)]
pub struct Executor {
    /// How it is found again.
    pub record: ExecutorRecord,
    /// Where its assignments are reachable.
    pub ip: IpAddr,
    /// Talks to it.
    pub client: AteomClient<Channel>,
    /// Its process.
    pub process: Arc<Process>,
}

/// Makes and ends the executors of slots: child processes on a machine of its own, pods in a cluster.
#[async_trait]
pub trait SlotProvider: Send + Sync {
    /// Starts the executor `uid` of the slot `place`, whose output goes to `log`. Afterwards it answers; after an error
    /// it may be there: [`SlotProvider::end`] it.
    async fn start(&self, place: &Place, uid: &str, log: &Path) -> Result<Executor, Error>;

    /// The executor of `record`, if it still runs and answers.
    async fn adopt(
        &self,
        place: &Place,
        record: &ExecutorRecord,
    ) -> Result<Option<Executor>, Error>;

    /// Ends the executor of `record` with everything in it, and removes what it had on the node. After `Ok` nothing of it is left: its
    /// process namespace is proved gone. None is fine. After an error nothing is certain.
    async fn end(&self, place: &Place, record: &ExecutorRecord) -> Result<(), Error>;

    /// Ends and removes all executors of this node but those whose uid is in `wanted`.
    async fn sweep(&self, wanted: &HashSet<String>) -> Result<(), Error>;

    /// Removes what all slots share. There are no slots any more.
    async fn close(&self) -> Result<(), Error>;
}
