//! How many actors a template has, and how many of them are awake: counted now and then, for people who look.

use super::each_actor;
use crate::api::record::Phase;
use crate::api::template::{ActorCounts, GOLDEN_LABEL};
use crate::api::{ActorTemplate, TemplateKey};
use crate::controller::{Context, Error, MANAGER};
use crate::store::{Store, StoreError};
use crate::telemetry::chain;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Pause between two counts; one that took long is repeated as much less often.
const PAUSE: Duration = Duration::from_secs(10);
/// How much longer than a count the pause after it is, at least: a million actors must not keep the store busy for this.
const REST: u32 = 50;

/// Counts until `stop`.
pub(super) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let counting = async {
        loop {
            let began = Instant::now();
            if let Err(error) = look(&context).await {
                tracing::warn!(error = chain(&error), "actors are not counted");
            }
            tokio::time::sleep(PAUSE.max(began.elapsed() * REST)).await;
        }
    };
    stop.run_until_cancelled(counting).await;
}

async fn look(context: &Context) -> Result<(), Error> {
    let catalog = context.engine.catalog();
    let counts = count(&**context.engine.store()).await?;
    for template in catalog.templates() {
        let meta = &template.metadata;
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else {
            continue;
        };
        let key = TemplateKey::new(namespace, name);
        let now = counts.get(&key).cloned().unwrap_or_default();
        let before = template.status.as_ref().and_then(|s| s.actors.clone());
        if before.unwrap_or_default() != now {
            write(context, &key, &now).await?;
        }
    }
    Ok(())
}

/// Of all templates that have any. Golden actors are not counted: nobody made them.
async fn count(store: &dyn Store) -> Result<HashMap<TemplateKey, ActorCounts>, StoreError> {
    let mut counts = HashMap::<_, ActorCounts>::new();
    each_actor(store, None, |actor| {
        if actor.meta.labels.contains_key(GOLDEN_LABEL) {
            return;
        }
        let of_template = counts.entry(actor.spec.template).or_default();
        of_template.total += 1;
        of_template.awake += i64::from(actor.header.phase == Phase::Running);
    })
    .await?;
    Ok(counts)
}

async fn write(context: &Context, key: &TemplateKey, counts: &ActorCounts) -> Result<(), Error> {
    let api: Api<ActorTemplate> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = Patch::Merge(json!({"status": {"actors": counts}}));
    let params = PatchParams::apply(MANAGER);
    match api.patch_status(&key.name, &params, &patch).await {
        // Gone meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ActorKey;
    use crate::api::record::{ActorRecord, MetaRecord, SpecRecord};
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn counts_by_template_and_leaves_golden_ones_out() {
        let store = MemoryStore::new();
        let make = async |name: &str, template: &str, golden: bool| {
            let labels = golden.then(|| (GOLDEN_LABEL.to_owned(), "true".to_owned()));
            let record = ActorRecord {
                key: ActorKey::new("ns", name),
                spec: SpecRecord {
                    template: TemplateKey::new("ns", template),
                    ..SpecRecord::default()
                },
                meta: MetaRecord {
                    labels: labels.into_iter().collect(),
                    ..MetaRecord::default()
                },
                ..ActorRecord::default()
            };
            store.create_actor(record, 10).await.unwrap();
        };
        make("a", "t", false).await;
        make("b", "t", false).await;
        make("c", "u", false).await;
        make("g", "t", true).await;
        let counts = count(&store).await.unwrap();
        let of = |template: &str| counts[&TemplateKey::new("ns", template)].clone();
        assert_eq!((of("t").total, of("u").total, counts.len()), (2, 1, 2));
        assert_eq!(of("t").awake, 0);
    }
}
