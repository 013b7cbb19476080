//! What a request is about, read from method, path and query (apiserver/pkg/endpoints/request/requestinfo.go).

use super::status::ApiError;
use axum::extract::Query;
use http::{Method, Uri};
use std::collections::HashMap;
use std::time::Duration;

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: &'static str,
    /// API group; empty for the core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty where none is named.
    pub namespace: String,
    /// Plural.
    pub resource: String,
    /// Name of the object; empty for a collection.
    pub name: String,
    /// Subresource; empty for the object itself.
    pub subresource: String,
}

impl RequestInfo {
    /// Reads a request for objects; `None` when the path is not one of a resource.
    pub fn of(method: &Method, path: &str, query: &Params) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<_> = path.strip_prefix('/')?.split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", version, rest),
            ["apis", group, version, rest @ ..] => (*group, version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, tail @ ..] if !tail.is_empty() => (*namespace, tail),
            other => ("", other),
        };
        let (resource, name, subresource) = match rest {
            [resource] => (*resource, "", ""),
            [resource, name] => (*resource, *name, ""),
            [resource, name, subresource] => (*resource, *name, *subresource),
            _ => return None,
        };
        if resource.is_empty() || (rest.len() > 1 && name.is_empty()) {
            return None;
        }
        Some(Self {
            verb: verb(method, name, query)?,
            group: group.to_owned(),
            version: (*version).to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }
}

fn verb(method: &Method, name: &str, query: &Params) -> Option<&'static str> {
    Some(match (method, name.is_empty()) {
        (&Method::GET | &Method::HEAD, true) if query.is_true("watch") => "watch",
        (&Method::GET | &Method::HEAD, true) => "list",
        (&Method::GET | &Method::HEAD, false) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "deletecollection",
        (&Method::DELETE, false) => "delete",
        _ => return None,
    })
}

/// A query's parameters; the first of each name.
#[derive(Clone, Debug, Default)]
pub struct Params(HashMap<String, String>);

impl Params {
    /// Of a URI.
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        let Query(all) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::BadRequest(format!("the query cannot be read: {e}")))?;
        let mut map = HashMap::new();
        for (key, value) in all {
            map.entry(key).or_insert(value);
        }
        Ok(Self(map))
    }

    /// A parameter that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    /// A flag, as Go's conversion reads it: present and neither `false` nor `0`.
    pub fn is_true(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// A flag, or that it is not there.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.contains_key(name).then(|| self.is_true(name))
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        // In Go's words, as kube-apiserver repeats them.
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::BadRequest(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            })
        };
        self.get(name).map(parse).transpose()
    }

    /// Whole seconds.
    pub fn seconds(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        Ok(self.number(name)?.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, uri: &str) -> Option<String> {
        let uri: Uri = uri.parse().unwrap();
        let query = Params::of(&uri).unwrap();
        RequestInfo::of(&method, uri.path(), &query).map(|i| {
            let parts = [
                &i.group,
                &i.version,
                &i.namespace,
                &i.resource,
                &i.name,
                &i.subresource,
            ];
            format!("{} {}", i.verb, parts.map(String::as_str).join(","))
        })
    }

    #[test]
    fn paths() {
        for (method, uri, info) in [
            (
                Method::GET,
                "/apis/g/v1/namespaces/ns/actors",
                Some("list g,v1,ns,actors,,"),
            ),
            (
                Method::GET,
                "/apis/g/v1/actors?watch=1",
                Some("watch g,v1,,actors,,"),
            ),
            (
                Method::GET,
                "/apis/g/v1/actors?watch=false",
                Some("list g,v1,,actors,,"),
            ),
            (
                Method::GET,
                "/apis/g/v1/namespaces/ns/actors/a",
                Some("get g,v1,ns,actors,a,"),
            ),
            (
                Method::POST,
                "/apis/g/v1/namespaces/ns/actors/a/resume",
                Some("create g,v1,ns,actors,a,resume"),
            ),
            (
                Method::DELETE,
                "/apis/g/v1/namespaces/ns/actors",
                Some("deletecollection g,v1,ns,actors,,"),
            ),
            (
                Method::GET,
                "/api/v1/namespaces",
                Some("list ,v1,,namespaces,,"),
            ),
            (
                Method::GET,
                "/api/v1/namespaces/ns",
                Some("get ,v1,,namespaces,ns,"),
            ),
            (
                Method::GET,
                "/api/v1/namespaces/ns/events",
                Some("list ,v1,ns,events,,"),
            ),
            (Method::GET, "/apis/g/v1", None),
            (Method::GET, "/apis/g/v1/", None),
            (Method::GET, "/apis/g/v1/a/b/c/d", None),
            (Method::GET, "/healthz", None),
            (Method::OPTIONS, "/apis/g/v1/actors", None),
        ] {
            assert_eq!(of(method, uri).as_deref(), info, "{uri}");
        }
    }
}
