//! Who a client is, as its certificate says: common name = user, organizations = groups (Kubernetes' x509 rule).

use super::{IdentityError, bad};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// A client whose certificate has been verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The user.
    pub user: String,
    /// The groups.
    pub groups: Vec<String>,
}

impl Peer {
    /// Reads a certificate that TLS has verified already.
    pub fn from_certificate(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| bad("the client's certificate", e))?;
        let peer = of_certificate(&certificate);
        if peer.user.is_empty() {
            return Err(bad("the client's certificate", "it has no common name"));
        }
        Ok(peer)
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// The user and groups of a parsed certificate; an empty user where there is no common name.
pub(super) fn of_certificate(certificate: &X509Certificate<'_>) -> Peer {
    let subject = certificate.subject();
    let text =
        |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    Peer {
        user: subject
            .iter_common_name()
            .next()
            .and_then(text)
            .unwrap_or_default(),
        groups: subject.iter_organization().filter_map(text).collect(),
    }
}
