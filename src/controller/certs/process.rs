//! Our processes, and what their certificates must say: config/README.md has the same table.

use super::plan::LEAF_LIFE;
use crate::identity::{LeafRequest, Usage};
use crate::rpc::{APISERVER, ATELET, CONTROLLER, OBJECTS, ROUTER, STORE};

/// The Secret of the CA.
pub(super) const CA: &str = "ate-ca";
/// The Secret of the controller's own certificate.
pub(super) const CONTROLLER_SECRET: &str = "ate-controller-tls";
/// Organization of our own processes.
const COMPONENT: &str = "ate:component";

/// A process, or several of one kind.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// The Secret with its certificate.
    pub secret: &'static str,
    /// What that says.
    pub request: LeafRequest,
}

/// All of them. `namespace` is that of the Services.
pub(super) fn processes(namespace: &str) -> impl Iterator<Item = Process> + use<> {
    let service = |name: &str| format!("{name}.{namespace}.svc");
    let apiserver = vec![service("ate-apiserver"), service("api")];
    [
        ("ate-apiserver-tls", APISERVER, apiserver),
        (
            CONTROLLER_SECRET,
            CONTROLLER,
            vec![service("ate-controller")],
        ),
        ("ate-router-tls", ROUTER, vec![]),
        ("atelet-tls", ATELET, vec![]),
        ("ate-store-tls", STORE, vec![service("ate-store")]),
        ("ate-objects-tls", OBJECTS, vec![service("ate-objects")]),
    ]
    .into_iter()
    .map(|(secret, name, services)| Process {
        secret,
        request: LeafRequest {
            validity: LEAF_LIFE,
            ..LeafRequest::new(name, Usage::Both)
                .group(COMPONENT)
                .sans(services)
                .sans([name])
        },
    })
}
