//! A client of the Kubernetes API, or of `ate dev`, which speaks the same.

use crate::telemetry::chain;
use http::Request;
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tower::service_fn;

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

/// A client by a kubeconfig file, or by what the environment offers. When there is something else in the file, such as a
/// certificate that was renewed, it counts from the next request on.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let Some(path) = kubeconfig else {
        let config = kube::Config::infer().await;
        return of(config.map_err(|e| ClientError::NotFound(Box::new(e)))?);
    };
    let first = Current {
        written: written(path),
        client: of(from_file(path).await?)?,
    };
    let namespace = first.client.default_namespace().to_owned();
    let followed = Arc::new(Followed {
        path: path.to_owned(),
        current: Mutex::new(first),
    });
    let service = service_fn(move |request: Request<Body>| {
        let followed = followed.clone();
        async move { followed.client().await.send(request).await }
    });
    Ok(ClientBuilder::new(service, namespace).build())
}

fn of(mut config: kube::Config) -> Result<Client, ClientError> {
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(READ_LIMIT);
    Client::try_from(config).map_err(|e| ClientError::SetUp(Box::new(e)))
}

/// A kubeconfig file, and a client by what is in it.
struct Followed {
    path: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    written: Option<SystemTime>,
    client: Client,
}

impl Followed {
    /// A file that cannot be used leaves the client before in use.
    async fn client(&self) -> Client {
        let mut current = self.current.lock().await;
        let written = written(&self.path);
        if written.is_some() && written != current.written {
            current.written = written;
            match from_file(&self.path).await.and_then(of) {
                Ok(client) => current.client = client,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the kubeconfig before stays in use");
                }
            }
        }
        current.client.clone()
    }
}

fn written(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|meta| meta.modified()).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Authority, LeafRequest, Usage, files, kubeconfig, tls};
    use rustls::sign::SingleCertAndKey;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use x509_parser::prelude::{FromDer, X509Certificate};

    /// Answers every request with the common name of whoever asks.
    async fn who_asks(listener: TcpListener, tls: TlsAcceptor) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tls.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let shown = stream.get_ref().1.peer_certificates().unwrap();
            let (_, leaf) = X509Certificate::from_der(&shown[0]).unwrap();
            let name = leaf.subject().iter_common_name().next().unwrap();
            let name = name.as_str().unwrap();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}",
                name.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_certificate_that_is_renewed_is_shown_from_the_next_request_on() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path()).unwrap();
        let serving = LeafRequest::new("server", Usage::Server).sans(["127.0.0.1"]);
        let serving = tls::certified_key(&ca.leaf(&serving).unwrap()).unwrap();
        let config = tls::open_server_config(Arc::new(SingleCertAndKey::from(serving))).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let answering = tokio::spawn(who_asks(listener, TlsAcceptor::from(Arc::new(config))));

        let path = dir.path().join("kubeconfig");
        let write = |content: &str| files::write(&path, 0o600, content.as_bytes()).unwrap();
        let shows = |name: &str| {
            let leaf = ca.leaf(&LeafRequest::new(name, Usage::Client)).unwrap();
            write(&kubeconfig(&server, ca.certificate(), &leaf));
        };
        shows("first");
        let client = client(Some(&path)).await.unwrap();
        let asked = async || {
            let request = Request::get("/version").body(vec![]).unwrap();
            client.request_text(request).await.unwrap()
        };
        assert_eq!(asked().await, "first");
        shows("second");
        assert_eq!(asked().await, "second");
        write("no: kubeconfig");
        assert_eq!(asked().await, "second");
        shows("third");
        assert_eq!(asked().await, "third");
        answering.abort();
    }
}
