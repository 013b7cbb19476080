//! Client certificates: common name = user, organizations = groups (apiserver/pkg/authentication/request/x509).

use super::gate::{Authenticator, Credentials, Unrecognised};
use super::trust::Trust;
use super::user::User;
use crate::identity::{IdentityError, Peer};
use crate::rpc::Tls;
use crate::telemetry;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// Recognises clients by certificates of a CA.
#[derive(Debug)]
pub struct ClientCa(Roots);

#[derive(Debug)]
enum Roots {
    Ours(Tls),
    Cluster(Arc<ArcSwap<Trust>>),
}

impl ClientCa {
    /// Of our own CA, as it is at each request.
    pub fn ours(tls: Tls) -> Self {
        Self(Roots::Ours(tls))
    }

    /// Of the cluster's CA, as it is at each request.
    pub fn of_cluster(trust: Arc<ArcSwap<Trust>>) -> Self {
        Self(Roots::Cluster(trust))
    }

    /// Who the certificate is for.
    pub fn recognise(
        &self,
        chain: &[CertificateDer<'static>],
    ) -> Result<Option<User>, Unrecognised> {
        let Some(leaf) = chain.first() else {
            return Ok(None);
        };
        let bad = |e: IdentityError| Unrecognised::Bad(e.to_string());
        match &self.0 {
            Roots::Ours(tls) => tls
                .verify(chain)
                .map_err(|e| Unrecognised::Bad(telemetry::chain(&e)))?,
            Roots::Cluster(trust) => match &trust.load().client_ca {
                Some(ca) => ca.verify(chain).map_err(bad)?,
                None => return Ok(None),
            },
        }
        let peer = Peer::from_certificate(leaf).map_err(bad)?;
        Ok(Some(User {
            name: peer.user,
            groups: peer.groups,
            ..User::default()
        }))
    }
}

#[async_trait]
impl Authenticator for ClientCa {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<User>, Unrecognised> {
        self.recognise(credentials.certificates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::testing::Pki;

    #[test]
    fn only_certificates_of_the_ca_are_believed() {
        let (ours, theirs) = (Pki::new(), Pki::new());
        let ca = ClientCa::ours(ours.tls());
        let anna = ca.recognise(&ours.client("anna", Some("team-a"))).unwrap();
        let anna = anna.unwrap();
        assert_eq!(
            (anna.name.as_str(), anna.groups),
            ("anna", vec!["team-a".to_owned()])
        );
        assert!(ca.recognise(&theirs.client("anna", None)).is_err());
        assert!(
            ca.recognise(&ours.server("anna")).is_err(),
            "not for clients"
        );
        assert_eq!(ca.recognise(&[]).unwrap(), None);
    }
}
