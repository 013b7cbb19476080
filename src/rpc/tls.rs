//! Mutual TLS from PEM files, as tonic wants it. Files are read once, when asked.

use super::Error;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

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

/// What was in the files.
#[derive(Clone)]
pub struct Tls {
    ca: Certificate,
    identity: Identity,
}

impl TlsFiles {
    /// Reads and checks the three files. An error names the file and what is wrong with it.
    pub fn load(&self) -> Result<Tls, Error> {
        let ca = read("CA certificate", &self.ca, holds_certificate)?;
        let cert = read("certificate", &self.cert, holds_certificate)?;
        let key = read("private key", &self.key, holds_key)?;
        Ok(Tls {
            ca: Certificate::from_pem(ca),
            identity: Identity::from_pem(cert, key),
        })
    }
}

impl Tls {
    /// For a server: only clients with a certificate of our CA get in.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity.clone())
            .client_ca_root(self.ca.clone())
    }

    /// For a client: the server must show a certificate of our CA with the name `component` (such as `apiserver`),
    /// whatever address it is reached at.
    pub fn client(&self, component: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity.clone())
            .ca_certificate(self.ca.clone())
            .domain_name(component)
    }
}

type Check = fn(&[u8]) -> Result<(), rustls_pki_types::pem::Error>;

fn holds_certificate(pem: &[u8]) -> Result<(), rustls_pki_types::pem::Error> {
    CertificateDer::from_pem_slice(pem).map(|_| ())
}

fn holds_key(pem: &[u8]) -> Result<(), rustls_pki_types::pem::Error> {
    PrivateKeyDer::from_pem_slice(pem).map(|_| ())
}

fn read(what: &'static str, path: &Path, check: Check) -> Result<Vec<u8>, Error> {
    let pem = std::fs::read(path).map_err(|source| Error::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })?;
    check(&pem).map_err(|source| Error::NotPem {
        what,
        path: path.to_owned(),
        source,
    })?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Authority;

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
}
