//! Requests beside many watches of the same connection, while something happens on them.

use super::client::{ACTORS, Client, Server};
use super::watch::Writer;
use super::{Target, number, quantile};
use std::time::Duration;
use substrate::store::Store;

/// Requests that are measured each time.
const GETS: usize = 400;
/// Between two writes that every watch shows.
const PACE: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// The server's store
    #[arg(long)]
    store: String,
    #[arg(long, default_value_t = 600)]
    watches: usize,
}

/// Milliseconds of requests one after the other.
async fn gets(client: &Client, path: &str) -> anyhow::Result<Vec<f64>> {
    let mut samples = vec![];
    for _ in 0..GETS {
        let (_, took) = client.get(path).await?;
        samples.push(took.as_secs_f64() * 1000.0);
    }
    Ok(samples)
}

pub async fn measure(args: Args) -> anyhow::Result<()> {
    let namespace = "streams";
    let mut writer = Writer::new(&args.store, namespace).await?;
    let client = args.server.client()?;
    let path = format!("{ACTORS}/namespaces/{namespace}/actors");
    let one = format!("{path}/written-0000");
    gets(&client, &one).await?;
    let version = writer.store.version().await?.0;
    let writes = tokio::spawn(async move {
        let mut tick = tokio::time::interval(PACE);
        loop {
            tick.tick().await;
            if let Err(error) = writer.write().await {
                return error;
            }
        }
    });
    let mut alone = gets(&client, &one).await?;
    let mut watches = tokio::task::JoinSet::new();
    for _ in 0..args.watches {
        let mut events = client.watch(&path, version).await?;
        watches.spawn(async move { while let Ok(Some(_)) = events.chunk().await {} });
    }
    let mut beside = gets(&client, &one).await?;
    anyhow::ensure!(watches.try_join_next().is_none(), "a watch ended");
    anyhow::ensure!(!writes.is_finished(), "{}", writes.await?);
    writes.abort();
    let (p50, of_alone) = (quantile(&mut beside, 0.5), quantile(&mut alone, 0.5));
    let name = format!("GET beside {} watches of its connection", args.watches);
    number(
        "GET on a connection of its own, p50",
        of_alone,
        "ms",
        Target::None,
    );
    number(
        "GET on a connection of its own, p99",
        quantile(&mut alone, 0.99),
        "ms",
        Target::None,
    );
    number(&format!("{name}, p50"), p50, "ms", Target::None);
    number(
        &format!("{name}, p99"),
        quantile(&mut beside, 0.99),
        "ms",
        Target::None,
    );
    number(
        &format!("{name} / alone"),
        p50 / of_alone,
        "",
        Target::AtMost(2.0),
    );
    Ok(())
}
