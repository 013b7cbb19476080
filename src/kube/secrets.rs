//! What templates take from Secrets.

use crate::api::template::SecretKeyRef;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::time::Duration;

/// Kubernetes says within this time what is in a Secret.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The key of Secrets of type `kubernetes.io/dockerconfigjson`.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// What a Secret has, by key. Never logged, and so without `Debug`.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Reads Secrets, one at a time and by name: nobody needs to list them, and none is kept.
#[async_trait]
pub trait Secrets: Send + Sync + 'static {
    /// What a Secret has.
    async fn read(&self, namespace: &str, name: &str) -> Result<Data, SecretError>;
}

/// Why a Secret is not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is not there.
    #[error("there is no Secret {0}")]
    Missing(String),
    /// It has no such key.
    #[error("Secret {secret} has no key {key:?}")]
    NoKey {
        /// Which Secret.
        secret: String,
        /// Which key.
        key: String,
    },
    /// It is of another type.
    #[error(
        "Secret {0} has no key {DOCKER_CONFIG:?}: make it with kubectl create secret docker-registry"
    )]
    NotDocker(String),
    /// An environment takes text without NUL only.
    #[error("Secret {secret}: what is under {key:?} is not text")]
    NotText {
        /// Which Secret.
        secret: String,
        /// Which key.
        key: String,
    },
    /// Our processes may not read it.
    #[error(
        "this installation may not read Secret {0}: bind the ClusterRole ate:secret-reader in that namespace to the ServiceAccounts ate-apiserver and ate-controller of ours"
    )]
    Forbidden(String),
    /// The API that we talk to has none.
    #[error("a Secret needs a cluster: this installation has none")]
    Unknown,
    /// Kubernetes does not answer.
    #[error("Secret {name} cannot be read now: {source}")]
    Unreachable {
        /// Which one.
        name: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Values for one namespace's template; each Secret is read once.
pub struct Reader<'a> {
    secrets: &'a dyn Secrets,
    namespace: &'a str,
    known: BTreeMap<String, Data>,
}

impl<'a> Reader<'a> {
    /// Nothing is read yet.
    pub fn new(secrets: &'a dyn Secrets, namespace: &'a str) -> Self {
        Self {
            secrets,
            namespace,
            known: BTreeMap::new(),
        }
    }

    /// The value that is referred to; `None`: it may be missing, and is.
    pub async fn value(&mut self, from: &SecretKeyRef) -> Result<Option<String>, SecretError> {
        match self.must(from).await {
            Err(SecretError::Missing(_) | SecretError::NoKey { .. })
                if from.optional == Some(true) =>
            {
                Ok(None)
            }
            value => value.map(Some),
        }
    }

    /// The docker configuration in a Secret with credentials of registries.
    pub async fn docker_config(&mut self, name: &str) -> Result<Vec<u8>, SecretError> {
        let config = self.read(name, DOCKER_CONFIG).await?;
        config.ok_or_else(|| SecretError::NotDocker(self.full(name)))
    }

    async fn must(&mut self, from: &SecretKeyRef) -> Result<String, SecretError> {
        let value = self.read(&from.name, &from.key).await?;
        let (secret, key) = (self.full(&from.name), from.key.clone());
        let Some(value) = value else {
            return Err(SecretError::NoKey { secret, key });
        };
        match String::from_utf8(value) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(SecretError::NotText { secret, key }),
        }
    }
}

impl Reader<'_> {
    /// How people know a Secret.
    pub fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }

    async fn read(&mut self, name: &str, key: &str) -> Result<Option<Vec<u8>>, SecretError> {
        if !self.known.contains_key(name) {
            let data = self.secrets.read(self.namespace, name).await?;
            self.known.insert(name.to_owned(), data);
        }
        let data = self.known.get(name);
        Ok(data.and_then(|data| data.get(key)).cloned())
    }
}

#[async_trait]
impl Secrets for Client {
    async fn read(&self, namespace: &str, name: &str) -> Result<Data, SecretError> {
        let api: Api<Secret> = Api::namespaced(self.clone(), namespace);
        let of = || format!("{namespace}/{name}");
        let unreachable = |source| SecretError::Unreachable { name: of(), source };
        let answer = tokio::time::timeout(READ_LIMIT, api.get(name)).await;
        match answer.map_err(|e| unreachable(e.into()))? {
            Ok(secret) => {
                let data = secret.data.unwrap_or_default();
                Ok(data.into_iter().map(|(k, v)| (k, v.0)).collect())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // An API without this kind does not say which object it misses.
                let known = status.details.as_ref().is_some_and(|d| d.name == name);
                Err(match known {
                    true => SecretError::Missing(of()),
                    false => SecretError::Unknown,
                })
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                Err(SecretError::Forbidden(of()))
            }
            Err(error) => Err(unreachable(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct One(AtomicUsize);

    #[async_trait]
    impl Secrets for One {
        async fn read(&self, namespace: &str, name: &str) -> Result<Data, SecretError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if (namespace, name) != ("team", "s") {
                return Err(SecretError::Missing(format!("{namespace}/{name}")));
            }
            let data = [("word", &b"open"[..]), ("bytes", b"\xff"), ("nul", b"a\0b")];
            Ok(data.map(|(k, v)| (k.to_owned(), v.to_vec())).into())
        }
    }

    fn at(name: &str, key: &str, optional: Option<bool>) -> SecretKeyRef {
        SecretKeyRef {
            name: name.into(),
            key: key.into(),
            optional,
        }
    }

    #[tokio::test]
    async fn values() {
        let one = One(AtomicUsize::new(0));
        let mut team = Reader::new(&one, "team");
        let word = team.value(&at("s", "word", None)).await;
        assert_eq!(word.unwrap().as_deref(), Some("open"));
        for (bad, why) in [
            (
                at("s", "other", None),
                r#"Secret team/s has no key "other""#,
            ),
            (
                at("s", "bytes", None),
                r#"Secret team/s: what is under "bytes" is not text"#,
            ),
            (
                at("s", "nul", Some(true)),
                r#"Secret team/s: what is under "nul" is not text"#,
            ),
            (at("t", "word", Some(false)), "there is no Secret team/t"),
        ] {
            assert_eq!(team.value(&bad).await.unwrap_err().to_string(), why);
        }
        for missing in [at("s", "other", Some(true)), at("t", "word", Some(true))] {
            assert_eq!(team.value(&missing).await.unwrap(), None);
        }
        assert_eq!(
            one.0.load(Ordering::Relaxed),
            3,
            "what is there is read once"
        );
    }
}
