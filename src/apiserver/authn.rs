//! Who calls: a layer that puts a [`Peer`] into the request, or answers 401 or 403.
//!
//! Here clients are known by certificates that TLS has verified; whoever is in one of the trusted groups may do everything.

use super::status::ApiError;
use crate::identity::Peer;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// Group of people who may do everything.
pub const MASTERS: &str = "system:masters";
/// Group of our own processes.
pub const COMPONENTS: &str = "ate:component";
/// Paths that anybody may ask: they say nothing but whether we live.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// The verified certificate chain of a connection, leaf first; the server puts it into each of its requests.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// Wraps a router: only clients with a certificate of a trusted group pass.
pub fn require_certificate(router: Router) -> Router {
    router.layer(from_fn(authenticate))
}

async fn authenticate(mut request: Request, next: Next) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let certificates = request.extensions().get::<PeerCertificates>();
    let Some(peer) = certificates.and_then(|c| Peer::from_certificate(c.0.first()?).ok()) else {
        return ApiError::Unauthorized.into_response();
    };
    if !peer.is_in(MASTERS) && !peer.is_in(COMPONENTS) {
        let why = format!(
            "user {:?} is in none of the groups {MASTERS}, {COMPONENTS}",
            peer.user
        );
        return ApiError::Forbidden(why).into_response();
    }
    request.extensions_mut().insert(peer);
    next.run(request).await
}
