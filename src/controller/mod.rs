//! Reconcilers of WorkerPool ([`pool`]) and ActorTemplate ([`template`]), and who our processes are to one another ([`certs`]). Of
//! several controllers one works ([`lease`]). What the store says of workers is followed once ([`workers`]). [`events`] tells people what changed, [`admission`] what is wrong with what they write.
//!
//! The first two are level-triggered: they compare what is desired with what is, by [`crate::lifecycle`]'s decisions, and
//! write status. Golden actors are moved through [`crate::engine`].

mod admission;
mod certs;
mod events;
mod lease;
mod metrics;
mod pool;
mod template;
mod workers;

pub use certs::Certificates;
pub use lease::LeaseOptions;
pub use pool::WorkerImages;

use crate::api::PoolKey;
use crate::engine::Engine;
use crate::rpc::Tls;
use crate::telemetry::chain;
use events::Events;
use kube::{Client, ResourceExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use workers::Workers;

/// Who we are among those that write an object's fields.
const MANAGER: &str = "ate-controller";

/// What a controller does beside golden snapshots and status.
#[derive(Debug, Default)]
pub struct Options {
    /// On Kubernetes: makes a Deployment of each pool, with these images, and tells events. `None` where node agents make the
    /// workers.
    pub workers: Option<WorkerImages>,
    /// Issues the certificates of all our processes; `None` where somebody else does.
    pub certificates: Option<Certificates>,
    /// Where kube-apiserver asks what is wrong with an object, and as whom we answer.
    pub webhooks: Option<(TcpListener, Tls)>,
    /// Works only while it holds this lease; `None` where there is one controller.
    pub lease: Option<LeaseOptions>,
}

/// What a reconciler needs.
struct Context {
    client: Client,
    engine: Arc<Engine>,
    events: Events,
    workers: Option<WorkerImages>,
    certificates: Option<Certificates>,
}

impl Context {
    fn has_pool(&self, key: &PoolKey) -> bool {
        let pools = self.engine.catalog().pools();
        let is = |pool: &crate::api::WorkerPool| {
            pool.name_any() == key.name && pool.namespace().as_ref() == Some(&key.namespace)
        };
        pools.iter().any(|pool| is(pool))
    }
}

/// Why a reconciliation did not end; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The Kubernetes API.
    #[error("the Kubernetes API refused or did not answer")]
    Kubernetes(#[from] kube::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// An object without a name or namespace.
    #[error("the object has no {0}")]
    Nameless(&'static str),
}

/// How long a stop waits for reconciliations under way. A golden actor may take minutes to start; the next controller goes on
/// with it.
const GRACE: Duration = Duration::from_secs(1);

/// Reconciles until told to stop.
pub async fn run(client: Client, engine: Arc<Engine>, options: Options, stop: CancellationToken) {
    let events = match options.workers {
        Some(_) => Events::to(client.clone()),
        None => Events::silent(),
    };
    crate::telemetry::metrics::collected(Box::new(metrics::Objects(engine.catalog().clone())));
    let context = Arc::new(Context {
        client: client.clone(),
        engine,
        events,
        workers: options.workers,
        certificates: options.certificates.clone(),
    });
    if let Some(certificates) = options.certificates {
        let client = client.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            certs::follow(client, &certificates).await;
        }));
    }
    if let Some((listener, tls)) = options.webhooks {
        let (context, stop) = (context.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = admission::serve(listener, &tls, &context, stop).await {
                tracing::error!(error = chain(&error), "webhooks are not served");
            }
        });
    }
    match options.lease {
        None => work(context, stop).await,
        Some(lease) => {
            lease::lead(client, lease, stop, |stop| work(context.clone(), stop)).await;
        }
    }
}

async fn work(context: Arc<Context>, stop: CancellationToken) {
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let reconcile = async {
        if let Some(certificates) = &context.certificates {
            certificates.own.ready().await;
        }
        let (sender, workers) = watch::channel(Workers::default());
        tokio::join!(
            workers::follow(context.engine.clone(), sender, stop.clone()),
            pool::run(context.clone(), workers.clone(), stop.clone()),
            template::run(context.clone(), workers, stop.clone())
        )
    };
    let issue = async {
        if let Some(certificates) = &context.certificates {
            certs::keep(context.client.clone(), certificates).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = reconcile => {}
        () = issue => {}
        () = late => tracing::info!("reconciliations are left half done"),
    }
}
