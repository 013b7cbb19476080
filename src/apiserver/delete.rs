//! DELETE of an object and of a collection.

use super::Context;
use super::body;
use super::list::{self, Cursor, PAGE};
use super::meta;
use super::options::{DeleteOptions, Dependents};
use super::registration::Registration;
use super::status::{ApiError, Target, success};
use super::storage::{ObjectKey, ObjectPage, StorageError, Written};
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

/// Answers DELETE of an object.
pub async fn delete(
    ctx: &Context,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let options = DeleteOptions::of(ctx, headers, bytes)?;
    let key = ctx.key();
    match one(&ctx.registration, &key, &options).await? {
        Written::Kept(object) => {
            let reply = ctx.reply();
            let code = match options.tells {
                true => StatusCode::ACCEPTED,
                false => StatusCode::OK,
            };
            Ok(reply.respond(code, &reply.shape(object)))
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
    options: &DeleteOptions,
) -> Result<Written, ApiError> {
    let target = || registration.target(&key.name);
    for attempt in 1..=MAX_RACES {
        let current = registration.storage.get(key).await;
        let mut object = current.map_err(|e| ApiError::storage(e, target))?;
        check_preconditions(&object, options, registration, key)?;
        let version = meta::text(&object, "resourceVersion").parse();
        // Also where it is marked already: whoever was to end it may have died since.
        meta::mark_deleted(&mut object);
        if registration.collected {
            leave_to_collector(&mut object, options.dependents);
        }
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

/// Makes the garbage collector deal with dependents first, as it is asked (apiserver/pkg/registry/generic/registry/store.go).
fn leave_to_collector(object: &mut Value, dependents: Dependents) {
    let asks = match dependents {
        Dependents::Unsaid => return,
        Dependents::Background => None,
        Dependents::Foreground => Some(meta::FOREGROUND),
        Dependents::Orphan => Some(meta::ORPHAN),
    };
    let all = object["metadata"]
        .get("finalizers")
        .and_then(Value::as_array);
    let mut all = all.cloned().unwrap_or_default();
    all.retain(|f| f != meta::FOREGROUND && f != meta::ORPHAN);
    all.extend(asks.map(Value::from));
    if all.is_empty() {
        meta::remove(object, "finalizers");
    } else {
        meta::set(object, "finalizers", all.into());
    }
}

fn check_preconditions(
    object: &Value,
    options: &DeleteOptions,
    registration: &Registration,
    key: &ObjectKey,
) -> Result<(), ApiError> {
    let of = |field| meta::text(object, field);
    let other = |wanted: &Option<String>, field| wanted.clone().filter(|w| w != of(field));
    let why = if let Some(wanted) = other(&options.uid, "uid") {
        format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            of("uid")
        )
    } else if let Some(wanted) = other(&options.version, "resourceVersion") {
        format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({}). The object might have been modified",
            of("resourceVersion")
        )
    } else {
        return Ok(());
    };
    let target = registration.target(&key.name);
    Err(ApiError::Conflict {
        // As kube-apiserver says it, which names the kind here.
        target: Target {
            resource: target.kind.clone(),
            ..target
        },
        why,
    })
}

/// Answers DELETE of a collection: each object that matches; those that went meanwhile do not matter. The answer shows them
/// as they were. Without a limit it goes page by page, and where the deletions themselves push its version out of the log,
/// on after the last page with the newest state.
pub async fn delete_collection(
    ctx: &Context,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let options = DeleteOptions::of(ctx, headers, bytes)?;
    let (filter, limit) = list::doomed(ctx)?;
    let mut cursor = Cursor::new(&ctx.registration, &filter);
    if let Some(limit) = limit {
        let page = cursor.collect(limit).await;
        let page = page.map_err(|e| ApiError::storage(e, || ctx.registration.target("")))?;
        let mut metadata = json!({"resourceVersion": page.version.to_string()});
        if page.next.is_some() {
            metadata["remainingItemCount"] = page.remaining.into();
        }
        let deleted = delete_all(ctx, &options, page).await?;
        return Ok(shown_as_list(ctx, deleted, metadata));
    }
    let (mut shown, mut count, mut renewals) = (vec![], 0, 0);
    let mut version = ResourceVersion::default();
    loop {
        let page = match cursor.page(PAGE).await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(StorageError::Expired(_)) if renewals < MAX_RENEWALS => {
                renewals += 1;
                cursor.renew();
                continue;
            }
            Err(error) => {
                return Err(ApiError::storage(error, || ctx.registration.target("")));
            }
        };
        version = version.max(page.version);
        for object in delete_all(ctx, &options, page).await? {
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
    Ok(shown_as_list(ctx, shown, metadata))
}

fn shown_as_list(ctx: &Context, objects: Vec<Value>, metadata: Value) -> Response {
    let reply = ctx.reply();
    reply.respond(StatusCode::OK, &reply.shape_list(objects, metadata))
}

/// Deletes objects of a page side by side; those that were there, as they were.
async fn delete_all(
    ctx: &Context,
    options: &DeleteOptions,
    page: ObjectPage,
) -> Result<Vec<Value>, ApiError> {
    let objects = page.into_fields();
    let objects = objects.map_err(|e| ApiError::storage(e, || ctx.registration.target("")))?;
    let deletions = objects.into_iter().map(|object| {
        let key = ObjectKey::new(
            meta::text(&object, "namespace"),
            meta::text(&object, "name"),
        );
        let of_this = DeleteOptions {
            uid: Some(meta::text(&object, "uid").to_owned()),
            ..options.clone()
        };
        async move {
            let gone = one(&ctx.registration, &key, &of_this).await;
            gone.map(|_| object)
        }
    });
    let mut outcomes = futures::stream::iter(deletions).buffered(AT_ONCE);
    let mut deleted = vec![];
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(object) => deleted.push(object),
            Err(ApiError::NotFound(_) | ApiError::Conflict { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(deleted)
}
