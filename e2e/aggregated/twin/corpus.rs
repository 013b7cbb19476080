//! The recorded requests: one file a group, in the order of its steps.

use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Where the files are.
const FOLDER: &str = "e2e/aggregated/twin";
/// What differs in whatever is asked.
const EVERYWHERE: &str = "everywhere.yaml";

/// Known differences by id: patterns of the paths at which they show (see [`super::diff`]).
pub type Known = BTreeMap<String, Vec<String>>;

/// Requests that build on one another, in a namespace of their own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its file, without the ending.
    #[serde(skip)]
    pub name: String,
    /// For a reader.
    #[allow(dead_code)]
    about: String,
    pub steps: Vec<Step>,
}

/// A request. Texts may hold `{{...}}`, which each side fills in (see [`super::side`]).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `METHOD path?query`: the path below the namespace, or below the group version where it begins with `/`.
    #[serde(rename = "do")]
    pub action: String,
    /// `Accept`; a short name of [`media`] or as it is sent.
    pub accept: Option<String>,
    /// `Content-Type`, likewise; JSON where there is a body and it is not said.
    #[serde(rename = "type")]
    pub content_type: Option<String>,
    /// `User-Agent`.
    pub agent: Option<String>,
    /// The body, without what all actors have: apiVersion, kind, and a template.
    pub actor: Option<Value>,
    /// The body as it is: a text, or what is sent as JSON.
    pub body: Option<Value>,
    /// A watch is read until this object is added; without it, until the server ends it.
    pub until: Option<String>,
    /// Asked again until the answer has this code: somebody else is at work.
    #[serde(default)]
    pub wait: bool,
    /// What the custom resource answers.
    pub code: u16,
    /// What of the answers differs.
    #[serde(default)]
    pub differs: Known,
}

impl Step {
    pub fn method(&self) -> &str {
        self.action.split_once(' ').map_or("", |(m, _)| m)
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        self.action.split_once(' ').map_or("", |(_, t)| t)
    }

    /// What is sent, before each side fills in its own.
    pub fn body(&self) -> Option<String> {
        if let Some(actor) = &self.actor {
            let mut whole = json!({"apiVersion": "{{av}}", "kind": "{{kind}}"});
            if actor.get("spec").is_none() {
                whole["spec"] = json!({"templateRef": {"name": "counter"}});
            }
            json_patch::merge(&mut whole, actor);
            return Some(whole.to_string());
        }
        match self.body.as_ref()? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// The media types that clients write, by short names.
pub fn media(name: &str) -> &str {
    match name {
        "json" => "application/json",
        "yaml" => "application/yaml",
        "merge" => "application/merge-patch+json",
        "json-patch" => "application/json-patch+json",
        "apply" => "application/apply-patch+yaml",
        "strategic" => "application/strategic-merge-patch+json",
        "protobuf" => "application/vnd.kubernetes.protobuf",
        "table" => "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        // What kubectl 1.33 sends.
        "kubectl" => {
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
        }
        "partial" => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "partial-list" => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        // What the garbage collector's metadata client sends.
        "metadata-client" => {
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
        }
        "metadata-client-list" => {
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
        }
        "protobuf-first" => "application/vnd.kubernetes.protobuf,application/json",
        "cbor-first" => "application/cbor,application/json",
        other => other,
    }
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> T {
    let text = std::fs::read_to_string(file).unwrap();
    match serde_yaml_ng::from_str(&text) {
        Ok(read) => read,
        Err(error) => panic!("{}: {error}", file.display()),
    }
}

/// All groups, and what differs everywhere.
pub fn load() -> (Vec<Group>, Known) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    let files = std::fs::read_dir(&folder)
        .unwrap()
        .map(|f| f.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|f| f.extension().is_some_and(|e| e == "yaml") && !f.ends_with(EVERYWHERE))
        .collect();
    files.sort();
    let groups = files.iter().map(|file| {
        let mut group: Group = read(file);
        group.name = file.file_stem().unwrap().to_string_lossy().into_owned();
        group
    });
    (groups.collect(), read(&folder.join(EVERYWHERE)))
}
