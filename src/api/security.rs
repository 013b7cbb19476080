//! What a container may do within its sandbox: Kubernetes' `securityContext`, as far as a sandbox has it. Nothing here, and nothing that is
//! left out, gives a container any of its host.

use super::validate::{Cause, rules};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use strum::IntoEnumIterator;

/// Groups that a process may have beside its own.
const MOST_GROUPS: usize = 32;
/// The largest id of users and groups; the one above it stands for none.
const LARGEST_ID: i64 = u32::MAX as i64 - 1;
/// Drops all.
const ALL: &str = "ALL";
/// What one writes elsewhere.
const PREFIX: &str = "CAP_";

/// What a container has unless it drops it: what container engines give by default, but for raw sockets and device nodes.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::Display,
    strum::EnumString,
    strum::EnumIter,
)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // capabilities(7)
pub enum Capability {
    AuditWrite,
    Chown,
    DacOverride,
    Fowner,
    Fsetid,
    Kill,
    NetBindService,
    Setfcap,
    Setgid,
    Setpcap,
    Setuid,
    SysChroot,
}

/// Who a container's process is and what it may do. A sandbox never has any of its host's devices, files, namespaces or privileges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// User id; default: the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967294i64))]
    #[garde(range(min = 0, max = LARGEST_ID))]
    pub run_as_user: Option<i64>,
    /// Group id; default: that of the user in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967294i64))]
    #[garde(range(min = 0, max = LARGEST_ID))]
    pub run_as_group: Option<i64>,
    /// Refuse to run as user 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub run_as_non_root: Option<bool>,
    /// Groups beside those of the user in the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(length(max = MOST_GROUPS), inner(range(min = 0, max = LARGEST_ID)))]
    pub supplemental_groups: Vec<i64>,
    /// Nothing can be written but in volumes and what the sandbox mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub read_only_root_filesystem: Option<bool>,
    /// Capabilities within the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub capabilities: Option<Capabilities>,
    /// Only `false`: a sandbox has none of its host's privileges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(never)))]
    pub privileged: Option<bool>,
    /// Only `false`: no process gains privileges by what it executes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(never)))]
    pub allow_privilege_escalation: Option<bool>,
}

/// Capabilities within a sandbox, named as in Kubernetes: without `CAP_`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// What is kept of those that are dropped: of the usual ones only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(length(max = 64), inner(custom(usual)))]
    pub add: Vec<String>,
    /// What is taken away; `ALL`: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(length(max = 64), inner(custom(a_name)))]
    pub drop: Vec<String>,
}

fn never(value: &bool, _: &()) -> garde::Result {
    rules::ensure(!value, Cause::NotSupported, || {
        "must not be true: sandboxes have no access to their host".to_owned()
    })
}

fn usual(name: &str, _: &()) -> garde::Result {
    rules::ensure(
        name.parse::<Capability>().is_ok(),
        Cause::NotSupported,
        || {
            let all: Vec<_> = Capability::iter().map(|c| c.to_string()).collect();
            format!(
                "{} cannot be added: a sandbox has at most {}",
                rules::quoted(name),
                all.join(", ")
            )
        },
    )
}

fn a_name(name: &str, _: &()) -> garde::Result {
    let letters = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let fits = !name.is_empty() && name.chars().all(letters) && !name.starts_with(PREFIX);
    rules::ensure(fits, Cause::Invalid, || {
        format!(
            "{} is no capability: write it like NET_BIND_SERVICE, or ALL",
            rules::quoted(name)
        )
    })
}

/// What a container with these capabilities has.
pub fn capabilities(said: Option<&SecurityContext>) -> BTreeSet<Capability> {
    let said = said.and_then(|said| said.capabilities.as_ref());
    let (add, drop) = said.map_or((&[][..], &[][..]), |said| (&said.add[..], &said.drop[..]));
    let has = |all: &[String], name: &str| all.iter().any(|n| n == name);
    let stays = |name: &str| has(add, name) || !has(drop, ALL) && !has(drop, name);
    Capability::iter()
        .filter(|capability| stays(&capability.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn context(value: Value) -> SecurityContext {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn capabilities_are_the_usual_ones_less_what_is_dropped() {
        let left = |capabilities: Value| {
            let context = context(json!({"capabilities": capabilities}));
            let left = super::capabilities(Some(&context));
            left.iter().map(Capability::to_string).collect::<Vec<_>>()
        };
        assert_eq!(super::capabilities(None).len(), 12);
        assert_eq!(left(json!({})).len(), 12);
        assert_eq!(left(json!({"drop": ["KILL", "SYS_ADMIN"]})).len(), 11);
        assert_eq!(left(json!({"drop": ["ALL"]})), [""; 0]);
        let kept = json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CHOWN"]});
        assert_eq!(left(kept), ["CHOWN", "NET_BIND_SERVICE"]);
    }

    #[test]
    fn what_gives_access_to_the_host_is_refused_by_name() {
        for good in [
            json!({}),
            json!({"privileged": false, "allowPrivilegeEscalation": false, "runAsNonRoot": true}),
            json!({"runAsUser": 0, "runAsGroup": 4294967294i64, "supplementalGroups": [7]}),
            json!({"capabilities": {"drop": ["ALL", "SYS_ADMIN"], "add": ["KILL"]}}),
        ] {
            assert!(context(good.clone()).validate().is_ok(), "{good}");
        }
        for (bad, field) in [
            (json!({"privileged": true}), "privileged"),
            (
                json!({"allowPrivilegeEscalation": true}),
                "allowPrivilegeEscalation",
            ),
            (
                json!({"capabilities": {"add": ["SYS_ADMIN"]}}),
                "capabilities.add[0]",
            ),
            (
                json!({"capabilities": {"add": ["ALL"]}}),
                "capabilities.add[0]",
            ),
            (
                json!({"capabilities": {"add": ["NET_RAW"]}}),
                "capabilities.add[0]",
            ),
            (
                json!({"capabilities": {"drop": ["CAP_KILL"]}}),
                "capabilities.drop[0]",
            ),
            (json!({"runAsUser": -1}), "runAsUser"),
            (json!({"runAsGroup": 4294967295i64}), "runAsGroup"),
            (
                json!({"supplementalGroups": [1, -1]}),
                "supplementalGroups[1]",
            ),
        ] {
            let error = context(bad.clone()).validate().unwrap_err();
            let shown = error.to_string().replace("_", "").to_lowercase();
            assert!(shown.starts_with(&field.to_lowercase()), "{bad}: {shown}");
        }
    }
}
