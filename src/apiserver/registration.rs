//! A kind is a registration: its names, what may be done with it, how it is shown, what its schema is, where it is kept.

use super::apply::Type;
use super::connect::Connect;
use super::fanout::Fanout;
use super::jsonpath::{JsonPath, JsonPathError};
use super::schema::{Schema, SchemaError};
use super::status::Target;
use super::storage::Storage;
use super::table::Column;
use crate::api::validate::Violation;
use kube::CustomResourceExt;
use serde_json::Value;
use std::sync::Arc;

/// Everything that can be done with a kind that is read and written.
pub const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// What can be done with a kind that is only read.
pub const READ_VERBS: &[&str] = &["get", "list", "watch"];

/// A field that selectors may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selectable {
    /// As queries write it.
    pub label: &'static str,
    /// JSON pointer to it.
    pub pointer: &'static str,
}

/// Selectable in every kind.
pub const NAME: Selectable = Selectable {
    label: "metadata.name",
    pointer: "/metadata/name",
};
/// Selectable in every namespaced kind.
pub const NAMESPACE: Selectable = Selectable {
    label: "metadata.namespace",
    pointer: "/metadata/namespace",
};

/// What `/status` offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusSupport {
    /// There is none.
    None,
    /// It is read; only we write it.
    Read,
    /// Controllers write it.
    Write,
}

/// Where `/scale` finds what it shows (autoscaling/v1).
#[derive(Clone, Debug)]
pub struct Scale {
    /// Replicas wanted.
    pub spec: JsonPath,
    /// Replicas there.
    pub status: JsonPath,
    /// Selector of what is scaled, as text.
    pub selector: Option<JsonPath>,
}

/// What a kind demands beyond its schema.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Brings an object into the form in which it is kept and shown.
    pub normalize: fn(&mut Value),
    /// What is wrong with an object, given the one that it replaces.
    pub validate: fn(&Value, Option<&Value>) -> Vec<Violation>,
}

/// A kind.
pub struct Registration {
    /// API group; empty for the core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, like `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: &'static [&'static str],
    /// Discovery does not say that it can be watched, which it can: whoever watches all that there is leaves it out.
    pub watch_hidden: bool,
    /// Kubernetes' garbage collector watches it, and deals with the dependents of what is deleted when it is asked to.
    pub collected: bool,
    /// Columns of its tables after NAME.
    pub columns: Vec<Column>,
    /// Fields that selectors may use.
    pub selectable: Vec<Selectable>,
    /// Structural schema of the whole object, compiled.
    pub schema: Schema,
    /// The same as it is published.
    pub published: Value,
    /// The same as server-side apply merges by it.
    pub fields: Type,
    /// What `/status` offers.
    pub status: StatusSupport,
    /// What `/scale` offers.
    pub scale: Option<Scale>,
    /// Other subresources.
    pub connects: Vec<(&'static str, Arc<dyn Connect>)>,
    /// What it demands beyond its schema.
    pub rules: Rules,
    /// Where objects are kept.
    pub storage: Arc<dyn Storage>,
    /// What shares their changes among watches.
    pub fanout: Fanout,
}

/// A kind that cannot be served: a bug in its type.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// A printer column or scale path.
    #[error("the path is not supported")]
    Path(#[from] JsonPathError),
    /// The schema.
    #[error("the schema is not supported")]
    Schema(#[from] SchemaError),
    /// The definition is no CustomResourceDefinition with one version.
    #[error("{0} has no usable definition")]
    Definition(&'static str),
}

impl Registration {
    /// Reads names, schema, columns and scale of a kind from its definition.
    pub fn of<K: CustomResourceExt>(
        storage: Arc<dyn Storage>,
        rules: Rules,
    ) -> Result<Self, RegistrationError> {
        let incomplete = || RegistrationError::Definition(K::crd_name());
        let crd = K::crd().spec;
        let version = crd.versions.into_iter().next().ok_or_else(incomplete)?;
        let published = version
            .schema
            .and_then(|s| s.open_api_v3_schema)
            .and_then(|s| serde_json::to_value(s).ok())
            .ok_or_else(incomplete)?;
        let columns = version.additional_printer_columns.unwrap_or_default();
        let subresources = version.subresources.unwrap_or_default();
        let scale = subresources.scale.map(|s| {
            Ok::<_, JsonPathError>(Scale {
                spec: s.spec_replicas_path.parse()?,
                status: s.status_replicas_path.parse()?,
                selector: s.label_selector_path.map(|p| p.parse()).transpose()?,
            })
        });
        Ok(Self {
            singular: crd
                .names
                .singular
                .unwrap_or_else(|| crd.names.kind.to_lowercase()),
            group: crd.group,
            version: version.name,
            kind: crd.names.kind,
            plural: crd.names.plural,
            short_names: crd.names.short_names.unwrap_or_default(),
            categories: crd.names.categories.unwrap_or_default(),
            namespaced: crd.scope == "Namespaced",
            verbs: ALL_VERBS,
            watch_hidden: false,
            collected: false,
            columns: columns.iter().map(Column::of).collect::<Result<_, _>>()?,
            selectable: vec![NAME, NAMESPACE],
            schema: Schema::compile(&published)?,
            fields: Type::of_kind(&published),
            published,
            status: if subresources.status.is_some() {
                StatusSupport::Write
            } else {
                StatusSupport::None
            },
            scale: scale.transpose()?,
            connects: vec![],
            rules,
            fanout: Fanout::new(storage.clone()),
            storage,
        })
    }

    /// `group/version`, or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Where the kind is served: `/apis/G/V` or `/api/v1`.
    pub fn prefix(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// Kind of its lists.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// What errors are about.
    pub fn target(&self, name: &str) -> Target {
        Target {
            group: self.group.clone(),
            resource: self.plural.clone(),
            kind: self.kind.clone(),
            name: name.to_owned(),
        }
    }

    /// What discovery says may be done with it.
    pub fn announced(&self) -> Vec<&'static str> {
        let hidden = |verb: &&str| self.watch_hidden && *verb == "watch";
        let all = self.verbs.iter().copied();
        all.filter(|verb| !hidden(verb)).collect()
    }

    /// Whether something may be done with it.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}
