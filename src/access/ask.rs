//! Questions to Kubernetes: tried again within a bound, answers kept for a short time.

use super::{CACHE_LIFE, REVIEW_LIMIT, REVIEW_PAUSE, REVIEW_TRIES};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use moka::future::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

/// Answers that are kept at most, of one kind.
const MAX_ANSWERS: u64 = 20_000;

/// Kubernetes gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failed {
    /// It could not be reached, or refused us.
    #[error("the Kubernetes API did not answer")]
    Api(#[source] Arc<kube::Error>),
    /// It took too long.
    #[error("the Kubernetes API did not answer within {} s", REVIEW_LIMIT.as_secs())]
    TooSlow,
}

/// Answers by question. Equal questions at the same time are asked once; failures are not kept.
pub(super) struct Answers<K, V>(Cache<K, V>);

impl<K, V> Debug for Answers<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl<K, V> Answers<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(MAX_ANSWERS)
            .time_to_live(CACHE_LIFE);
        Self(cache.build())
    }

    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.invalidate_all();
    }

    pub(super) async fn get(
        &self,
        key: K,
        ask: impl Future<Output = Result<V, Failed>>,
    ) -> Result<V, Failed> {
        let answer = self.0.try_get_with(key, ask).await;
        answer.map_err(|e: Arc<Failed>| (*e).clone())
    }
}

/// Posts a review and returns it with its status.
pub(super) async fn review<K>(client: &Client, review: &K) -> Result<K, Failed>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let tries = async {
        let mut pause = REVIEW_PAUSE;
        for _ in 1..REVIEW_TRIES {
            match api.create(&PostParams::default(), review).await {
                Err(error) if is_transient(&error) => {
                    tracing::debug!(%error, "a review is tried again");
                    sleep(pause).await;
                    pause += pause / 2;
                }
                other => return other,
            }
        }
        api.create(&PostParams::default(), review).await
    };
    match timeout(REVIEW_LIMIT, tries).await {
        Ok(answer) => answer.map_err(|e| Failed::Api(Arc::new(e))),
        Err(_) => Err(Failed::TooSlow),
    }
}

/// Whether another try may help (apiserver/pkg/util/webhook, DefaultShouldRetry).
fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}
