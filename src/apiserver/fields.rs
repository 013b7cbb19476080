//! Field managers of requests: who writes, what is applied, and the `managedFields` that a write leaves behind.
//! What they mean is [`super::apply`]'s.

use super::Context;
use super::apply::{ApplyError, FieldManager, FieldSet, Path};
use super::body;
use super::duplicates::{self, Twice};
use super::meta;
use super::options::{self, FieldValidation};
use super::registration::StatusSupport;
use super::status::ApiError;
use super::violation;
use super::write::WriteOptions;
use crate::api::time::Timestamp;
use axum::response::Response;
use http::{HeaderMap, header};
use serde_json::{Map, Value, json};

/// Bytes of a manager's name (apimachinery/pkg/apis/meta/v1/validation).
const MAX_MANAGER: usize = 128;

/// How a write comes by its managedFields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// From what it changes.
    Changes,
    /// They are part of what is written.
    Applied,
}

/// Who writes: `fieldManager`, or what the client calls itself up to its version.
pub fn manager(ctx: &Context, headers: &HeaderMap) -> Result<String, ApiError> {
    let named = ctx.query.get("fieldManager").unwrap_or_default();
    let is_control = |c: &char| c.is_control();
    if named.len() > MAX_MANAGER {
        let why = violation::too_long("fieldManager", MAX_MANAGER);
        return Err(options::bad(ctx, why));
    }
    if let Some((at, c)) = named.char_indices().find(|(_, c)| is_control(c)) {
        let why = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(c)
        );
        let why = violation::invalid("fieldManager", named, &why);
        return Err(options::bad(ctx, why));
    }
    if !named.is_empty() {
        return Ok(named.to_owned());
    }
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.map(|v| String::from_utf8_lossy(v.as_bytes()));
    let name = agent.as_deref().unwrap_or_default().split('/').next();
    let mut manager = String::new();
    for c in name.unwrap_or_default().chars().filter(|c| !is_control(c)) {
        if manager.len() + c.len_utf8() > MAX_MANAGER {
            break;
        }
        manager.push(c);
    }
    Ok(manager)
}

/// Refuses `force` where nothing is applied.
pub fn check_not_forced(ctx: &Context) -> Result<(), ApiError> {
    match ctx.query.flag("force") {
        None => Ok(()),
        Some(_) => {
            let why = "may not be specified for non-apply patch";
            Err(options::bad(ctx, violation::forbidden("force", why)))
        }
    }
}

/// What a request itself says of managedFields.
pub fn asked(object: &Value) -> Option<Value> {
    object.get("metadata")?.get("managedFields").cloned()
}

fn with_manager<T>(ctx: &Context, run: impl FnOnce(&FieldManager<'_>) -> T) -> T {
    let r = &ctx.registration;
    // What a write at this place resets anyway.
    let ignored = match (ctx.info.subresource.as_str(), r.status) {
        ("", StatusSupport::Read | StatusSupport::Write) => FieldSet::of([Path::of(&["status"])]),
        ("status", _) => FieldSet::of([Path::of(&["spec"])]),
        _ => FieldSet::default(),
    };
    run(&FieldManager {
        of: &r.fields,
        version: &r.api_version(),
        subresource: &ctx.info.subresource,
        ignored: &ignored,
        now: &Timestamp::now().to_rfc3339(),
    })
}

/// `new`, which replaces `old`, with its managedFields. `asked` is what the request says of them.
pub fn track(
    ctx: &Context,
    options: &WriteOptions,
    old: &Value,
    mut new: Value,
    asked: Option<Value>,
    tracking: Tracking,
) -> Value {
    match (tracking, asked) {
        (Tracking::Changes, asked) => {
            // Only a list with an empty entry takes managers away.
            let asked = asked.filter(|a| a.as_array().is_some_and(|all| !all.is_empty()));
            new = with_manager(ctx, |m| {
                m.update(old, new, asked.as_ref(), &options.manager)
            });
        }
        (Tracking::Applied, Some(managers)) => meta::set(&mut new, "managedFields", managers),
        (Tracking::Applied, None) => meta::remove(&mut new, "managedFields"),
    }
    // That somebody wrote the same again is no change.
    if timeless(old) == timeless(&new) {
        return old.clone();
    }
    new
}

fn timeless(object: &Value) -> Value {
    let mut object = object.clone();
    let managers = object.pointer_mut("/metadata/managedFields");
    for entry in managers.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("time");
        }
    }
    object
}

/// What is applied.
pub struct Applied {
    config: Value,
    force: bool,
    warnings: Vec<String>,
}

impl Applied {
    /// Reads what is applied to an object.
    pub fn parse(ctx: &Context, bytes: &[u8]) -> Result<Self, ApiError> {
        let r = &ctx.registration;
        Self::parse_as(ctx, bytes, &r.api_version(), &r.kind)
    }

    /// Reads what is applied, of another kind.
    pub fn parse_as(
        ctx: &Context,
        bytes: &[u8],
        version: &str,
        kind: &str,
    ) -> Result<Self, ApiError> {
        if ctx.query.get("fieldManager").is_none() {
            let why = violation::required("fieldManager", "is required for apply patch");
            return Err(options::bad(ctx, why));
        }
        let bad =
            |e: &dyn std::fmt::Display| ApiError::BadRequest(format!("error decoding YAML: {e}"));
        // JSON is YAML too, but for its tabs.
        let (config, twice) = match duplicates::json(bytes) {
            Ok(read) => read,
            Err(_) => duplicates::read(serde_yaml_ng::Deserializer::from_slice(bytes))
                .map_err(|e| bad(&e))?,
        };
        if !config.is_object() {
            return Err(bad(&"it is not an object"));
        }
        let text = |field: &str| config[field].as_str().unwrap_or_default();
        let (own_version, own_kind) = (text("apiVersion"), text("kind"));
        if (own_version, own_kind) != (version, kind) {
            let own_version = match own_version {
                "" => "/",
                other => other,
            };
            return Err(ApiError::BadRequest(format!(
                "invalid object type: {own_version}, Kind={own_kind}"
            )));
        }
        if asked(&config).is_some_and(|asked| !asked.is_null()) {
            return Err(ApiError::BadRequest(
                "metadata.managedFields must be nil".into(),
            ));
        }
        let twice: Vec<_> = twice.iter().map(Twice::in_yaml).collect();
        let warnings = match FieldValidation::of(ctx)? {
            FieldValidation::Strict if !twice.is_empty() => {
                let why = twice.join(", ");
                return Err(ApiError::BadRequest(format!(
                    "error strict decoding YAML: {why}"
                )));
            }
            FieldValidation::Warn => twice,
            FieldValidation::Strict | FieldValidation::Ignore => vec![],
        };
        Ok(Self {
            config,
            force: ctx.query.is_true("force"),
            warnings,
        })
    }

    /// As it was sent.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The same for this part of the object itself.
    pub fn with(&self, mut part: Value, ctx: &Context) -> Self {
        let r = &ctx.registration;
        part["apiVersion"] = r.api_version().into();
        part["kind"] = r.kind.as_str().into();
        if let Some(version) = self.config.pointer("/metadata/resourceVersion") {
            part["metadata"] = json!({"resourceVersion": version});
        }
        Self {
            config: part,
            force: self.force,
            warnings: self.warnings.clone(),
        }
    }

    /// An answer with what there is to say of what was sent.
    pub fn warned(&self, mut response: Response) -> Response {
        body::warn(&mut response, &self.warnings);
        response
    }

    /// What it makes of an object.
    pub fn put_over(
        &self,
        ctx: &Context,
        options: &WriteOptions,
        old: &Value,
    ) -> Result<Value, ApiError> {
        meta::check_name(&self.config, &ctx.info.name, false)?;
        let applied = with_manager(ctx, |m| {
            m.apply(old, &self.config, &options.manager, self.force)
        });
        applied.map_err(|e| match e {
            ApplyError::Conflicts(conflicts) => ApiError::Owned(conflicts),
            ApplyError::Config(why) => {
                let r = &ctx.registration;
                ApiError::BadRequest(format!(
                    "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
                    ctx.info.namespace,
                    ctx.info.name,
                    r.api_version(),
                    r.kind
                ))
            }
            ApplyError::Managed(_) => ApiError::Internal(e.to_string()),
        })
    }

    /// What it makes where nothing is.
    pub fn made_anew(&self, ctx: &Context, options: &WriteOptions) -> Result<Value, ApiError> {
        let target = || ctx.registration.target(&ctx.info.name);
        let uid = meta::text(&self.config, "uid");
        if !uid.is_empty() {
            return Err(ApiError::Conflict {
                target: target(),
                why: format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                ),
            });
        }
        self.put_over(ctx, options, &Value::Object(Map::new()))
    }
}
