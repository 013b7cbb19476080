//! A server's certificate from files that somebody renews: new connections get the new one, without a restart.

use super::tls::certified_key;
use super::{IdentityError, Leaf, bad, files};
use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The certificate as it is now.
#[derive(Debug)]
pub struct Serving {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

impl Serving {
    /// Reads certificate chain and key, PEM.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, IdentityError> {
        let read = read(certificate, key)?;
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(certified_key(&read)?),
        }))
    }

    /// Looks for new files until `stop`. What cannot be used, such as a new certificate whose key is not there yet, leaves
    /// the old one in use and is looked at again.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.look() {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(file = %self.certificate.display(), "serving a new certificate");
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the old certificate stays in use"
                    );
                }
            }
        }
    }

    /// Takes a new certificate, if there is one.
    fn look(&self) -> Result<bool, IdentityError> {
        let new = certified_key(&read(&self.certificate, &self.key)?)?;
        let is_new = new.cert != self.current.load().cert;
        if is_new {
            self.current.store(Arc::new(new));
        }
        Ok(is_new)
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Leaf, IdentityError> {
    let text = |path: &Path| {
        files::read(path)?.ok_or_else(|| bad(path.display().to_string(), "there is no such file"))
    };
    Ok(Leaf {
        chain: text(certificate)?,
        key: text(key)?,
    })
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, LeafRequest, Usage};
    use super::*;

    #[test]
    fn a_new_pair_is_taken_half_of_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path()).unwrap();
        let new = || ca.leaf(&LeafRequest::new("api", Usage::Server)).unwrap();
        let (certificate, key) = (dir.path().join("a.crt"), dir.path().join("a.key"));
        let (one, two) = (new(), new());
        std::fs::write(&certificate, &one.chain).unwrap();
        std::fs::write(&key, &one.key).unwrap();
        let serving = Serving::load(&certificate, &key).unwrap();
        let served = || serving.current.load().cert.clone();
        let first = served();
        assert!(!serving.look().unwrap(), "nothing new");
        std::fs::write(&certificate, &two.chain).unwrap();
        assert!(serving.look().is_err(), "its key is not there yet");
        assert_eq!(served(), first);
        std::fs::write(&key, &two.key).unwrap();
        assert!(serving.look().unwrap());
        assert_ne!(served(), first);
    }
}
