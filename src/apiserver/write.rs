//! Create and update: what both doors of a write (PUT, PATCH, scale) have in common is [`replace`].

use super::Context;
use super::body;
use super::duplicates::Twice;
use super::fields::{self, Tracking};
use super::list;
use super::meta;
use super::options::{self, FieldValidation};
use super::registration::Registration;
use super::status::{ApiError, Target};
use super::storage::{ObjectKey, Part, StorageError, Written};
use super::violation;
use crate::api::names::ResourceVersion;
use crate::api::validate::{Cause, MAX_VIOLATIONS, Violation};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

/// How often a write that names no version is tried against the newest one.
const MAX_RACES: usize = 8;
/// How many generated names are tried.
const MAX_NAMES: usize = 8;

/// What a write was asked to do beside writing.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// What happens to unknown fields, and to those said twice.
    pub fields: FieldValidation,
    /// Fields that the request says twice.
    pub twice: Vec<Twice>,
    /// Who owns what it changes.
    pub manager: String,
}

impl WriteOptions {
    /// From query and headers.
    pub fn of(ctx: &Context, headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self {
            dry_run: options::query_dry_run(ctx)?,
            fields: FieldValidation::of(ctx)?,
            twice: vec![],
            manager: fields::manager(ctx, headers)?,
        })
    }
}

/// What was sent is not an object of this kind: of a patch that is said of what it makes.
fn undecodable(ctx: &Context, why: &str) -> ApiError {
    if ctx.info.verb == "patch" {
        return ApiError::Invalid {
            target: Target::default(),
            causes: vec![violation::invalid("patch", &ctx.info.name, why)],
        };
    }
    let r = &ctx.registration;
    ApiError::BadRequest(format!(
        "{kind} in version {:?} cannot be handled as a {kind}: {why}",
        r.version,
        kind = r.kind
    ))
}

/// Prunes, defaults and normalizes an object; returns warnings.
fn admit(
    ctx: &Context,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let registration = &ctx.registration;
    let unknown = meta::prune(object);
    meta::check_types(object).map_err(|why| undecodable(ctx, &why))?;
    let unknown = unknown.into_iter().chain(registration.schema.prune(object));
    let twice = options.twice.iter().map(Twice::in_json);
    let warnings: Vec<_> = twice
        .chain(unknown.map(|field| format!("unknown field \"{field}\"")))
        .collect();
    if options.fields == FieldValidation::Strict && !warnings.is_empty() {
        let why = format!("strict decoding error: {}", warnings.join(", "));
        return Err(undecodable(ctx, &why));
    }
    registration.schema.fill(object);
    Ok(match options.fields {
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
    let mut options = WriteOptions::of(ctx, headers)?;
    let (mut object, twice) = body::object(headers, bytes)?;
    options.twice = twice;
    meta::check_kind(&ctx.registration, &object)?;
    meta::fill_texts(&mut object);
    meta::check_types(&object).map_err(|why| undecodable(ctx, &why))?;
    if !["", "0"].contains(&meta::text(&object, "resourceVersion")) {
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
            Err(ApiError::AlreadyExists(target)) => return Err(exists(ctx, &key, target).await),
            other => return Ok(created(ctx, other?)),
        }
    }
    Err(ApiError::Internal("no generated name was free".into()))
}

/// Why an object cannot be created: one is there, or still there.
async fn exists(ctx: &Context, key: &ObjectKey, target: Target) -> ApiError {
    match ctx.read(key).await {
        Ok(object) if super::storage::is_deleting(&object) => ApiError::StillThere(target),
        _ => ApiError::AlreadyExists(target),
    }
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
    let mut warnings = admit(ctx, &mut object, options)?;
    warnings.extend(meta::dedup_owners(&mut object));
    warnings.extend(meta::warnings(&object));
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
    let storage = &registration.storage;
    storage.check_create(key, &object).await?;
    match storage.get(key).await {
        Ok(_) => Err(StorageError::Exists),
        Err(StorageError::NotFound) => Ok(object),
        Err(other) => Err(other),
    }
}

fn name_required(registration: &Registration) -> ApiError {
    ApiError::Invalid {
        target: registration.target(""),
        causes: vec![violation::required(
            "metadata.name",
            "name or generateName is required",
        )],
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
        if !asked.is_empty() && asked != version {
            return Err(ApiError::modified(target()));
        }
        let managers = fields::asked(&new);
        let warnings = prepare(ctx, &old, &mut new, part, options)?;
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

fn prepare(
    ctx: &Context,
    old: &Value,
    new: &mut Value,
    part: Part,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let registration = &ctx.registration;
    meta::check_kind(registration, new)?;
    meta::check_name(new, &ctx.info.name, true)?;
    if registration.namespaced {
        meta::check_namespace(new, meta::text(old, "namespace"))?;
    }
    let mut warnings = admit(ctx, new, options)?;
    let fixed = meta::immutable(old, new);
    if part == Part::Spec && !fixed.is_empty() {
        return Err(ApiError::Invalid {
            target: registration.target(&ctx.info.name),
            causes: fixed,
        });
    }
    meta::succeed(old, new, part);
    warnings.extend(meta::dedup_owners(new));
    warnings.extend(meta::warnings(new));
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
    let mut options = WriteOptions::of(ctx, headers)?;
    let (sent, twice) = body::object(headers, bytes)?;
    options.twice = twice;
    meta::check_kind(&ctx.registration, &sent)?;
    meta::check_name(&sent, &ctx.info.name, true)?;
    let make = |old: &Value| {
        check_uid(ctx, &sent, meta::text(old, "uid"))?;
        check_version(ctx, &sent)?;
        Ok(sent.clone())
    };
    match replace(ctx, part, &options, Tracking::Changes, make).await {
        Ok(replaced) => Ok(answer(ctx, replaced)),
        Err(ApiError::NotFound(target)) => {
            // Whoever names the uid means one object, and that one is gone.
            check_uid(ctx, &sent, "")?;
            Err(ApiError::NotFound(target))
        }
        Err(other) => Err(other),
    }
}

/// A PUT that names a uid is for that object alone.
fn check_uid(ctx: &Context, sent: &Value, is: &str) -> Result<(), ApiError> {
    let asked = meta::text(sent, "uid");
    if asked.is_empty() || asked == is {
        return Ok(());
    }
    Err(ApiError::Conflict {
        target: ctx.registration.target(&ctx.info.name),
        why: format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {is}"),
    })
}

/// A PUT names the version that it replaces.
fn check_version(ctx: &Context, sent: &Value) -> Result<(), ApiError> {
    let asked = meta::text(sent, "resourceVersion");
    if !["", "0"].contains(&asked) {
        list::version(Some(asked))?;
        return Ok(());
    }
    let cause = violation::in_words(
        "metadata.resourceVersion",
        "Invalid value: 0x0: must be specified for an update",
    );
    let target = ctx.registration.target(&ctx.info.name);
    Err(ApiError::Invalid {
        // As kube-apiserver says it, which names the resource here.
        target: Target {
            kind: target.resource.clone(),
            ..target
        },
        causes: vec![cause],
    })
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
