//! Who calls, and may they: one chain for both doors (REST and gRPC), in two configurations.
//!
//! [`Gate`] holds the authenticators in their order and the authorizer. In a cluster these are [`front_proxy`],
//! [`client_ca`] and [`token`] (all told by Kubernetes whom to trust) and [`review`]; under `ate dev` [`client_ca`] with
//! our own CA and [`groups`]. [`inflight`] bounds what is under way, [`audit`] writes a line per write. What a request
//! is about is read by the doors; nothing here knows an actor. Called by apiserver and control; cli puts the parts together.
//!
//! The rules are Kubernetes' own for extension API servers: apiserver/pkg/authentication/authenticatorfactory/delegating.go
//! and apiserver/pkg/authorization/authorizerfactory.

mod ask;
pub mod attributes;
pub mod audit;
pub mod client_ca;
pub mod front_proxy;
mod gate;
pub mod groups;
pub mod inflight;
pub mod review;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;
pub mod trust;
mod user;

pub use attributes::{Attributes, Resource};
pub use client_ca::ClientCa;
pub use front_proxy::FrontProxy;
pub use gate::{Authenticator, Authorizer, Credentials, Decision, Gate, Refusal, Unrecognised};
pub use groups::Groups;
pub use inflight::Inflight;
pub use review::Reviews;
pub use token::Tokens;
pub use trust::Trust;
pub use user::User;

use crate::rpc::Tls;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;

/// Group of people who may do everything.
pub const MASTERS: &str = "system:masters";
/// Group of our own processes.
pub const COMPONENTS: &str = "ate:component";
/// User who showed no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group of whoever was authenticated.
const AUTHENTICATED: &str = "system:authenticated";
/// Group of whoever was not.
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// How long an answer of Kubernetes about a token or a right is believed.
pub const CACHE_LIFE: Duration = Duration::from_secs(10);
/// How long Kubernetes has for such an answer, all tries together.
const REVIEW_LIMIT: Duration = Duration::from_secs(10);
/// How often it is asked.
const REVIEW_TRIES: u32 = 5;
/// Pause after the first try; later ones are half as long again.
const REVIEW_PAUSE: Duration = Duration::from_millis(500);

/// The gate of `ate dev`: certificates of our own CA; its people and our own processes may do everything.
pub fn dev(ours: Tls) -> Gate {
    let groups = Groups(vec![MASTERS, COMPONENTS]);
    Gate::new(vec![Arc::new(ClientCa::ours(ours))], Arc::new(groups))
}

/// The gate of a cluster. `trust` comes from [`trust::watch`]; bearer tokens may be for one of `audiences` or for the
/// Kubernetes API itself; whoever shows nothing is [`ANONYMOUS`].
pub fn cluster(client: &kube::Client, trust: &Arc<ArcSwap<Trust>>, audiences: Vec<String>) -> Gate {
    let chain: Vec<Arc<dyn Authenticator>> = vec![
        Arc::new(FrontProxy::new(trust.clone())),
        Arc::new(ClientCa::of_cluster(trust.clone())),
        Arc::new(Tokens::new(client.clone(), audiences)),
    ];
    let reviews = Arc::new(Reviews::new(client.clone()));
    Gate::new(chain, reviews).with_anonymous(ANONYMOUS)
}
