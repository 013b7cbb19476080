//! Tells kube-apiserver whose certificates our servers have: the CA bundle in the objects that name their Services.

use super::Error;
use crate::controller::MANAGER;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// What registers our API with kube-apiserver.
pub(super) const APISERVICE: &str = "v1alpha1.runtime.ate.dev";
/// What registers our webhooks.
pub(super) const WEBHOOKS: &str = "ate-controller";

/// Those objects.
pub(super) struct Trust {
    services: Api<APIService>,
    webhooks: Api<ValidatingWebhookConfiguration>,
}

impl Trust {
    pub(super) fn new(client: Client) -> Self {
        Self {
            services: Api::all(client.clone()),
            webhooks: Api::all(client),
        }
    }

    /// Writes the bundle where another one stands. What is not installed needs none.
    pub(super) async fn put(&self, bundle: &str) -> Result<(), Error> {
        let bundle = ByteString(bundle.as_bytes().to_vec());
        if let Some(found) = self.services.get_opt(APISERVICE).await?
            && found
                .spec
                .is_none_or(|s| s.ca_bundle.as_ref() != Some(&bundle))
        {
            let spec = json!({"spec": {"caBundle": bundle}});
            apply(&self.services, APISERVICE, spec).await?;
        }
        let Some(found) = self.webhooks.get_opt(WEBHOOKS).await? else {
            return Ok(());
        };
        let all = found.webhooks.unwrap_or_default();
        let has = |own: &Option<ByteString>| own.as_ref() == Some(&bundle);
        if all.iter().all(|w| has(&w.client_config.ca_bundle)) {
            return Ok(());
        }
        let own = |name: &String| json!({"name": name, "clientConfig": {"caBundle": bundle}});
        let own: Vec<_> = all.iter().map(|w| own(&w.name)).collect();
        apply(&self.webhooks, WEBHOOKS, json!({"webhooks": own})).await
    }
}

async fn apply<K>(api: &Api<K>, name: &str, mut fields: Value) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    tracing::info!(kind = %K::kind(&()), name, "writing the CA bundle");
    fields["apiVersion"] = K::api_version(&()).into();
    fields["kind"] = K::kind(&()).into();
    fields["metadata"] = json!({"name": name});
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(fields)).await?;
    Ok(())
}
