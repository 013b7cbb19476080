//! The Secrets, read and written.

use super::issue::issue;
use super::plan::plan;
use super::process::{CA, Process, processes};
use super::trust::Trust;
use super::{Contents, Error, Pems};
use crate::controller::MANAGER;
use crate::identity::Leaf;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// Secrets of this type have `tls.crt` and `tls.key`; more is allowed.
const TYPE: &str = "kubernetes.io/tls";
const KEYS: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Those of one namespace, and who is told of their CA.
pub(super) struct Secrets {
    secrets: Api<Secret>,
    trust: Trust,
    processes: Vec<Process>,
}

/// What a Secret holds.
pub(super) fn read(secret: &Secret) -> Pems {
    let text = |key| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|b| String::from_utf8(b.0.clone()).ok());
        text.unwrap_or_default()
    };
    let [ca, chain, key] = KEYS.map(text);
    Pems {
        ca,
        leaf: Leaf { chain, key },
    }
}

impl Secrets {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            trust: Trust::new(client),
            processes: processes(namespace).collect(),
        }
    }

    /// Brings all to what it should be at that time. What is so already is not written.
    pub(super) async fn look(&self, now: SystemTime) -> Result<(), Error> {
        // The CA first: what it signs must not be there without it.
        let names = || {
            [CA].into_iter()
                .chain(self.processes.iter().map(|p| p.secret))
        };
        let mut objects = HashMap::new();
        for name in names() {
            if let Some(secret) = self.secrets.get_opt(name).await? {
                objects.insert(name, secret);
            }
        }
        let found: Contents = objects.iter().map(|(name, s)| (*name, read(s))).collect();
        let plan = plan(now, &self.processes, &found);
        let wanted = issue(&plan, now, &self.processes, &found)?;
        for name in names() {
            if let Some(pems) = wanted.get(name)
                && found.get(name) != Some(pems)
            {
                let new = name == CA && plan.signer.is_none() || plan.issue.contains(&name);
                tracing::info!(secret = name, new, "writing");
                self.write(name, objects.remove(name), pems).await?;
            }
        }
        match wanted.get(CA) {
            Some(ca) => self.trust.put(&ca.ca).await,
            None => Ok(()),
        }
    }

    async fn write(&self, name: &str, found: Option<Secret>, pems: &Pems) -> Result<(), Error> {
        let mut version = None;
        if let Some(found) = found {
            let takes_new = found.type_.as_deref() == Some(TYPE) && found.immutable != Some(true);
            if takes_new {
                version = found.metadata.resource_version;
            } else {
                self.remove(name, found).await?;
            }
        }
        let Pems { ca, leaf } = pems;
        let data = std::iter::zip(KEYS, [ca, &leaf.chain, &leaf.key]);
        let bytes =
            |(key, text): (&str, &String)| (key.to_owned(), ByteString(text.clone().into_bytes()));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                // Of what was read, so that of two who write one learns of the other.
                resource_version: version,
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.to_owned()),
            data: Some(data.map(bytes).collect::<BTreeMap<_, _>>()),
            ..Secret::default()
        };
        let params = PatchParams::apply(MANAGER).force();
        self.secrets
            .patch(name, &params, &Patch::Apply(&secret))
            .await?;
        Ok(())
    }

    /// Type and content of some Secrets cannot be changed.
    async fn remove(&self, name: &str, found: Secret) -> Result<(), Error> {
        let this = Preconditions {
            uid: found.metadata.uid,
            resource_version: found.metadata.resource_version,
        };
        let params = DeleteParams::default().preconditions(this);
        self.secrets.delete(name, &params).await?;
        Ok(())
    }
}
