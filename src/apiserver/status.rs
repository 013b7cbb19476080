//! Errors, as Kubernetes' `v1 Status` (apimachinery/pkg/apis/meta/v1/types.go, apimachinery/pkg/api/errors/errors.go).

use super::apply::{Conflict, Conflicts};
use super::body;
use super::negotiate::Format;
use super::storage::StorageError;
use crate::api::names::ResourceVersion;
use crate::api::validate::Violation;
use crate::store::Expired;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// After so many seconds a client may try again when the store is away.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Logs that a client is sent to list again, and why: the answer itself must be what kube-apiserver says.
pub fn expired(target: &Target, what: Expired) {
    tracing::info!(
        resource = target.qualified(),
        version = what.version.0,
        why = %what.why,
        "a version is too old, its client has to list again"
    );
}

/// What an error is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// API group; empty for the core.
    pub group: String,
    /// Plural.
    pub resource: String,
    /// Kind.
    pub kind: String,
    /// Name of the object; empty for a collection.
    pub name: String,
}

impl Target {
    fn qualified(&self) -> String {
        join(&self.resource, &self.group)
    }
}

fn join(what: &str, group: &str) -> String {
    if group.is_empty() {
        what.to_owned()
    } else {
        format!("{what}.{group}")
    }
}

/// Everything that a request can fail with. What a caller can do is the HTTP code: 4xx change the request (409, 410:
/// read again), 429, 503, 504 retry, 500 report it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 401.
    #[error("Unauthorized")]
    Unauthorized,
    /// 403.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// 403, the caller may not.
    #[error("{}", denied(.target, .why))]
    Denied {
        /// With what; no resource where it is about a path.
        target: Target,
        /// What they may not, in Kubernetes' words.
        why: String,
    },
    /// 403, a namespace that is going takes nothing new.
    #[error("{}", denied(.target, &terminating(.namespace)))]
    Terminating {
        /// What was to be created.
        target: Target,
        /// The namespace.
        namespace: String,
    },
    /// 404, no such path or kind.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// 404, no such object.
    #[error("{} {:?} not found", .0.qualified(), .0.name)]
    NotFound(Target),
    /// 405.
    #[error("{verb} is not supported on resources of kind {:?}", .target.qualified())]
    MethodNotAllowed {
        /// On what.
        target: Target,
        /// What is not.
        verb: String,
    },
    /// 405, about a status that nobody but we write.
    #[error("the status of {} is read-only: it says what was observed; what you want goes into spec, what you note into labels and annotations", .0.qualified())]
    ObservedStatus(Target),
    /// 406.
    #[error("only the following media types are accepted: application/json, application/yaml")]
    NotAcceptable,
    /// 406, a form that what is asked for does not have.
    #[error("{0}")]
    OtherForm(&'static str),
    /// 409, created before.
    #[error("{} {:?} already exists", .0.qualified(), .0.name)]
    AlreadyExists(Target),
    /// 409, created before and on its way out.
    #[error("object is being deleted: {} {:?} already exists", .0.qualified(), .0.name)]
    StillThere(Target),
    /// 409, not what the caller thinks it is.
    #[error("Operation cannot be fulfilled on {} {:?}: {why}", .target.qualified(), .target.name)]
    Conflict {
        /// On what.
        target: Target,
        /// Why not.
        why: String,
    },
    /// 409, an apply would change what others own.
    #[error("{0}")]
    Owned(Conflicts),
    /// 410.
    #[error("The resourceVersion for the provided list or watch is too old: list again.")]
    Expired,
    /// 410, with a token that continues with the newest state.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )]
    ExpiredPage {
        /// The token.
        token: String,
    },
    /// 413.
    #[error("Request entity too large: limit is {0}")]
    TooLarge(usize),
    /// 415.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    )]
    UnsupportedMediaType {
        /// What would do.
        accepted: &'static str,
    },
    /// 422.
    #[error("{} {:?} is invalid:{}", join(&.target.kind, &.target.group), .target.name, list(.causes))]
    Invalid {
        /// Which object.
        target: Target,
        /// What is wrong with it.
        causes: Vec<Violation>,
    },
    /// 422, about the parameters of a list or watch.
    #[error("ListOptions.meta.k8s.io \"\" is invalid: {}", options(.0))]
    Options(Vec<OptionError>),
    /// 422, not about one object.
    #[error("{0}")]
    Unprocessable(String),
    /// 429.
    #[error("{0}")]
    TooManyRequests(String),
    /// 500.
    #[error("internal error: {0}")]
    Internal(String),
    /// 503.
    #[error("{0}")]
    Unavailable(String),
    /// 504, a version that is not there yet.
    #[error("Timeout: Too large resource version: {asked}, current: {current}")]
    FutureVersion {
        /// What was asked for.
        asked: ResourceVersion,
        /// What there is.
        current: ResourceVersion,
    },
    /// 504.
    #[error("{0}")]
    Timeout(String),
}

/// What is wrong with a parameter of a list or watch (apimachinery/pkg/apis/meta/internalversion/validation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// Which one.
    pub field: &'static str,
    /// What is wrong.
    pub why: OptionWhy,
}

/// See [`OptionError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionWhy {
    /// Not together with others.
    Forbidden(&'static str),
    /// Not this value but one of those.
    NotSupported(String, &'static [&'static str]),
}

impl OptionError {
    fn reason(&self) -> &'static str {
        match self.why {
            OptionWhy::Forbidden(_) => "FieldValueForbidden",
            OptionWhy::NotSupported(..) => "FieldValueNotSupported",
        }
    }

    fn message(&self) -> String {
        match &self.why {
            OptionWhy::Forbidden(why) => format!("Forbidden: {why}"),
            OptionWhy::NotSupported(value, supported) => {
                let all: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
                format!(
                    "Unsupported value: {value:?}: supported values: {}",
                    all.join(", ")
                )
            }
        }
    }
}

fn options(errors: &[OptionError]) -> String {
    let all: Vec<_> = errors
        .iter()
        .map(|e| format!("{}: {}", e.field, e.message()))
        .collect();
    match all.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

fn denied(target: &Target, why: &str) -> String {
    match (target.resource.as_str(), target.name.as_str()) {
        ("", _) => format!("forbidden: {why}"),
        (_, "") => format!("{} is forbidden: {why}", target.qualified()),
        (_, name) => format!("{} {name:?} is forbidden: {why}", target.qualified()),
    }
}

fn terminating(namespace: &str) -> String {
    format!("unable to create new content in namespace {namespace} because it is being terminated")
}

/// One on the same line, several on lines of their own, as kubectl lists causes.
fn list(causes: &[Violation]) -> String {
    match causes {
        [one] => format!(" {one}"),
        all => all.iter().map(|cause| format!("\n* {cause}")).collect(),
    }
}

impl ApiError {
    /// HTTP code and Kubernetes' reason.
    pub fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden(_) | Self::Denied { .. } | Self::Terminating { .. } => {
                (StatusCode::FORBIDDEN, "Forbidden")
            }
            Self::NoSuchPath | Self::NotFound(_) => (StatusCode::NOT_FOUND, "NotFound"),
            Self::MethodNotAllowed { .. } | Self::ObservedStatus(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed")
            }
            Self::NotAcceptable | Self::OtherForm(_) => {
                (StatusCode::NOT_ACCEPTABLE, "NotAcceptable")
            }
            Self::AlreadyExists(_) | Self::StillThere(_) => (StatusCode::CONFLICT, "AlreadyExists"),
            Self::Conflict { .. } | Self::Owned(_) => (StatusCode::CONFLICT, "Conflict"),
            Self::Expired | Self::ExpiredPage { .. } => (StatusCode::GONE, "Expired"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
            Self::UnsupportedMediaType { .. } => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType")
            }
            Self::Invalid { .. } | Self::Options(_) | Self::Unprocessable(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "Invalid")
            }
            Self::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            Self::FutureVersion { .. } | Self::Timeout(_) => {
                (StatusCode::GATEWAY_TIMEOUT, "Timeout")
            }
        }
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let (code, reason) = self.code();
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": reason, "code": code.as_u16(),
        });
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        if let Self::ExpiredPage { token } = self {
            status["metadata"]["continue"] = token.as_str().into();
        }
        status
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::NotFound(t)
            | Self::AlreadyExists(t)
            | Self::StillThere(t)
            | Self::Conflict { target: t, .. } => Some(about(&t.name, &t.group, &t.resource)),
            Self::MethodNotAllowed { target: t, .. } | Self::ObservedStatus(t) => {
                Some(about("", &t.group, &t.resource))
            }
            Self::Invalid { target, causes } => {
                let causes: Vec<_> = causes
                    .iter()
                    .map(|c| json!({"reason": c.cause.as_str(), "message": c.message, "field": c.field}))
                    .collect();
                let mut details = about(&target.name, &target.group, &target.kind);
                details["causes"] = causes.into();
                Some(details)
            }
            Self::Owned(conflicts) => {
                let cause = |c: &Conflict| json!({"reason": "FieldManagerConflict", "message": c.with(), "field": c.path.to_string()});
                let causes: Vec<_> = conflicts.0.iter().map(cause).collect();
                Some(json!({"causes": causes}))
            }
            Self::Options(errors) => {
                let causes: Vec<_> = errors
                    .iter()
                    .map(
                        |e| json!({"reason": e.reason(), "message": e.message(), "field": e.field}),
                    )
                    .collect();
                Some(json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": causes}))
            }
            Self::Denied { target, .. } if target.resource.is_empty() => Some(json!({})),
            Self::Denied { target: t, .. } => Some(about(&t.name, &t.group, &t.resource)),
            Self::Terminating {
                target: t,
                namespace,
            } => {
                let mut details = about(&t.name, &t.group, &t.resource);
                details["causes"] = json!([{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"),
                    "field": "metadata.namespace",
                }]);
                Some(details)
            }
            Self::FutureVersion { .. } => Some(json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": RETRY_AFTER_SECONDS,
            })),
            Self::Unavailable(_) | Self::TooManyRequests(_) => {
                Some(json!({"retryAfterSeconds": RETRY_AFTER_SECONDS}))
            }
            _ => None,
        }
    }

    /// A storage's error about an object.
    pub fn storage(error: StorageError, target: impl FnOnce() -> Target) -> Self {
        match error {
            StorageError::NotFound => Self::NotFound(target()),
            StorageError::Exists => Self::AlreadyExists(target()),
            StorageError::Conflict => Self::modified(target()),
            StorageError::Refused(why) => Self::Conflict {
                target: target(),
                why,
            },
            StorageError::Expired(what) => {
                expired(&target(), what);
                Self::Expired
            }
            StorageError::Full(why) | StorageError::Forbidden(why) => Self::Denied {
                target: target(),
                why,
            },
            StorageError::Unavailable(why) => Self::Unavailable(why),
            StorageError::ReadOnly => Self::ObservedStatus(target()),
            StorageError::Invalid(causes) => Self::Invalid {
                target: target(),
                causes,
            },
            StorageError::Internal(why) => Self::Internal(why),
        }
    }

    /// Somebody else was faster.
    pub fn modified(target: Target) -> Self {
        Self::Conflict {
            target,
            why: "the object has been modified; please apply your changes to the latest version and try again".into(),
        }
    }
}

/// The beginning of `details`: what is empty is left out.
fn about(name: &str, group: &str, kind: &str) -> Value {
    let all = [("name", name), ("group", group), ("kind", kind)];
    let said = all.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.in_format(Format::Json)
    }
}

impl ApiError {
    /// The answer, in the notation that the client asked for.
    pub fn in_format(self, format: Format) -> Response {
        let (code, _) = self.code();
        if code.is_server_error() {
            tracing::warn!(%code, error = %self, "request failed");
        }
        let mut response = body::respond(format, code, &self.to_status());
        if matches!(
            self,
            Self::Unavailable(_) | Self::TooManyRequests(_) | Self::FutureVersion { .. }
        ) {
            let value = HeaderValue::from(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

/// The `Status` of something that succeeded.
pub fn success(target: &Target, uid: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": target.name, "group": target.group, "kind": target.resource, "uid": uid},
    })
}

/// A JSON body.
pub fn json_response(code: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (code, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::Cause;

    fn target() -> Target {
        Target {
            group: "runtime.ate.dev".into(),
            resource: "actors".into(),
            kind: "Actor".into(),
            name: "a".into(),
        }
    }

    #[test]
    fn says_what_kubernetes_says() {
        for (error, message) in [
            (
                ApiError::NotFound(target()),
                "actors.runtime.ate.dev \"a\" not found",
            ),
            (
                ApiError::AlreadyExists(target()),
                "actors.runtime.ate.dev \"a\" already exists",
            ),
            (
                ApiError::modified(target()),
                "Operation cannot be fulfilled on actors.runtime.ate.dev \"a\": the object has been modified; please apply your changes to the latest version and try again",
            ),
        ] {
            assert_eq!(error.to_status()["message"], message);
            let details = json!({"name": "a", "group": "runtime.ate.dev", "kind": "actors"});
            assert_eq!(error.to_status()["details"], details);
        }
    }

    #[test]
    fn causes_are_listed() {
        let error = ApiError::Invalid {
            target: target(),
            causes: vec![Violation {
                field: "spec.x".into(),
                cause: Cause::Required,
                message: "give one".into(),
            }],
        };
        let status = error.to_status();
        assert_eq!(status["code"], 422);
        assert_eq!(
            status["message"],
            "Actor.runtime.ate.dev \"a\" is invalid: spec.x: give one"
        );
        assert_eq!(status["details"]["kind"], "Actor");
        assert_eq!(
            status["details"]["causes"][0]["reason"],
            "FieldValueRequired"
        );
    }
}
