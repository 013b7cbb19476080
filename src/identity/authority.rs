//! A certificate authority, and leaves that it signs. That of `ate dev` lives in a directory.

use super::{Certificate, IdentityError, bad, files};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long the CA of a directory is valid.
pub const CA_VALIDITY: Duration = Duration::from_secs(3650 * DAY);
/// How long leaves are valid unless somebody says otherwise.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(90 * DAY);
/// Certificates are valid from a little before now, so that a slow clock elsewhere takes them.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
const DAY: u64 = 24 * 3600;
const CA_NAME: &str = "ate development CA";

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To serve.
    Server,
    /// To call.
    Client,
    /// To serve and to call.
    Both,
}

/// What a leaf shall say.
#[derive(Clone, Debug)]
pub struct LeafRequest {
    /// Common name: the user that a client is.
    pub name: String,
    /// Organization: the group that a client is in (rcgen writes at most one).
    pub group: Option<String>,
    /// DNS names and IP addresses under which it serves.
    pub sans: Vec<String>,
    /// What it is good for.
    pub usage: Usage,
    /// How long it is valid.
    pub validity: Duration,
}

impl LeafRequest {
    /// A leaf with the usual validity, without a group and names to serve under.
    pub fn new(name: impl Into<String>, usage: Usage) -> Self {
        Self {
            name: name.into(),
            group: None,
            sans: vec![],
            usage,
            validity: LEAF_VALIDITY,
        }
    }

    /// Puts the client in a group.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Adds DNS names or IP addresses to serve under.
    pub fn sans<T: Into<String>>(mut self, sans: impl IntoIterator<Item = T>) -> Self {
        self.sans.extend(sans.into_iter().map(Into::into));
        self
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf first.
    pub chain: String,
    /// PKCS #8.
    pub key: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// The authority in a directory (`ca.crt`, `ca.key`); made when there is none. A damaged one is an error: to
    /// replace it in silence would lock out whoever trusts it.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let (certificate_file, key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
        if let (Some(certificate), Some(key)) =
            (files::read(&certificate_file)?, files::read(&key_file)?)
        {
            return Self::from_pem(certificate, &key);
        }
        let new = Self::new(CA_NAME, CA_VALIDITY, SystemTime::now())?;
        files::write(&key_file, files::SECRET_MODE, new.key().as_bytes())?;
        files::write(
            &certificate_file,
            files::PUBLIC_MODE,
            new.certificate.as_bytes(),
        )?;
        Ok(new)
    }

    /// A new authority, valid from `now`.
    pub fn new(name: &str, validity: Duration, now: SystemTime) -> Result<Self, IdentityError> {
        let fail = |source| IdentityError::Issue {
            name: name.to_owned(),
            source,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, validity, now);
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.self_signed(&key).map_err(fail)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Of a CA's certificate and key, PEM.
    pub fn from_pem(certificate: String, key: &str) -> Result<Self, IdentityError> {
        if !Certificate::first(&certificate)?.has_key(key) {
            return Err(bad(
                "ca.crt",
                "it does not belong to ca.key; remove both to make new ones",
            ));
        }
        let key = KeyPair::from_pem(key).map_err(|e| bad("ca.key", e))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(|e| bad("ca.crt", e))?;
        Ok(Self {
            issuer,
            certificate,
        })
    }

    /// Its private key, PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The CA's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a leaf.
    pub fn leaf(&self, request: &LeafRequest) -> Result<Leaf, IdentityError> {
        self.leaf_at(request, SystemTime::now())
    }

    /// Issues a leaf that is valid from `now`.
    pub fn leaf_at(&self, request: &LeafRequest, now: SystemTime) -> Result<Leaf, IdentityError> {
        let fail = |source| IdentityError::Issue {
            name: request.name.clone(),
            source,
        };
        let mut params = CertificateParams::new(request.sans.clone()).map_err(fail)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, &request.name);
        if let Some(group) = &request.group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        valid_for(&mut params, request.validity, now);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok(Leaf {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The leaf in `dir/NAME.crt` and `dir/NAME.key`; issued anew when it is absent, of another CA, says something else,
    /// or has less than a third of its life left.
    pub fn leaf_in(&self, dir: &Path, request: &LeafRequest) -> Result<Leaf, IdentityError> {
        self.leaf_in_at(dir, request, SystemTime::now())
    }

    /// The same as it is at `now`.
    pub fn leaf_in_at(
        &self,
        dir: &Path,
        request: &LeafRequest,
        now: SystemTime,
    ) -> Result<Leaf, IdentityError> {
        let file = request.name.replace(['/', ':'], "-");
        let (chain_file, key_file) = (
            dir.join(format!("{file}.crt")),
            dir.join(format!("{file}.key")),
        );
        if let (Some(chain), Some(key)) = (files::read(&chain_file)?, files::read(&key_file)?)
            && self.still_good(&chain, &key, request, now)
        {
            return Ok(Leaf { chain, key });
        }
        let leaf = self.leaf_at(request, now)?;
        files::write(&key_file, files::SECRET_MODE, leaf.key.as_bytes())?;
        files::write(&chain_file, files::PUBLIC_MODE, leaf.chain.as_bytes())?;
        Ok(leaf)
    }

    fn still_good(&self, chain: &str, key: &str, request: &LeafRequest, now: SystemTime) -> bool {
        let (Ok(leaf), Ok(ca)) = (
            Certificate::first(chain),
            Certificate::first(&self.certificate),
        ) else {
            return false;
        };
        let left = leaf.life().end.duration_since(now);
        leaf.is_signed_by(&ca)
            && leaf.has_key(key)
            && leaf.says(request)
            && left.is_ok_and(|left| left > request.validity / 3)
    }
}

fn valid_for(params: &mut CertificateParams, validity: Duration, now: SystemTime) {
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let one = Authority::load_or_create(dir.path()).unwrap();
        let two = Authority::load_or_create(dir.path()).unwrap();
        assert_eq!(one.certificate(), two.certificate());
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Authority::load_or_create(a.path()).unwrap();
        Authority::load_or_create(b.path()).unwrap();
        std::fs::copy(b.path().join("ca.key"), a.path().join("ca.key")).unwrap();
        let error = Authority::load_or_create(a.path()).err().unwrap();
        assert!(error.to_string().contains("does not belong"), "{error}");
    }

    #[test]
    fn a_leaf_is_kept_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path()).unwrap();
        let request = LeafRequest::new("ate:dev", Usage::Both)
            .group("ate:component")
            .sans(["localhost", "127.0.0.1", "::1"]);
        let of = |request: &LeafRequest| ca.leaf_in(dir.path(), request).unwrap().chain;
        let first = of(&request);
        assert_eq!(of(&request), first);
        assert_ne!(of(&request.clone().sans(["other"])), first);

        // Issued with a third of what is asked for, so less than a third is left.
        let short = LeafRequest {
            validity: LEAF_VALIDITY / 3 - Duration::from_secs(60),
            ..request.clone()
        };
        let leaf = ca.leaf(&short).unwrap();
        std::fs::write(dir.path().join("ate-dev.crt"), &leaf.chain).unwrap();
        std::fs::write(dir.path().join("ate-dev.key"), &leaf.key).unwrap();
        assert_ne!(of(&request), leaf.chain);

        let elsewhere = tempfile::tempdir().unwrap();
        let other = Authority::load_or_create(elsewhere.path()).unwrap();
        let current = of(&request);
        assert_ne!(other.leaf_in(dir.path(), &request).unwrap().chain, current);
    }
}
