//! What kube-apiserver does for its own kinds before it stores something, and does not do for those it forwards: whether the
//! namespace takes new objects (apiserver/pkg/admission/plugin/namespace/lifecycle), and whether whoever creates by applying
//! may create.

use super::Context;
use super::authn;
use super::status::{ApiError, Target};
use crate::kube::Lifecycle;

/// Whether the caller may create the object that the path names, and its namespace takes it: what a write that creates under
/// another verb asks right before.
pub async fn may_create(ctx: &Context) -> Result<(), ApiError> {
    if let Some(caller) = &ctx.caller {
        let mut wish = authn::resource(&ctx.info);
        "create".clone_into(&mut wish.verb);
        caller.check(wish).await?;
    }
    takes_new(ctx).await
}

/// Whether the namespace that the path names takes new objects.
pub async fn takes_new(ctx: &Context) -> Result<(), ApiError> {
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
