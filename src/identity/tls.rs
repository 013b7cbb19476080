//! TLS from PEM, for rustls. Provider: ring, whatever else is linked in.

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

/// A server that asks clients for a certificate and takes any, or none: who they are is found out per request, by CAs that may
/// change meanwhile. TLS still proves that the client has the key. `serving` is asked for the server's certificate at each
/// handshake.
pub fn open_server_config(
    serving: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, IdentityError> {
    let mut config = server_config(serving, Arc::new(TakesAny(provider())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A server that takes the clients that `clients` takes. No ALPN.
pub fn server_config(
    serving: Arc<dyn ResolvesServerCert>,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, IdentityError> {
    Ok(ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(serving))
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

    /// As rustls wants it, for a server whose clients are all to have one.
    pub fn verifier(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.0
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

#[cfg(test)]
mod tests {
    use super::super::{Authority, LeafRequest, Peer, Usage};
    use super::*;
    use rustls::sign::SingleCertAndKey;
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

    fn serving(leaf: &Leaf) -> ServerConfig {
        let key = SingleCertAndKey::from(certified_key(leaf).unwrap());
        open_server_config(Arc::new(key)).unwrap()
    }

    /// What the client showed, or that there was no connection.
    async fn meet(
        server: ServerConfig,
        client: ClientConfig,
        name: &'static str,
    ) -> Result<Vec<CertificateDer<'static>>, ()> {
        let (a, b) = tokio::io::duplex(1 << 16);
        let accept = async {
            let mut tls = tokio_rustls::TlsAcceptor::from(Arc::new(server))
                .accept(a)
                .await
                .map_err(|_| ())?;
            let shown = tls.get_ref().1.peer_certificates();
            let shown = shown.unwrap_or_default().to_vec();
            tls.write_all(b"!").await.map_err(|_| ())?;
            tls.flush().await.map_err(|_| ())?;
            Ok(shown)
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
    async fn whoever_connects_only_clients_of_the_ca_are_believed() {
        let pki = pki();
        let server = LeafRequest::new("api", Usage::Server).sans(["localhost", "127.0.0.1"]);
        let server = pki.ca.leaf(&server).unwrap();
        let request = LeafRequest::new("anna", Usage::Client).group("one");
        let anna = pki.ca.leaf(&request).unwrap();
        let stranger = self::pki();
        let eve = stranger.ca.leaf(&request).unwrap();
        let ca = ClientCertificates::of(pki.ca.certificate()).unwrap();
        let with = |leaf: Option<&Leaf>| client_config(leaf, pki.ca.certificate()).unwrap();
        for name in ["localhost", "127.0.0.1"] {
            let shown = meet(serving(&server), with(Some(&anna)), name).await;
            let shown = shown.unwrap();
            ca.verify(&shown).unwrap();
            let peer = Peer::from_certificate(&shown[0]).unwrap();
            assert_eq!(peer.user, "anna");
            assert_eq!(peer.groups, ["one"]);
        }
        for (leaf, what) in [
            (None, "none"),
            (Some(&eve), "of another CA"),
            (Some(&server), "a server's"),
        ] {
            let shown = meet(serving(&server), with(leaf), "localhost").await;
            assert!(ca.verify(&shown.unwrap()).is_err(), "{what}");
        }
        let elsewhere = meet(serving(&server), with(Some(&anna)), "elsewhere").await;
        assert!(elsewhere.is_err());
    }

    #[test]
    fn damaged_pem_is_named() {
        let pki = pki();
        let leaf = pki.ca.leaf(&LeafRequest::new("x", Usage::Server)).unwrap();
        let e = ClientCertificates::of("nothing").unwrap_err();
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
