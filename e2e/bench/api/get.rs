//! GET and LIST of actors beside ConfigMaps of the same JSON size, in turn; and a whole list page by page.

use super::client::{ACTORS, Client, Server, actor, resident};
use super::{Target, number, quantile};
use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Creates at once.
const AT_ONCE: usize = 16;
/// Requests before any counts.
const WARM_UP: usize = 50;
/// Objects of a page.
const PAGE: usize = 500;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// Where the objects are made
    #[arg(long)]
    namespace: String,
    /// How many requests for one object are measured
    #[arg(long, default_value_t = 1000)]
    gets: usize,
    /// How many requests for 500 are measured
    #[arg(long, default_value_t = 60)]
    lists: usize,
}

async fn make(client: &Client, path: &str, object: impl Fn(&str) -> Value) -> anyhow::Result<()> {
    let names: Vec<_> = (0..PAGE).map(|i| format!("bench-{i:04}")).collect();
    let creates = names.iter().map(|name| {
        let object = object(name);
        async move { client.create(path, &object).await }
    });
    let creates = futures::stream::iter(creates).buffer_unordered(AT_ONCE);
    creates.try_collect().await
}

/// Milliseconds of requests for each of two paths, in turn.
async fn in_turn(client: &Client, paths: [&str; 2], count: usize) -> anyhow::Result<[Vec<f64>; 2]> {
    let mut samples = [vec![], vec![]];
    for i in 0..WARM_UP.min(count) + count {
        for (path, samples) in paths.iter().zip(&mut samples) {
            let (_, took) = client.get(path).await?;
            if i >= WARM_UP.min(count) {
                samples.push(took.as_secs_f64() * 1000.0);
            }
        }
    }
    Ok(samples)
}

fn report(what: &str, samples: [Vec<f64>; 2], bound: f64) {
    let [mut ours, mut theirs] = samples;
    let p50 = quantile(&mut ours, 0.5);
    let of_theirs = quantile(&mut theirs, 0.5);
    number(&format!("{what}, p50"), p50, "ms", Target::None);
    number(
        &format!("{what}, p99"),
        quantile(&mut ours, 0.99),
        "ms",
        Target::None,
    );
    number(
        &format!("{what} of ConfigMaps, p50"),
        of_theirs,
        "ms",
        Target::None,
    );
    number(
        &format!("{what} of ConfigMaps, p99"),
        quantile(&mut theirs, 0.99),
        "ms",
        Target::None,
    );
    number(
        &format!("{what}: actors / ConfigMaps"),
        p50 / of_theirs,
        "",
        Target::AtMost(bound),
    );
}

pub async fn measure(args: Args) -> anyhow::Result<()> {
    let client = args.server.client()?;
    let namespace = &args.namespace;
    let actors = format!("{ACTORS}/namespaces/{namespace}/actors");
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    make(&client, &actors, actor).await?;
    let map = |name: &str, bytes: usize| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"pad": "x".repeat(bytes)},
        })
    };
    client.create(&maps, &map("empty-0000", 0)).await?;
    let one = format!("{actors}/bench-0000");
    let (wanted, _) = client.get(&one).await?;
    let (empty, _) = client.get(&format!("{maps}/empty-0000")).await?;
    let missing = wanted.len().checked_sub(empty.len());
    let missing = missing.context("an actor is smaller than an empty ConfigMap")?;
    make(&client, &maps, |name| map(name, missing)).await?;
    let same = format!("{maps}/bench-0000");
    let size = client.get(&same).await?.0.len();
    ensure!(
        size.abs_diff(wanted.len()) < 8,
        "{size} bytes and {}",
        wanted.len()
    );
    number(
        "bytes of an actor and of a ConfigMap",
        size as f64,
        "bytes",
        Target::None,
    );
    let gets = in_turn(&client, [&one, &same], args.gets).await?;
    report("GET through kube-apiserver", gets, 2.0);
    let (actors, maps) = (
        format!("{actors}?limit={PAGE}"),
        format!("{maps}?limit={PAGE}"),
    );
    let lists = in_turn(&client, [&actors, &maps], args.lists).await?;
    report("LIST of 500 through kube-apiserver", lists, 1.5);
    Ok(())
}

#[derive(clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    server: Server,
    /// How many actors there must be
    #[arg(long)]
    expect: usize,
    /// How often
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// The server's process: how much memory it has afterwards
    #[arg(long)]
    pid: u32,
}

/// All pages; how long each took.
async fn pages(client: &Client) -> anyhow::Result<(usize, Vec<Duration>)> {
    let (mut count, mut took, mut token) = (0, vec![], String::new());
    loop {
        let path = format!("{ACTORS}/actors?limit={PAGE}&continue={token}");
        let (body, page) = client.get(&path).await?;
        took.push(page);
        // Parsing whole pages would measure us.
        let text = std::str::from_utf8(&body)?;
        count += text.matches("\"kind\":\"Actor\"").count();
        let next = text
            .split_once("\"continue\":\"")
            .and_then(|(_, t)| t.split_once('"'));
        match next {
            Some((next, _)) if !next.is_empty() => token = next.to_owned(),
            _ => return Ok((count, took)),
        }
    }
}

pub async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = args.server.client()?;
    let name = format!("list of {} actors", args.expect);
    for round in 1..=args.rounds {
        let began = Instant::now();
        let (count, took) = pages(&client).await?;
        ensure!(
            count == args.expect,
            "{count} actors are listed, not {}",
            args.expect
        );
        if round == args.rounds {
            let rate = count as f64 / began.elapsed().as_secs_f64();
            let mut took: Vec<_> = took.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
            number(
                &format!("{name}, pages of 500"),
                rate,
                "objects/s",
                Target::None,
            );
            number(
                &format!("{name}, page, p50"),
                quantile(&mut took, 0.5),
                "ms",
                Target::None,
            );
            number(
                &format!("{name}, page, p99"),
                quantile(&mut took, 0.99),
                "ms",
                Target::None,
            );
        }
    }
    let memory = resident(args.pid)? as f64 / f64::from(1 << 20);
    number(
        &format!("memory of the API server, {} actors", args.expect),
        memory,
        "MiB",
        Target::None,
    );
    Ok(())
}
