//! Options of writes, from query and body (apimachinery/pkg/apis/meta/v1/validation).

use super::Context;
use super::body;
use super::status::{ApiError, Target};
use super::violation;
use crate::api::validate::Violation;
use http::HeaderMap;
use serde_json::{Value, json};

/// How dependents are dealt with when their owner is deleted.
const POLICIES: [&str; 3] = ["Foreground", "Background", "Orphan"];

/// What happens to fields that the schema does not know, or that are said twice (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are refused.
    Strict,
    /// They are dropped with a warning.
    Warn,
    /// They are dropped.
    Ignore,
}

impl FieldValidation {
    /// From a query.
    pub fn of(ctx: &Context) -> Result<Self, ApiError> {
        match ctx.query.get("fieldValidation") {
            Some("Strict") => Ok(Self::Strict),
            Some("Warn") | None => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some(other) => {
                let all = ["", "Ignore", "Strict", "Warn"].map(|v| format!("{v:?}"));
                let why = violation::not_supported("fieldValidation", format!("{other:?}"), &all);
                Err(bad(ctx, why))
            }
        }
    }
}

/// An option that is not one.
pub fn bad(ctx: &Context, cause: Violation) -> ApiError {
    let kind = match ctx.info.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "delete" | "deletecollection" => "DeleteOptions",
        _ => "PatchOptions",
    };
    ApiError::Invalid {
        target: Target {
            group: "meta.k8s.io".into(),
            kind: kind.into(),
            ..Target::default()
        },
        causes: vec![cause],
    }
}

/// Whether nothing shall be stored, given what is said of it.
fn dry_run(ctx: &Context, said: &[&str]) -> Result<bool, ApiError> {
    if said.iter().all(|s| *s == "All") {
        return Ok(!said.is_empty());
    }
    let all = ["\"All\"".to_owned()];
    let value = said.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>();
    let value = format!("[]string{{{}}}", value.join(", "));
    Err(bad(ctx, violation::not_supported("dryRun", value, &all)))
}

/// Whether nothing shall be stored, from a query.
pub fn query_dry_run(ctx: &Context) -> Result<bool, ApiError> {
    let said: Vec<_> = ctx.query.get("dryRun").into_iter().collect();
    dry_run(ctx, &said)
}

/// What becomes of an owner's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    /// What the object itself says, else they are deleted in their own time.
    Unsaid,
    /// They are deleted in their own time.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// How an object is to be deleted. What is said of grace is accepted and means nothing here: sandboxes have none.
#[derive(Clone, Debug)]
pub struct DeleteOptions {
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only this version of it.
    pub version: Option<String>,
    /// Nothing is stored.
    pub dry_run: bool,
    /// What becomes of its dependents.
    pub dependents: Dependents,
    /// The answer says whether it is gone: `orphanDependents=false` asks for that.
    pub tells: bool,
}

impl DeleteOptions {
    /// From the body, or from the query where there is none.
    pub fn of(ctx: &Context, headers: &HeaderMap, bytes: &[u8]) -> Result<Self, ApiError> {
        let said = if bytes.is_empty() {
            Self::from_query(ctx)?
        } else {
            body::object(headers, bytes)?.0
        };
        let kind = said["kind"].as_str().unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            return Err(ApiError::BadRequest(format!(
                "the body must be DeleteOptions, not {kind}"
            )));
        }
        let typed: Typed = serde_json::from_value(said)
            .map_err(|e| ApiError::BadRequest(format!("these are no DeleteOptions: {e}")))?;
        typed.check(ctx)
    }

    fn from_query(ctx: &Context) -> Result<Value, ApiError> {
        let query = &ctx.query;
        let mut said = json!({});
        query.number("gracePeriodSeconds")?;
        if let Some(policy) = query.get("propagationPolicy") {
            said["propagationPolicy"] = policy.into();
        }
        if let Some(orphan) = query.flag("orphanDependents") {
            said["orphanDependents"] = orphan.into();
        }
        if let Some(dry_run) = query.get("dryRun") {
            said["dryRun"] = json!([dry_run]);
        }
        Ok(said)
    }
}

/// `meta.k8s.io/v1 DeleteOptions`, as far as it means something.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Typed {
    #[serde(rename = "gracePeriodSeconds")]
    _grace: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Typed {
    fn check(self, ctx: &Context) -> Result<DeleteOptions, ApiError> {
        const FIELD: &str = "propagationPolicy";
        let policy = self.propagation_policy.as_deref();
        if let Some(other) = policy.filter(|p| !POLICIES.contains(p)) {
            let all = POLICIES.into_iter().chain(["nil"]);
            let all: Vec<_> = all.map(|p| format!("{p:?}")).collect();
            let why = violation::not_supported(FIELD, format!("{other:?}"), &all);
            return Err(bad(ctx, why));
        }
        if let (Some(policy), Some(_)) = (policy, self.orphan_dependents) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            return Err(bad(ctx, violation::invalid(FIELD, policy, why)));
        }
        let dependents = match (policy, self.orphan_dependents) {
            (Some("Orphan"), _) | (None, Some(true)) => Dependents::Orphan,
            (Some("Foreground"), _) => Dependents::Foreground,
            (Some(_), _) | (None, Some(false)) => Dependents::Background,
            (None, None) => Dependents::Unsaid,
        };
        let dry_run_said = self.dry_run.unwrap_or_default();
        let dry_run_said: Vec<_> = dry_run_said.iter().map(String::as_str).collect();
        let preconditions = self.preconditions.unwrap_or_default();
        Ok(DeleteOptions {
            uid: preconditions.uid,
            version: preconditions.resource_version,
            dry_run: dry_run(ctx, &dry_run_said)?,
            dependents,
            tells: self.orphan_dependents == Some(false),
        })
    }
}
