//! The bookkeeping of a wake: begin, claim, commit, each on connections of their own, against the same server's rate of GET.

use super::{Target, number, quantile};
use anyhow::{Context, bail};
use futures::StreamExt;
use std::time::{Duration, Instant};
use substrate::api::names::{ActorKey, PoolKey, WorkerKey};
use substrate::api::record::{ActorRecord, Assignment, Claim, Desired, Phase, WorkerRecord};
use substrate::api::time::Timestamp;
use substrate::store::{
    Begin, Begun, ClaimRequest, Durability, Edge, RedisStore, Store, StoreOptions,
};
use uuid::Uuid;

/// Longer than the measurement takes.
const LEASE: Duration = Duration::from_secs(600);
/// Creates at once on each connection: each waits for the server's next fsync.
const AT_ONCE: usize = 32;
/// Of all wakes to gets.
const TARGET: f64 = 1.0 / 15.0;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    store: String,
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Wakes of each connection
    #[arg(long, default_value_t = 500)]
    wakes: usize,
    /// What valkey-benchmark says of GET with as many connections, per second
    #[arg(long)]
    gets: f64,
    /// How the server keeps what is written
    #[arg(long)]
    fsync: String,
}

fn pool() -> PoolKey {
    PoolKey::new("wake", "pool")
}

/// An actor and a worker for each wake.
async fn prepare(store: &RedisStore, lane: usize, wakes: usize) -> anyhow::Result<()> {
    let made = (0..wakes).map(|i| async move {
        let mut actor = ActorRecord {
            key: ActorKey::new("wake", format!("a-{lane}-{i}")),
            ..ActorRecord::default()
        };
        actor.spec.generation = 1;
        actor.status.uid = Uuid::new_v4();
        let worker = WorkerRecord {
            key: WorkerKey::new("wake", format!("w-{lane}-{i}")),
            pool: pool(),
            uid: format!("uid-{lane}-{i}"),
            node: format!("node-{}", i % 10),
            ip: "10.0.0.1".to_owned(),
            sandbox_class: "gvisor".to_owned(),
            created: Timestamp::now(),
            ..WorkerRecord::default()
        };
        store.create_actor(actor, u64::MAX).await?;
        store.report_worker(&worker).await
    });
    let mut made = futures::stream::iter(made).buffer_unordered(AT_ONCE);
    while let Some(result) = made.next().await {
        result?;
    }
    Ok(())
}

async fn wake(store: &RedisStore, name: &str, owner: u64) -> anyhow::Result<()> {
    let key = ActorKey::new("wake", name);
    let begin = Begin {
        key: key.clone(),
        edges: [Edge::Start(Phase::Resuming); 6],
        desired: Some(Desired::Running),
        owner,
        lease: LEASE,
        boot: false,
        uid: None,
    };
    let mut record = match store.begin(begin).await? {
        Begun::Owned { record, .. } => record,
        other => bail!("{key} is not ours: {other:?}"),
    };
    let request = ClaimRequest {
        pool: pool(),
        claim: Claim {
            actor: key,
            uid: record.status.uid,
            epoch: record.header.epoch,
            deadline: Timestamp::now() + LEASE,
        },
        nodes: None,
    };
    let worker = store.claim(&request).await?.context("no free worker")?;
    record.header.phase = Phase::Running;
    record.status.assignment = Some(Assignment {
        worker: worker.key,
        uid: worker.uid,
        pool: worker.pool,
        node: worker.node,
        address: format!("{}:40000", worker.ip),
        ip: worker.ip,
    });
    store.commit(&record, owner, Durability::Memory).await?;
    Ok(())
}

pub async fn measure(args: Args) -> anyhow::Result<()> {
    let mut stores = vec![];
    for _ in 0..args.connections {
        let store = RedisStore::connect(StoreOptions::new(args.store.clone())).await?;
        stores.push(store);
    }
    let prepared = stores.iter().enumerate();
    let prepared = prepared.map(|(lane, store)| prepare(store, lane, args.wakes));
    futures::future::try_join_all(prepared).await?;
    let began = Instant::now();
    let mut lanes = tokio::task::JoinSet::new();
    for (lane, store) in stores.into_iter().enumerate() {
        lanes.spawn(async move {
            let mut took = vec![];
            for i in 0..args.wakes {
                let began = Instant::now();
                wake(&store, &format!("a-{lane}-{i}"), lane as u64 + 1).await?;
                took.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(took)
        });
    }
    let mut took = vec![];
    for lane in lanes.join_all().await {
        took.extend(lane?);
    }
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    let with = format!("{} connections, {}", args.connections, args.fsync);
    number(
        &format!("GET by valkey-benchmark, {with}"),
        args.gets,
        "per s",
        Target::None,
    );
    number(
        &format!("begin + claim + commit, {with}"),
        rate,
        "per s",
        Target::None,
    );
    for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
        number(
            &format!("begin + claim + commit, {name}, {}", args.fsync),
            quantile(&mut took, q),
            "ms",
            Target::None,
        );
    }
    number(
        &format!("begin + claim + commit / GET, {}", args.fsync),
        rate / args.gets,
        "",
        Target::AtLeast(TARGET),
    );
    Ok(())
}
