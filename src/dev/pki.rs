//! Certificates of the components, and of the person at the keyboard.

use super::layout::Layout;
use super::{Error, Options};
use crate::identity::files;
use crate::identity::{Authority, LeafRequest, Usage, kubeconfig};

/// Group of our own processes.
const COMPONENT: &str = "ate:component";
/// Group of whoever may do everything.
const MASTERS: &str = "system:masters";

/// Writes what is missing or about to expire, and the kubeconfig.
pub(super) fn write_all(layout: &Layout, options: &Options) -> Result<(), Error> {
    let pki = layout.pki();
    let authority = Authority::load_or_create(&pki)?;
    for name in ["apiserver", "atelet", "controller", "router"] {
        let ip = options.api.ip().to_string();
        let request = LeafRequest::new(name, Usage::Both).group(COMPONENT).sans([
            name,
            "localhost",
            ip.as_str(),
        ]);
        authority.leaf_in(&pki, &request)?;
    }
    let admin = authority.leaf_in(
        &pki,
        &LeafRequest::new("admin", Usage::Client).group(MASTERS),
    )?;
    let server = format!("https://{}", options.api);
    let config = kubeconfig(&server, authority.certificate(), &admin);
    Ok(files::write(
        &layout.kubeconfig(),
        files::SECRET_MODE,
        config.as_bytes(),
    )?)
}
