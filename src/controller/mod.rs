//! Reconcilers of WorkerPool ([`pool`]) and ActorTemplate ([`template`]).
//!
//! Both are level-triggered: they compare what is desired with what is, by [`crate::lifecycle`]'s decisions, and
//! write status. Golden actors are moved through [`crate::engine`].

mod pool;
mod template;

use crate::engine::Engine;
use kube::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a reconciler needs.
struct Context {
    client: Client,
    engine: Arc<Engine>,
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
pub async fn run(client: Client, engine: Arc<Engine>, stop: CancellationToken) {
    let context = Arc::new(Context { client, engine });
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let work = async {
        tokio::join!(
            pool::run(context.clone(), stop.clone()),
            template::run(context, stop.clone())
        )
    };
    tokio::select! {
        _ = work => {}
        () = late => tracing::info!("reconciliations are left half done"),
    }
}
