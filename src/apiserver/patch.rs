//! PATCH: merge patches (RFC 7386), JSON patches (RFC 6902) and server-side apply. Strategic merge patches are for
//! Kubernetes' own kinds.

use super::Context;
use super::admission;
use super::body;
use super::fields::{self, Applied, Tracking};
use super::status::ApiError;
use super::storage::Part;
use super::write::{self, WriteOptions};
use axum::response::Response;
use http::HeaderMap;
use serde_json::Value;

/// How often an apply is tried on an object that comes and goes.
const MAX_RACES: usize = 4;
/// Operations that a JSON patch may have (Kubernetes' own limit).
const MAX_OPERATIONS: usize = 10_000;
/// The patches that we take.
pub const PATCH_TYPES: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
const APPLY: &str = "application/apply-patch+yaml";

/// A parsed patch.
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
}

impl Patch {
    /// Parses a patch by its media type.
    pub fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Self, ApiError> {
        match body::media_type(headers).as_str() {
            "application/merge-patch+json" => {
                let patch = body::json(bytes)?;
                if patch.is_object() {
                    Ok(Self::Merge(patch))
                } else {
                    Err(ApiError::BadRequest(
                        "a merge patch must be an object".into(),
                    ))
                }
            }
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(bytes).map_err(|e| {
                    ApiError::BadRequest(format!("the body is not a JSON patch: {e}"))
                })?;
                if patch.0.len() > MAX_OPERATIONS {
                    return Err(ApiError::TooLarge(MAX_OPERATIONS));
                }
                Ok(Self::Json(patch))
            }
            _ => Err(ApiError::UnsupportedMediaType {
                accepted: PATCH_TYPES,
            }),
        }
    }

    /// What the patch makes of an object.
    pub fn apply(&self, old: &Value) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Json(patch) => json_patch::patch(&mut new, patch).map_err(|e| {
                ApiError::Unprocessable(format!("the patch cannot be applied: {e}"))
            })?,
        }
        Ok(new)
    }
}

/// Whether a request applies.
pub fn applies(headers: &HeaderMap) -> bool {
    body::media_type(headers) == APPLY
}

/// Answers PATCH of an object or its status.
pub async fn patch(
    ctx: &Context,
    part: Part,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    if applies(headers) {
        return apply(ctx, part, headers, bytes).await;
    }
    let patch = Patch::parse(headers, bytes)?;
    fields::check_not_forced(ctx)?;
    let options = WriteOptions::of(ctx, headers)?;
    let make = |old: &Value| patch.apply(old);
    let replaced = write::replace(ctx, part, &options, Tracking::Changes, make).await?;
    Ok(write::answer(ctx, replaced))
}

/// Applies; an object that is not there is made.
async fn apply(
    ctx: &Context,
    part: Part,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let options = WriteOptions::of(ctx, headers)?;
    let applied = Applied::parse(ctx, bytes)?;
    let make = |old: &Value| applied.put_over(ctx, &options, old);
    for attempt in 1..=MAX_RACES {
        match write::replace(ctx, part, &options, Tracking::Applied, make).await {
            Ok(replaced) => return Ok(applied.warned(write::answer(ctx, replaced))),
            Err(ApiError::NotFound(_)) if part == Part::Spec => {}
            Err(other) => return Err(other),
        }
        admission::may_create(ctx).await?;
        let object = applied.made_anew(ctx, &options)?;
        match write::add(ctx, &options, &ctx.key(), object, Tracking::Applied).await {
            // Somebody else made it meanwhile.
            Err(ApiError::AlreadyExists(_)) if attempt < MAX_RACES => continue,
            other => return Ok(applied.warned(write::created(ctx, other?))),
        }
    }
    Err(ApiError::modified(ctx.registration.target(&ctx.info.name)))
}
