//! The `scale` subresource: `autoscaling/v1 Scale` over two fields of the object.

use super::Context;
use super::body;
use super::fields::{self, Applied, Tracking};
use super::meta;
use super::patch::{self, Patch};
use super::registration::Scale;
use super::status::ApiError;
use super::storage::Part;
use super::write::{self, WriteOptions};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

fn shape(paths: &Scale, object: &Value) -> Value {
    let number = |found: Option<&Value>| found.and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object.get("metadata").and_then(|m| m.get(field)) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut status = json!({"replicas": number(paths.status.find(object))});
    if let Some(selector) = paths.selector.as_ref().and_then(|p| p.find(object)) {
        status["selector"] = selector.clone();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(paths.spec.find(object))}, "status": status,
    })
}

/// What a `Scale` wants, as a part of the object.
fn wanted(paths: &Scale, scale: &Value) -> Result<Value, ApiError> {
    let wanted = scale.pointer("/spec/replicas").and_then(Value::as_i64);
    let wanted = wanted.ok_or_else(|| {
        ApiError::BadRequest("spec.replicas of the Scale must be a number".into())
    })?;
    let fields = paths.spec.fields();
    let fields = fields.ok_or_else(|| ApiError::Internal("the scale path is not plain".into()))?;
    let fields = fields.iter().rev();
    Ok(fields.fold(json!(wanted), |inner, field| json!({*field: inner})))
}

/// Puts what a `Scale` wants into the object.
fn merge(paths: &Scale, object: &Value, scale: &Value) -> Result<Value, ApiError> {
    let mut new = object.clone();
    json_patch::merge(&mut new, &wanted(paths, scale)?);
    let version = meta::text(scale, "resourceVersion");
    if !version.is_empty() {
        meta::set(&mut new, "resourceVersion", version.into());
    }
    Ok(new)
}

/// Makes the new object of the old one.
type Make<'a> = Box<dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync + 'a>;

/// Answers GET, PUT and PATCH of a scale.
pub async fn scale(
    ctx: &Context,
    paths: &Scale,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    if ctx.info.verb == "get" {
        let object = ctx.read(&ctx.key()).await?;
        return Ok(ctx.reply().respond(StatusCode::OK, &shape(paths, &object)));
    }
    let options = WriteOptions::of(ctx, headers)?;
    let (tracking, make): (_, Make<'_>) = match ctx.info.verb {
        "update" => {
            let (sent, _) = body::object(headers, bytes)?;
            let make = move |old: &Value| merge(paths, old, &sent);
            (Tracking::Changes, Box::new(make))
        }
        "patch" if patch::applies(headers) => {
            let applied = Applied::parse_as(ctx, bytes, "autoscaling/v1", "Scale")?;
            let applied = applied.with(wanted(paths, applied.config())?, ctx);
            let options = &options;
            let make = move |old: &Value| applied.put_over(ctx, options, old);
            (Tracking::Applied, Box::new(make))
        }
        "patch" => {
            let (patch, _) = Patch::parse(headers, bytes)?;
            fields::check_not_forced(ctx)?;
            let make = move |old: &Value| merge(paths, old, &patch.apply(&shape(paths, old))?);
            (Tracking::Changes, Box::new(make))
        }
        _ => return Err(ctx.not_allowed()),
    };
    let replaced = write::replace(ctx, Part::Spec, &options, tracking, make).await?;
    let scale = shape(paths, &replaced.object);
    Ok(ctx.reply().respond(StatusCode::OK, &scale))
}
