//! Client certificates: common name = user, organizations = groups (apiserver/pkg/authentication/request/x509).

use super::gate::{Authenticator, Credentials, Unrecognised};
use super::trust::Trust;
use super::user::User;
use crate::identity::tls::ClientCertificates;
use crate::identity::{IdentityError, Peer};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// Recognises clients by certificates of a CA.
#[derive(Debug)]
pub struct ClientCa(Roots);

#[derive(Debug)]
enum Roots {
    Fixed(ClientCertificates),
    Cluster(Arc<ArcSwap<Trust>>),
}

impl ClientCa {
    /// Of a CA that stays, PEM.
    pub fn fixed(ca: &str) -> Result<Self, IdentityError> {
        Ok(Self(Roots::Fixed(ClientCertificates::of(ca)?)))
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
            Roots::Fixed(ca) => ca.verify(chain).map_err(bad)?,
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
        let ca = ClientCa::fixed(ours.ca()).unwrap();
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
