//! Whether a namespace takes new objects, and whether it ever had some. kube-apiserver asks the first for its own kinds only; for
//! ours we do.

use super::inhabited::Inhabited;
use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the Kubernetes API may take to say what we have not heard of.
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
    #[error("what is known of the namespace could not be asked of the Kubernetes API")]
    Api(#[source] Box<kube::Error>),
    /// It said nothing.
    #[error(
        "what is known of the namespace: the Kubernetes API did not answer within {} s",
        LOOK_LIMIT.as_secs()
    )]
    TooSlow,
}

/// Knows namespaces.
#[async_trait]
pub trait Namespaces: Send + Sync + 'static {
    /// Where a namespace is in its life. That one is active is said to whoever is about to create an actor there, so it
    /// is noted as one that has some.
    async fn enter(&self, name: &str) -> Result<Lifecycle, LookError>;

    /// Whether a namespace is being deleted in which no actor was ever created.
    async fn goes_without(&self, name: &str) -> Result<bool, LookError>;

    /// What a namespace that we have heard of says of itself. Never waits.
    fn annotation(&self, name: &str, key: &str) -> Option<String>;
}

/// `ate dev`: every name is a namespace.
pub struct Everywhere;

#[async_trait]
impl Namespaces for Everywhere {
    async fn enter(&self, _: &str) -> Result<Lifecycle, LookError> {
        Ok(Lifecycle::Active)
    }

    async fn goes_without(&self, _: &str) -> Result<bool, LookError> {
        Ok(false)
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
    inhabited: Arc<Inhabited>,
}

impl ReflectedNamespaces {
    /// Starts watching; the watch ends with `stop`.
    pub fn start(client: &Client, stop: &CancellationToken) -> Arc<Self> {
        let (known, writer) = reflector::store();
        let api: Api<Metadata> = Api::all(client.clone());
        let stream = watcher(api, watcher::Config::default())
            .default_backoff()
            .reflect(writer);
        let namespaces = Arc::new(Self {
            client: client.clone(),
            known,
            inhabited: Arc::new(Inhabited::new(client)),
        });
        let me = namespaces.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(watcher::Event::Delete(gone)) => {
                        me.inhabited.forget(&gone.name_any(), uid(&gone)).await;
                    }
                    Ok(watcher::Event::InitDone) => me.tidy().await,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "the watch of namespaces broke; it is tried again");
                    }
                }
            }
        }));
        namespaces
    }

    /// Forgets what went while nobody watched. What we do not know may be newer than our list: it is asked for.
    async fn tidy(&self) {
        for (name, id) in self.inhabited.all().await {
            let known = self.known.get(&ObjectRef::new(&name));
            if known.is_some_and(|n| uid(&n) == id) {
                continue;
            }
            match self.ask(&name).await {
                Ok(Some(found)) if uid(&found) == id => {}
                Ok(_) => self.inhabited.forget(&name, &id).await,
                Err(error) => tracing::debug!(name, %error, "whether a namespace is gone"),
            }
        }
    }

    /// One that is not among those we have heard of is asked for.
    async fn find(&self, name: &str) -> Result<Option<Arc<Metadata>>, LookError> {
        match self.known.get(&ObjectRef::new(name)) {
            Some(known) => Ok(Some(known)),
            None => self.ask(name).await,
        }
    }

    async fn ask(&self, name: &str) -> Result<Option<Arc<Metadata>>, LookError> {
        let api: Api<Metadata> = Api::all(self.client.clone());
        Ok(bounded(api.get_opt(name)).await?.map(Arc::new))
    }
}

/// What Kubernetes answers within [`LOOK_LIMIT`].
pub(super) async fn bounded<T>(
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, LookError> {
    let answered = tokio::time::timeout(LOOK_LIMIT, asked).await;
    answered
        .map_err(|_| LookError::TooSlow)?
        .map_err(|e| LookError::Api(Box::new(e)))
}

fn uid(namespace: &Metadata) -> &str {
    namespace.metadata.uid.as_deref().unwrap_or_default()
}

fn lifecycle(namespace: &Metadata) -> Lifecycle {
    match namespace.metadata.deletion_timestamp {
        Some(_) => Lifecycle::Terminating,
        None => Lifecycle::Active,
    }
}

#[async_trait]
impl Namespaces for ReflectedNamespaces {
    async fn enter(&self, name: &str) -> Result<Lifecycle, LookError> {
        let Some(found) = self.find(name).await? else {
            return Ok(Lifecycle::Missing);
        };
        let lifecycle = lifecycle(&found);
        if lifecycle == Lifecycle::Active {
            self.inhabited.note(name, uid(&found)).await?;
        }
        Ok(lifecycle)
    }

    async fn goes_without(&self, name: &str) -> Result<bool, LookError> {
        match self.find(name).await? {
            Some(found) if lifecycle(&found) == Lifecycle::Terminating => {
                Ok(!self.inhabited.has(name, uid(&found)).await?)
            }
            _ => Ok(false),
        }
    }

    fn annotation(&self, name: &str, key: &str) -> Option<String> {
        let known = self.known.get(&ObjectRef::new(name))?;
        known.metadata.annotations.as_ref()?.get(key).cloned()
    }
}
