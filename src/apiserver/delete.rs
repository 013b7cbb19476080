//! DELETE of an object and of a collection.

use super::Context;
use super::body;
use super::list::{self, Cursor, PAGE};
use super::meta;
use super::registration::Registration;
use super::status::{ApiError, success};
use super::storage::{ObjectKey, StorageError, Written};
use crate::api::names::ResourceVersion;
use axum::response::Response;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

/// How often a deletion is tried against the newest version.
const MAX_RACES: usize = 8;

/// Objects that the answer to the deletion of a collection shows; to more it says only that it succeeded, as the API allows.
const SHOWN: usize = 1000;
/// How often the deletion of a collection goes on with a newer state when its own is gone.
const MAX_RENEWALS: usize = 100;

/// Deletions of a collection at once: each waits for a store that syncs.
const AT_ONCE: usize = 16;

/// What a deletion depends on.
#[derive(Clone, Debug, Default)]
struct Options {
    uid: Option<String>,
    version: Option<String>,
    dry_run: bool,
}

/// From body and query; what is said of grace and propagation is accepted and means nothing here: sandboxes have no grace,
/// dependents are the garbage collector's.
fn options(ctx: &Context, headers: &HeaderMap, bytes: &[u8]) -> Result<Options, ApiError> {
    let body = if bytes.is_empty() {
        json!({})
    } else {
        body::object(headers, bytes)?
    };
    let kind = body
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or("DeleteOptions");
    if kind != "DeleteOptions" {
        return Err(ApiError::BadRequest(format!(
            "the body must be DeleteOptions, not {kind}"
        )));
    }
    let text = |pointer: &str| {
        body.pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let policy =
        text("/propagationPolicy").or(ctx.query.get("propagationPolicy").map(str::to_owned));
    if let Some(policy) =
        policy.filter(|p| !["Orphan", "Background", "Foreground"].contains(&p.as_str()))
    {
        return Err(ApiError::BadRequest(format!(
            "propagationPolicy={policy:?} is not known"
        )));
    }
    let dry_run = match body.get("dryRun").and_then(Value::as_array) {
        None => ctx.query.dry_run()?,
        Some(all) if all.is_empty() => ctx.query.dry_run()?,
        Some(all) if all.iter().all(|v| v == "All") => true,
        Some(_) => {
            return Err(ApiError::BadRequest(
                "dryRun is not supported: use All".into(),
            ));
        }
    };
    Ok(Options {
        uid: text("/preconditions/uid"),
        version: text("/preconditions/resourceVersion"),
        dry_run,
    })
}

/// Answers DELETE of an object.
pub async fn delete(
    ctx: &Context,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let options = options(ctx, headers, bytes)?;
    let key = ctx.key();
    match one(&ctx.registration, &key, &options).await? {
        Written::Kept(object) => {
            let reply = ctx.reply();
            Ok(reply.respond(StatusCode::OK, &reply.shape(object)))
        }
        Written::Gone(object) => {
            let status = success(
                &ctx.registration.target(&key.name),
                meta::text(&object, "uid"),
            );
            Ok(body::respond(ctx.wanted.format, StatusCode::OK, &status))
        }
    }
}

async fn one(
    registration: &Registration,
    key: &ObjectKey,
    options: &Options,
) -> Result<Written, ApiError> {
    let target = || registration.target(&key.name);
    for attempt in 1..=MAX_RACES {
        let current = registration.storage.get(key).await;
        let mut object = current.map_err(|e| ApiError::storage(e, target))?;
        check_preconditions(&object, options, registration, key)?;
        let version = meta::text(&object, "resourceVersion").parse();
        // Also where it is marked already: whoever was to end it may have died since.
        meta::mark_deleted(&mut object);
        if options.dry_run {
            return Ok(if super::storage::has_finalizers(&object) {
                Written::Kept(object)
            } else {
                Written::Gone(object)
            });
        }
        let expected = version.map(ResourceVersion).unwrap_or_default();
        match registration.storage.delete(key, object, expected).await {
            Err(StorageError::Conflict) if attempt < MAX_RACES => continue,
            other => return other.map_err(|e| ApiError::storage(e, target)),
        }
    }
    Err(ApiError::modified(target()))
}

fn check_preconditions(
    object: &Value,
    options: &Options,
    registration: &Registration,
    key: &ObjectKey,
) -> Result<(), ApiError> {
    for (field, wanted) in [("uid", &options.uid), ("resourceVersion", &options.version)] {
        let is = meta::text(object, field);
        if let Some(wanted) = wanted.as_deref().filter(|w| *w != is) {
            return Err(ApiError::Conflict {
                target: registration.target(&key.name),
                why: format!(
                    "Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {is}"
                ),
            });
        }
    }
    Ok(())
}

/// Answers DELETE of a collection, page by page: each object that matches; those that went meanwhile do not matter. Where
/// the deletions themselves push its version out of the log, it goes on after the last page with the newest state.
pub async fn delete_collection(
    ctx: &Context,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let options = options(ctx, headers, bytes)?;
    let filter = list::filter(ctx)?;
    let mut cursor = Cursor::new(&ctx.registration, &filter);
    let (mut shown, mut count, mut renewals) = (vec![], 0, 0);
    let mut version = ResourceVersion::default();
    loop {
        let page = match cursor.page(PAGE).await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(StorageError::Expired) if renewals < MAX_RENEWALS => {
                renewals += 1;
                cursor.renew();
                continue;
            }
            Err(error) => {
                return Err(ApiError::storage(error, || ctx.registration.target("")));
            }
        };
        version = version.max(page.version);
        for object in delete_all(ctx, &options, page.items).await? {
            count += 1;
            if shown.len() < SHOWN {
                shown.push(object);
            }
        }
    }
    if count > SHOWN {
        let status = success(&ctx.registration.target(""), "");
        return Ok(body::respond(ctx.wanted.format, StatusCode::OK, &status));
    }
    let metadata = json!({"resourceVersion": version.to_string()});
    let reply = ctx.reply();
    Ok(reply.respond(StatusCode::OK, &reply.shape_list(shown, metadata)))
}

/// Deletes objects of a page side by side; what became of those that were there.
async fn delete_all(
    ctx: &Context,
    options: &Options,
    objects: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    let deletions = objects.into_iter().map(|object| {
        let key = ObjectKey::new(
            meta::text(&object, "namespace"),
            meta::text(&object, "name"),
        );
        let of_this = Options {
            uid: Some(meta::text(&object, "uid").to_owned()),
            ..options.clone()
        };
        async move { one(&ctx.registration, &key, &of_this).await }
    });
    let mut outcomes = futures::stream::iter(deletions).buffered(AT_ONCE);
    let mut deleted = vec![];
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(Written::Kept(object) | Written::Gone(object)) => deleted.push(object),
            Err(ApiError::NotFound(_) | ApiError::Conflict { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(deleted)
}
