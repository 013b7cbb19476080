//! Whether a namespace takes new objects. kube-apiserver asks that for its own kinds only; for ours we do.

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the Kubernetes API may take to say whether a namespace is there that we have not heard of.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Where a namespace is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It takes new objects.
    Active,
    /// It is being deleted.
    Terminating,
    /// There is none.
    Missing,
}

/// It cannot be told now: try again.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The Kubernetes API said something else.
    #[error("whether the namespace exists could not be asked of the Kubernetes API")]
    Api(#[source] Box<kube::Error>),
    /// It said nothing.
    #[error(
        "whether the namespace exists: the Kubernetes API did not answer within {} s",
        LOOK_LIMIT.as_secs()
    )]
    TooSlow,
}

/// Knows namespaces.
#[async_trait]
pub trait Namespaces: Send + Sync + 'static {
    /// Where a namespace is in its life.
    async fn look(&self, name: &str) -> Result<Lifecycle, LookError>;

    /// What a namespace that we have heard of says of itself. Never waits.
    fn annotation(&self, name: &str, key: &str) -> Option<String>;
}

/// `ate dev`: every name is a namespace.
pub struct Everywhere;

#[async_trait]
impl Namespaces for Everywhere {
    async fn look(&self, _: &str) -> Result<Lifecycle, LookError> {
        Ok(Lifecycle::Active)
    }

    fn annotation(&self, _: &str, _: &str) -> Option<String> {
        None
    }
}

type Metadata = PartialObjectMeta<Namespace>;

/// A cluster's namespaces, their metadata kept up to date by a watch. One that is not among them is asked for: it may be
/// newer than what we have heard.
pub struct ReflectedNamespaces {
    client: Client,
    known: Store<Metadata>,
}

impl ReflectedNamespaces {
    /// Starts watching; the watch ends with `stop`.
    pub fn start(client: &Client, stop: &CancellationToken) -> Arc<Self> {
        let (known, writer) = reflector::store();
        let api: Api<Metadata> = Api::all(client.clone());
        let stream = watcher(api, watcher::Config::default())
            .default_backoff()
            .reflect(writer);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                if let Err(error) = event {
                    tracing::debug!(%error, "the watch of namespaces broke; it is tried again");
                }
            }
        }));
        Arc::new(Self {
            client: client.clone(),
            known,
        })
    }
}

fn lifecycle(namespace: &Metadata) -> Lifecycle {
    match namespace.metadata.deletion_timestamp {
        Some(_) => Lifecycle::Terminating,
        None => Lifecycle::Active,
    }
}

#[async_trait]
impl Namespaces for ReflectedNamespaces {
    async fn look(&self, name: &str) -> Result<Lifecycle, LookError> {
        if let Some(known) = self.known.get(&ObjectRef::new(name)) {
            return Ok(lifecycle(&known));
        }
        let api: Api<Metadata> = Api::all(self.client.clone());
        let asked = tokio::time::timeout(LOOK_LIMIT, api.get_opt(name)).await;
        let found = asked
            .map_err(|_| LookError::TooSlow)?
            .map_err(|e| LookError::Api(Box::new(e)))?;
        Ok(found.map_or(Lifecycle::Missing, |n| lifecycle(&n)))
    }

    fn annotation(&self, name: &str, key: &str) -> Option<String> {
        let known = self.known.get(&ObjectRef::new(name))?;
        known.metadata.annotations.as_ref()?.get(key).cloned()
    }
}
