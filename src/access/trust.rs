//! Whom the cluster trusts to say who calls: ConfigMap `kube-system/extension-apiserver-authentication`, read and watched
//! (apiserver/pkg/server/options/authentication.go).

use super::front_proxy::ProxyTrust;
use crate::identity::IdentityError;
use crate::identity::tls::ClientCertificates;
use arc_swap::ArcSwap;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Where it is.
const NAMESPACE: &str = "kube-system";
/// Its name.
const NAME: &str = "extension-apiserver-authentication";
/// How long the first reading may take.
const FIRST_LIMIT: Duration = Duration::from_secs(60);

/// What the ConfigMap says.
#[derive(Debug, Default)]
pub struct Trust {
    /// Signs clients' certificates; `None`: they count for nothing.
    pub client_ca: Option<ClientCertificates>,
    /// Whose headers say who calls; `None`: nobody's.
    pub proxy: Option<ProxyTrust>,
}

/// Why it is not known whom to trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It could not be read in time.
    #[error(
        "ConfigMap {NAMESPACE}/{NAME} could not be read within {} s: is the Kubernetes API there, and does our service account have the role extension-apiserver-authentication-reader in {NAMESPACE}?",
        FIRST_LIMIT.as_secs()
    )]
    NotRead,
    /// A certificate in it is none.
    #[error("{key} of ConfigMap {NAMESPACE}/{NAME} cannot be used")]
    Certificate {
        /// Which.
        key: &'static str,
        /// Why not.
        source: IdentityError,
    },
    /// A list in it is none.
    #[error("{key} of ConfigMap {NAMESPACE}/{NAME} is not a list of texts in JSON")]
    List {
        /// Which.
        key: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
}

/// Reads it, then keeps it up to date until `stop`. What cannot be used leaves the last good state, and is said.
pub async fn watch(
    client: &Client,
    stop: &CancellationToken,
) -> Result<Arc<ArcSwap<Trust>>, TrustError> {
    let trust = Arc::new(ArcSwap::from_pointee(Trust::default()));
    let (first, read) = tokio::sync::oneshot::channel();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let kept = trust.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let stream = watcher(api, config).default_backoff().applied_objects();
        let mut stream = std::pin::pin!(stream);
        let mut first = Some(first);
        while let Some(event) = stream.next().await {
            match event.map(|map| of(&map.data.unwrap_or_default())) {
                Ok(Ok(new)) => {
                    kept.store(Arc::new(new));
                    tracing::info!("whom to trust was read from {NAMESPACE}/{NAME}");
                    if let Some(first) = first.take() {
                        let _ = first.send(());
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the last good one stays");
                }
                Err(error) => tracing::warn!(%error, "ConfigMap {NAMESPACE}/{NAME} cannot be watched; it is tried again"),
            }
        }
    }));
    match tokio::time::timeout(FIRST_LIMIT, read).await {
        Ok(Ok(())) => Ok(trust),
        Ok(Err(_)) | Err(_) => Err(TrustError::NotRead),
    }
}

fn of(data: &BTreeMap<String, String>) -> Result<Trust, TrustError> {
    let ca = |key: &'static str| {
        let pem = data.get(key).filter(|pem| !pem.trim().is_empty());
        pem.map(|pem| ClientCertificates::of(pem))
            .transpose()
            .map_err(|source| TrustError::Certificate { key, source })
    };
    let list = |key: &'static str| -> Result<Vec<String>, TrustError> {
        let text = data.get(key).filter(|text| !text.trim().is_empty());
        text.map_or(Ok(vec![]), |text| serde_json::from_str(text))
            .map_err(|source| TrustError::List { key, source })
    };
    let proxy = ca("requestheader-client-ca-file")?;
    let proxy = proxy.map(|ca| {
        Ok(ProxyTrust {
            ca,
            allowed_names: list("requestheader-allowed-names")?,
            username_headers: list("requestheader-username-headers")?,
            group_headers: list("requestheader-group-headers")?,
            extra_prefixes: list("requestheader-extra-headers-prefix")?,
            uid_headers: list("requestheader-uid-headers")?,
        })
    });
    Ok(Trust {
        client_ca: ca("client-ca-file")?,
        proxy: proxy.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::testing::Pki;

    #[test]
    fn the_map_is_read_and_what_is_wrong_is_named() {
        let pki = Pki::new();
        let mut data: BTreeMap<String, String> = [
            ("client-ca-file", pki.ca()),
            ("requestheader-client-ca-file", pki.ca()),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let proxy = of(&data).unwrap().proxy.unwrap();
        assert_eq!(proxy.allowed_names, ["front-proxy-client"]);
        assert_eq!(proxy.username_headers, ["X-Remote-User"]);
        assert!(
            proxy.uid_headers.is_empty(),
            "not trusted unless it is said"
        );
        data.insert("requestheader-group-headers".into(), "X".into());
        let wrong = of(&data).unwrap_err().to_string();
        assert!(wrong.starts_with("requestheader-group-headers"), "{wrong}");
        let nobody = of(&BTreeMap::new()).unwrap();
        assert!(nobody.client_ca.is_none() && nobody.proxy.is_none());
    }
}
