//! The twin: our own kind's schema as a CustomResourceDefinition, under names of its own, so that nobody who asks for
//! `actors` finds it.

use crate::aggregated::harness::Cluster;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, SelectableField,
};
use kube::CustomResourceExt;
use serde_json::json;
use substrate::api::actor::Actor;

/// As our kind is called.
pub const OURS: Names = Names {
    group: "runtime.ate.dev",
    kind: "Actor",
    plural: "actors",
    singular: "actor",
};
/// As the twin is called.
pub const TWIN: Names = Names {
    group: "twin.ate.dev",
    kind: "TwinActor",
    plural: "twinactors",
    singular: "twinactor",
};
/// Fields that selectors may use in our kind, beside name and namespace.
const SELECTABLE: [&str; 4] = [
    ".status.phase",
    ".spec.templateRef.name",
    ".status.worker.name",
    ".status.worker.node",
];

/// Names of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub group: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
}

/// Head, priority, description and path of our columns, as far as a path can say them.
const COLUMNS: [(&str, i32, &str, &str); 12] = [
    (
        "Template",
        0,
        "What it is made of.",
        ".spec.templateRef.name",
    ),
    ("Phase", 0, "Where it is.", ".status.phase"),
    (
        "Ready",
        0,
        "Whether a request would be served.",
        ".status.conditions[?(@.type==\"Ready\")].status",
    ),
    ("Worker", 0, "Where it runs.", ".status.worker.name"),
    (
        "Age",
        0,
        "How long ago it was created.",
        ".metadata.creationTimestamp",
    ),
    ("Mode", 1, "What wakes it.", ".spec.operatingMode"),
    ("Node", 1, "Its worker's node.", ".status.worker.node"),
    ("IP", 1, "Its worker's address.", ".status.worker.ip"),
    (
        "Snapshot",
        1,
        "Kind of what it resumes from.",
        ".status.snapshot.kind",
    ),
    (
        "Size",
        1,
        "Bytes of that, as stored.",
        ".status.snapshot.bytes",
    ),
    (
        "Last-Active",
        1,
        "How long ago it was last used.",
        ".status.lastActivityTime",
    ),
    ("Epoch", 1, "Counts its operations.", ".status.epoch"),
];

fn definition() -> CustomResourceDefinition {
    let mut crd = Actor::crd();
    crd.metadata.name = Some(format!("{}.{}", TWIN.plural, TWIN.group));
    crd.spec.group = TWIN.group.into();
    let names = &mut crd.spec.names;
    names.kind = TWIN.kind.into();
    names.list_kind = Some(format!("{}List", TWIN.kind));
    names.plural = TWIN.plural.into();
    names.singular = Some(TWIN.singular.into());
    names.short_names = None;
    names.categories = None;
    let column = |(name, priority, description, path): (&str, i32, &str, &str)| {
        CustomResourceColumnDefinition {
            name: name.into(),
            priority: Some(priority),
            description: Some(description.into()),
            json_path: path.into(),
            type_: if name == "Age" { "date" } else { "string" }.into(),
            ..CustomResourceColumnDefinition::default()
        }
    };
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(COLUMNS.into_iter().map(column).collect());
        let selectable = SELECTABLE.map(|path| SelectableField {
            json_path: path.into(),
        });
        version.selectable_fields = Some(selectable.to_vec());
    }
    crd
}

/// Name of a namespace that nobody has.
pub fn new_namespace() -> String {
    format!("twin-{:08x}", rand::random::<u32>())
}

/// The twin and the namespaces of the groups, while they are there.
pub struct Twin {
    cluster: &'static Cluster,
    doomed: Vec<String>,
}

impl Twin {
    pub fn install(cluster: &'static Cluster, namespaces: &[String]) -> Self {
        let name = format!("crd/{}.{}", TWIN.plural, TWIN.group);
        let spaces = namespaces.iter().map(|n| format!("namespace/{n}"));
        let twin = Self {
            cluster,
            doomed: spaces.chain([name.clone()]).collect(),
        };
        let namespace = |name: &String| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let mut items: Vec<_> = namespaces.iter().map(namespace).collect();
        items.push(serde_json::to_value(definition()).unwrap());
        let all = json!({"apiVersion": "v1", "kind": "List", "items": items});
        cluster.pipe(&["create", "-f", "-"], &all.to_string());
        cluster.kubectl(&[
            "wait",
            "--for=condition=Established",
            &name,
            "--timeout=60s",
        ]);
        twin
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let mut args = vec!["delete", "--wait=false", "--ignore-not-found"];
        args.extend(self.doomed.iter().map(String::as_str));
        let _ = self.cluster.try_kubectl(&args);
    }
}
