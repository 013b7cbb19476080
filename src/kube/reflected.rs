//! Templates and pools kept up to date by watches.

use super::Catalog;
use crate::api::{ActorTemplate, TemplateKey, WorkerPool};
use futures::{StreamExt, TryStreamExt};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;

/// [`Catalog`] over two reflectors. Watches reconnect with back-off for as long as the process lives.
pub struct ReflectedCatalog {
    templates: Store<ActorTemplate>,
    pools: Store<WorkerPool>,
    synced: Arc<AtomicUsize>,
}

/// Reflectors that must have been filled.
const REFLECTORS: usize = 2;

impl ReflectedCatalog {
    /// Starts watching; the watches end with `stop`.
    pub fn start(client: &Client, stop: &CancellationToken) -> Arc<Self> {
        let synced = Arc::new(AtomicUsize::new(0));
        let templates = reflect::<ActorTemplate>(Api::all(client.clone()), stop, &synced);
        let pools = reflect::<WorkerPool>(Api::all(client.clone()), stop, &synced);
        Arc::new(Self {
            templates,
            pools,
            synced,
        })
    }
}

fn reflect<K>(api: Api<K>, stop: &CancellationToken, synced: &Arc<AtomicUsize>) -> Store<K>
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let (reader, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .reflect(writer);
    let (stop, store, synced) = (stop.clone(), reader.clone(), synced.clone());
    tokio::spawn(async move {
        if store.wait_until_ready().await.is_ok() {
            synced.fetch_add(1, Ordering::Relaxed);
        }
    });
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut stream = std::pin::pin!(stream.into_stream());
        while let Some(event) = stream.next().await {
            if let Err(e) = event {
                tracing::debug!(error = %e, "watch broke; it is tried again");
            }
        }
    }));
    reader
}

impl Catalog for ReflectedCatalog {
    fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed) == REFLECTORS
    }

    fn template(&self, key: &TemplateKey) -> Option<Arc<ActorTemplate>> {
        self.templates
            .get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    fn templates(&self) -> Vec<Arc<ActorTemplate>> {
        self.templates.state()
    }

    fn pools(&self) -> Vec<Arc<WorkerPool>> {
        self.pools.state()
    }
}
