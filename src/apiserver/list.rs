//! GET of an object and of a collection.

use super::Context;
use super::registration::Registration;
use super::selector::{self, Filter};
use super::status::{self, ApiError, OptionError, OptionWhy};
use super::storage::{Object, ObjectKey, ObjectList, ObjectPage, StorageError};
use super::stream;
use crate::api::names::ResourceVersion;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Objects that are read from a storage at once.
pub const PAGE: usize = 500;
/// Objects of one answer to a request with a limit; a larger limit gets so many and a `continue`.
const MAX_LIMIT: usize = 5000;
/// Bytes of a token's checksum.
const CHECKSUM: usize = 8;

/// Where the next page of a list begins; opaque to clients. A checksum tells what we gave out for the same collection
/// from anything else. It keeps no secret: the namespace and the selectors are always those of the request.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Token {
    /// The version of the list; 0: go on with the newest state.
    #[serde(rename = "v")]
    version: u64,
    #[serde(rename = "s")]
    namespace: String,
    #[serde(rename = "n")]
    name: String,
}

impl Token {
    fn encode(&self, collection: &str) -> String {
        let body = serde_json::to_vec(self).unwrap_or_default();
        hex::encode([&checksum(collection, &body)[..], &body].concat())
    }

    fn decode(text: &str, collection: &str) -> Result<Self, ApiError> {
        let bytes = hex::decode(text).unwrap_or_default();
        let found = bytes.split_at_checked(CHECKSUM);
        found
            .filter(|(sum, body)| *sum == checksum(collection, body))
            .and_then(|(_, body)| serde_json::from_slice(body).ok())
            .ok_or_else(|| ApiError::BadRequest("continue key is not valid: list again".into()))
    }

    fn at(&self) -> Option<ResourceVersion> {
        Some(ResourceVersion(self.version)).filter(|v| v.0 > 0)
    }
}

fn checksum(collection: &str, body: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new()
        .chain_update(collection)
        .chain_update([0])
        .chain_update(body)
        .finalize();
    std::array::from_fn(|i| digest[i])
}

/// What a token is good for.
fn collection(ctx: &Context) -> String {
    let kind = &ctx.registration;
    format!("{}/{}/{}", kind.group, ctx.info.namespace, kind.plural)
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
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))),
        },
    }
}

/// As of when a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Any,
    NotOlderThan(ResourceVersion),
    Exact(ResourceVersion),
}

fn forbidden(field: &'static str, why: &'static str) -> OptionError {
    OptionError {
        field,
        why: OptionWhy::Forbidden(why),
    }
}

/// As apimachinery's `ValidateListOptions`, and what the storage layer adds.
fn wanted_version(ctx: &Context, limited: bool) -> Result<Wanted, ApiError> {
    const MATCH: &str = "resourceVersionMatch";
    let query = &ctx.query;
    let (text, token) = (query.get("resourceVersion"), query.get("continue"));
    let matching = query.get(MATCH);
    let mut errors = vec![];
    if matching.is_some() && text.is_none() {
        errors.push(forbidden(
            MATCH,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    }
    if matching.is_some() && token.is_some() {
        errors.push(forbidden(
            MATCH,
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    if let Some(other) = matching.filter(|m| !["Exact", "NotOlderThan"].contains(m)) {
        errors.push(OptionError {
            field: MATCH,
            why: OptionWhy::NotSupported(other.into(), &["Exact", "NotOlderThan", ""]),
        });
    }
    if matching == Some("Exact") && text == Some("0") {
        errors.push(forbidden(
            MATCH,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ));
    }
    if query.flag("sendInitialEvents").is_some() {
        errors.push(forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    if !errors.is_empty() {
        return Err(ApiError::Options(errors));
    }
    match (matching, version(text)?) {
        (_, Some(_)) if token.is_some() => Err(ApiError::BadRequest(
            "specifying resource version is not allowed when using continue".into(),
        )),
        (_, None) => Ok(Wanted::Any),
        (Some("Exact"), Some(version)) => Ok(Wanted::Exact(version)),
        // What clients from before resourceVersionMatch mean.
        (None, Some(version)) if limited => Ok(Wanted::Exact(version)),
        (_, Some(version)) => Ok(Wanted::NotOlderThan(version)),
    }
}

/// Answers GET of one object.
pub async fn get(ctx: &Context) -> Result<Response, ApiError> {
    version(ctx.query.get("resourceVersion"))?;
    let object = ctx.read(&ctx.key()).await?;
    let body = ctx.reply().shape(object);
    Ok(ctx.reply().respond(StatusCode::OK, &body))
}

/// How many objects a page has; `None`: all are wanted.
fn limit(ctx: &Context) -> Result<Option<usize>, ApiError> {
    // Below nothing is no limit.
    let asked = ctx.query.get("limit");
    if asked.is_some_and(|l| l.parse::<i64>().is_ok_and(|l| l < 0)) {
        return Ok(None);
    }
    Ok(match ctx.query.number("limit")? {
        None | Some(0) => None,
        Some(limit) => Some(usize::try_from(limit).map_or(MAX_LIMIT, |l| l.min(MAX_LIMIT))),
    })
}

/// What a deletion of a collection is about: what matches, and how many of it.
pub fn doomed(ctx: &Context) -> Result<(Filter, Option<usize>), ApiError> {
    let (filter, limit) = (filter(ctx)?, limit(ctx)?);
    wanted_version(ctx, limit.is_some())?;
    Ok((filter, limit))
}

/// Answers GET of a collection: with a limit at once, without one page by page while it is read.
pub async fn list(ctx: &Context) -> Result<Response, ApiError> {
    let filter = filter(ctx)?;
    ctx.query.seconds("timeoutSeconds")?;
    let limit = limit(ctx)?;
    let wanted = wanted_version(ctx, limit.is_some())?;
    let collection = collection(ctx);
    let token = ctx.query.get("continue");
    let token = token.map(|t| Token::decode(t, &collection)).transpose()?;
    let page = read(ctx, &filter, wanted, token, limit).await?;
    if limit.is_none() && page.next.is_some() {
        return Ok(stream::list(ctx, filter, page));
    }
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some(next) = page.next {
        let token = Token {
            version: page.version.0,
            namespace: next.namespace,
            name: next.name,
        };
        metadata["continue"] = token.encode(&collection).into();
        if filter.is_empty() {
            metadata["remainingItemCount"] = page.remaining.into();
        }
    }
    let answer = ctx.reply().respond_list(page.items, metadata);
    answer.map_err(|e| ApiError::storage(e, || ctx.registration.target("")))
}

/// What is asked for, at most `limit`; without a limit the first page of it.
async fn read(
    ctx: &Context,
    filter: &Filter,
    wanted: Wanted,
    token: Option<Token>,
    limit: Option<usize>,
) -> Result<ObjectPage, ApiError> {
    let registration = &ctx.registration;
    let fail = |e| ApiError::storage(e, || registration.target(""));
    let mut cursor = Cursor::new(registration, filter);
    match wanted {
        Wanted::Any | Wanted::NotOlderThan(_) => {}
        Wanted::Exact(asked) => {
            let current = registration.storage.version().await.map_err(fail)?;
            not_future(asked, current)?;
            cursor.at = Some(asked);
        }
    }
    if let Some(token) = &token {
        cursor.at = token.at();
        cursor.after = Some(ObjectKey::new(&token.namespace, &token.name));
    }
    let found = match limit {
        Some(limit) => cursor.collect(limit).await,
        None => cursor.page(PAGE).await.map(Option::unwrap_or_default),
    };
    let page = match (found, token) {
        (Err(StorageError::Expired(what)), Some(token)) => {
            status::expired(&registration.target(""), what);
            let inconsistent = Token {
                version: 0,
                ..token
            };
            let token = inconsistent.encode(&collection(ctx));
            return Err(ApiError::ExpiredPage { token });
        }
        (result, _) => result.map_err(fail)?,
    };
    if let Wanted::NotOlderThan(asked) = wanted {
        not_future(asked, page.version)?;
    }
    Ok(page)
}

/// An error when a version is asked for that the store has not come to.
pub fn not_future(asked: ResourceVersion, current: ResourceVersion) -> Result<(), ApiError> {
    if asked > current {
        return Err(ApiError::FutureVersion { asked, current });
    }
    Ok(())
}

/// Goes through a list page by page; all pages are of the version of the first.
pub struct Cursor<'a> {
    registration: &'a Registration,
    filter: &'a Filter,
    after: Option<ObjectKey>,
    /// The version; `None` until the first page is read.
    at: Option<ResourceVersion>,
    ended: bool,
}

impl<'a> Cursor<'a> {
    /// At the first object, of the newest version.
    pub fn new(registration: &'a Registration, filter: &'a Filter) -> Self {
        Self {
            registration,
            filter,
            after: None,
            at: None,
            ended: false,
        }
    }

    /// Goes on after a page of another cursor on the same list.
    pub fn after(mut self, page: &ObjectPage) -> Self {
        self.move_to(page);
        self
    }

    /// Goes on with the newest state where it is: the state of its own version is gone.
    pub fn renew(&mut self) {
        self.at = None;
    }

    fn move_to(&mut self, page: &ObjectPage) {
        self.at = Some(page.version);
        self.ended = page.next.is_none();
        self.after.clone_from(&page.next);
    }

    /// What matches of the next page of the storage, at most `size`; `None` at the end.
    pub async fn page(&mut self, size: usize) -> Result<Option<ObjectPage>, StorageError> {
        if self.ended {
            return Ok(None);
        }
        let list = ObjectList {
            namespace: self.filter.namespace.as_deref(),
            name: self.filter.name(),
            after: self.after.as_ref(),
            limit: size,
            at: self.at,
        };
        let mut page = self.registration.storage.list(&list).await?;
        self.move_to(&page);
        // What a storage gives is of the namespace that was asked for.
        if !self.filter.is_empty() {
            let mut selected: Vec<Box<dyn Object>> = vec![];
            for object in page.items {
                let object = object.into_fields()?;
                if self.filter.matches(&object) {
                    selected.push(Box::new(object));
                }
            }
            page.items = selected;
        }
        Ok(Some(page))
    }

    /// What matches, at most `limit`.
    pub async fn collect(&mut self, limit: usize) -> Result<ObjectPage, StorageError> {
        let mut out = ObjectPage::default();
        while out.items.len() < limit {
            let room = limit - out.items.len();
            // With a selector most of a page may not match: read whole pages, and stop within one.
            let size = if self.filter.is_empty() {
                room.min(PAGE)
            } else {
                PAGE
            };
            let Some(page) = self.page(size).await? else {
                break;
            };
            out.version = page.version;
            out.next = page.next;
            out.remaining = page.remaining;
            let more = page.items.len() > room;
            out.items.extend(page.items.into_iter().take(room));
            if more {
                out.next = out.items.last().map(|object| object.key());
            }
        }
        Ok(out)
    }
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
        let text = token.encode("g/ns/actors");
        assert_eq!(Token::decode(&text, "g/ns/actors").unwrap(), token);
        assert!(Token::decode(&text, "g/other/actors").is_err());
        for bad in ["", "zz", "7b7d", &text[2..], &text.replace("61", "62")] {
            assert!(Token::decode(bad, "g/ns/actors").is_err(), "{bad}");
        }
    }
}
