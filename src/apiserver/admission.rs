//! What kube-apiserver does for its own kinds before it stores something, and does not do for those it forwards: whether the
//! namespace takes new objects (apiserver/pkg/admission/plugin/namespace/lifecycle), and whether whoever creates by applying
//! may create.

use super::Context;
use super::authn;
use super::body;
use super::status::{ApiError, Target};
use super::storage::{Part, StorageError};
use crate::kube::Lifecycle;
use http::HeaderMap;

/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// Before a write is read: may it create, if it will.
pub async fn check(ctx: &Context, part: Part, headers: &HeaderMap) -> Result<(), ApiError> {
    match (part, ctx.info.verb) {
        (Part::Spec, "create") => takes_new(ctx).await,
        (Part::Spec, "patch") if body::media_type(headers) == APPLY => {
            match ctx.registration.storage.get(&ctx.key()).await {
                Err(StorageError::NotFound) => may_create(ctx).await,
                Ok(_) | Err(_) => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Whether the caller may create the object that the path names: what a write that creates asks beside its own verb.
pub async fn may_create(ctx: &Context) -> Result<(), ApiError> {
    if let Some(caller) = &ctx.caller {
        let mut wish = authn::resource(&ctx.info);
        "create".clone_into(&mut wish.verb);
        caller.check(wish).await?;
    }
    takes_new(ctx).await
}

async fn takes_new(ctx: &Context) -> Result<(), ApiError> {
    let Some(namespace) = ctx.namespace() else {
        return Ok(());
    };
    match ctx.namespaces.look(namespace).await {
        Ok(Lifecycle::Active) => Ok(()),
        Ok(Lifecycle::Terminating) => Err(ApiError::Terminating {
            target: ctx.registration.target(&ctx.info.name),
            namespace: namespace.to_owned(),
        }),
        Ok(Lifecycle::Missing) => Err(ApiError::NotFound(Target {
            resource: "namespaces".into(),
            kind: "Namespace".into(),
            name: namespace.to_owned(),
            ..Target::default()
        })),
        Err(error) => Err(ApiError::Internal(error.to_string())),
    }
}
