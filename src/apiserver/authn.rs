//! The door's guard: a layer that bounds what is under way, finds out who calls and whether they may, and writes a line per
//! write. How that is found out is [`crate::access`]'s; here is what a request is about.

use super::metrics;
use super::request::{Params, RequestInfo};
use super::status::{ApiError, Target};
use crate::access::attributes::is_open;
use crate::access::audit::{self, Door};
use crate::access::inflight::{Class, Inflight};
use crate::access::{Attributes, Credentials, Gate, Refusal, Resource, User};
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use hyper::body::{Frame, SizeHint};
use rustls::pki_types::CertificateDer;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

/// The id of a request, from kube-apiserver and back to the client (`auditinternal.HeaderAuditID`).
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// The certificate chain of a connection, leaf first, as the client showed it; the server puts it into each of its requests.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// Who asks, and how to find out what else they may.
#[derive(Clone)]
pub struct Caller {
    user: User,
    guard: Arc<Guard>,
}

impl Caller {
    /// Who it is.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Whether they may do something else than what the request is about.
    pub async fn check(&self, wish: Resource) -> Result<(), ApiError> {
        let wish = Attributes::Resource(wish);
        let checked = self.guard.gate.check(&self.user, &wish).await;
        checked.map_err(|r| refused(r, &wish))
    }
}

struct Guard {
    gate: Gate,
    inflight: Inflight,
}

/// What a request is about.
struct Wish {
    attributes: Attributes,
    class: Class,
}

/// Wraps a router: only who may comes through, and no more at once than fits.
pub fn guard(router: Router, gate: Gate, inflight: Inflight) -> Router {
    let guard = Arc::new(Guard { gate, inflight });
    router.layer(from_fn_with_state(guard, pass))
}

async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if is_open(request.uri().path()) {
        return next.run(request).await;
    }
    let given = request.headers().get(AUDIT_ID);
    let id = audit::request_id(given.and_then(|v| v.to_str().ok()));
    let wish = match Wish::of(&request) {
        Ok(wish) => wish,
        Err(error) => return error.into_response(),
    };
    let Some(permit) = guard.inflight.enter(wish.class) else {
        let why = "Too many requests, please try again later.";
        return ApiError::TooManyRequests(why.into()).into_response();
    };
    let mut response = answer(&guard, &wish, &id, request, next).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(AUDIT_ID, id);
    }
    // An answer that its client does not take is in memory: it keeps its place until its last byte.
    response.map(|body| {
        Body::new(Placed {
            body,
            _place: permit,
        })
    })
}

/// A body that has a place.
struct Placed {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn answer(
    guard: &Arc<Guard>,
    wish: &Wish,
    id: &str,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let certificates = request.extensions().get::<PeerCertificates>().cloned();
    let credentials = Credentials {
        certificates: certificates.as_ref().map_or(&[], |c| &c.0),
        headers: request.headers(),
    };
    let user = match guard.gate.authenticate(credentials).await {
        Ok(user) => user,
        Err(refusal) => return refused(refusal, &wish.attributes).into_response(),
    };
    guard.gate.strip(request.headers_mut());
    let response = match guard.gate.check(&user, &wish.attributes).await {
        Err(refusal) => refused(refusal, &wish.attributes).into_response(),
        Ok(()) => {
            request.extensions_mut().insert(Caller {
                user: user.clone(),
                guard: guard.clone(),
            });
            next.run(request).await
        }
    };
    let Attributes::Resource(resource) = &wish.attributes else {
        return response;
    };
    metrics::answered(&resource.verb, response.status(), began.elapsed());
    if resource.writes() {
        let code = response.status().as_u16();
        audit::line(Door::Rest, &user, resource, code, id, began.elapsed());
    }
    response
}

fn refused(refusal: Refusal, wish: &Attributes) -> ApiError {
    match refusal {
        Refusal::Unauthenticated => ApiError::Unauthorized,
        Refusal::Denied(why) => ApiError::Denied {
            target: match wish {
                Attributes::Path { .. } => Target::default(),
                Attributes::Resource(r) => Target {
                    group: r.group.clone(),
                    resource: r.resource.clone(),
                    kind: String::new(),
                    name: r.name.clone(),
                },
            },
            why,
        },
        Refusal::Unavailable(source) => {
            tracing::warn!(
                error = &source as &dyn std::error::Error,
                "rights cannot be asked"
            );
            ApiError::Internal(source.to_string())
        }
    }
}

/// A request as RBAC sees it.
pub fn resource(info: &RequestInfo) -> Resource {
    Resource {
        verb: info.verb.to_owned(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
    }
}

impl Wish {
    fn of(request: &Request) -> Result<Self, ApiError> {
        let (method, uri) = (request.method(), request.uri());
        let query = Params::of(uri)?;
        let Some(info) = RequestInfo::of(method, uri.path(), &query) else {
            return Ok(Self {
                attributes: Attributes::Path {
                    verb: method.as_str().to_ascii_lowercase(),
                    path: uri.path().to_owned(),
                },
                class: Class::Other,
            });
        };
        let mut wish = resource(&info);
        if ["list", "watch"].contains(&info.verb)
            && let Some(name) = query.get("fieldSelector").and_then(only_name)
        {
            name.clone_into(&mut wish.name);
        }
        let waits = info.subresource == "log" || query.get("wait").is_some();
        let class = match (info.verb, wish.writes()) {
            ("watch", _) => Class::Long,
            _ if waits => Class::Long,
            (_, true) => Class::Write,
            (_, false) => Class::Read,
        };
        Ok(Self {
            attributes: Attributes::Resource(wish),
            class,
        })
    }
}

/// The name that a field selector demands: a list of one object is as much as that object's name allows.
fn only_name(selector: &str) -> Option<&str> {
    let of = |term: &'_ str| -> Option<usize> {
        let rest = term.strip_prefix("metadata.name=")?;
        Some(rest.strip_prefix('=').unwrap_or(rest).len())
    };
    let term = selector.split(',').find(|t| of(t).is_some())?;
    let name = &term[term.len() - of(term)?..];
    crate::api::names::is_dns_label(name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(method: &str, uri: &str) -> (String, Class) {
        let request = http::Request::builder().method(method).uri(uri);
        let wish = Wish::of(&request.body(Body::empty()).unwrap()).unwrap();
        let said = match wish.attributes {
            Attributes::Resource(r) => format!("{} {}", r.verb, r.object()),
            Attributes::Path { verb, path } => format!("{verb} {path}"),
        };
        (said, wish.class)
    }

    #[test]
    fn requests_as_rbac_sees_them() {
        const ACTORS: &str = "/apis/runtime.ate.dev/v1alpha1/namespaces/ns/actors";
        for (method, rest, said, class) in [
            ("GET", "", "list ns/actors", Class::Read),
            ("GET", "?watch=1", "watch ns/actors", Class::Long),
            (
                "GET",
                "?watch=1&fieldSelector=metadata.name%3Da",
                "watch ns/actors/a",
                Class::Long,
            ),
            (
                "GET",
                "?fieldSelector=status.phase%3DRunning,metadata.name%3D%3Da",
                "list ns/actors/a",
                Class::Read,
            ),
            (
                "GET",
                "?fieldSelector=metadata.name!%3Da",
                "list ns/actors",
                Class::Read,
            ),
            ("GET", "/a", "get ns/actors/a", Class::Read),
            ("PUT", "/a", "update ns/actors/a", Class::Write),
            (
                "PUT",
                "/a/status",
                "update ns/actors/a/status",
                Class::Write,
            ),
            ("GET", "/a/log?follow=1", "get ns/actors/a/log", Class::Long),
            (
                "POST",
                "/a/resume",
                "create ns/actors/a/resume",
                Class::Write,
            ),
            (
                "POST",
                "/a/resume?wait=5",
                "create ns/actors/a/resume",
                Class::Long,
            ),
            ("DELETE", "", "deletecollection ns/actors", Class::Write),
        ] {
            let uri = format!("{ACTORS}{rest}");
            assert_eq!(
                wish(method, &uri),
                (said.to_owned(), class),
                "{method} {rest}"
            );
        }
        assert_eq!(wish("GET", "/apis"), ("get /apis".into(), Class::Other));
        assert_eq!(
            wish("OPTIONS", ACTORS),
            (format!("options {ACTORS}"), Class::Other)
        );
    }
}
