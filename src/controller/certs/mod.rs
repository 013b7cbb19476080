//! The certificates that our processes show one another: a CA and a leaf for each, in Secrets, and the CA where kube-apiserver looks for it.
//!
//! [`plan`] decides and [`issue`] makes keys, both without a clock of their own; [`secrets`] reads and writes, [`trust`] tells kube-apiserver. What a leaf must say is in
//! [`process`]. Leaves live for a day and are renewed at half of it, the CA for a year. A new CA is trusted at once beside the one
//! before, whose leaves are replaced when everybody knows it: whoever has the old bundle or the old leaf and whoever has the new ones believe
//! one another at each step. Nothing remembers how far a rotation is; that follows from the certificates' own dates.
//!
//! Only the controller that leads writes; each of them takes its own certificate from its Secret. Everybody else's are mounted.

mod issue;
mod plan;
mod process;
mod secrets;
#[cfg(test)]
mod tests;
mod trust;

use crate::identity::{IdentityError, Leaf};
use crate::rpc::Tls;
use crate::telemetry::chain;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use process::{CA, CONTROLLER_SECRET, processes};
use secrets::Secrets;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, SystemTime};
use trust::{APISERVICE, WEBHOOKS};

/// All is looked at again after this time even if nothing changed: something may be due.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Changes within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Changes that are taken together.
const MAX_CHANGES: usize = 64;

/// Whose certificates are kept where.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Where the Secrets are, and the Services that the certificates name.
    pub namespace: String,
    /// Ours; set as soon as there is one.
    pub own: Tls,
}

/// What a Secret holds, as PEM; nothing where a key is missing or no text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pems {
    /// `ca.crt`: who is trusted.
    ca: String,
    /// `tls.crt` and `tls.key`.
    leaf: Leaf,
}

/// Of Secrets by name.
type Contents = BTreeMap<&'static str, Pems>;

/// Why certificates are not as they should be; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the Kubernetes API refused or did not answer")]
    Kubernetes(#[from] kube::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Issues, renews and puts back, for ever.
pub(super) async fn keep(client: Client, certificates: &Certificates) {
    let namespace = &certificates.namespace;
    let secrets = Secrets::new(client.clone(), namespace);
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let names = [CA]
        .into_iter()
        .chain(processes(namespace).map(|p| p.secret));
    let of_secrets = names.map(|name| changes(api.clone(), name).boxed());
    let of_api = changes(Api::<APIService>::all(client.clone()), APISERVICE).boxed();
    let webhooks = Api::<ValidatingWebhookConfiguration>::all(client);
    let of_webhooks = changes(webhooks, WEBHOOKS).boxed();
    let all = stream::select_all(of_secrets.chain([of_api, of_webhooks]));
    let mut changed = pin!(all.ready_chunks(MAX_CHANGES));
    loop {
        let again = match secrets.look(SystemTime::now()).await {
            Ok(()) => LOOK_AGAIN,
            Err(error) => {
                tracing::warn!(error = chain(&error), "certificates");
                RETRY
            }
        };
        // What is watched never ends.
        if let Ok(Some(_)) = tokio::time::timeout(again, changed.next()).await {
            tokio::time::sleep(DEBOUNCE).await;
        }
    }
}

/// Tells of changes of one object; the right to watch it may be by its name.
fn changes<K>(api: Api<K>, name: &str) -> impl Stream<Item = ()> + use<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, one).default_backoff().map(|_| ())
}

/// Takes our own certificate whenever it is a new one, for ever.
pub(super) async fn follow(client: Client, certificates: &Certificates) {
    let api = Api::<Secret>::namespaced(client, &certificates.namespace);
    let one = watcher::Config::default().fields(&format!("metadata.name={CONTROLLER_SECRET}"));
    let mut seen = pin!(watcher(api, one).default_backoff().applied_objects());
    loop {
        match seen.next().await {
            Some(Ok(secret)) => {
                let Pems { ca, leaf } = secrets::read(&secret);
                if let Err(error) = certificates.own.replace(ca, leaf) {
                    tracing::warn!(error = chain(&error), "our certificate cannot be used");
                }
            }
            Some(Err(error)) => tracing::warn!(error = chain(&error), "our certificate"),
            None => return,
        }
    }
}
