//! Writes whose acknowledgement waits until the server's append-only file is synced (`WAITAOF`).
//!
//! `WAITAOF` holds up the connection that it is sent on, so these writes have connections of their own; what
//! arrives meanwhile goes out together behind one `WAITAOF` (group commit).

use super::StoreOptions;
use super::keys::{HOME, Keys};
use super::link::{self, Link};
use crate::store::StoreError;
use ::redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Connections; so many groups may wait at once.
const LANES: usize = 4;
/// Writes that wait for a connection.
const QUEUE: usize = 1024;
/// Writes behind one wait.
const GROUP: usize = 256;
/// Attempts to use a connection again before a write is sent on it all the same.
const CHECKS: u32 = 3;
/// How long the server may take to sync.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the connection waits for an answer: longer than the server does.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(7);

struct Job {
    command: Cmd,
    done: oneshot::Sender<RedisResult<Value>>,
}

/// Queues of durable writes: one for a single server, one for each shard of a cluster.
pub struct Durable {
    queues: Vec<mpsc::Sender<Job>>,
    /// Counts lost connections: when one is, the others probably are too.
    losses: Arc<AtomicU64>,
}

impl Durable {
    /// Connects; `None` when the server keeps no append-only file or is too old to be asked.
    pub async fn connect(options: &StoreOptions, keys: &Keys) -> Result<Option<Self>, StoreError> {
        let mut lanes = Vec::with_capacity(LANES);
        for _ in 0..LANES {
            let lane = Link::connect(options, RESPONSE_TIMEOUT).await;
            lanes.push(lane.map_err(link::to_store_error)?);
        }
        let mut probe = Pipeline::new();
        probe.add_command(wait_aof());
        let answer = lanes[0].send_all(probe, keys.slot(HOME)).await;
        let supported = answer.and_then(|mut v| v.pop().unwrap_or_default().extract_error());
        if let Err(e) = supported {
            if link::is_transient(&e) {
                return Err(link::to_store_error(e));
            }
            tracing::warn!(
                error = %e,
                "the store cannot wait for its disk: an acknowledged create, suspend or delete may be lost when the server fails"
            );
            return Ok(None);
        }
        Ok(Some(Self::start(options, keys, lanes)))
    }

    fn start(options: &StoreOptions, keys: &Keys, lanes: Vec<Link>) -> Self {
        let losses = Arc::new(AtomicU64::new(0));
        let lane = |link: &Link, shard| Lane {
            link: link.clone(),
            slot: keys.slot(shard),
            losses: losses.clone(),
            checked: 0,
        };
        let mut queues = Vec::new();
        if options.cluster {
            for (shard, link) in (0..keys.shards()).zip(lanes.iter().cycle()) {
                let (queue, jobs) = mpsc::channel(QUEUE);
                tokio::spawn(lane(link, shard).run(Arc::new(Mutex::new(jobs))));
                queues.push(queue);
            }
        } else {
            let (queue, jobs) = mpsc::channel(QUEUE);
            let jobs = Arc::new(Mutex::new(jobs));
            for link in &lanes {
                tokio::spawn(lane(link, HOME).run(jobs.clone()));
            }
            queues.push(queue);
        }
        Self { queues, losses }
    }

    /// Tells that the server was seen to go away: connections are tried before the next write goes out on them.
    pub fn suspect(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
    }

    /// Sends a write and waits until it is on disk.
    pub async fn send(&self, shard: u16, command: Cmd) -> RedisResult<Value> {
        let (done, answer) = oneshot::channel();
        let queue = &self.queues[usize::from(shard) % self.queues.len()];
        queue
            .send(Job { command, done })
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
}

fn wait_aof() -> Cmd {
    let mut cmd = ::redis::cmd("WAITAOF");
    cmd.arg(1).arg(0).arg(SYNC_TIMEOUT.as_millis().to_string());
    cmd
}

/// A connection that takes groups off a queue.
struct Lane {
    link: Link,
    slot: u16,
    losses: Arc<AtomicU64>,
    checked: u64,
}

impl Lane {
    async fn run(mut self, jobs: Arc<Mutex<mpsc::Receiver<Job>>>) {
        loop {
            let mut group = Vec::new();
            if jobs.lock().await.recv_many(&mut group, GROUP).await == 0 {
                return;
            }
            self.check().await;
            // Whoever has given up was told that the store is away: what they wanted is not done now, out of the blue.
            group.retain(|job| !job.done.is_closed());
            if group.is_empty() {
                continue;
            }
            let mut commands = Pipeline::with_capacity(group.len() + 1);
            for job in &group {
                commands.add_command(job.command.clone());
            }
            commands.add_command(wait_aof());
            let result = self.link.send_all(commands, self.slot).await;
            if result.as_ref().is_err_and(|e| e.is_io_error()) {
                self.losses.fetch_add(1, Ordering::AcqRel);
            }
            answer(group, result);
        }
    }

    /// Tries the connection when one was lost since it was last tried, so that it is made again before a
    /// write goes out on it.
    async fn check(&mut self) {
        let losses = self.losses.load(Ordering::Acquire);
        let mut tries = 0;
        while self.checked != losses && tries < CHECKS {
            let mut ping = Pipeline::new();
            ping.cmd("PING");
            match self.link.send_all(ping, self.slot).await {
                Ok(_) => self.checked = losses,
                Err(_) => tries += 1,
            }
        }
    }
}

fn answer(group: Vec<Job>, result: RedisResult<Vec<Value>>) {
    match result.and_then(synced) {
        Ok(values) => {
            for (job, value) in group.into_iter().zip(values) {
                // A caller that has gone away needs no answer.
                let _ = job.done.send(value.extract_error());
            }
        }
        Err(e) => {
            for job in group {
                let _ = job.done.send(Err(e.clone()));
            }
        }
    }
}

/// The answers of the writes when the last one, of `WAITAOF`, says that this server's file is synced.
fn synced(mut values: Vec<Value>) -> RedisResult<Vec<Value>> {
    match values.pop().unwrap_or_default().extract_error()? {
        Value::Array(counts) if matches!(counts.first(), Some(Value::Int(1..))) => Ok(values),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "the store did not sync its file in time",
        )
        .into()),
    }
}
