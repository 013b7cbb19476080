//! PATCH: merge patches (RFC 7386), JSON patches (RFC 6902) and server-side apply. Strategic merge patches are for
//! Kubernetes' own kinds.

use super::Context;
use super::admission;
use super::body;
use super::duplicates::Twice;
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
    /// Parses a patch by its media type; returns what it says twice, too.
    pub fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<(Self, Vec<Twice>), ApiError> {
        match body::media_type(headers).as_str() {
            "application/merge-patch+json" => {
                let (patch, twice) = body::json(bytes)?;
                if patch.is_object() {
                    Ok((Self::Merge(patch), twice))
                } else {
                    Err(ApiError::BadRequest(
                        "a merge patch must be an object".into(),
                    ))
                }
            }
            "application/json-patch+json" => {
                let (patch, twice) = body::json(bytes)?;
                let Some(all) = patch.as_array() else {
                    return Err(ApiError::BadRequest("a JSON patch must be a list".into()));
                };
                if all.len() > MAX_OPERATIONS {
                    return Err(ApiError::TooLarge(MAX_OPERATIONS));
                }
                let patch = serde_json::from_value(patch).map_err(|e| {
                    ApiError::Unprocessable(format!("the body is not a JSON patch: {e}"))
                })?;
                Ok((Self::Json(patch), twice))
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
    let (patch, twice) = Patch::parse(headers, bytes)?;
    fields::check_not_forced(ctx)?;
    let mut options = WriteOptions::of(ctx, headers)?;
    options.twice = twice;
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
