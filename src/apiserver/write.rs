//! Create and update: what both doors of a write (PUT, PATCH, scale) have in common is [`replace`].

use super::Context;
use super::body;
use super::fields::{self, Tracking};
use super::meta;
use super::registration::Registration;
use super::status::ApiError;
use super::storage::{ObjectKey, Part, StorageError, Written};
use crate::api::names::ResourceVersion;
use crate::api::validate::{Cause, MAX_VIOLATIONS, Violation};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

/// How often a write that names no version is tried against the newest one.
const MAX_RACES: usize = 8;
/// How many generated names are tried.
const MAX_NAMES: usize = 8;

/// What happens to fields that the schema does not know (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are refused.
    Strict,
    /// They are dropped with a warning.
    Warn,
    /// They are dropped.
    Ignore,
}

impl FieldValidation {
    /// From a query.
    pub fn of(ctx: &Context) -> Result<Self, ApiError> {
        match ctx.query.get("fieldValidation") {
            Some("Strict") => Ok(Self::Strict),
            Some("Warn") | None => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some(other) => Err(ApiError::BadRequest(format!(
                "fieldValidation={other:?} is not supported: use Strict, Warn or Ignore"
            ))),
        }
    }
}

/// What a write was asked to do beside writing.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// What happens to unknown fields.
    pub fields: FieldValidation,
    /// Who owns what it changes.
    pub manager: String,
}

impl WriteOptions {
    /// From query and headers.
    pub fn of(ctx: &Context, headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self {
            dry_run: ctx.query.dry_run()?,
            fields: FieldValidation::of(ctx)?,
            manager: fields::manager(ctx, headers)?,
        })
    }
}

/// Prunes, defaults and normalizes an object; returns warnings.
fn admit(
    registration: &Registration,
    object: &mut Value,
    fields: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let mut unknown = meta::prune(object);
    unknown.extend(registration.schema.prune(object));
    let said = |field: &String| format!("unknown field \"{field}\"");
    let warnings: Vec<_> = unknown.iter().map(said).collect();
    if fields == FieldValidation::Strict && !warnings.is_empty() {
        return Err(ApiError::BadRequest(format!(
            "strict decoding error: {}",
            warnings.join(", ")
        )));
    }
    registration.schema.fill(object);
    Ok(match fields {
        FieldValidation::Warn => warnings,
        FieldValidation::Strict | FieldValidation::Ignore => vec![],
    })
}

/// What the schema and the kind's rules say. Where both speak of a field the rules do: they name the fix.
fn violations(
    registration: &Registration,
    object: &mut Value,
    old: Option<&Value>,
) -> Vec<Violation> {
    let mut all = registration.schema.check(object);
    if all.is_empty() {
        (registration.rules.normalize)(object);
        return (registration.rules.validate)(object, old);
    }
    let mut ruled = (registration.rules.validate)(object, old);
    // Rules that speak of the spec as a whole could not read it; the schema says where.
    ruled.retain(|v| v.field.contains('.'));
    let same = |r: &Violation, v: &Violation| {
        let twice = v.cause == Cause::Duplicate && r.field.starts_with(&v.field);
        twice || r.field == v.field
    };
    all.retain(|v| !ruled.iter().any(|r| same(r, v)));
    all.extend(ruled);
    all.truncate(MAX_VIOLATIONS);
    all
}

fn check(
    registration: &Registration,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let mut causes = violations(registration, object, old);
    for cause in meta::check(object, old) {
        if !causes.iter().any(|c| c.field == cause.field) {
            causes.push(cause);
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let target = registration.target(meta::text(object, "name"));
    Err(ApiError::Invalid { target, causes })
}

/// Answers POST to a collection.
pub async fn create(
    ctx: &Context,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let options = WriteOptions::of(ctx, headers)?;
    let object = body::object(headers, bytes)?;
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(ApiError::BadRequest(
            "resourceVersion should not be set on objects to be created".into(),
        ));
    }
    let generated = meta::text(&object, "name").is_empty();
    for attempt in 1..=MAX_NAMES {
        let name = meta::new_name(&object).ok_or_else(|| name_required(&ctx.registration))?;
        let key = ObjectKey::new(&ctx.info.namespace, name);
        match add(ctx, &options, &key, object.clone(), Tracking::Changes).await {
            Err(ApiError::AlreadyExists(_)) if generated && attempt < MAX_NAMES => continue,
            other => return Ok(created(ctx, other?)),
        }
    }
    Err(ApiError::Internal("no generated name was free".into()))
}

/// Adds an object that is not there yet.
pub async fn add(
    ctx: &Context,
    options: &WriteOptions,
    key: &ObjectKey,
    mut object: Value,
    tracking: Tracking,
) -> Result<Replaced, ApiError> {
    let registration = &ctx.registration;
    meta::check_kind(registration, &object)?;
    if registration.namespaced {
        meta::check_namespace(&mut object, &ctx.info.namespace)?;
    }
    let asked = fields::asked(&object);
    let warnings = admit(registration, &mut object, options.fields)?;
    meta::begin(registration, &mut object, key);
    check(registration, &mut object, None)?;
    let nothing = Value::Object(Map::new());
    let object = fields::track(ctx, options, &nothing, object, asked, tracking);
    let created = if options.dry_run {
        dry_create(registration, key, object).await
    } else {
        registration.storage.create(key, object).await
    };
    let object = created.map_err(|e| ApiError::storage(e, || registration.target(&key.name)))?;
    Ok(Replaced { object, warnings })
}

async fn dry_create(
    registration: &Registration,
    key: &ObjectKey,
    object: Value,
) -> Result<Value, StorageError> {
    match registration.storage.get(key).await {
        Ok(_) => Err(StorageError::Exists),
        Err(StorageError::NotFound) => Ok(object),
        Err(other) => Err(other),
    }
}

fn name_required(registration: &Registration) -> ApiError {
    ApiError::Invalid {
        target: registration.target(""),
        causes: vec![Violation {
            field: "metadata.name".into(),
            cause: Cause::Required,
            message: "name or generateName is required".into(),
        }],
    }
}

/// What a write led to.
pub struct Replaced {
    /// The object as it is now.
    pub object: Value,
    /// For the client.
    pub warnings: Vec<String>,
}

/// Replaces a part of an object by what `make` makes of the current one. What `make` returns may name a version: then
/// another one is a conflict; otherwise a lost race is run again.
pub async fn replace(
    ctx: &Context,
    part: Part,
    options: &WriteOptions,
    tracking: Tracking,
    make: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Replaced, ApiError> {
    let (registration, key) = (&ctx.registration, ctx.key());
    let target = || registration.target(&key.name);
    for attempt in 1..=MAX_RACES {
        let old = ctx.read(&key).await?;
        let mut new = make(&old)?;
        let version = meta::text(&old, "resourceVersion").to_owned();
        let asked = meta::text(&new, "resourceVersion").to_owned();
        // A patch keeps the version that it read: that alone asks for nothing.
        let pinned = !asked.is_empty() && asked != version;
        if pinned || !same_uid(&old, &new) {
            return Err(ApiError::modified(target()));
        }
        let managers = fields::asked(&new);
        let warnings = prepare(registration, &old, &mut new, part, options)?;
        let new = fields::track(ctx, options, &old, new, managers, tracking);
        if new == old || options.dry_run {
            return Ok(Replaced {
                object: new,
                warnings,
            });
        }
        let expected = version.parse().map(ResourceVersion).unwrap_or_default();
        match registration.storage.update(&key, part, new, expected).await {
            Ok(Written::Kept(object) | Written::Gone(object)) => {
                return Ok(Replaced { object, warnings });
            }
            // `make` runs again on what is there now; a version that the client named fails then.
            Err(StorageError::Conflict) if attempt < MAX_RACES => continue,
            Err(other) => return Err(ApiError::storage(other, target)),
        }
    }
    Err(ApiError::modified(target()))
}

fn same_uid(old: &Value, new: &Value) -> bool {
    let asked = meta::text(new, "uid");
    asked.is_empty() || asked == meta::text(old, "uid")
}

fn prepare(
    registration: &Registration,
    old: &Value,
    new: &mut Value,
    part: Part,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    meta::check_kind(registration, new)?;
    if registration.namespaced {
        meta::check_namespace(new, meta::text(old, "namespace"))?;
    }
    let warnings = admit(registration, new, options.fields)?;
    meta::succeed(old, new, part);
    check(registration, new, Some(old))?;
    if part == Part::Spec && meta::spec_differs(old, new) {
        meta::bump(new);
    }
    Ok(warnings)
}

/// Answers PUT of an object or its status.
pub async fn update(
    ctx: &Context,
    part: Part,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let options = WriteOptions::of(ctx, headers)?;
    let sent = body::object(headers, bytes)?;
    if meta::text(&sent, "resourceVersion").is_empty() {
        return Err(ApiError::Invalid {
            target: ctx.registration.target(&ctx.info.name),
            causes: vec![Violation {
                field: "metadata.resourceVersion".into(),
                cause: Cause::Required,
                message: "must be specified for an update".into(),
            }],
        });
    }
    if meta::text(&sent, "name") != ctx.info.name {
        return Err(ApiError::BadRequest(format!(
            "the name of the object ({:?}) does not match the name on the URL ({:?})",
            meta::text(&sent, "name"),
            ctx.info.name
        )));
    }
    let make = |_: &Value| Ok(sent.clone());
    let replaced = replace(ctx, part, &options, Tracking::Changes, make).await?;
    Ok(answer(ctx, replaced))
}

/// The object that a write led to, in the form asked for.
pub fn answer(ctx: &Context, replaced: Replaced) -> Response {
    respond(ctx, StatusCode::OK, replaced)
}

/// The object that a write made, in the form asked for.
pub fn created(ctx: &Context, replaced: Replaced) -> Response {
    respond(ctx, StatusCode::CREATED, replaced)
}

fn respond(ctx: &Context, code: StatusCode, replaced: Replaced) -> Response {
    let reply = ctx.reply();
    let mut response = reply.respond(code, &reply.shape(replaced.object));
    body::warn(&mut response, &replaced.warnings);
    response
}
