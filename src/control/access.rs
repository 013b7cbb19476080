//! Who may call what. Existing clients' services pass the same gate as REST, with the verb that kubectl would need; services
//! between our own processes take certificates of our own CA only.

use super::{Agents, Doors};
use crate::access::audit::{self, Door};
use crate::access::inflight::{Class, Inflight};
use crate::access::{Attributes, COMPONENTS, ClientCa, Credentials, Gate, Refusal, Resource, User};
use crate::api::record::ActorRecord;
use crate::kube::{Lifecycle, Namespaces};
use crate::rpc::{ATELET, ROUTER};
use crate::telemetry::chain;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use rustls::pki_types::CertificateDer;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Request, Status};

/// Services between our own processes,
const INTERNAL: &str = "/atenode.";
/// and who calls them.
const CALLERS: [(&str, &str); 2] = [("/atenode.Nodes/", ATELET), ("/atenode.Bindings/", ROUTER)];

/// How the door finds out who calls and whether they may.
pub struct Access {
    /// For existing clients.
    pub gate: Gate,
    /// For our own processes.
    pub components: ClientCa,
    /// Of which node an agent is; without it an agent is believed.
    pub agents: Option<Agents>,
    /// Which namespaces take new actors.
    pub namespaces: Arc<dyn Namespaces>,
    /// What is under way.
    pub inflight: Inflight,
}

/// Who calls, put into each request of existing clients.
#[derive(Clone)]
pub(super) struct Caller {
    user: User,
    /// What the call turned out to be about, for the audit line.
    wish: Arc<OnceLock<Resource>>,
}

/// Layer: authenticates.
pub(super) async fn pass(
    State(access): State<Arc<Access>>,
    mut request: axum::extract::Request,
    next: Next,
) -> Response {
    let info = request
        .extensions()
        .get::<TlsConnectInfo<TcpConnectInfo>>()
        .and_then(TlsConnectInfo::peer_certs);
    let certificates: &[CertificateDer<'static>] = info.as_ref().map_or(&[], |c| c.as_slice());
    if request.uri().path().starts_with(INTERNAL) {
        return match admit(&access, certificates, &mut request).await {
            Ok(()) => next.run(request).await,
            Err(status) => status.into_http(),
        };
    }
    let Some(_place) = access.inflight.enter(Class::Long) else {
        return Status::resource_exhausted("too many calls are under way; try again").into_http();
    };
    let credentials = Credentials {
        certificates,
        headers: request.headers(),
    };
    let user = match access.gate.authenticate(credentials).await {
        Ok(user) => user,
        Err(refusal) => return of_refusal(&refusal).into_http(),
    };
    access.gate.strip(request.headers_mut());
    let caller = Caller {
        user,
        wish: Arc::default(),
    };
    request.extensions_mut().insert(caller.clone());
    let (began, id) = (Instant::now(), audit::request_id(None));
    let response = next.run(request).await;
    if let Some(wish) = caller.wish.get().filter(|w| w.writes()) {
        let code = code_of(&response) as u16;
        audit::line(Door::Grpc, &caller.user, wish, code, &id, began.elapsed());
    }
    response
}

/// Whether a process of ours calls what is for it.
async fn admit(
    access: &Access,
    certificates: &[CertificateDer<'static>],
    request: &mut axum::extract::Request,
) -> Result<(), Status> {
    let name = of_ours(&access.components, certificates)?;
    let path = request.uri().path();
    let wanted = CALLERS
        .iter()
        .find(|(service, _)| path.starts_with(service));
    if let Some((_, wanted)) = wanted.filter(|(_, wanted)| *wanted != name) {
        let why = format!("this is for {wanted}, not for {name}");
        return Err(Status::permission_denied(why));
    }
    if let Some(agents) = access.agents.as_ref().filter(|_| name == ATELET) {
        let bound = agents.node_of(request.headers()).await?;
        request.extensions_mut().insert(bound);
    }
    Ok(())
}

fn code_of(response: &Response<Body>) -> Code {
    Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code())
}

/// Its name.
fn of_ours(
    components: &ClientCa,
    certificates: &[CertificateDer<'static>],
) -> Result<String, Status> {
    match components.recognise(certificates) {
        Ok(Some(user)) if user.is_in(COMPONENTS) => Ok(user.name),
        Ok(Some(user)) => Err(Status::permission_denied(format!(
            "{:?} is none of our own processes",
            user.name
        ))),
        Ok(None) => Err(Status::unauthenticated("show a certificate of our own CA")),
        Err(error) => {
            tracing::info!(
                error = &error as &dyn std::error::Error,
                "refused: not of our own CA"
            );
            Err(Status::unauthenticated("show a certificate of our own CA"))
        }
    }
}

fn of_refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Unauthenticated => Status::unauthenticated(
            "these credentials are not known: send a bearer token in `authorization`, or show a client certificate",
        ),
        Refusal::Denied(why) => Status::permission_denied(why.clone()),
        Refusal::Unavailable(source) => {
            tracing::warn!(
                error = source as &dyn std::error::Error,
                "rights cannot be asked"
            );
            Status::unavailable("whether this is allowed could not be asked; try again")
        }
    }
}

/// Something with actors, or with one in a namespace. `resource` may name a subresource: `actors/resume`.
pub(super) fn wish(verb: &str, resource: &str, namespace: &str, name: &str) -> Resource {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Resource {
        verb: verb.to_owned(),
        group: "runtime.ate.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

impl Caller {
    /// Of a call that passed the layer.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Status::internal("the call did not pass the gate"))
    }
}

impl Doors {
    /// Whether the caller may.
    pub(super) async fn may(&self, caller: &Caller, wish: Resource) -> Result<(), Status> {
        let _ = caller.wish.set(wish.clone());
        let wish = Attributes::Resource(wish);
        let checked = self.access.gate.check(&caller.user, &wish).await;
        checked.map_err(|r| of_refusal(&r))
    }

    /// The actor that a client calls `id`, if the caller may do that with it.
    ///
    /// A flat id names no namespace: it is looked up first, and a refusal does not say where the actor is. That it is there
    /// is said (creating it would say so too): a client must not take what it may not see for deleted.
    pub(super) async fn actor_for(
        &self,
        caller: &Caller,
        id: &str,
        verb: &str,
        resource: &str,
    ) -> Result<ActorRecord, Status> {
        if let Some((name, namespace)) = id.split_once('.') {
            self.may(caller, wish(verb, resource, namespace, name))
                .await?;
            return self.lookup(id).await;
        }
        let record = self.lookup(id).await?;
        let wish = wish(verb, resource, &record.key.namespace, &record.key.name);
        match self.may(caller, wish).await {
            Err(status) if status.code() == Code::PermissionDenied => {
                let user = &caller.user.name;
                let why = format!("User {user:?} cannot {verb} {resource} with Actor {id}");
                Err(Status::permission_denied(why))
            }
            other => other.map(|()| record),
        }
    }

    /// Whether a namespace takes new actors.
    pub(super) async fn takes_new(&self, namespace: &str) -> Result<(), Status> {
        match self.access.namespaces.enter(namespace).await {
            Ok(Lifecycle::Active) => Ok(()),
            Ok(Lifecycle::Terminating) => Err(Status::failed_precondition(format!(
                "namespace {namespace} is being terminated"
            ))),
            Ok(Lifecycle::Missing) => Err(Status::failed_precondition(format!(
                "namespace {namespace} not found"
            ))),
            Err(error) => Err(Status::unavailable(chain(&error))),
        }
    }
}
