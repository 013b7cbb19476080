//! OpenAPI: v3 per group version (what kubectl checks fields with, and explains), and v2 for those who still ask
//! (kube-openapi/pkg/handler3, pkg/handler).

use super::App;
use super::apply;
use super::patch::PATCH_TYPES;
use super::registration::Registration;
use super::status::json_response;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, ObjectMeta, Status};
use prost::Message;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Names of schemas that every document has.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// What the v2 document is asked for as (gnostic's OpenAPIv2).
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Documents, made once.
pub struct OpenApi {
    /// By `apis/G/V` or `api/v1`: hash and text.
    v3: BTreeMap<String, (String, String)>,
    v2: Value,
}

impl OpenApi {
    /// Of these kinds.
    pub fn of<'a>(registrations: impl Iterator<Item = &'a Registration>) -> Self {
        let mut groups: BTreeMap<String, Vec<&Registration>> = BTreeMap::new();
        let mut definitions = Map::new();
        for r in registrations {
            groups
                .entry(r.prefix()[1..].to_owned())
                .or_default()
                .push(r);
            definitions.insert(schema_name(r), schema(r, "#/definitions/"));
        }
        let v3 = groups.iter().map(|(path, kinds)| {
            let text = document(kinds).to_string();
            let hash = hex::encode_upper(Sha256::digest(text.as_bytes()));
            (path.clone(), (hash, text))
        });
        definitions.extend(meta_schemas());
        let v2 = json!({
            "swagger": "2.0", "info": info(), "paths": {}, "definitions": definitions,
        });
        Self {
            v3: v3.collect(),
            v2,
        }
    }

    /// Answers below `/openapi/`; `None` if there is nothing.
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        match path {
            "v2" => Some(self.v2(headers)),
            "v3" | "v3/" => Some(self.index()),
            other => {
                let (hash, text) = self.v3.get(other.strip_prefix("v3/")?)?;
                let headers = [
                    (header::CONTENT_TYPE, "application/json".to_owned()),
                    (header::ETAG, format!("\"{hash}\"")),
                ];
                Some((headers, text.clone()).into_response())
            }
        }
    }

    fn index(&self) -> Response {
        let paths: Map<_, _> = self
            .v3
            .iter()
            .map(|(path, (hash, _))| {
                let url = format!("/openapi/v3/{path}?hash={hash}");
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        json_response(StatusCode::OK, &json!({"paths": paths}))
    }

    fn v2(&self, headers: &HeaderMap) -> Response {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("");
        if !accept.contains("proto-openapi.spec.v2") {
            return json_response(StatusCode::OK, &self.v2);
        }
        // Valid and empty: whoever reads it goes on as for kinds that it does not know.
        let empty = V2Document {
            swagger: "2.0".into(),
            info: Some(V2Info {
                title: "Agent Substrate".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            }),
            paths: Some(V2Paths {}),
        };
        ([(header::CONTENT_TYPE, V2_PROTOBUF)], empty.encode_to_vec()).into_response()
    }
}

/// The beginning of gnostic's `openapi.v2.Document`.
#[derive(Clone, PartialEq, Message)]
struct V2Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<V2Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<V2Paths>,
}

#[derive(Clone, PartialEq, Message)]
struct V2Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct V2Paths {}

fn info() -> Value {
    json!({"title": "Agent Substrate", "version": env!("CARGO_PKG_VERSION")})
}

/// `dev.ate.runtime.v1alpha1.Actor` for `runtime.ate.dev/v1alpha1 Actor`.
fn schema_name(r: &Registration) -> String {
    let mut parts: Vec<_> = r.group.split('.').rev().filter(|p| !p.is_empty()).collect();
    if parts.is_empty() {
        parts = vec!["io", "k8s", "api", "core"];
    }
    format!("{}.{}.{}", parts.join("."), r.version, r.kind)
}

fn gvk(r: &Registration) -> Value {
    json!({"group": r.group, "version": r.version, "kind": r.kind})
}

fn schema(r: &Registration, refs: &str) -> Value {
    let mut schema = r.published.clone();
    let text = |what: &str| json!({"type": "string", "description": what});
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("x-kubernetes-group-version-kind".into(), json!([gvk(r)]));
        let properties = schema.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = text("Version of the schema of this object, as group/version.");
        properties["kind"] = text("Kind of this object.");
        properties["metadata"] = json!({
            "description": "Standard object's metadata.", "allOf": [{"$ref": format!("{refs}{META}.ObjectMeta")}], "default": {},
        });
    }
    schema
}

fn list_schema(r: &Registration) -> Value {
    json!({
        "type": "object", "description": format!("{} is a list of {}.", r.list_kind(), r.plural), "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "metadata": {"$ref": format!("#/components/schemas/{META}.ListMeta")},
            "items": {"type": "array", "items": {"$ref": format!("#/components/schemas/{}", schema_name(r))}},
        },
        "x-kubernetes-group-version-kind": [{"group": r.group, "version": r.version, "kind": r.list_kind()}],
    })
}

fn meta_schemas() -> Map<String, Value> {
    let generator = || {
        SchemaSettings::openapi3()
            .with(|s| s.inline_subschemas = true)
            .into_generator()
    };
    let named = [
        (
            "ObjectMeta",
            generator().into_root_schema_for::<ObjectMeta>(),
        ),
        ("ListMeta", generator().into_root_schema_for::<ListMeta>()),
        ("Status", generator().into_root_schema_for::<Status>()),
        (
            "DeleteOptions",
            generator().into_root_schema_for::<DeleteOptions>(),
        ),
    ];
    named
        .into_iter()
        .map(|(name, schema)| {
            let mut schema = schema.to_value();
            if let Some(schema) = schema.as_object_mut() {
                schema.remove("$schema");
                schema.remove("title");
            }
            if name == "ObjectMeta" {
                mark(&mut schema, &apply::object_meta());
            }
            (format!("{META}.{name}"), schema)
        })
        .collect()
}

/// Adds how fields merge (`x-kubernetes-list-type` and its like), which the generated schema leaves out.
fn mark(schema: &mut Value, by: &Value) {
    let (Some(schema), Some(by)) = (schema.as_object_mut(), by.as_object()) else {
        return;
    };
    for (name, value) in by {
        match schema.get_mut(name) {
            Some(own) => mark(own, value),
            None if name.starts_with("x-kubernetes-") => {
                schema.insert(name.clone(), value.clone());
            }
            None => {}
        }
    }
}

fn document(kinds: &[&Registration]) -> Value {
    let mut schemas = meta_schemas();
    let mut paths = Map::new();
    for r in kinds {
        schemas.insert(schema_name(r), schema(r, "#/components/schemas/"));
        schemas.insert(format!("{}List", schema_name(r)), list_schema(r));
        add_paths(r, &mut paths);
    }
    json!({
        "openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas},
    })
}

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    json!({"name": name, "in": place, "required": place == "path", "uniqueItems": true, "schema": {"type": kind}})
}

/// One operation, if the kind allows it.
fn operation(r: &Registration, verb: &str, action: &str) -> Option<Value> {
    if !r.allows(verb) {
        return None;
    }
    let of = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let result = match verb {
        "list" => format!("{}List", schema_name(r)),
        "delete" | "deletecollection" => format!("{META}.Status"),
        _ => schema_name(r),
    };
    let mut query = vec![];
    if ["create", "update", "patch"].contains(&verb) {
        query = ["dryRun", "fieldManager", "fieldValidation"]
            .map(|name| parameter(name, "query", "string"))
            .to_vec();
    }
    if verb == "patch" {
        query.push(parameter("force", "query", "boolean"));
    }
    let mut operation = json!({
        "operationId": format!("{action}{}{}", r.version, r.kind), "tags": [r.api_version()],
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(r), "parameters": query,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": of(&result)}}}},
    });
    let body = |types: &str, name: &str| {
        let content: Map<_, _> = types
            .split(", ")
            .map(|t| (t.to_owned(), json!({"schema": of(name)})))
            .collect();
        json!({"content": content, "required": true})
    };
    match verb {
        "create" | "update" => {
            operation["requestBody"] = body("application/json, application/yaml", &schema_name(r));
        }
        "patch" => operation["requestBody"] = body(PATCH_TYPES, &schema_name(r)),
        _ => {}
    }
    Some(operation)
}

fn add_paths(r: &Registration, paths: &mut Map<String, Value>) {
    let base = if r.namespaced {
        format!("{}/namespaces/{{namespace}}/{}", r.prefix(), r.plural)
    } else {
        format!("{}/{}", r.prefix(), r.plural)
    };
    let mut path = |path: String, names: &[&str], operations: &[(&str, &str, &str)]| {
        let mut item = Map::new();
        for (method, verb, action) in operations {
            if let Some(operation) = operation(r, verb, action) {
                item.insert((*method).to_owned(), operation);
            }
        }
        let parameters: Vec<_> = names
            .iter()
            .map(|n| parameter(n, "path", "string"))
            .collect();
        item.insert("parameters".into(), parameters.into());
        paths.insert(path, item.into());
    };
    let namespace: &[&str] = if r.namespaced { &["namespace"] } else { &[] };
    let both: &[&str] = if r.namespaced {
        &["name", "namespace"]
    } else {
        &["name"]
    };
    path(
        base.clone(),
        namespace,
        &[
            ("get", "list", "list"),
            ("post", "create", "post"),
            ("delete", "deletecollection", "deletecollection"),
        ],
    );
    path(
        format!("{base}/{{name}}"),
        both,
        &[
            ("get", "get", "get"),
            ("put", "update", "put"),
            ("patch", "patch", "patch"),
            ("delete", "delete", "delete"),
        ],
    );
    if r.namespaced {
        let all = format!("{}/{}", r.prefix(), r.plural);
        path(all, &[], &[("get", "list", "list")]);
    }
}

/// Answers below `/openapi/`.
pub fn answer(app: &App, path: &str, headers: &HeaderMap) -> Option<Response> {
    app.openapi().answer(path, headers)
}
