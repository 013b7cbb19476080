//! Sleeping actors with a flat id and a snapshot of their own, created as the API creates them: by the store's own
//! create, many at once.

use super::{Target, number};
use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use std::time::{Duration, Instant};
use substrate::api::names::{ActorKey, Epoch, TemplateKey};
use substrate::api::record::{ActorRecord, SnapshotRecord};
use substrate::api::time::Timestamp;
use substrate::store::{RedisStore, Store, StoreOptions};
use uuid::Uuid;

/// Connections, and creates at once on each.
const CONNECTIONS: usize = 4;
const AT_ONCE: usize = 64;
/// Actors of a namespace.
const PER_NAMESPACE: usize = 50_000;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    store: String,
    /// Number of the first
    #[arg(long, default_value_t = 0)]
    first: usize,
    #[arg(long)]
    count: usize,
    /// Tell what they take of the store's memory
    #[arg(long)]
    memory: bool,
}

fn asleep(i: usize) -> ActorRecord {
    let created = Timestamp::now();
    let mut record = ActorRecord {
        key: ActorKey::new(
            format!("team-{:02}", i / PER_NAMESPACE),
            format!("agent-{i:08}"),
        ),
        ..ActorRecord::default()
    };
    record.spec.generation = 1;
    record.spec.template = TemplateKey::new(record.key.namespace.clone(), "python-agent");
    record.header.epoch = Epoch(7);
    record.header.operation = Epoch(7);
    record.status.uid = Uuid::new_v4();
    record.status.flat = true;
    record.status.created = created;
    record.status.last_activity = created + Duration::from_secs(1000);
    record.status.last_transition = created + Duration::from_secs(2000);
    record.status.last_duration_micros = 123_456;
    record.status.durable = Some(SnapshotRecord {
        epoch: Epoch(7),
        bytes: 1 << 26,
        time: created,
        runtime: "0123456789ab".parse().ok(),
    });
    record
}

/// Bytes that the server uses, and those of them that are the change log.
fn used(url: &str) -> anyhow::Result<(u64, u64)> {
    let mut connection = redis::Client::open(url)?.get_connection()?;
    let info: String = redis::cmd("INFO").arg("memory").query(&mut connection)?;
    let line = info.lines().find_map(|l| l.strip_prefix("used_memory:"));
    let all = line.context("no used_memory")?.trim().parse()?;
    let mut logs = 0;
    for shard in 0..StoreOptions::new(url).shards {
        let mut ask = redis::cmd("MEMORY");
        ask.arg("USAGE").arg(format!("{{ate:{shard}}}:log"));
        ask.arg("SAMPLES").arg(0);
        logs += ask.query::<Option<u64>>(&mut connection)?.unwrap_or(0);
    }
    Ok((all, logs))
}

pub async fn measure(args: Args) -> anyhow::Result<()> {
    let options = || StoreOptions::new(args.store.clone());
    let mut stores = vec![];
    for _ in 0..CONNECTIONS {
        stores.push(RedisStore::connect(options()).await?);
    }
    let (before, logs_before) = used(&args.store)?;
    let (first, end) = (args.first, args.first + args.count);
    let began = Instant::now();
    let mut lanes = tokio::task::JoinSet::new();
    for (lane, store) in stores.into_iter().enumerate() {
        lanes.spawn(async move {
            let creates = (first + lane..end)
                .step_by(CONNECTIONS)
                .map(|i| store.create_actor(asleep(i), u64::MAX));
            let creates = futures::stream::iter(creates).buffer_unordered(AT_ONCE);
            creates.try_for_each(|_| async { Ok(()) }).await
        });
    }
    for lane in lanes.join_all().await {
        lane?;
    }
    let rate = args.count as f64 / began.elapsed().as_secs_f64();
    if args.memory {
        let (after, logs) = used(&args.store)?;
        let bytes = (after - logs).saturating_sub(before - logs_before) as f64;
        let name = format!("store memory per actor, {end} actors, without the log");
        number(
            &name,
            bytes / args.count as f64,
            "bytes",
            Target::AtMost(300.0),
        );
        let name = "the log, bounded whatever there is";
        number(name, logs as f64 / f64::from(1 << 20), "MiB", Target::None);
    }
    number(
        &format!("creates, {} actors, no fsync", args.count),
        rate,
        "per s",
        Target::None,
    );
    Ok(())
}
