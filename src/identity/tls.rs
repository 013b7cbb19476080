//! Mutual TLS from PEM, for rustls (hyper) and tonic. Provider: ring, whatever else is linked in.

use super::{IdentityError, Leaf, bad};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::sync::Arc;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Whether a client has to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without one the handshake fails.
    Required,
    /// Without one the client is nobody; a bad one fails the handshake.
    Optional,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unusable(e: impl std::error::Error + Send + Sync + 'static) -> IdentityError {
    IdentityError::Unusable(Box::new(e))
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(what, e))?;
    if all.is_empty() {
        return Err(bad(what, "it holds no certificate"));
    }
    Ok(all)
}

fn roots(ca: &str) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("the CA", ca)? {
        store.add(certificate).map_err(unusable)?;
    }
    Ok(Arc::new(store))
}

fn key(leaf: &Leaf) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(|e| bad("the private key", e))
}

/// A server that takes clients of `client_ca`; HTTP/2 and HTTP/1.1.
pub fn server_config(
    leaf: &Leaf,
    client_ca: &str,
    auth: ClientAuth,
) -> Result<ServerConfig, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(client_ca)?, provider());
    let verifier = match auth {
        ClientAuth::Required => verifier,
        ClientAuth::Optional => verifier.allow_unauthenticated(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier.build().map_err(unusable)?)
        .with_single_cert(certificates("the certificate", &leaf.chain)?, key(leaf)?)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A server that asks clients for a certificate and takes any, or none: who they are is found out per request, by CAs that may
/// change meanwhile. TLS still proves that the client has the key. `serving` is asked for the server's certificate at each
/// handshake.
pub fn open_server_config(
    serving: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(TakesAny(provider())))
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes any certificate whose key the client has.
#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ClientCertVerifier for TakesAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let all = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, all)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let all = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, all)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks clients' certificates against CAs, apart from any connection.
#[derive(Clone, Debug)]
pub struct ClientCertificates(Arc<dyn ClientCertVerifier>);

impl ClientCertificates {
    /// Of CAs, PEM.
    pub fn of(ca: &str) -> Result<Self, IdentityError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider());
        Ok(Self(verifier.build().map_err(unusable)?))
    }

    /// Whether a chain, leaf first, is signed by one of them, valid now, and a client's.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), IdentityError> {
        let (leaf, others) = chain
            .split_first()
            .ok_or_else(|| bad("the client's certificate", "there is none"))?;
        let verified = self.0.verify_client_cert(leaf, others, UnixTime::now());
        verified
            .map(|_| ())
            .map_err(|e| bad("the client's certificate", e))
    }
}

/// Certificate and key of a server, ready for rustls.
pub fn certified_key(leaf: &Leaf) -> Result<CertifiedKey, IdentityError> {
    let chain = certificates("the certificate", &leaf.chain)?;
    CertifiedKey::from_der(chain, key(leaf)?, &provider()).map_err(unusable)
}

/// A client that takes servers of `ca` and shows `leaf`. No ALPN: the HTTP client sets what it speaks.
pub fn client_config(leaf: Option<&Leaf>, ca: &str) -> Result<ClientConfig, IdentityError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots(ca)?);
    match leaf {
        None => Ok(config.with_no_client_auth()),
        Some(leaf) => config
            .with_client_auth_cert(certificates("the certificate", &leaf.chain)?, key(leaf)?)
            .map_err(unusable),
    }
}

/// The same for a tonic server.
pub fn tonic_server(leaf: &Leaf, client_ca: &str, auth: ClientAuth) -> ServerTlsConfig {
    ServerTlsConfig::new()
        .identity(Identity::from_pem(&leaf.chain, &leaf.key))
        .client_ca_root(Certificate::from_pem(client_ca))
        .client_auth_optional(auth == ClientAuth::Optional)
}

/// The same for a tonic client; `server` is the name that the server's certificate must carry.
pub fn tonic_client(leaf: &Leaf, ca: &str, server: &str) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .identity(Identity::from_pem(&leaf.chain, &leaf.key))
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(server)
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, LeafRequest, Peer, Usage};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Pki {
        _dir: tempfile::TempDir,
        ca: Authority,
    }

    fn pki() -> Pki {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path()).unwrap();
        Pki { _dir: dir, ca }
    }

    /// Who the server saw, or that there was no connection.
    async fn meet(
        server: ServerConfig,
        client: ClientConfig,
        name: &'static str,
    ) -> Result<Option<Peer>, ()> {
        let (a, b) = tokio::io::duplex(1 << 16);
        let accept = async {
            let mut tls = tokio_rustls::TlsAcceptor::from(Arc::new(server))
                .accept(a)
                .await
                .map_err(|_| ())?;
            let peer = tls.get_ref().1.peer_certificates().and_then(|c| c.first());
            let peer = peer.map(|c| Peer::from_certificate(c).unwrap());
            tls.write_all(b"!").await.map_err(|_| ())?;
            tls.flush().await.map_err(|_| ())?;
            Ok(peer)
        };
        let connect = async {
            let name = rustls::pki_types::ServerName::try_from(name).unwrap();
            let mut tls = tokio_rustls::TlsConnector::from(Arc::new(client))
                .connect(name, b)
                .await
                .map_err(|_| ())?;
            tls.read_u8().await.map_err(|_| ())
        };
        let (seen, met) = tokio::join!(accept, connect);
        met.and(seen)
    }

    #[tokio::test]
    async fn both_sides_know_each_other() {
        let pki = pki();
        let server = pki
            .ca
            .leaf(&LeafRequest::new("api", Usage::Server).sans(["localhost", "127.0.0.1"]))
            .unwrap();
        let client = pki
            .ca
            .leaf(&LeafRequest::new("anna", Usage::Client).group("one"))
            .unwrap();
        let ca = pki.ca.certificate();
        let serve = |auth| server_config(&server, ca, auth).unwrap();
        let with = || client_config(Some(&client), ca).unwrap();
        for name in ["localhost", "127.0.0.1"] {
            let peer = meet(serve(ClientAuth::Required), with(), name)
                .await
                .unwrap();
            let anna = Peer {
                user: "anna".into(),
                groups: vec!["one".into()],
            };
            assert_eq!(peer, Some(anna));
        }
        let without = || client_config(None, ca).unwrap();
        assert_eq!(
            meet(serve(ClientAuth::Optional), without(), "localhost").await,
            Ok(None)
        );
        assert!(
            meet(serve(ClientAuth::Required), without(), "localhost")
                .await
                .is_err()
        );
        assert!(
            meet(serve(ClientAuth::Required), with(), "elsewhere")
                .await
                .is_err()
        );
        let stranger = self::pki()
            .ca
            .leaf(&LeafRequest::new("eve", Usage::Client))
            .unwrap();
        let stranger = client_config(Some(&stranger), ca).unwrap();
        assert!(
            meet(serve(ClientAuth::Optional), stranger, "localhost")
                .await
                .is_err()
        );
        let wrong_use = client_config(Some(&server), ca).unwrap();
        assert!(
            meet(serve(ClientAuth::Required), wrong_use, "localhost")
                .await
                .is_err()
        );
    }

    #[test]
    fn damaged_pem_is_named() {
        let pki = pki();
        let leaf = pki.ca.leaf(&LeafRequest::new("x", Usage::Server)).unwrap();
        let e = server_config(&leaf, "nothing", ClientAuth::Required).unwrap_err();
        assert_eq!(
            e.to_string(),
            "the CA is not usable: it holds no certificate"
        );
        let no_key = Leaf {
            key: "-".into(),
            ..leaf
        };
        let e = client_config(Some(&no_key), pki.ca.certificate()).unwrap_err();
        assert!(
            e.to_string().starts_with("the private key is not usable"),
            "{e}"
        );
    }
}
