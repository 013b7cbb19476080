//! Mutual TLS from PEM that somebody renews. New connections are made with what is there now, without a restart; those that
//! are open go on.

use super::Error;
use crate::identity::tls::{ClientCertificates, certified_key, open_server_config, server_config};
use crate::identity::{IdentityError, Leaf};
use crate::telemetry::chain;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// How often the files are looked at. Kubernetes swaps those of a Secret by a symbolic link, all at once.
const LOOK: Duration = Duration::from_secs(2);

/// Where a process finds its certificates: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that sign our peers'.
    pub ca: PathBuf,
    /// Our own certificate, leaf first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads and checks the three files. An error names the file and what is wrong with it.
    pub fn load(&self) -> Result<Tls, Error> {
        let tls = Tls::not_yet();
        self.look(&tls)?;
        Ok(tls)
    }

    /// The same, and looks for new files until `stop`.
    pub fn follow(&self, stop: &CancellationToken) -> Result<Tls, Error> {
        let tls = self.load()?;
        let following = self.clone().looking(tls.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(following));
        Ok(tls)
    }

    /// What cannot be used, such as a new certificate whose key is not there yet, leaves the old one in use and is looked at
    /// again.
    async fn looking(self, tls: Tls) {
        let (mut ticks, mut told) = (tokio::time::interval(LOOK), None);
        loop {
            ticks.tick().await;
            let unusable = self.look(&tls).err().map(|error| chain(&error));
            if unusable.is_some() && unusable != told {
                tracing::warn!(error = unusable, "the old certificate stays in use");
            }
            told = unusable;
        }
    }

    fn look(&self, tls: &Tls) -> Result<(), Error> {
        let leaf = Leaf {
            chain: read("certificate", &self.cert, holds_certificate)?,
            key: read("private key", &self.key, holds_key)?,
        };
        tls.replace(read("CA certificate", &self.ca, holds_certificate)?, leaf)
    }
}

/// Who we are to our peers and whom we take for one, as it is now. Clones are one.
#[derive(Clone, Debug)]
pub struct Tls(Arc<watch::Sender<Option<Arc<Pems>>>>);

/// What belongs together at one time.
pub(super) struct Pems {
    ca: String,
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    peers: ClientCertificates,
}

impl fmt::Debug for Pems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pems").finish_non_exhaustive()
    }
}

impl Pems {
    /// For a client: the server must show a certificate of our CA with the name `component` (such as `apiserver`),
    /// whatever address it is reached at.
    pub(super) fn client(&self, component: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.leaf.chain, &self.leaf.key))
            .ca_certificate(Certificate::from_pem(&self.ca))
            .domain_name(component)
    }
}

impl Tls {
    /// Of one who has no certificate yet: nobody can be called, and no handshake succeeds.
    pub fn not_yet() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Takes a CA bundle and our own certificate from now on. What cannot be used changes nothing.
    pub fn replace(&self, ca: String, leaf: Leaf) -> Result<(), Error> {
        let same = |now: &Pems| now.ca == ca && now.leaf == leaf;
        if self.0.borrow().as_deref().is_some_and(same) {
            return Ok(());
        }
        let unusable = |e: IdentityError| Error::UnusableTls(Box::new(e));
        let new = Pems {
            certified: Arc::new(certified_key(&leaf).map_err(unusable)?),
            peers: ClientCertificates::of(&ca).map_err(unusable)?,
            ca,
            leaf,
        };
        let first = self.0.send_replace(Some(Arc::new(new))).is_none();
        if !first {
            tracing::info!("new certificates are in use");
        }
        Ok(())
    }

    /// Returns when there is a certificate.
    pub async fn ready(&self) {
        // The sender is ours: it does not go away.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    /// What `make` makes of the CA bundle and our own certificate, both PEM, now and whenever they change: for clients that are not
    /// of this room.
    pub fn map<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&str, &Leaf) -> T + Send + 'static,
    ) -> watch::Receiver<Option<T>> {
        let mut pems = self.0.subscribe();
        let made = move |pems: &mut watch::Receiver<Option<Arc<Pems>>>| {
            let now = pems.borrow_and_update();
            now.as_ref().map(|now| make(&now.ca, &now.leaf))
        };
        let (sender, receiver) = watch::channel(made(&mut pems));
        tokio::spawn(async move {
            while pems.changed().await.is_ok() {
                sender.send_replace(made(&mut pems));
            }
        });
        receiver
    }

    pub(super) fn now(&self) -> Result<Arc<Pems>, Error> {
        self.0.borrow().clone().ok_or(Error::NoCertificateYet)
    }

    /// For a server: only clients with a certificate of our CA get in.
    pub fn server(&self) -> Result<ServerConfig, Error> {
        let clients = Arc::new(Peers(self.clone()));
        let config = server_config(Arc::new(self.clone()), clients);
        let mut config = config.map_err(|e| Error::UnusableTls(Box::new(e)))?;
        // Each connection is looked at anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For a server that asks clients for a certificate and takes any, or none.
    pub fn open_server(&self) -> Result<ServerConfig, Error> {
        let config = open_server_config(Arc::new(self.clone()));
        config.map_err(|e| Error::UnusableTls(Box::new(e)))
    }

    /// Whether a client's chain, leaf first, is of our CA.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let peers = &self.now()?.peers;
        peers.verify(chain).map_err(Error::NotOurs)
    }
}

impl ResolvesServerCert for Tls {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now().ok()?.certified.clone())
    }
}

/// Takes whom our CA signed, as it is at that time.
#[derive(Debug)]
struct Peers(Tls);

impl Peers {
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let now = self.0.now();
        let now = now.map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(now.peers.verifier().clone())
    }
}

impl ClientCertVerifier for Peers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier()?.verify_client_cert(leaf, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier()
            .map(|v| v.supported_verify_schemes())
            .unwrap_or_default()
    }
}

type Check = fn(&[u8]) -> Result<(), rustls::pki_types::pem::Error>;

fn holds_certificate(pem: &[u8]) -> Result<(), rustls::pki_types::pem::Error> {
    CertificateDer::from_pem_slice(pem).map(|_| ())
}

fn holds_key(pem: &[u8]) -> Result<(), rustls::pki_types::pem::Error> {
    PrivateKeyDer::from_pem_slice(pem).map(|_| ())
}

fn read(what: &'static str, path: &Path, check: Check) -> Result<String, Error> {
    let pem = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })?;
    check(pem.as_bytes()).map_err(|source| Error::NotPem {
        what,
        path: path.to_owned(),
        source,
    })?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Authority;
    use super::*;

    #[test]
    fn an_error_names_the_file() {
        let authority = Authority::new();
        let files = authority.issue("apiserver");
        assert!(files.load().is_ok());

        let mut missing = files.clone();
        missing.key = authority.path("nowhere.key");
        let error = missing.load().err().unwrap().to_string();
        assert!(error.starts_with("cannot read the private key "), "{error}");
        assert!(error.ends_with("nowhere.key"), "{error}");

        let mut swapped = files.clone();
        std::mem::swap(&mut swapped.cert, &mut swapped.key);
        let error = swapped.load().err().unwrap().to_string();
        assert!(
            error.ends_with("holds no certificate in PEM form"),
            "{error}"
        );
    }

    #[test]
    fn a_foreign_key_is_told_apart() {
        let authority = Authority::new();
        let mut files = authority.issue("router");
        files.key = authority.issue("atelet").key;
        let error = files.load().unwrap_err();
        assert!(matches!(error, Error::UnusableTls(_)), "{error:?}");
    }

    #[test]
    fn a_new_pair_is_taken_half_of_one_is_not() {
        let authority = Authority::new();
        let files = authority.issue("apiserver");
        let tls = files.load().unwrap();
        let served = || tls.now().unwrap().certified.cert.clone();
        let first = served();
        let old_key = std::fs::read(&files.key).unwrap();
        authority.issue("apiserver");
        let new_key = std::fs::read(&files.key).unwrap();
        std::fs::write(&files.key, old_key).unwrap();
        assert!(files.look(&tls).is_err(), "its key is not there yet");
        assert_eq!(served(), first);
        std::fs::write(&files.key, new_key).unwrap();
        files.look(&tls).unwrap();
        assert_ne!(served(), first);
    }
}
