//! Requests to a replica itself: as the front proxy, with any certificate and any header.

use super::harness::{Cluster, PATIENCE};
use http::Method;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use serde_json::Value;
use std::process::Command;
use substrate::identity::Leaf;
use substrate::identity::tls::client_config;
use tokio::runtime::Runtime;

/// An HTTP/2 client; one connection per server.
pub struct Direct {
    pub runtime: Runtime,
    pub http: reqwest::Client,
    headers: Vec<(&'static str, String)>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Direct {
    fn new(ca: &str, leaf: Option<&Leaf>) -> Self {
        let mut tls = client_config(leaf, ca).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            runtime,
            http,
            headers: vec![],
        }
    }

    /// Somebody without a certificate.
    pub fn stranger(cluster: &Cluster) -> Self {
        Self::new(cluster.authority().certificate(), None)
    }

    /// Somebody with a certificate.
    pub fn with(cluster: &Cluster, leaf: &Leaf) -> Self {
        Self::new(cluster.authority().certificate(), Some(leaf))
    }

    /// kube-apiserver, with its own certificate.
    pub fn proxy(cluster: &Cluster) -> Self {
        let read = |file: &str| std::fs::read_to_string(cluster.path(file)).unwrap();
        let leaf = Leaf {
            chain: read("pki/front-proxy-client.crt"),
            key: read("pki/front-proxy-client.key"),
        };
        Self::with(cluster, &leaf)
    }

    /// The cluster's administrator, to be asked of kube-apiserver.
    pub fn kubernetes(cluster: &Cluster) -> Self {
        let read = |file: &str| std::fs::read_to_string(cluster.path(file)).unwrap();
        let leaf = Leaf {
            chain: read("pki/admin.crt"),
            key: read("pki/admin.key"),
        };
        Self::new(&read("pki/ca.crt"), Some(&leaf))
    }

    /// Says a header in every request.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Speaks as an administrator.
    pub fn by_admin(self) -> Self {
        self.header("x-remote-user", "admin")
            .header("x-remote-group", "system:masters")
    }

    pub fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        self.headers
            .iter()
            .fold(request, |r, (k, v)| r.header(*k, v))
    }

    pub fn try_send(&self, request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        self.runtime.block_on(async {
            let response = request.send().await?;
            let (code, headers) = (response.status().as_u16(), response.headers().clone());
            let text = response.text().await?;
            Ok(Answer {
                code,
                headers,
                body: serde_json::from_str(&text).unwrap_or_default(),
                text,
            })
        })
    }

    pub fn try_get(&self, url: &str) -> Result<Answer, reqwest::Error> {
        self.try_send(self.request(Method::GET, url))
    }

    #[track_caller]
    pub fn get(&self, url: &str) -> Answer {
        self.try_get(url).unwrap()
    }

    #[track_caller]
    pub fn send(&self, method: Method, url: &str, kind: &str, body: impl Into<String>) -> Answer {
        let request = self.request(method, url).header("content-type", kind);
        self.try_send(request.body(body.into())).unwrap()
    }
}

/// Certificate (PEM) and key of a CA of the cluster's, such as `front-proxy-ca`.
pub fn cluster_ca(cluster: &Cluster, name: &str) -> (String, KeyPair) {
    let certificate = std::fs::read_to_string(cluster.path(&format!("pki/{name}.crt"))).unwrap();
    // rcgen reads PKCS #8 only.
    let key = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-in"])
        .arg(cluster.path(&format!("pki/{name}.key")))
        .output()
        .unwrap();
    let key = KeyPair::from_pem(&String::from_utf8(key.stdout).unwrap()).unwrap();
    (certificate, key)
}

/// A client's certificate of a CA.
pub fn client_of(ca: (String, KeyPair), name: &str) -> Leaf {
    let issuer = Issuer::from_ca_cert_pem(&ca.0, ca.1).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Leaf {
        chain: certificate.pem(),
        key: key.serialize_pem(),
    }
}
