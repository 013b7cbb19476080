//! The front proxy: kube-apiserver says in headers whom it authenticated
//! (apiserver/pkg/authentication/request/headerrequest/requestheader.go).

use super::gate::{Authenticator, Credentials, Unrecognised};
use super::trust::Trust;
use super::user::User;
use crate::identity::Peer;
use crate::identity::tls::ClientCertificates;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whose headers count, and which.
#[derive(Debug)]
pub struct ProxyTrust {
    /// Signs the proxy's certificate.
    pub ca: ClientCertificates,
    /// Common names of proxies; empty: any.
    pub allowed_names: Vec<String>,
    /// The first that is there is the user.
    pub username_headers: Vec<String>,
    /// All of them are groups.
    pub group_headers: Vec<String>,
    /// Headers that begin so are extra; the rest of the name is percent-encoded.
    pub extra_prefixes: Vec<String>,
    /// The first that is there is the uid.
    pub uid_headers: Vec<String>,
}

/// Recognises users by the proxy's headers.
#[derive(Debug)]
pub struct FrontProxy(Arc<ArcSwap<Trust>>);

impl FrontProxy {
    /// Of the proxies that are trusted at each request.
    pub fn new(trust: Arc<ArcSwap<Trust>>) -> Self {
        Self(trust)
    }
}

impl ProxyTrust {
    fn strip(&self, headers: &mut HeaderMap) {
        let is_ours = |name: &HeaderName| {
            let name = name.as_str();
            let named = [
                &self.username_headers,
                &self.group_headers,
                &self.uid_headers,
            ];
            named
                .into_iter()
                .flatten()
                .any(|n| n.eq_ignore_ascii_case(name))
                || self.extra_prefixes.iter().any(|p| rest(name, p).is_some())
        };
        let gone: Vec<_> = headers.keys().filter(|n| is_ours(n)).cloned().collect();
        for name in gone {
            headers.remove(name);
        }
    }

    fn check(&self, chain: &[CertificateDer<'static>]) -> Result<(), Unrecognised> {
        let bad = |e: crate::identity::IdentityError| {
            Unrecognised::Bad(format!("as a front proxy's: {e}"))
        };
        self.ca.verify(chain).map_err(bad)?;
        let name = match chain.first() {
            Some(leaf) => Peer::from_certificate(leaf).map_err(bad)?.user,
            None => String::new(),
        };
        if self.allowed_names.is_empty() || self.allowed_names.contains(&name) {
            return Ok(());
        }
        Err(Unrecognised::Bad(format!(
            "{name:?} is no front proxy's name"
        )))
    }

    fn user(&self, headers: &HeaderMap) -> Result<Option<User>, Unrecognised> {
        let first = |names: &[String]| -> Result<Option<String>, Unrecognised> {
            let mut found = names.iter().filter_map(|n| headers.get(n.as_str()));
            let found = found.find(|v| !v.is_empty());
            found.map(text).transpose()
        };
        let Some(name) = first(&self.username_headers)? else {
            return Ok(None);
        };
        let groups = self.group_headers.iter();
        let groups = groups.flat_map(|n| headers.get_all(n.as_str()));
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            for (header, value) in headers {
                if let Some(key) = rest(header.as_str(), prefix) {
                    let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                    extra.entry(key).or_default().push(text(value)?);
                }
            }
        }
        Ok(Some(User {
            name,
            uid: first(&self.uid_headers)?.unwrap_or_default(),
            groups: groups
                .filter(|v| !v.is_empty())
                .map(text)
                .collect::<Result<_, _>>()?,
            extra,
        }))
    }
}

/// What follows a prefix of a header's name.
fn rest<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

fn text(value: &HeaderValue) -> Result<String, Unrecognised> {
    let text = std::str::from_utf8(value.as_bytes());
    text.map(str::to_owned)
        .map_err(|_| Unrecognised::Bad("a front proxy's header is not UTF-8".into()))
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<User>, Unrecognised> {
        if credentials.certificates.is_empty() {
            return Ok(None);
        }
        match &self.0.load().proxy {
            None => Ok(None),
            Some(proxy) => {
                proxy.check(credentials.certificates)?;
                proxy.user(credentials.headers)
            }
        }
    }

    fn strip(&self, headers: &mut HeaderMap) {
        if let Some(proxy) = &self.0.load().proxy {
            proxy.strip(headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::testing::Pki;

    fn proxy(pki: &Pki, names: &[&str], uid: &[&str]) -> FrontProxy {
        let texts = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let proxy = ProxyTrust {
            ca: ClientCertificates::of(pki.ca()).unwrap(),
            allowed_names: texts(names),
            username_headers: texts(&["X-Remote-User"]),
            group_headers: texts(&["X-Remote-Group"]),
            extra_prefixes: texts(&["X-Remote-Extra-"]),
            uid_headers: texts(uid),
        };
        let trust = Trust {
            client_ca: None,
            proxy: Some(proxy),
        };
        FrontProxy::new(Arc::new(ArcSwap::from_pointee(trust)))
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "anna"),
            ("x-remote-uid", "42"),
            ("x-remote-group", "team-a"),
            ("x-remote-group", "team,b"),
            ("x-remote-extra-acme.com%2fscope", "read"),
            ("x-remote-extra-acme.com%2fscope", "write"),
            ("accept", "application/json"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    async fn ask(
        proxy: &FrontProxy,
        chain: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Result<Option<User>, Unrecognised> {
        let credentials = Credentials {
            certificates: chain,
            headers,
        };
        proxy.authenticate(credentials).await
    }

    #[tokio::test]
    async fn headers_count_from_the_proxy_only() {
        let (pki, other) = (Pki::new(), Pki::new());
        let p = proxy(&pki, &["front-proxy-client"], &[]);
        let good = pki.client("front-proxy-client", None);
        let user = ask(&p, &good, &headers()).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("anna", ""));
        assert_eq!(user.groups, ["team-a", "team,b"]);
        assert_eq!(user.extra["acme.com/scope"], ["read", "write"]);
        assert!(
            ask(&p, &pki.client("other", None), &headers())
                .await
                .is_err()
        );
        let stranger = other.client("front-proxy-client", None);
        assert!(ask(&p, &stranger, &headers()).await.is_err());
        assert_eq!(
            ask(&p, &[], &headers()).await.unwrap(),
            None,
            "no certificate"
        );
        assert_eq!(
            ask(&p, &good, &HeaderMap::new()).await.unwrap(),
            None,
            "no user"
        );
        let any = proxy(&pki, &[], &["X-Remote-Uid"]);
        let user = ask(&any, &pki.client("other", None), &headers()).await;
        assert_eq!(user.unwrap().unwrap().uid, "42");
    }

    #[test]
    fn the_headers_go() {
        let pki = Pki::new();
        let mut left = headers();
        proxy(&pki, &[], &["X-Remote-Uid"]).strip(&mut left);
        let left: Vec<_> = left.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["accept"]);
    }
}
