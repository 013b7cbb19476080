//! Our REST API as this plugin needs it: one actor read, one order given, one log opened, tables.

use std::time::Duration;

use futures::AsyncBufRead;
use http::header::{ACCEPT, HeaderValue};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::args::Connection;
use super::error::Error;
use super::outcome::{Actor, Order};

/// How long one question may take. The server answers orders at once, whatever they lead to.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Where our API is.
const GROUP: &str = "/apis/runtime.ate.dev/v1alpha1";

/// The actors of one namespace on one server.
#[derive(Clone)]
pub(super) struct Actors {
    client: Client,
    server: String,
    namespace: String,
}

/// Which part of a log.
pub(super) struct LogQuery<'a> {
    pub(super) follow: bool,
    pub(super) container: Option<&'a str>,
    /// In lines, from the end.
    pub(super) tail: Option<u32>,
}

impl Actors {
    /// Reads the kubeconfig; connects at the first question.
    pub(super) async fn connect(connection: &Connection) -> Result<Actors, Error> {
        let kubeconfig = match &connection.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let options = KubeConfigOptions {
            context: connection.context.clone(),
            ..Default::default()
        };
        let kubeconfig = kubeconfig.map_err(Error::Kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(Error::Kubeconfig)?;
        config.connect_timeout = Some(ANSWER_WITHIN);
        // Retrying is decided here, where it is known what a user waits for.
        config.default_retry = false;
        let namespace = connection
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let server = config
            .cluster_url
            .to_string()
            .trim_end_matches('/')
            .to_owned();
        let client = Client::try_from(config).map_err(Error::Connection)?;
        Ok(Actors {
            client,
            server,
            namespace,
        })
    }

    /// The actor as it is now.
    pub(super) async fn get(&self, name: &str) -> Result<Actor, Error> {
        self.ask(Method::GET, &self.path(name)).await
    }

    /// Gives an order; returns the actor as it is just after, which is not yet the order's end.
    pub(super) async fn order(&self, order: Order, name: &str) -> Result<Actor, Error> {
        self.ask(
            Method::POST,
            &format!("{}/{}", self.path(name), order.subresource()),
        )
        .await
    }

    /// Opens an actor's log as a stream of bytes; with `follow` it ends only when the server ends it.
    pub(super) async fn log(
        &self,
        name: &str,
        query: &LogQuery<'_>,
    ) -> Result<impl AsyncBufRead + use<>, Error> {
        let path = format!("{}/log{}", self.path(name), query.render());
        let request = self.request(Method::GET, &path)?;
        match timeout(ANSWER_WITHIN, self.client.request_stream(request)).await {
            Ok(stream) => stream.map_err(|error| Error::from_kube(&self.server, error)),
            Err(_) => Err(self.silent(ANSWER_WITHIN)),
        }
    }

    /// Objects of a resource as the server's table of them, of our namespace or of all.
    pub(super) async fn table<T: DeserializeOwned>(
        &self,
        resource: &str,
        namespaced: bool,
    ) -> Result<T, Error> {
        let within = match namespaced {
            true => format!("namespaces/{}/", self.namespace),
            false => String::new(),
        };
        let mut request = self.request(Method::GET, &format!("{GROUP}/{within}{resource}"))?;
        let table = HeaderValue::from_static("application/json;as=Table;v=v1;g=meta.k8s.io");
        request.headers_mut().insert(ACCEPT, table);
        self.send(request).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Actor, Error> {
        self.send(self.request(method, path)?).await
    }

    async fn send<T: DeserializeOwned>(&self, request: Request<Vec<u8>>) -> Result<T, Error> {
        match timeout(ANSWER_WITHIN, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| Error::from_kube(&self.server, error)),
            Err(_) => Err(self.silent(ANSWER_WITHIN)),
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<Request<Vec<u8>>, Error> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, "application/json, */*")
            .header(
                http::header::USER_AGENT,
                concat!("kubectl-ate/", env!("CARGO_PKG_VERSION")),
            )
            .body(Vec::new())
            .map_err(|error| Error::Connection(kube::Error::HttpError(error)))
    }

    /// The names in it are labels (see args), so that they need no escaping; the kubeconfig's namespace is checked
    /// by `http` itself and by the server.
    fn path(&self, name: &str) -> String {
        format!("{GROUP}/namespaces/{}/actors/{name}", self.namespace)
    }

    /// The error for an answer that has not come `after` so long.
    pub(super) fn silent(&self, after: Duration) -> Error {
        Error::Silent {
            server: self.server.clone(),
            after,
        }
    }
}

impl LogQuery<'_> {
    fn render(&self) -> String {
        let follow = self.follow.then(|| "follow=true".to_owned());
        let container = self.container.map(|name| format!("container={name}"));
        let tail = self.tail.map(|lines| format!("tailLines={lines}"));
        let parts: Vec<String> = [follow, container, tail].into_iter().flatten().collect();
        if parts.is_empty() {
            String::new()
        } else {
            format!("?{}", parts.join("&"))
        }
    }
}

#[cfg(test)]
impl Actors {
    /// A client of a test's server.
    pub(super) fn of(address: std::net::SocketAddr) -> Actors {
        let server = format!("http://{address}");
        let mut config = Config::new(server.parse().unwrap());
        config.default_retry = false;
        Actors {
            client: Client::try_from(config).unwrap(),
            server,
            namespace: "team-a".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_query_names_only_what_was_asked() {
        assert_eq!(
            LogQuery {
                follow: false,
                container: None,
                tail: None
            }
            .render(),
            ""
        );
        assert_eq!(
            LogQuery {
                follow: false,
                container: None,
                tail: Some(0)
            }
            .render(),
            "?tailLines=0"
        );
        let all = LogQuery {
            follow: true,
            container: Some("browser"),
            tail: Some(20),
        };
        assert_eq!(all.render(), "?follow=true&container=browser&tailLines=20");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_the_users_to_mend() {
        let connection = Connection {
            kubeconfig: Some("/nonexistent/config".into()),
            ..Default::default()
        };
        let Err(error) = Actors::connect(&connection).await else {
            panic!("connected to nothing")
        };
        assert!(matches!(error, Error::Kubeconfig(_)));
        assert!(
            error.explained().contains("--kubeconfig")
                && error.explained().contains("/nonexistent/config")
        );
    }
}
