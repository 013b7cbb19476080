//! A client of the Kubernetes API, or of `ate dev`, which speaks the same.

use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long one answer may take to begin; watches are bounded by the server.
const READ_LIMIT: Duration = Duration::from_secs(295);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error(
        "the kubeconfig {path} cannot be used; point KUBECONFIG or --kubeconfig to a readable one"
    )]
    Kubeconfig {
        /// The file; empty: the default ones.
        path: PathBuf,
        /// Why not.
        source: Box<kube::config::KubeconfigError>,
    },
    /// Neither a kubeconfig nor a pod's service account.
    #[error(
        "neither a kubeconfig nor a service account was found; point KUBECONFIG or --kubeconfig to one"
    )]
    NotFound(#[source] Box<kube::config::InferConfigError>),
    /// TLS or the address are unusable.
    #[error("the Kubernetes client cannot be set up")]
    SetUp(#[source] Box<kube::Error>),
}

/// A client by a kubeconfig file, or by what the environment offers.
pub async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => kube::Config::infer()
            .await
            .map_err(|e| ClientError::NotFound(Box::new(e)))?,
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(READ_LIMIT);
    kube::Client::try_from(config).map_err(|e| ClientError::SetUp(Box::new(e)))
}

async fn from_file(path: &Path) -> Result<kube::Config, ClientError> {
    let fail = |source| ClientError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(fail)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(fail)
}
