//! What is to be issued, and whom to trust: decided from the time and from what is there.

use super::process::{CA, Process};
use super::{Contents, Pems};
use crate::identity::Certificate;
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);
/// How long a leaf is valid.
pub(super) const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a CA is valid.
pub(super) const CA_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// By then everybody trusts a new CA: a kubelet takes a minute or two to bring a Secret to its pods.
const KNOWN_AFTER: Duration = Duration::from_secs(6 * 3600);
/// By then no leaf of the CA before is valid any more.
const ALONE_AFTER: Duration = LEAF_LIFE.saturating_add(HOUR);
/// Earlier CAs that are trusted at most: who damages the CA again and again must not make the bundle grow.
const MAX_EARLIER: usize = 4;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The CA that signs; `None`: a new one.
    pub signer: Option<Certificate>,
    /// CAs that signed before and are trusted still.
    pub earlier: Vec<Certificate>,
    /// Secrets that get a new leaf.
    pub issue: Vec<&'static str>,
}

/// Compares what the Secrets hold with what they should at that time.
pub(super) fn plan(now: SystemTime, processes: &[Process], found: &Contents) -> Plan {
    let signer = found.get(CA).and_then(|ca| signer(now, ca));
    let earlier = earlier(now, signer.as_ref(), found);
    let is_due = |process: &&Process| {
        let pems = found.get(process.secret);
        !pems.is_some_and(|pems| is_good(now, pems, process, signer.as_ref(), &earlier))
    };
    let issue = processes.iter().filter(is_due).map(|p| p.secret).collect();
    Plan {
        signer,
        earlier,
        issue,
    }
}

/// The CA, if it can go on signing.
fn signer(now: SystemTime, ca: &Pems) -> Option<Certificate> {
    let certificate = Certificate::first(&ca.leaf.chain).ok()?;
    let may_go_on = certificate.is_ca()
        && certificate.has_key(&ca.leaf.key)
        && certificate.life().contains(&now)
        && now < at(&certificate, 1, 2);
    may_go_on.then_some(certificate)
}

/// Those of the bundle that may have signed a leaf that somebody still shows.
fn earlier(now: SystemTime, signer: Option<&Certificate>, found: &Contents) -> Vec<Certificate> {
    if signer.is_some_and(|s| now >= s.life().start + ALONE_AFTER) {
        return vec![];
    }
    let cas = |pems: &Pems| {
        let mut all = Certificate::all(&pems.leaf.chain);
        all.extend(Certificate::all(&pems.ca));
        all.retain(|c| c.is_ca() && now < c.life().end && Some(c) != signer);
        all
    };
    let mut all = found.get(CA).map(cas).unwrap_or_default();
    if signer.is_none() && all.is_empty() {
        // The CA's Secret is gone. Who was trusted is in the others.
        all = found.values().flat_map(cas).collect();
    }
    let mut kept: Vec<Certificate> = vec![];
    for ca in all {
        if kept.len() < MAX_EARLIER && !kept.contains(&ca) {
            kept.push(ca);
        }
    }
    kept
}

fn is_good(
    now: SystemTime,
    pems: &Pems,
    process: &Process,
    signer: Option<&Certificate>,
    earlier: &[Certificate],
) -> bool {
    let Ok(leaf) = Certificate::first(&pems.leaf.chain) else {
        return false;
    };
    let is_of_signer = signer.is_some_and(|s| leaf.is_signed_by(s));
    // A leaf of the signer's replaces one that all believe: it waits until all know the signer, if that one can.
    let is_known = signer.is_some_and(|s| now >= s.life().start + KNOWN_AFTER);
    let due = match (is_of_signer, is_known) {
        (true, _) => at(&leaf, 1, 2),
        (false, true) => now,
        (false, false) => at(&leaf, 3, 4),
    };
    (is_of_signer || earlier.iter().any(|ca| leaf.is_signed_by(ca)))
        && leaf.has_key(&pems.leaf.key)
        && leaf.says(&process.request)
        && leaf.life().contains(&now)
        && now < due
}

/// When a certificate has lived so much of its life.
fn at(certificate: &Certificate, numerator: u32, denominator: u32) -> SystemTime {
    let life = certificate.life();
    let length = life.end.duration_since(life.start).unwrap_or_default();
    life.start + length / denominator * numerator
}
