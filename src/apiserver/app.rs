//! The kinds together, and the way of a request to its handler.

use super::admission;
use super::authn::Caller;
use super::body::{self, Reply};
use super::negotiate::{self, Format, Shape, Wanted};
use super::openapi::{self, OpenApi};
use super::registration::{Registration, StatusSupport};
use super::request::{Params, RequestInfo};
use super::status::{ApiError, json_response};
use super::storage::{ObjectKey, Part};
use super::table::Include;
use super::{delete, discovery, list, patch, scale, watch, write};
use crate::kube::{Everywhere, Namespaces};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The Kubernetes API that clients may take us for.
const KUBERNETES_MINOR: &str = "33";

/// The kinds together.
pub struct App {
    kinds: Vec<Arc<Registration>>,
    openapi: OpenApi,
    namespaces: Arc<dyn Namespaces>,
    shutdown: CancellationToken,
    bookmark_every: Duration,
}

/// Puts kinds together.
pub struct Builder {
    kinds: Vec<Arc<Registration>>,
    namespaces: Arc<dyn Namespaces>,
    shutdown: CancellationToken,
    bookmark_every: Duration,
}

impl Builder {
    /// Adds a kind.
    pub fn register(mut self, kind: Registration) -> Self {
        self.kinds.push(Arc::new(kind));
        self
    }

    /// Adds kinds.
    pub fn register_all(self, kinds: impl IntoIterator<Item = Registration>) -> Self {
        kinds.into_iter().fold(self, Self::register)
    }

    /// Says which namespaces take new objects; unless it is said, every name is one.
    pub fn namespaces(mut self, namespaces: Arc<dyn Namespaces>) -> Self {
        self.namespaces = namespaces;
        self
    }

    /// Ends watches when it is cancelled.
    pub fn shutdown(mut self, token: CancellationToken) -> Self {
        self.shutdown = token;
        self
    }

    /// How often watches get the bookmarks that their clients want.
    pub fn bookmark_every(mut self, every: Duration) -> Self {
        self.bookmark_every = every;
        self
    }

    /// Done.
    pub fn build(self) -> App {
        App {
            openapi: OpenApi::of(self.kinds.iter().map(Arc::as_ref)),
            kinds: self.kinds,
            namespaces: self.namespaces,
            shutdown: self.shutdown,
            bookmark_every: self.bookmark_every,
        }
    }
}

/// A request for objects of a kind.
pub struct Context {
    /// The kind.
    pub registration: Arc<Registration>,
    /// What the request is about.
    pub info: RequestInfo,
    /// Its query.
    pub query: Params,
    /// What the client wants back.
    pub wanted: Wanted,
    /// What table rows carry.
    pub include: Include,
    /// Who asks; nobody where no guard stands before the app.
    pub caller: Option<Caller>,
    /// Which namespaces take new objects.
    pub namespaces: Arc<dyn Namespaces>,
}

impl Context {
    /// The object that the path names.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.info.namespace, &self.info.name)
    }

    /// The namespace that the path names.
    pub fn namespace(&self) -> Option<&str> {
        Some(self.info.namespace.as_str()).filter(|n| !n.is_empty())
    }

    /// Reads an object.
    pub async fn read(&self, key: &ObjectKey) -> Result<Value, ApiError> {
        let read = self.registration.storage.get(key).await;
        read.map_err(|e| ApiError::storage(e, || self.registration.target(&key.name)))
    }

    /// That the request's verb is not one of what its path names.
    pub fn not_allowed(&self) -> ApiError {
        ApiError::MethodNotAllowed {
            target: self.registration.target(""),
            verb: self.info.verb.to_owned(),
        }
    }

    /// How to answer.
    pub fn reply(&self) -> Reply<'_> {
        Reply {
            registration: &self.registration,
            wanted: self.wanted,
            include: self.include,
        }
    }
}

impl App {
    /// To put kinds together.
    pub fn builder() -> Builder {
        Builder {
            kinds: vec![],
            namespaces: Arc::new(Everywhere),
            shutdown: CancellationToken::new(),
            bookmark_every: watch::BOOKMARK_EVERY,
        }
    }

    /// All kinds.
    pub fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.kinds.iter().map(Arc::as_ref)
    }

    /// Kinds of a group version.
    pub fn of_group(&self, group: &str, version: &str) -> impl Iterator<Item = &Registration> {
        self.registrations()
            .filter(move |r| r.group == group && r.version == version)
    }

    #[cfg(test)]
    pub(super) fn shared_kinds(&self) -> Arc<Vec<Arc<Registration>>> {
        Arc::new(self.kinds.clone())
    }

    pub(super) fn openapi(&self) -> &OpenApi {
        &self.openapi
    }

    /// Everything as a router: no authentication yet.
    pub fn router(self) -> Router {
        Router::new().fallback(handle).with_state(Arc::new(self))
    }

    fn kind(&self, info: &RequestInfo) -> Option<Arc<Registration>> {
        let same = |r: &&Arc<Registration>| {
            r.group == info.group && r.version == info.version && r.plural == info.resource
        };
        self.kinds.iter().find(same).cloned()
    }
}

async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let format = negotiate::accept(request.headers()).map_or(Format::Json, |w| w.format);
    let answer = answer(&app, request).await;
    answer.unwrap_or_else(|error| error.in_format(format))
}

async fn answer(app: &App, request: Request) -> Result<Response, ApiError> {
    let path = request.uri().path();
    if path != "/" && !path.contains("/namespaces/") {
        let trimmed = path.trim_end_matches('/');
        if let Some(response) = fixed(app, trimmed, request.headers())? {
            return Ok(response);
        }
    } else if path == "/" {
        return Ok(json_response(StatusCode::OK, &root(app)));
    }
    let query = Params::of(request.uri())?;
    let info = RequestInfo::of(request.method(), path, &query).ok_or(ApiError::NoSuchPath)?;
    let registration = app.kind(&info).ok_or(ApiError::NoSuchPath)?;
    let (parts, body) = request.into_parts();
    let streams = registration
        .connects
        .iter()
        .any(|(name, _)| *name == info.subresource);
    let wanted = match negotiate::accept(&parts.headers) {
        // A stream is what it is; errors are JSON.
        Err(_) if streams => Wanted {
            shape: Shape::Object,
            format: Format::Json,
            of_list: false,
        },
        other => other?,
    };
    let include = match query.get("includeObject") {
        Some("None") => Include::None,
        Some("Metadata") | None => Include::Metadata,
        Some("Object") => Include::Object,
        Some(other) => {
            return Err(ApiError::BadRequest(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            )));
        }
    };
    let ctx = Context {
        registration,
        info,
        query,
        wanted,
        include,
        caller: parts.extensions.get().cloned(),
        namespaces: app.namespaces.clone(),
    };
    check_scope(&ctx)?;
    check_form(&ctx)?;
    dispatch(app, &ctx, &parts.headers, body).await
}

fn root(app: &App) -> Value {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for r in app.registrations() {
        let group = format!("/apis/{}", r.group);
        for path in [group, r.prefix()] {
            if !paths.contains(&path) && path != "/apis/" {
                paths.push(path);
            }
        }
    }
    let others = [
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    paths.extend(others.map(str::to_owned));
    paths.sort();
    json!({"paths": paths})
}

/// What is not about objects; none of it touches a storage.
fn fixed(app: &App, path: &str, headers: &HeaderMap) -> Result<Option<Response>, ApiError> {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let found = |value: Option<Value>| {
        let value = value.ok_or(ApiError::NoSuchPath)?;
        Ok(Some(json_response(StatusCode::OK, &value)))
    };
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => Ok(Some("ok".into_response())),
        ["version"] => Ok(Some(json_response(StatusCode::OK, &version()))),
        [root @ ("api" | "apis")] => {
            let wanted = negotiate::accept(headers)?;
            Ok(Some(discovery::root(app, *root == "api", wanted, headers)))
        }
        ["api", version] => found(discovery::resources(app, "", version)),
        ["apis", group] => found(discovery::group(app, group)),
        ["apis", group, version] => found(discovery::resources(app, group, version)),
        ["openapi", rest @ ..] => {
            let response = openapi::answer(app, &rest.join("/"), headers);
            Ok(Some(response.ok_or(ApiError::NoSuchPath)?))
        }
        _ => Ok(None),
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0-ate.{}", env!("CARGO_PKG_VERSION")),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// One object is no list, and a list is not one object.
fn check_form(ctx: &Context) -> Result<(), ApiError> {
    let asks = match (ctx.wanted.shape, ctx.wanted.of_list) {
        (Shape::Metadata, of_list) => of_list,
        (Shape::Object | Shape::Table | Shape::Discovery, _) => return Ok(()),
    };
    match (ctx.info.verb, asks) {
        ("watch", _) | ("list" | "deletecollection", true) => Ok(()),
        ("list" | "deletecollection", false) => Err(ApiError::OtherForm(
            "you requested PartialObjectMetadata, but the requested object is a list",
        )),
        (_, true) => Err(ApiError::OtherForm(
            "you requested PartialObjectMetadataList, but the requested object is not a list",
        )),
        (_, false) => Ok(()),
    }
}

fn check_scope(ctx: &Context) -> Result<(), ApiError> {
    let (has_namespace, has_name) = (!ctx.info.namespace.is_empty(), !ctx.info.name.is_empty());
    let reads_all = !has_name && ["list", "watch"].contains(&ctx.info.verb);
    match (ctx.registration.namespaced, has_namespace) {
        (false, true) => Err(ApiError::NoSuchPath),
        (true, false) if has_name => Err(ApiError::NoSuchPath),
        (true, false) if !reads_all => Err(ctx.not_allowed()),
        _ => Ok(()),
    }
}

async fn dispatch(
    app: &App,
    ctx: &Context,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<Response, ApiError> {
    let verb = ctx.info.verb;
    let sub = ctx.info.subresource.as_str();
    if let Some((_, connect)) = ctx
        .registration
        .connects
        .iter()
        .find(|(name, _)| *name == sub)
    {
        if connect.verb() != verb {
            return Err(ctx.not_allowed());
        }
        return connect.call(ctx).await;
    }
    if let (Some(paths), "scale") = (&ctx.registration.scale, sub) {
        return scale::scale(ctx, paths, headers, &body::read(body).await?).await;
    }
    let part = match (sub, ctx.registration.status) {
        ("", _) => Part::Spec,
        ("status", StatusSupport::Read | StatusSupport::Write) => Part::Status,
        _ => return Err(ApiError::NoSuchPath),
    };
    if !allowed(ctx, part) {
        let writes = ["update", "patch"].contains(&verb) && part == Part::Status;
        return Err(match writes {
            true => ApiError::ObservedStatus(ctx.registration.target(&ctx.info.name)),
            false => ctx.not_allowed(),
        });
    }
    match verb {
        "get" => list::get(ctx).await,
        "list" => admission::or_nothing(ctx, list::list(ctx).await).await,
        "watch" => watch::watch(ctx, app.bookmark_every, app.shutdown.clone()).await,
        _ => {
            if verb == "create" {
                admission::takes_new(ctx).await?;
            }
            let bytes = body::read(body).await?;
            match verb {
                "create" => write::create(ctx, headers, &bytes).await,
                "update" => write::update(ctx, part, headers, &bytes).await,
                "patch" => patch::patch(ctx, part, headers, &bytes).await,
                "delete" => delete::delete(ctx, headers, &bytes).await,
                "deletecollection" => {
                    let deleted = delete::delete_collection(ctx, headers, &bytes).await;
                    admission::or_nothing(ctx, deleted).await
                }
                _ => Err(ctx.not_allowed()),
            }
        }
    }
}

fn allowed(ctx: &Context, part: Part) -> bool {
    let verb = ctx.info.verb;
    match (part, ctx.registration.status) {
        (Part::Spec, _) => {
            let named = !ctx.info.name.is_empty();
            let misplaced = match verb {
                "create" => named,
                "update" | "patch" => !named,
                _ => false,
            };
            ctx.registration.allows(verb) && !misplaced
        }
        (Part::Status, StatusSupport::Write) => ["get", "update", "patch"].contains(&verb),
        (Part::Status, StatusSupport::Read | StatusSupport::None) => verb == "get",
    }
}
