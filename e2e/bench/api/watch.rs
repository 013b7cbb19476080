//! Writes at a rate, as another replica makes them: straight to the store. Every watcher must see each once and in order;
//! a delay lasts from before the write is sent until the event is there.

use super::client::{ACTORS, Server, cpu};
use super::{Target, number, quantile};
use anyhow::{Context, ensure};
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use substrate::api::names::ActorKey;
use substrate::api::record::ActorRecord;
use substrate::api::time::Timestamp;
use substrate::store::{RedisStore, Store, StoreOptions};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

/// Actors that are written in turn, so that no two writes of one meet.
const ACTORS_WRITTEN: usize = 1000;
/// Ticks of the writer per second.
const TICKS: usize = 100;
/// A watcher that has not seen the last write by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// Later than every write before, by the store's clock.
const APART: Duration = Duration::from_millis(50);
/// How a version is written in an event.
const VERSION: &[u8] = b"\"resourceVersion\":\"";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// The server's store
    #[arg(long)]
    store: String,
    /// What the numbers are called
    #[arg(long)]
    name: String,
    #[arg(long)]
    watchers: usize,
    /// Writes per second
    #[arg(long, default_value_t = 1000)]
    rate: usize,
    #[arg(long, default_value_t = 60)]
    seconds: usize,
    /// Milliseconds within which half of the events must arrive
    #[arg(long)]
    median: f64,
    /// Our API server's process: its CPU time is told per event and watcher
    #[arg(long)]
    pid: u32,
}

/// Actors of a measurement's own, and a store to write them by.
pub struct Writer {
    pub store: Arc<RedisStore>,
    actors: Vec<Arc<Mutex<ActorRecord>>>,
    next: usize,
}

/// A write: its version, and when it was sent.
type Write = (u64, Instant);

impl Writer {
    pub async fn new(url: &str, namespace: &str) -> anyhow::Result<Self> {
        let store = Arc::new(RedisStore::connect(StoreOptions::new(url)).await?);
        let creates = (0..ACTORS_WRITTEN).map(|i| {
            let mut record = ActorRecord {
                key: ActorKey::new(namespace, format!("written-{i:04}")),
                ..ActorRecord::default()
            };
            record.spec.generation = 1;
            record.spec.template.namespace = namespace.to_owned();
            record.spec.template.name = "counter".to_owned();
            record.status.uid = Uuid::new_v4();
            record.status.created = Timestamp::now();
            store.create_actor(record, u64::MAX)
        });
        let created: Vec<_> = futures::stream::iter(creates).buffered(64).collect().await;
        let shared = |record| Arc::new(Mutex::new(record));
        let actors = created.into_iter().map(|r| r.map(shared));
        Ok(Self {
            actors: actors.collect::<Result<_, _>>()?,
            store: store.clone(),
            next: 0,
        })
    }

    /// Writes the next actor.
    pub fn write(&mut self) -> impl Future<Output = anyhow::Result<Write>> + Send + use<> {
        let actor = self.actors[self.next % self.actors.len()].clone();
        let store = self.store.clone();
        self.next += 1;
        async move {
            let mut record = actor.lock().await;
            let mut spec = record.spec.clone();
            spec.generation += 1;
            let sent = Instant::now();
            let version = record.header.resource_version;
            *record = store
                .update_spec(&record.key, version, &spec, &record.meta)
                .await?;
            Ok((record.header.resource_version.0, sent))
        }
    }

    /// Writes at a rate for a while; the last write has the highest version.
    async fn run(&mut self, rate: usize, seconds: usize) -> anyhow::Result<Vec<Write>> {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / TICKS as u32);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..seconds * TICKS {
            tick.tick().await;
            for _ in 0..rate / TICKS {
                tasks.spawn(self.write());
            }
        }
        let written: anyhow::Result<Vec<_>> = tasks.join_all().await.into_iter().collect();
        let mut written = written?;
        tokio::time::sleep(APART).await;
        written.push(self.write().await?);
        Ok(written)
    }
}

/// What arrives until the last version does.
async fn follow(
    mut events: reqwest::Response,
    mut last: watch::Receiver<Option<u64>>,
) -> anyhow::Result<Vec<(u64, Instant)>> {
    let (mut seen, mut rest) = (vec![], Vec::new());
    let mut told = None;
    loop {
        let bound = if told.is_some() {
            PATIENCE
        } else {
            Duration::MAX
        };
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(bound, events.chunk()) => chunk,
            _ = last.changed(), if told.is_none() => {
                told = *last.borrow();
                let newest = seen.last().map(|(version, _)| *version);
                if newest >= told { return Ok(seen) }
                continue;
            }
        };
        let chunk = chunk.context("the last event does not come")??;
        let chunk = chunk.context("the watch ended")?;
        let now = Instant::now();
        rest.extend_from_slice(&chunk);
        let mut start = 0;
        while let Some(end) = rest[start..].iter().position(|b| *b == b'\n') {
            let line = &rest[start..start + end];
            seen.push((version(line).context("an event without a version")?, now));
            start += end + 1;
        }
        rest.drain(..start);
        if told.is_some() && seen.last().map(|(version, _)| *version) >= told {
            return Ok(seen);
        }
    }
}

fn version(line: &[u8]) -> Option<u64> {
    let at = line.windows(VERSION.len()).position(|w| w == VERSION)?;
    let digits = line[at + VERSION.len()..].split(|b| *b == b'"').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub async fn measure(args: Args) -> anyhow::Result<()> {
    let namespace = format!("watch-{}", args.watchers);
    let mut writer = Writer::new(&args.store, &namespace).await?;
    let version = writer.store.version().await?.0;
    let path = format!("{ACTORS}/namespaces/{namespace}/actors");
    let (tell, last) = watch::channel(None);
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..args.watchers {
        // The response holds the connection.
        let events = args.server.client()?.watch(&path, version).await?;
        watchers.spawn(follow(events, last.clone()));
    }
    let before = cpu(args.pid)?;
    let written = writer.run(args.rate, args.seconds).await?;
    tell.send_replace(written.last().map(|(version, _)| *version));
    let seen: anyhow::Result<Vec<_>> = watchers.join_all().await.into_iter().collect();
    let used = cpu(args.pid)? - before;
    report(&args, &written, &seen?, used)
}

fn report(
    args: &Args,
    written: &[Write],
    seen: &[Vec<(u64, Instant)>],
    used: Duration,
) -> anyhow::Result<()> {
    let sent: HashMap<u64, Instant> = written.iter().copied().collect();
    ensure!(sent.len() == written.len(), "two writes have one version");
    let (mut delays, mut missed, mut doubled) = (vec![], 0, 0);
    for events in seen {
        let once: std::collections::HashSet<_> = events.iter().map(|(v, _)| *v).collect();
        missed += sent.keys().filter(|v| !once.contains(v)).count();
        doubled += events.len() - once.len();
        ensure!(
            events.is_sorted_by_key(|(v, _)| *v),
            "events are out of order"
        );
        let of_these = events
            .iter()
            .filter_map(|(v, at)| Some(at.duration_since(*sent.get(v)?)));
        delays.extend(of_these.map(|d| d.as_secs_f64() * 1000.0));
    }
    let name = &args.name;
    let rate = written.len() as f64 / args.seconds as f64;
    number(
        &format!("{name}: writes"),
        rate,
        "per s",
        Target::AtLeast(args.rate as f64 * 0.99),
    );
    number(
        &format!("{name}: events missed"),
        missed as f64,
        "",
        Target::AtMost(0.0),
    );
    number(
        &format!("{name}: events doubled"),
        doubled as f64,
        "",
        Target::AtMost(0.0),
    );
    let p50 = quantile(&mut delays, 0.5);
    number(
        &format!("{name}: delay, p50"),
        p50,
        "ms",
        Target::AtMost(args.median),
    );
    number(
        &format!("{name}: delay, p99"),
        quantile(&mut delays, 0.99),
        "ms",
        Target::None,
    );
    let each = used.as_secs_f64() * 1e6 / delays.len() as f64;
    number(
        &format!("{name}: CPU per event and watcher"),
        each,
        "us",
        Target::None,
    );
    Ok(())
}
