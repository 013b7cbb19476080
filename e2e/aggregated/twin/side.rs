//! One of the two sides: what it has answered so far, and what `{{...}}` in a step means to it.
//!
//! | | |
//! |---|---|
//! | `{{av}}` `{{kind}}` `{{group}}` `{{ns}}` | its names, and the group's namespace |
//! | `{{rv:NAME}}` `{{rv:NAME:N}}` | newest, or N-th, resourceVersion seen of an object |
//! | `{{uid:NAME}}` | uid of the newest object of this name |
//! | `{{list}}` `{{continue}}` | resourceVersion and token of the last list |
//! | `{{generated}}` | the last generated name |
//! | `{{x:N}}` | so many letters |

use super::crd::Names;
use serde_json::Value;

/// What is known of an object by this name.
#[derive(Debug)]
struct Seen {
    name: String,
    uid: String,
    versions: Vec<String>,
}

/// A side.
#[derive(Debug)]
pub struct Side {
    pub names: Names,
    namespace: String,
    objects: Vec<Seen>,
    generated: Vec<String>,
    list: String,
    token: String,
}

/// Letters that Kubernetes appends to `generateName`.
const SUFFIX: usize = 5;

impl Side {
    pub fn new(names: Names, namespace: &str) -> Self {
        Self {
            names,
            namespace: namespace.to_owned(),
            objects: vec![],
            generated: vec![],
            list: String::new(),
            token: String::new(),
        }
    }

    /// Where a step's target is on this side.
    pub fn url(&self, target: &str) -> String {
        let target = self.fill(target);
        let base = format!("/apis/{}/v1alpha1", self.names.group);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (below, path) = match path.strip_prefix('/') {
            Some(path) => (base, path),
            None => (format!("{base}/namespaces/{}", self.namespace), path),
        };
        let path = match path.strip_prefix("actors") {
            Some(rest) => format!("{}{rest}", self.names.plural),
            None => path.to_owned(),
        };
        format!("{below}/{path}?{query}")
    }

    /// A text with what this side knows filled in.
    pub fn fill(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((head, tail)) = rest.split_once("{{") {
            let (name, tail) = tail.split_once("}}").unwrap();
            out.push_str(head);
            out.push_str(&self.value(name));
            rest = tail;
        }
        out + rest
    }

    fn value(&self, name: &str) -> String {
        let parts: Vec<_> = name.split(':').collect();
        let object = |name: &str| self.objects.iter().rfind(|o| o.name == name);
        let found = match parts.as_slice() {
            ["av"] => Some(format!("{}/v1alpha1", self.names.group)),
            ["kind"] => Some(self.names.kind.to_owned()),
            ["group"] => Some(self.names.group.to_owned()),
            ["ns"] => Some(self.namespace.clone()),
            ["rv", name] => object(name).and_then(|o| o.versions.last().cloned()),
            ["rv", name, n] => object(name).and_then(|o| {
                let n: usize = n.parse().unwrap();
                o.versions.get(n - 1).cloned()
            }),
            ["uid", name] => object(name).map(|o| o.uid.clone()),
            ["list"] => Some(self.list.clone()),
            ["continue"] => Some(self.token.clone()),
            ["generated"] => self.generated.last().cloned(),
            ["x", n] => Some("x".repeat(n.parse().unwrap())),
            _ => panic!("{{{{{name}}}}} means nothing"),
        };
        // A side that answered something else knows nothing; what it answers next shows it.
        found.unwrap_or_else(|| "unknown".to_owned())
    }

    /// Remembers what a body tells of objects and lists.
    pub fn learn(&mut self, body: &Value) {
        match body {
            Value::Array(all) => all.iter().for_each(|v| self.learn(v)),
            Value::Object(map) => {
                if let Some(metadata) = map.get("metadata") {
                    self.learn_metadata(metadata);
                }
                map.values().for_each(|v| self.learn(v));
            }
            _ => {}
        }
    }

    fn learn_metadata(&mut self, metadata: &Value) {
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let (name, uid, version) = (text("name"), text("uid"), text("resourceVersion"));
        if !text("continue").is_empty() {
            self.token = text("continue");
        }
        if uid.is_empty() {
            if name.is_empty() && !version.is_empty() {
                self.list = version;
            }
            return;
        }
        let base = text("generateName");
        if !base.is_empty()
            && name.starts_with(&base)
            && name.len() == base.len() + SUFFIX
            && !self.generated.contains(&name)
        {
            self.generated.push(name.clone());
        }
        let at = match self.objects.iter().position(|o| o.uid == uid) {
            Some(at) => at,
            None => {
                self.objects.push(Seen {
                    name,
                    uid,
                    versions: vec![],
                });
                self.objects.len() - 1
            }
        };
        let versions = &mut self.objects[at].versions;
        if !version.is_empty() && !versions.contains(&version) {
            versions.push(version);
        }
    }

    /// `text` with names, uids and generated names as both sides would write them.
    pub fn anonymous(&self, text: &str) -> String {
        let names = &self.names;
        let mut text = text.replace(names.group, "GROUP");
        for (own, common) in [
            (names.kind, "KIND"),
            (names.plural, "PLURAL"),
            (names.singular, "SINGULAR"),
        ] {
            text = text.replace(own, common);
        }
        for (i, object) in self.objects.iter().enumerate() {
            let before = self.objects[..i].iter();
            let n = before.filter(|o| o.name == object.name).count();
            text = text.replace(&object.uid, &format!("UID{n}-OF-{}", object.name));
        }
        for (i, name) in self.generated.iter().enumerate() {
            let base = &name[..name.len() - SUFFIX];
            text = text.replace(name, &format!("{base}GENERATED{i}"));
        }
        text
    }

    /// The how-manieth version of its object this is: sides count differently, but step alike.
    pub fn ordinal(&self, version: &str) -> Option<String> {
        let find = |o: &Seen| o.versions.iter().position(|v| v == version);
        let n = self.objects.iter().find_map(find)?;
        Some(format!("VERSION{}", n + 1))
    }
}
