//! What slots are made of.

use super::error::Error;
use crate::node::ateom::Process;
use crate::proto::atenode::ateom_client::AteomClient;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
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
    /// What holds its executor.
    pub home: Home,
}

/// What holds an executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Home {
    /// A child process of the node agent's.
    Process {
        /// The slot's number in the pool.
        number: u16,
        /// Its number on the node: no other slot has it.
        index: u16,
    },
    /// A pod.
    Pod {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

impl Place {
    /// The worker's name.
    pub fn name(&self) -> String {
        match &self.home {
            Home::Process { number, .. } => format!("{}-{number}", self.pool),
            Home::Pod { name, .. } => name.clone(),
        }
    }
}

/// What an executor may do with what it is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it, too.
    Write,
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

/// Makes and ends the executors of slots: child processes on a machine of its own, the containers of pods in a cluster.
#[async_trait]
pub trait SlotProvider: Send + Sync {
    /// The uid of the slot's next executor, of which it had `earlier` ones.
    fn uid(&self, place: &Place, earlier: u64) -> String;

    /// Brings up the executor `uid` of the slot `place`; what we start writes to `log`. Afterwards it answers; after an error
    /// it may be there: [`SlotProvider::end`] it.
    async fn start(&self, place: &Place, uid: &str, log: &Path) -> Result<Executor, Error>;

    /// The executor of `record`, which runs as `process`, once it answers.
    async fn handle(
        &self,
        place: &Place,
        record: ExecutorRecord,
        process: Process,
    ) -> Result<Executor, Error>;

    /// The executor of `record`, if it still runs and answers.
    async fn adopt(
        &self,
        place: &Place,
        record: &ExecutorRecord,
    ) -> Result<Option<Executor>, Error> {
        let Some(process) = Process::adopt(record.pid, record.start_time)? else {
            return Ok(None);
        };
        match self.handle(place, record.clone(), process).await {
            Ok(executor) => Ok(Some(executor)),
            Err(error) => {
                tracing::warn!(uid = record.uid, %error, "an executor runs but does not answer");
                Ok(None)
            }
        }
    }

    /// Ends the executor of `record` with everything in it, and removes what it had on the node. After `Ok` nothing of it is left: its
    /// process namespace is proved gone. None is fine. After an error nothing is certain.
    async fn end(&self, place: &Place, record: &ExecutorRecord) -> Result<(), Error>;

    /// Lets the slot's executor see `source`, a file or directory of the node's; returns where. `name` says what it is: what the
    /// executor had by this name, it has no more.
    fn lend(
        &self,
        place: &Place,
        name: &str,
        source: &Path,
        access: Access,
    ) -> Result<PathBuf, Error>;

    /// Takes back all that the slot's executor was lent.
    fn take_back(&self, place: &Place) -> Result<(), Error>;

    /// Removes what a slot had on the node. Its executor has ended.
    fn remove(&self, place: &Place) -> Result<(), Error>;

    /// Ends and removes all executors of this node but those whose uid is in `wanted`.
    async fn sweep(&self, wanted: &HashSet<String>) -> Result<(), Error>;

    /// Removes what all slots share. There are no slots any more.
    async fn close(&self) -> Result<(), Error>;
}
