//! Calls of scripts: fenced with the stamps seen so far, retried where that is safe, counted.

use super::durable::Durable;
use super::keys::Keys;
use super::link::{self, Link};
use super::reply::{self, Reply};
use super::scripts::{self, Lua};
use super::{StoreOptions, loss};
use crate::api::names::Incarnation;
use crate::failpoint;
use crate::store::{Durability, StoreError};
use ::redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify, Semaphore, SemaphorePermit};

/// A call without an answer for this long fails.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the server is asked to wait for a change of the log.
const NEWS_WAIT: Duration = Duration::from_secs(2);
/// A call fails after so long, whatever was tried meanwhile: who asked waits for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts to reach a store that was not there at the start.
const CONNECT_AGAIN: Duration = Duration::from_millis(500);
/// What a reply said of the incarnation holds for so long without asking.
const JUST_NOW: Duration = Duration::from_secs(1);
/// Actors in the pages that are read at a time: lists wait for each other rather than for answers that come too late, which
/// would be asked for again.
const LISTED_AT_ONCE: usize = 2000;
/// Who waits for a turn to list for so long is told to come back.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts of a call that may be repeated.
const ATTEMPTS: u32 = 4;
/// How often a call tells the server the scripts: it may be started meanwhile.
const BOOTS: u32 = 3;
/// Between the first attempts; doubles.
const BACKOFF: Duration = Duration::from_millis(50);

/// One call of a script on one shard.
pub struct Call {
    script: &'static Lua,
    /// The shard.
    pub shard: u16,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
    repeatable: bool,
    durability: Durability,
    blind: bool,
    large: bool,
}

impl Call {
    /// A call with the shard's clock and log as its first keys.
    pub fn new(client: &Client, script: &'static Lua, shard: u16) -> Self {
        Self {
            script,
            shard,
            keys: vec![client.keys.of(shard, "clock"), client.keys.of(shard, "log")],
            args: Vec::new(),
            repeatable: false,
            durability: Durability::Memory,
            blind: false,
            large: false,
        }
    }

    /// Another key.
    pub fn key(mut self, key: String) -> Self {
        self.keys.push(key);
        self
    }

    /// Another log than the shard's.
    pub fn log(mut self, key: String) -> Self {
        self.keys[1] = key;
        self
    }

    /// Another argument.
    pub fn arg(mut self, arg: impl Into<Vec<u8>>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Another argument, a number.
    pub fn number(self, n: u64) -> Self {
        self.arg(n.to_string())
    }

    /// It does no harm when it happens twice.
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// What its acknowledgement waits for.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Does not ask whether the shard lost stamps: what repairs that must pass.
    pub fn blind(mut self) -> Self {
        self.blind = true;
        self
    }

    /// The answer is large: nobody else's waits behind it.
    pub fn large(mut self) -> Self {
        self.large = true;
        self
    }

    fn command(&self, seen: &Seen, whole: bool) -> Cmd {
        let mut cmd = ::redis::cmd(if whole { "EVAL" } else { "EVALSHA" });
        cmd.arg(if whole {
            self.script.text.as_str()
        } else {
            &self.script.sha1
        });
        cmd.arg(self.keys.len());
        for key in &self.keys {
            cmd.arg(key);
        }
        let of_shard = if self.blind { 0 } else { seen.of(self.shard) };
        cmd.arg(of_shard).arg(seen.any());
        for arg in &self.args {
            cmd.arg(arg.as_slice());
        }
        cmd
    }
}

/// What a shard's replies told.
#[derive(Debug, Default)]
struct OfShard {
    tick: AtomicU64,
    incarnation: AtomicU64,
}

/// The highest stamps seen in the store's replies, per shard and of all, and the incarnation that each shard was in then.
#[derive(Debug)]
pub struct Seen(Vec<OfShard>, AtomicU64);

impl Seen {
    fn new(shards: u16) -> Self {
        Self(
            (0..shards).map(|_| OfShard::default()).collect(),
            AtomicU64::new(0),
        )
    }

    /// Of a shard.
    pub fn of(&self, shard: u16) -> u64 {
        self.0
            .get(usize::from(shard))
            .map_or(0, |seen| seen.tick.load(Ordering::Acquire))
    }

    /// Of any shard.
    pub fn any(&self) -> u64 {
        self.1.load(Ordering::Acquire)
    }

    /// The incarnation in which a shard's stamps were seen. One that never lost anything is in the first.
    pub fn incarnation(&self, shard: u16) -> Incarnation {
        let seen = self.0.get(usize::from(shard));
        let known = seen.map_or(0, |seen| seen.incarnation.load(Ordering::Acquire));
        Incarnation(known.max(1))
    }

    /// Returns the highest stamp of the shard that was seen before.
    fn note(&self, shard: u16, reply: &Reply) -> u64 {
        let mut before = 0;
        if let Some(of_shard) = self.0.get(usize::from(shard)) {
            before = of_shard.tick.fetch_max(reply.last, Ordering::AcqRel);
            let incarnation = reply.incarnation.0;
            of_shard
                .incarnation
                .fetch_max(incarnation, Ordering::AcqRel);
        }
        self.1.fetch_max(reply.last, Ordering::AcqRel);
        before
    }
}

/// What calls are sent on.
struct Connections {
    link: Link,
    /// For large answers.
    large: Link,
    /// Held up while changes are waited for. A cluster has no server that knows of all.
    waiting: Option<Link>,
    durable: Option<Durable>,
}

/// What `boot.lua` says of a shard.
struct Boot {
    /// Its server's process.
    run: String,
    last: u64,
    kept: u64,
}

impl Boot {
    fn of(value: Value) -> Result<Self, StoreError> {
        let mut reply = Reply::read(value)?;
        Ok(Self {
            run: reply::text(reply.next()?)?,
            last: reply.last,
            kept: reply.start().kept,
        })
    }
}

/// The connections and what was learnt from replies.
pub struct Client {
    /// Names of keys.
    pub keys: Keys,
    /// Highest stamps seen.
    pub seen: Seen,
    /// Wakes the reader of the log when this process wrote.
    pub wrote: Notify,
    connections: OnceLock<Connections>,
    incarnation: AtomicU64,
    /// How often servers that knew no scripts were told them.
    boots: AtomicU64,
    /// Held by the call that does.
    booting: Mutex<()>,
    /// Held by the call that repairs what was lost.
    pub recovering: Mutex<()>,
    /// How many actors more may be in pages that are read now.
    listed: Semaphore,
    round_trips: AtomicU64,
    started: Instant,
    /// Milliseconds from the start to the last reply.
    heard: AtomicU64,
}

impl Client {
    fn new(options: &StoreOptions) -> Self {
        Self {
            seen: Seen::new(options.shards),
            wrote: Notify::new(),
            connections: OnceLock::new(),
            incarnation: AtomicU64::new(0),
            boots: AtomicU64::new(0),
            booting: Mutex::default(),
            recovering: Mutex::default(),
            listed: Semaphore::new(LISTED_AT_ONCE),
            round_trips: AtomicU64::new(0),
            started: Instant::now(),
            heard: AtomicU64::new(0),
            keys: Keys::new(&options.prefix, options.shards),
        }
    }

    /// Connects.
    pub async fn connect(options: &StoreOptions) -> Result<Arc<Self>, StoreError> {
        let client = Arc::new(Self::new(options));
        client.open(options).await?;
        Ok(client)
    }

    /// Connects, now or as soon as the store is there. Until then calls fail as they do whenever it is away.
    pub async fn connect_in_time(options: &StoreOptions) -> Result<Arc<Self>, StoreError> {
        let client = Arc::new(Self::new(options));
        match client.open(options).await {
            Ok(()) => return Ok(client),
            Err(StoreError::Unavailable(why)) => {
                tracing::warn!(
                    error = &*why as &dyn std::error::Error,
                    "the store is not there yet"
                );
            }
            Err(other) => return Err(other),
        }
        let (waiting, options) = (Arc::downgrade(&client), options.clone());
        tokio::spawn(async move {
            while let Some(client) = waiting.upgrade() {
                match client.open(&options).await {
                    Ok(()) => return tracing::info!("the store is there"),
                    Err(StoreError::Unavailable(_)) => {}
                    Err(error) => tracing::error!(%error, "the store cannot be used"),
                }
                drop(client);
                tokio::time::sleep(CONNECT_AGAIN).await;
            }
        });
        Ok(client)
    }

    /// Makes the connections, checks that the installation is ours, and loads the scripts.
    async fn open(&self, options: &StoreOptions) -> Result<(), StoreError> {
        let connect = async || {
            let link = Link::connect(options, RESPONSE_TIMEOUT).await;
            link.map_err(link::to_store_error)
        };
        let link = connect().await?;
        self.note_incarnation(loss::check_in(&link, &self.keys).await?);
        self.boot(&link).await.map_err(link::to_store_error)?;
        let large = connect().await?;
        let waiting = match options.cluster {
            true => None,
            false => Some(connect().await?),
        };
        let durable = Durable::connect(options, &self.keys).await?;
        let connections = Connections {
            link,
            large,
            waiting,
            durable,
        };
        // One task opens.
        let _ = self.connections.set(connections);
        Ok(())
    }

    fn connections(&self) -> RedisResult<&Connections> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotConnected).into();
        self.connections.get().ok_or_else(missing)
    }

    /// How often a caller waited for the server so far.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// The incarnation as far as this process knows.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Acquire))
    }

    /// Whether the store said only just now which incarnation it is: every reply does.
    pub fn heard_just_now(&self) -> bool {
        let heard = Duration::from_millis(self.heard.load(Ordering::Acquire));
        self.started.elapsed() < heard + JUST_NOW
    }

    fn hear(&self, reply: &Reply) {
        self.note_incarnation(reply.incarnation);
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Release);
    }

    /// Takes over a newer incarnation.
    pub fn note_incarnation(&self, incarnation: Incarnation) {
        self.incarnation.fetch_max(incarnation.0, Ordering::AcqRel);
    }

    /// A command that is no script, on one key.
    pub async fn plain(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        let sent = async { self.connections()?.link.send(command).await };
        sent.await.map_err(link::to_store_error)
    }

    /// Waits until the log of a shard has a stamp of its `first` or above, or until some time has passed. `false`: it cannot be
    /// waited for. One caller at a time.
    pub async fn news(&self, first: impl Fn(u16) -> u64) -> bool {
        let Ok(Connections {
            waiting: Some(link),
            ..
        }) = self.connections()
        else {
            return false;
        };
        let mut command = ::redis::cmd("XREAD");
        command
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(NEWS_WAIT.as_millis().to_string())
            .arg("STREAMS");
        let shards = 0..self.keys.shards();
        for shard in shards.clone() {
            command.arg(self.keys.of(shard, "log"));
        }
        for shard in shards {
            // Whatever is above this.
            command.arg(format!("{}-0", first(shard).saturating_sub(1)));
        }
        link.send(&command).await.is_ok()
    }

    /// Calls a script. A reply that tells of lost writes is repaired first, then the call is made again.
    pub async fn call(&self, call: Call) -> Result<Reply, StoreError> {
        failpoint::crash(&format!("store.{}.before", call.script.name));
        let answered = tokio::time::timeout(CALL_TIMEOUT, self.call_surely(&call)).await;
        let reply = answered.unwrap_or_else(|_| {
            let why = "it does not answer in time";
            Err(StoreError::Unavailable(why.into()))
        });
        failpoint::crash(&format!("store.{}.after", call.script.name));
        reply
    }

    async fn call_surely(&self, call: &Call) -> Result<Reply, StoreError> {
        let mut delay = BACKOFF;
        for attempt in 1.. {
            let last_attempt = attempt >= ATTEMPTS;
            let known = self.seen.incarnation(call.shard);
            match self.once(call).await {
                Ok(value) => {
                    let reply = Reply::read(value)?;
                    if reply.code != "LOST" {
                        self.hear(&reply);
                        let before = self.seen.note(call.shard, &reply);
                        if reply.start().doubts(before) && !call.blind {
                            // The call was made up before that stamp was seen, and so could not ask.
                            Box::pin(loss::recover(self, known, call.shard, before)).await?;
                        }
                        return Ok(reply);
                    }
                    if last_attempt {
                        return Err(reply.fail(&"the store"));
                    }
                    Box::pin(loss::recover(self, known, call.shard, reply.last)).await?;
                }
                Err(e)
                    if !last_attempt
                        && link::is_transient(&e)
                        && (call.repeatable || link::is_without_effect(&e)) =>
                {
                    tracing::debug!(error = %e, attempt, "store call failed, trying again");
                    tokio::time::sleep(delay).await;
                    delay *= 2;
                }
                Err(e) => return Err(link::to_store_error(e)),
            }
        }
        Err(StoreError::Unavailable("no attempt was made".into()))
    }

    /// The same script on every shard at once, counted as one round trip.
    pub async fn call_all(&self, call: impl Fn(u16) -> Call) -> Result<Vec<Reply>, StoreError> {
        let calls = (0..self.keys.shards()).map(|shard| self.call(call(shard)));
        futures::future::try_join_all(calls).await
    }

    /// A turn to read a page of so many actors.
    pub async fn turn_to_list(&self, limit: usize) -> Result<SemaphorePermit<'_>, StoreError> {
        let share = u32::try_from(limit.min(LISTED_AT_ONCE)).unwrap_or(u32::MAX);
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.listed.acquire_many(share)).await;
        let too_many = |_| StoreError::Unavailable("other lists keep it busy".into());
        turn.map_err(too_many)?
            .map_err(|e| StoreError::Unavailable(Box::new(e)))
    }

    /// Tells every shard that its server may have been started; `boot.lua` knows whether it was. Only then the server is told
    /// the other scripts: whoever uses one may rely on it.
    async fn boot(&self, link: &Link) -> RedisResult<()> {
        let boots = self.tell_all(link, |shard| Call::new(self, &scripts::BOOT, shard));
        let boots = boots.await?.into_iter().map(Boot::of);
        let strange = |_| {
            let what = (
                ErrorKind::UnexpectedReturnType,
                "boot.lua says nothing known",
            );
            RedisError::from(what)
        };
        let boots: Vec<_> = boots.collect::<Result<_, _>>().map_err(strange)?;
        let floor = boots.iter().map(|b| b.last).max().unwrap_or(0);
        self.tell_all(link, |shard| {
            let run = boots.get(usize::from(shard)).map(|b| b.run.as_str());
            let run = run.unwrap_or_default();
            let of_server = boots.iter().filter(|b| b.run == run);
            let reached = of_server.map(|b| b.kept).max().unwrap_or(0);
            Call::new(self, &scripts::BOOTED, shard)
                .number(floor)
                .arg(run)
                .number(reached)
        })
        .await?;
        let loads = scripts::all().into_iter().map(|script| {
            let mut load = ::redis::cmd("SCRIPT");
            load.arg("LOAD").arg(&script.text);
            async move { link.send(&load).await }
        });
        futures::future::try_join_all(loads).await?;
        Ok(())
    }

    /// Sends every shard a script in full.
    async fn tell_all(&self, link: &Link, call: impl Fn(u16) -> Call) -> RedisResult<Vec<Value>> {
        let answers = (0..self.keys.shards()).map(|shard| {
            let command = call(shard).blind().command(&self.seen, true);
            async move { link.send(&command).await }
        });
        futures::future::try_join_all(answers).await
    }

    async fn once(&self, call: &Call) -> RedisResult<Value> {
        for _ in 0..BOOTS {
            let boots = self.boots.load(Ordering::Acquire);
            match self.attempt(call).await {
                Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.boot_after(boots).await?;
                }
                result => return result,
            }
        }
        self.attempt(call).await
    }

    /// Boots unless somebody did since the `before`th time.
    async fn boot_after(&self, before: u64) -> RedisResult<()> {
        let _turn = self.booting.lock().await;
        if self.boots.load(Ordering::Acquire) == before {
            self.boot(&self.connections()?.link).await?;
            self.boots.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    async fn attempt(&self, call: &Call) -> RedisResult<Value> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        let command = call.command(&self.seen, false);
        let Connections {
            link,
            large,
            durable,
            ..
        } = self.connections()?;
        let link = if call.large { large } else { link };
        match (durable, call.durability) {
            (Some(durable), Durability::Fsync) => durable.send(call.shard, command).await,
            (durable, _) => {
                let result = link.send(&command).await;
                if let (Some(durable), Err(e)) = (durable, &result)
                    && e.is_io_error()
                {
                    durable.suspect();
                }
                result
            }
        }
    }
}
