//! Discovery: which kinds there are, old style (`APIGroupList`, `APIResourceList`) and aggregated
//! (`apidiscovery.k8s.io/v2`; KEP-3352).

use super::App;
use super::negotiate::{Shape, Wanted};
use super::registration::{Registration, StatusSupport};
use super::status::json_response;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Media type of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A subresource as discovery shows it.
struct Sub {
    name: String,
    kind: String,
    group: Option<&'static str>,
    version: Option<&'static str>,
    verbs: Vec<&'static str>,
}

fn subresources(r: &Registration) -> Vec<Sub> {
    let mut all = vec![];
    let own = |name: &str, kind: &str, verbs: Vec<&'static str>| Sub {
        name: name.to_owned(),
        kind: kind.to_owned(),
        group: None,
        version: None,
        verbs,
    };
    match r.status {
        StatusSupport::None => {}
        StatusSupport::Read => all.push(own("status", &r.kind, vec!["get"])),
        StatusSupport::Write => {
            all.push(own("status", &r.kind, vec!["get", "patch", "update"]));
        }
    }
    if r.scale.is_some() {
        all.push(Sub {
            group: Some("autoscaling"),
            version: Some("v1"),
            ..own("scale", "Scale", vec!["get", "patch", "update"])
        });
    }
    for (name, connect) in &r.connects {
        all.push(own(name, connect.kind(), vec![connect.verb()]));
    }
    all
}

/// `APIResourceList` of a group version; `None` if there is none.
pub fn resources(app: &App, group: &str, version: &str) -> Option<Value> {
    let mut all = vec![];
    for r in app.of_group(group, version) {
        all.push(json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind,
            "verbs": r.announced(), "shortNames": r.short_names, "categories": r.categories,
        }));
        for sub in subresources(r) {
            let mut entry = json!({
                "name": format!("{}/{}", r.plural, sub.name), "singularName": "",
                "namespaced": r.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if let (Some(group), Some(version)) = (sub.group, sub.version) {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            all.push(entry);
        }
    }
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    (!all.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": all})
    })
}

fn versions(app: &App, group: &str) -> BTreeSet<String> {
    let of = app.registrations().filter(|r| r.group == group);
    of.map(|r| r.version.clone()).collect()
}

/// `APIGroup`; `None` if there is none.
pub fn group(app: &App, group: &str) -> Option<Value> {
    let versions: Vec<_> = versions(app, group)
        .iter()
        .map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions,
        "preferredVersion": preferred,
    }))
}

fn groups(app: &App) -> BTreeSet<String> {
    app.registrations()
        .map(|r| r.group.clone())
        .filter(|g| !g.is_empty())
        .collect()
}

/// Answers `/apis` and `/api`.
pub fn root(app: &App, core: bool, wanted: Wanted, headers: &HeaderMap) -> Response {
    if wanted.shape == Shape::Discovery {
        return aggregated(app, core, headers);
    }
    let body = if core {
        json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
    } else {
        let all: Vec<_> = groups(app)
            .iter()
            .filter_map(|g| group(app, g))
            .map(|mut group| {
                if let Some(group) = group.as_object_mut() {
                    group.remove("kind");
                    group.remove("apiVersion");
                }
                group
            })
            .collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all})
    };
    let mut response = json_response(StatusCode::OK, &body);
    vary(&mut response);
    response
}

fn vary(response: &mut Response) {
    let value = http::HeaderValue::from_static("Accept");
    response.headers_mut().insert(header::VARY, value);
}

fn aggregated(app: &App, core: bool, headers: &HeaderMap) -> Response {
    let names = if core {
        BTreeSet::from([String::new()])
    } else {
        groups(app)
    };
    let items: Vec<_> = names
        .iter()
        .filter(|g| app.registrations().any(|r| r.group == **g))
        .map(|g| {
            let metadata = if g.is_empty() {
                json!({})
            } else {
                json!({"name": g})
            };
            let versions: Vec<_> = versions(app, g)
                .iter()
                .map(|v| {
                    let all: Vec<_> = app.of_group(g, v).map(aggregated_resource).collect();
                    json!({"version": v, "freshness": "Current", "resources": all})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
    .to_string();
    let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(body.as_bytes())));
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok());
    let mut response = if known == Some(tag.as_str()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, AGGREGATED)], Body::from(body)).into_response()
    };
    if let Ok(value) = tag.parse() {
        response.headers_mut().insert(header::ETAG, value);
    }
    vary(&mut response);
    response
}

fn aggregated_resource(r: &Registration) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subs: Vec<_> = subresources(r)
        .iter()
        .map(|s| {
            let of = kind(
                s.group.unwrap_or(&r.group),
                s.version.unwrap_or(&r.version),
                &s.kind,
            );
            json!({"subresource": s.name, "responseKind": of, "verbs": s.verbs})
        })
        .collect();
    let mut resource = json!({
        "resource": r.plural, "responseKind": kind(&r.group, &r.version, &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": r.singular,
        "verbs": r.announced(), "shortNames": r.short_names, "categories": r.categories,
    });
    if !subs.is_empty() {
        resource["subresources"] = subs.into();
    }
    resource
}
