//! Bodies: bounded, JSON or YAML in; JSON or YAML out.

use super::duplicates::{self, Twice};
use super::negotiate::{Format, Shape, Wanted};
use super::registration::Registration;
use super::status::ApiError;
use super::storage::{Object, StorageError, append};
use super::table::{self, Include};
use crate::api::time::Timestamp;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};

/// The largest body that is read (Kubernetes' own limit).
pub const MAX_BODY: usize = 3 << 20;
/// Media types of answers.
pub const JSON: &str = "application/json";
/// See [`JSON`].
pub const YAML: &str = "application/yaml";
/// Media types that an object may come in.
const OBJECT_TYPES: &str = "application/json, application/yaml";

/// Reads a body whole.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(ApiError::TooLarge(MAX_BODY)),
        Err(e) => Err(ApiError::BadRequest(format!(
            "the body cannot be read: {e}"
        ))),
    }
}

/// The media type of a body, without parameters.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let value = value.unwrap_or("application/json");
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Parses an object; returns what it says twice, too.
pub fn object(headers: &HeaderMap, bytes: &[u8]) -> Result<(Value, Vec<Twice>), ApiError> {
    let (value, twice) = match media_type(headers).as_str() {
        "application/json" => json(bytes)?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            duplicates::read(serde_yaml_ng::Deserializer::from_slice(bytes))
                .map_err(|e| ApiError::BadRequest(format!("the body is not YAML: {e}")))?
        }
        _ => {
            return Err(ApiError::UnsupportedMediaType {
                accepted: OBJECT_TYPES,
            });
        }
    };
    if value.is_object() {
        Ok((value, twice))
    } else {
        Err(ApiError::BadRequest("the body is not an object".into()))
    }
}

/// Parses JSON; returns what it says twice, too.
pub fn json(bytes: &[u8]) -> Result<(Value, Vec<Twice>), ApiError> {
    duplicates::json(bytes).map_err(|e| ApiError::BadRequest(format!("the body is not JSON: {e}")))
}

/// What a client asked to get back, of which kind.
pub struct Reply<'a> {
    /// The kind.
    pub registration: &'a Registration,
    /// Form and notation.
    pub wanted: Wanted,
    /// What table rows carry.
    pub include: Include,
}

impl Reply<'_> {
    /// An object in the form asked for.
    pub fn shape(&self, object: Value) -> Value {
        match self.wanted.shape {
            Shape::Object | Shape::Discovery => object,
            Shape::Metadata => table::partial(&object),
            Shape::Table => {
                let version = object.pointer("/metadata/resourceVersion").cloned();
                let metadata = json!({"resourceVersion": version.unwrap_or_default()});
                table::table(self.registration, [&object], metadata, self.include, true)
            }
        }
    }

    /// A list in the form asked for.
    pub fn shape_list(&self, items: Vec<Value>, metadata: Value) -> Value {
        match self.wanted.shape {
            Shape::Object | Shape::Discovery => {
                let mut list = json!({
                    "kind": self.registration.list_kind(), "apiVersion": self.registration.api_version(),
                    "metadata": metadata,
                });
                // The macro would copy them.
                list["items"] = items.into();
                list
            }
            Shape::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": items.iter().map(table::partial).collect::<Vec<_>>(),
            }),
            Shape::Table => table::table(self.registration, &items, metadata, self.include, true),
        }
    }

    /// A list in the form and notation asked for.
    pub fn respond_list(
        &self,
        items: Vec<Box<dyn Object>>,
        metadata: Value,
    ) -> Result<Response, StorageError> {
        if self.wanted.format == Format::Yaml {
            let items = items.into_iter().map(|o| o.into_fields());
            let list = self.shape_list(items.collect::<Result<_, _>>()?, metadata);
            return Ok(self.respond(StatusCode::OK, &list));
        }
        let (head, end) = self.envelope(metadata);
        let mut text = head.into_bytes();
        self.write_items(items, &mut text)?;
        text.extend_from_slice(end.as_bytes());
        Ok((StatusCode::OK, [(header::CONTENT_TYPE, JSON)], text).into_response())
    }

    /// What comes before the objects of a list as JSON, and what after.
    pub fn envelope(&self, metadata: Value) -> (String, String) {
        let field = match self.wanted.shape {
            Shape::Object | Shape::Metadata | Shape::Discovery => "items",
            Shape::Table => "rows",
        };
        let empty = self.shape_list(vec![], metadata).to_string();
        let mark = format!("\"{field}\":[");
        match empty.split_once(&mark) {
            Some((head, end)) => (format!("{head}{mark}"), end.to_owned()),
            None => (empty, String::new()),
        }
    }

    /// Appends objects as JSON in the form asked for, with commas between.
    pub fn write_items(
        &self,
        items: Vec<Box<dyn Object>>,
        out: &mut Vec<u8>,
    ) -> Result<(), StorageError> {
        let (begin, now) = (out.len(), Timestamp::now());
        for item in items {
            if out.len() > begin {
                out.push(b',');
            }
            match self.wanted.shape {
                Shape::Object | Shape::Discovery => item.write(out)?,
                Shape::Metadata => append(out, &table::partial(&item.into_fields()?))?,
                Shape::Table => {
                    let object = item.into_fields()?;
                    let row = table::row(self.registration, &object, self.include, now);
                    append(out, &row)?;
                }
            }
        }
        Ok(())
    }

    /// A response with a body in the notation asked for.
    pub fn respond(&self, code: StatusCode, body: &Value) -> Response {
        respond(self.wanted.format, code, body)
    }
}

/// A response with a body in a notation.
pub fn respond(format: Format, code: StatusCode, body: &Value) -> Response {
    let (kind, text) = match format {
        Format::Json => (JSON, body.to_string()),
        Format::Yaml => (YAML, serde_yaml_ng::to_string(body).unwrap_or_default()),
    };
    // kube-apiserver adds what is to be said of caches.
    (code, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Adds `Warning` headers (RFC 9110 section 5.5 keeps their text printable).
pub fn warn(response: &mut Response, warnings: &[String]) {
    for text in warnings {
        let text: String = text
            .chars()
            .map(|c| {
                if c.is_ascii_graphic() || c == ' ' {
                    c
                } else {
                    '?'
                }
            })
            .collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response
                .headers_mut()
                .append(HeaderName::from_static("warning"), value);
        }
    }
}
