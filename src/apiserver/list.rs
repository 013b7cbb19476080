//! GET of an object and of a collection.

use super::Context;
use super::registration::Registration;
use super::selector::{self, Filter};
use super::status::ApiError;
use super::storage::{ObjectKey, ObjectPage};
use crate::api::names::ResourceVersion;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Objects that are read from a storage at once.
const PAGE: usize = 500;

/// Where the next page of a list begins; opaque to clients.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Token {
    /// The version of the first page: the list's.
    version: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        hex::encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bytes = hex::decode(text).ok();
        bytes
            .and_then(|b| serde_json::from_slice(&b).ok())
            .ok_or_else(|| ApiError::BadRequest("continue key is not valid: list again".into()))
    }
}

/// What a list or watch is about.
pub fn filter(ctx: &Context) -> Result<Filter, ApiError> {
    let mut fields = selector::fields(
        ctx.query.get("fieldSelector").unwrap_or_default(),
        &ctx.registration.selectable,
    )?;
    if !ctx.info.name.is_empty() {
        fields.push(selector::FieldRequirement {
            pointer: "/metadata/name",
            value: ctx.info.name.clone(),
            equal: true,
        });
    }
    Ok(Filter {
        namespace: ctx.namespace().map(str::to_owned),
        labels: selector::labels(ctx.query.get("labelSelector").unwrap_or_default())?,
        fields,
    })
}

/// A resource version as clients write it; `None` for "" and "0".
pub fn version(text: Option<&str>) -> Result<Option<ResourceVersion>, ApiError> {
    match text {
        None | Some("0") => Ok(None),
        Some(text) => match text.parse() {
            Ok(version) if !text.starts_with(['+', '0']) => Ok(Some(ResourceVersion(version))),
            _ => Err(ApiError::BadRequest(format!(
                "invalid resourceVersion {text:?}"
            ))),
        },
    }
}

/// The version at which a list is asked for, when it must be that one or a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Any,
    NotOlderThan(ResourceVersion),
    Exact(ResourceVersion),
}

fn wanted_version(ctx: &Context) -> Result<Wanted, ApiError> {
    let query = &ctx.query;
    let (text, token) = (query.get("resourceVersion"), query.get("continue"));
    let unprocessable = |why: &str| Err(ApiError::Unprocessable(why.to_owned()));
    if ctx.query.flag("sendInitialEvents").is_some() {
        return unprocessable("sendInitialEvents is forbidden for list");
    }
    let version = version(text)?;
    match (query.get("resourceVersionMatch"), version) {
        (Some(_), _) if text.is_none() => {
            unprocessable("resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        (Some(_), _) if token.is_some() => {
            unprocessable("resourceVersionMatch is forbidden when continue is provided")
        }
        (_, Some(_)) if token.is_some() => Err(ApiError::BadRequest(
            "specifying resource version is not allowed when using continue".into(),
        )),
        (Some("Exact"), None) => {
            unprocessable("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        (Some("Exact"), Some(version)) => Ok(Wanted::Exact(version)),
        (Some("NotOlderThan") | None, Some(version)) => Ok(Wanted::NotOlderThan(version)),
        (Some("NotOlderThan") | None, None) => Ok(Wanted::Any),
        (Some(_), _) => unprocessable("resourceVersionMatch must be Exact or NotOlderThan"),
    }
}

fn check_version(wanted: Wanted, current: ResourceVersion) -> Result<(), ApiError> {
    match wanted {
        Wanted::Exact(asked) | Wanted::NotOlderThan(asked) if asked > current => {
            Err(ApiError::FutureVersion { asked, current })
        }
        Wanted::Exact(asked) if asked < current => Err(ApiError::Expired),
        Wanted::Any | Wanted::NotOlderThan(_) | Wanted::Exact(_) => Ok(()),
    }
}

/// Answers GET of one object.
pub async fn get(ctx: &Context) -> Result<Response, ApiError> {
    let object = ctx.read(&ctx.key()).await?;
    let body = ctx.reply().shape(object);
    Ok(ctx.reply().respond(StatusCode::OK, &body))
}

/// Answers GET of a collection.
pub async fn list(ctx: &Context) -> Result<Response, ApiError> {
    let filter = filter(ctx)?;
    let wanted = wanted_version(ctx)?;
    let limit = match ctx.query.number("limit")? {
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let token = ctx.query.get("continue").map(Token::decode).transpose()?;
    let after = token
        .as_ref()
        .map(|t| ObjectKey::new(&t.namespace, &t.name));
    let page = collect(&ctx.registration, &filter, after, limit).await?;
    check_version(wanted, page.version)?;
    let version = token.map_or(page.version, |t| ResourceVersion(t.version));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(next) = page.next {
        let token = Token {
            version: version.0,
            namespace: next.namespace,
            name: next.name,
        };
        metadata["continue"] = token.encode().into();
    }
    let body = ctx.reply().shape_list(page.items, metadata);
    Ok(ctx.reply().respond(StatusCode::OK, &body))
}

/// Reads what matches, page by page. The version is the first page's.
pub async fn collect(
    registration: &Registration,
    filter: &Filter,
    mut after: Option<ObjectKey>,
    limit: usize,
) -> Result<ObjectPage, ApiError> {
    if let (Some(name), Some(namespace), None) = (filter.name(), &filter.namespace, &after) {
        return one(registration, filter, &ObjectKey::new(namespace, name)).await;
    }
    let mut out = ObjectPage::default();
    let mut version = None;
    while out.items.len() < limit {
        let room = (limit - out.items.len()).min(PAGE);
        // With a selector most of a page may not match: read whole pages, and stop within one.
        let size = if filter.is_empty() { room } else { PAGE };
        let page = registration
            .storage
            .list(filter.namespace.as_deref(), after.as_ref(), size)
            .await
            .map_err(|e| ApiError::storage(e, || registration.target("")))?;
        version.get_or_insert(page.version);
        let count = page.items.len();
        for (i, object) in page.items.into_iter().enumerate() {
            let more = i + 1 < count || page.next.is_some();
            if filter.matches(&object) {
                let key = key_of(&object);
                out.items.push(object);
                if out.items.len() == limit && more {
                    out.next = Some(key);
                    break;
                }
            }
        }
        if page.next.is_none() {
            break;
        }
        after = page.next;
    }
    out.version = version.unwrap_or_default();
    Ok(out)
}

/// A list that can hold one object at most: its version comes from a page, read first, so that nothing is missed after it.
async fn one(
    registration: &Registration,
    filter: &Filter,
    key: &ObjectKey,
) -> Result<ObjectPage, ApiError> {
    let fail = |e| ApiError::storage(e, || registration.target(&key.name));
    let page = registration
        .storage
        .list(filter.namespace.as_deref(), None, 1)
        .await
        .map_err(fail)?;
    let items = match registration.storage.get(key).await {
        Ok(object) => vec![object],
        Err(super::storage::StorageError::NotFound) => vec![],
        Err(other) => return Err(fail(other)),
    };
    Ok(ObjectPage {
        items: items.into_iter().filter(|o| filter.matches(o)).collect(),
        version: page.version,
        next: None,
    })
}

fn key_of(object: &Value) -> ObjectKey {
    use super::meta::text;
    ObjectKey::new(text(object, "namespace"), text(object, "name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_clients_write_them() {
        assert_eq!(version(None).unwrap(), None);
        assert_eq!(version(Some("0")).unwrap(), None);
        assert_eq!(version(Some("12")).unwrap(), Some(ResourceVersion(12)));
        for bad in ["-1", "+1", "01", "x", "99999999999999999999999"] {
            assert!(version(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_round_trip_and_nothing_else_is_one() {
        let token = Token {
            version: 5,
            namespace: "a".into(),
            name: "b".into(),
        };
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        for bad in ["", "zz", "7b7d"] {
            assert!(Token::decode(bad).is_err(), "{bad}");
        }
    }
}
