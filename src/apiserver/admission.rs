//! What kube-apiserver does for its own kinds before it stores something, and does not do for those it forwards: whether the
//! namespace takes new objects (apiserver/pkg/admission/plugin/namespace/lifecycle) or never took any, and whether whoever creates by
//! applying may create.

use super::Context;
use super::authn;
use super::status::{ApiError, Target};
use crate::kube::Lifecycle;
use crate::telemetry::chain;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

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
    match ctx.namespaces.enter(namespace).await {
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
        // The client need not change anything: what Kubernetes says is for whoever runs us.
        Err(error) => Err(ApiError::Unavailable(chain(&error))),
    }
}

/// What was answered about a collection; where the store is away and the namespace goes without ever having had an object in
/// it, that there is nothing: Kubernetes deletes a namespace only when it knows that.
pub async fn or_nothing(
    ctx: &Context,
    answer: Result<Response, ApiError>,
) -> Result<Response, ApiError> {
    let Err(ApiError::Unavailable(_)) = &answer else {
        return answer;
    };
    let Some(namespace) = ctx.namespace() else {
        return answer;
    };
    if !ctx.registration.allows("deletecollection") {
        return answer;
    }
    match ctx.namespaces.goes_without(namespace).await {
        Ok(true) => {
            let reply = ctx.reply();
            let list = reply.shape_list(vec![], json!({"resourceVersion": "0"}));
            Ok(reply.respond(StatusCode::OK, &list))
        }
        Ok(false) => answer,
        Err(error) => {
            tracing::debug!(namespace, %error, "whether it ever had objects");
            answer
        }
    }
}
