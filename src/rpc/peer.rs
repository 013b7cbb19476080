//! Who is at the other end of a mutual TLS connection.

use tonic::{Request, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The common name in the certificate of the client that sent `request`: the component, and for node agents which
/// node (what `identity` wrote there). The TLS layer has already checked the certificate against our CA.
///
/// `Unauthenticated` when there is no certificate or no name in it.
pub fn client_identity<T>(request: &Request<T>) -> Result<String, Status> {
    let certificates = request
        .peer_certs()
        .ok_or_else(|| Status::unauthenticated("the connection carries no client certificate"))?;
    certificates
        .first()
        .and_then(|leaf| common_name(leaf))
        .ok_or_else(|| Status::unauthenticated("the client certificate has no common name"))
}

/// The common name in a certificate.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    Some(name.as_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_certificate_no_identity() {
        let status = client_identity(&Request::new(())).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
    }

    proptest! {
        #[test]
        fn garbage_has_no_name(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(common_name(&der), None);
        }
    }
}
