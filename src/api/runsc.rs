//! Which build of gVisor's runtime runs a template's sandboxes.

use super::validate::rules;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The runtime's build, per architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
pub struct Runsc {
    /// For x86-64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub amd64: Option<RuntimeBuild>,
    /// For 64-bit Arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub arm64: Option<RuntimeBuild>,
    /// How to authenticate to where the build is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub authentication: Option<RuntimeAuthentication>,
}

/// A build of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeBuild {
    /// `https://`, `gs://`, `s3://` or `file://`.
    #[garde(custom(rules::url(&["https://", "gs://", "s3://", "file://"])))]
    pub url: String,
    /// 64 lower-case hex digits.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    #[garde(custom(rules::sha256))]
    pub sha256_hash: String,
}

/// How to authenticate to where a runtime's build is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeAuthentication {
    /// By the node's Google service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp: Option<GcpAuthentication>,
}

/// By the node's Google service account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GcpAuthentication {}
