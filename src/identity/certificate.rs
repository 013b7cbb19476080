//! What a certificate says, as far as whoever issues and renews it wants to know.

use super::authority::{LeafRequest, Usage};
use super::{IdentityError, bad, peer};
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, SystemTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A certificate that can be read. Equal are those of the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    pem: String,
    life: Range<SystemTime>,
}

impl Certificate {
    /// The first one of a PEM text.
    pub fn first(pem: &str) -> Result<Self, IdentityError> {
        let block = blocks(pem).next();
        Self::read(block.ok_or_else(|| bad("the certificate", "there is none"))?)
    }

    /// Those of a PEM text that can be read.
    pub fn all(pem: &str) -> Vec<Self> {
        blocks(pem).filter_map(|b| Self::read(b).ok()).collect()
    }

    fn read(block: &str) -> Result<Self, IdentityError> {
        let fail = |e: String| bad("the certificate", e);
        let (_, pem) = parse_x509_pem(block.as_bytes()).map_err(|e| fail(e.to_string()))?;
        let parsed = pem.parse_x509().map_err(|e| fail(e.to_string()))?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let life = at(parsed.validity().not_before)..at(parsed.validity().not_after);
        Ok(Self {
            der: pem.contents,
            pem: format!("{block}\n"),
            life,
        })
    }

    fn parsed(&self) -> Option<X509Certificate<'_>> {
        Some(X509Certificate::from_der(&self.der).ok()?.1)
    }

    /// As PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// When it is valid.
    pub fn life(&self) -> &Range<SystemTime> {
        &self.life
    }

    /// Whether it may sign others.
    pub fn is_ca(&self) -> bool {
        self.parsed().is_some_and(|c| c.is_ca())
    }

    /// Whether a CA signed it. When the two are valid does not matter.
    pub fn is_signed_by(&self, ca: &Self) -> bool {
        self.parsed().zip(ca.parsed()).is_some_and(|(leaf, ca)| {
            leaf.issuer() == ca.subject() && leaf.verify_signature(Some(ca.public_key())).is_ok()
        })
    }

    /// Whether a private key, PEM, is its own.
    pub fn has_key(&self, key: &str) -> bool {
        let key = rcgen::KeyPair::from_pem(key).ok();
        key.zip(self.parsed()).is_some_and(|(key, own)| {
            own.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
        })
    }

    /// Whether it says what is asked for; how long it is valid does not matter.
    pub fn says(&self, request: &LeafRequest) -> bool {
        let wanted = peer::Peer {
            user: request.name.clone(),
            groups: request.group.iter().cloned().collect(),
        };
        self.parsed().is_some_and(|c| {
            peer::of_certificate(&c) == wanted
                && names(&c) == sorted(request.sans.clone())
                && usage(&c) == Some(request.usage)
        })
    }
}

fn blocks(pem: &str) -> impl Iterator<Item = &str> {
    let parts = pem.split_inclusive(END);
    parts.filter_map(|part| part.find(BEGIN).map(|at| &part[at..]))
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let address = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    let extension = leaf.subject_alternative_name().ok().flatten();
    let all = extension.iter().flat_map(|e| &e.value.general_names);
    let all = all.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
        _ => None,
    });
    sorted(all.collect())
}

fn usage(leaf: &X509Certificate<'_>) -> Option<Usage> {
    let extension = leaf.extended_key_usage().ok().flatten()?;
    match (extension.value.server_auth, extension.value.client_auth) {
        (true, true) => Some(Usage::Both),
        (true, false) => Some(Usage::Server),
        (false, true) => Some(Usage::Client),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Authority;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_says_what_was_asked_for_and_nothing_else() {
        let now = SystemTime::now();
        let ca = Authority::new("one", Duration::from_secs(9), now).unwrap();
        let other = Authority::new("one", Duration::from_secs(9), now).unwrap();
        let request =
            LeafRequest::new("a", Usage::Both)
                .group("g")
                .sans(["x.example", "::1", "127.0.0.1"]);
        let leaf = ca.leaf(&request).unwrap();
        let read = Certificate::first(&leaf.chain).unwrap();
        assert!(read.says(&request) && !read.is_ca());
        for different in [
            LeafRequest::new("a", Usage::Both).group("g"),
            request.clone().sans(["y.example"]),
            request.clone().group("h"),
            LeafRequest {
                usage: Usage::Client,
                ..request.clone()
            },
        ] {
            assert!(!read.says(&different), "{different:?}");
        }
        let certificate = |ca: &Authority| Certificate::first(ca.certificate()).unwrap();
        assert!(certificate(&ca).is_ca());
        assert!(read.is_signed_by(&certificate(&ca)));
        assert!(!read.is_signed_by(&certificate(&other)), "the same name");
        assert!(read.has_key(&leaf.key));
        assert!(!read.has_key(&ca.leaf(&request).unwrap().key));
        assert!(!read.has_key("garbage"));
    }

    #[test]
    fn of_a_bundle_what_can_be_read_is_read() {
        let ca = |name| Authority::new(name, Duration::from_secs(9), SystemTime::now()).unwrap();
        let (one, two) = (ca("one"), ca("two"));
        let bundle = format!(
            "first\n{}{BEGIN}\n!!\n{END}\n# second\n{}{BEGIN}",
            one.certificate(),
            two.certificate()
        );
        let all = Certificate::all(&bundle);
        let wanted = [&one, &two].map(|ca| Certificate::first(ca.certificate()).unwrap());
        assert_eq!(all, wanted);
        let together: String = all.iter().map(Certificate::pem).collect();
        assert_eq!(Certificate::all(&together), wanted);
    }

    proptest! {
        #[test]
        fn garbage_is_no_certificate(text in ".{0,200}") {
            let block = format!("{BEGIN}\n{text}\n{END}");
            prop_assert!(Certificate::all(&text).is_empty());
            prop_assert!(Certificate::first(&block).is_err());
        }
    }
}
