//! Carries a plan out, in memory: what all Secrets shall hold.

use super::plan::{CA_LIFE, Plan};
use super::process::{CA, Process};
use super::{Contents, Pems};
use crate::identity::{Authority, Certificate, IdentityError, Leaf};
use std::time::SystemTime;

/// Name of our CAs.
const NAME: &str = "agent-substrate";

/// The content of each Secret. Where nothing is to be done it is what was found.
pub(super) fn issue(
    plan: &Plan,
    now: SystemTime,
    processes: &[Process],
    found: &Contents,
) -> Result<Contents, IdentityError> {
    let before = |secret| found.get(secret).cloned().unwrap_or_default();
    let authority = match &plan.signer {
        Some(signer) => Authority::from_pem(signer.pem().to_owned(), &before(CA).leaf.key)?,
        None => Authority::new(NAME, CA_LIFE, now)?,
    };
    let earlier: String = plan.earlier.iter().map(Certificate::pem).collect();
    let bundle = format!("{}{earlier}", authority.certificate());
    let own = Leaf {
        chain: authority.certificate().to_owned(),
        key: match &plan.signer {
            Some(_) => before(CA).leaf.key,
            None => authority.key(),
        },
    };
    let ca = bundle.clone();
    let mut wanted = Contents::from([(CA, Pems { ca, leaf: own })]);
    for process in processes {
        let leaf = match plan.issue.contains(&process.secret) {
            true => authority.leaf_at(&process.request, now)?,
            false => before(process.secret).leaf,
        };
        let ca = bundle.clone();
        wanted.insert(process.secret, Pems { ca, leaf });
    }
    Ok(wanted)
}
