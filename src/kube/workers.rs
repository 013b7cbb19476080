//! The pods of a node that are workers, kept up to date by a watch.

use crate::api::pool::POOL_LABEL;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The pods of the node `node` with the label of a pool, in all namespaces. Returns when they are known; from then on they are kept
/// up to date until `stop`, across breaks of the watch. `None` when `stop` came first.
pub async fn worker_pods(
    client: &Client,
    node: &str,
    stop: &CancellationToken,
) -> Option<watch::Receiver<Vec<Arc<Pod>>>> {
    let config = watcher::Config::default()
        .labels(POOL_LABEL)
        .fields(&format!("spec.nodeName={node}"));
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<Pod>::all(client.clone()), config)
        .default_backoff()
        .reflect(writer);
    let (sender, receiver) = watch::channel(vec![]);
    let (known, publisher) = (reader.clone(), sender.clone());
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(_) => publish(&known, &publisher),
                Err(e) => tracing::warn!(error = %e, "the watch of pods broke; it is tried again"),
            }
        }
    }));
    let ready = stop.run_until_cancelled(reader.wait_until_ready()).await;
    ready?.ok()?;
    publish(&reader, &sender);
    Some(receiver)
}

/// While a list is under way the store is as it was before.
fn publish(pods: &Store<Pod>, sender: &watch::Sender<Vec<Arc<Pod>>>) {
    sender.send_replace(pods.state());
}
