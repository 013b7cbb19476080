//! Which S3 servers are talked to, and whose certificates are believed.

use http::Uri;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::net::IpAddr;

use super::{Result, SnapshotError};

/// Refuses what is no `https://` URL; credentials and snapshots go over plain HTTP only where they stay on this machine.
pub(super) fn check(endpoint: &str) -> Result<()> {
    let bad = |reason: &str| {
        Err(SnapshotError::BadEndpoint {
            endpoint: shown(endpoint),
            reason: reason.to_owned(),
        })
    };
    let Ok(uri) = endpoint.parse::<Uri>() else {
        return bad("write https://HOST:PORT");
    };
    if uri.authority().is_none_or(|a| a.as_str().contains('@')) {
        return bad("write https://HOST:PORT; keys come from AWS_* variables or the AWS profile");
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_this_machine(uri.host().unwrap_or_default()) => Ok(()),
        Some("http") => bad("plain http is only for a server on this machine; use https"),
        _ => bad("write https://HOST:PORT"),
    }
}

/// Without what might be a password.
fn shown(endpoint: &str) -> String {
    match (endpoint.split_once("://"), endpoint.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => endpoint.to_owned(),
    }
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Refuses a file without certificates that can be used: the TLS client would end the process over it.
pub(super) fn check_ca(pem: &[u8]) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| bad_ca(&e.to_string()))?;
        roots.add(certificate).map_err(|e| bad_ca(&e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad_ca("there is no certificate in it"));
    }
    Ok(())
}

pub(super) fn bad_ca(reason: &str) -> SnapshotError {
    SnapshotError::BadCa {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_only_to_this_machine() {
        for good in [
            "https://s3.example",
            "https://10.0.0.1:9000/",
            "http://localhost:7070",
            "http://127.0.0.1:7070",
            "http://[::1]:7070",
        ] {
            check(good).unwrap();
        }
        for (bad, word) in [
            ("http://s3.example", "use https"),
            ("http://10.0.0.1:9000", "use https"),
            ("http://127.0.0.1.example", "use https"),
            ("s3.example:9000", "https://HOST"),
            ("ftp://s3.example", "https://HOST"),
            ("", "https://HOST"),
            ("https://id:hush@s3.example", "AWS_*"),
        ] {
            let said = check(bad).unwrap_err().to_string();
            assert!(
                said.contains(word) && !said.contains("hush"),
                "{bad}: {said}"
            );
        }
    }

    #[test]
    fn certificates_are_looked_at_before_they_are_used() {
        let key = rcgen::generate_simple_self_signed(["s3.example".to_owned()]).unwrap();
        check_ca(key.cert.pem().as_bytes()).unwrap();
        for bad in [
            "",
            "not PEM",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let said = check_ca(bad.as_bytes()).unwrap_err();
            assert!(matches!(said, SnapshotError::BadCa { .. }), "{said}");
        }
    }
}
