//! One of the two sides: what it has answered so far, and what `{{...}}` in a step means to it.
//!
//! | | |
//! |---|---|
//! | `{{av}}` `{{kind}}` `{{group}}` `{{ns}}` | its names, and the group's namespace |
//! | `{{rv:NAME}}` `{{rv:NAME:N}}` | newest, or N-th, resourceVersion seen of an object; see [`Version`] |
//! | `{{uid:NAME}}` | uid of the newest object of this name |
//! | `{{list}}` `{{continue}}` | resourceVersion and token of the last list |
//! | `{{generated}}` | the last generated name |
//! | `{{x:N}}` | so many letters |

use super::crd::{Names, TWIN};
use serde_json::Value;

/// What is known of an object by this name.
#[derive(Debug)]
struct Seen {
    name: String,
    uid: String,
    versions: Vec<Version>,
}

/// A version of an object. kube-apiserver writes some applies that change nothing all the same, if the second is another
/// than that of the manager's last write; versions of the twin that differ in nothing but that time count as one. Our own
/// never do.
#[derive(Debug)]
struct Version {
    /// Its resourceVersions.
    numbers: Vec<String>,
    /// What it looked like when it was first shown.
    object: Value,
}

/// A whole object without its resourceVersion and the times of its managers, by which they are sorted; and those times.
fn told(object: &Value) -> Option<(Value, Vec<Value>)> {
    let mut object = object.clone();
    object.get("spec")?;
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    metadata.remove("resourceVersion");
    let managers = metadata.get_mut("managedFields")?.as_array_mut()?;
    let mut timed: Vec<_> = managers
        .drain(..)
        .map(|mut manager| {
            let time = manager["time"].take();
            (manager.to_string(), manager, time)
        })
        .collect();
    timed.sort_by(|a, b| a.0.cmp(&b.0));
    let times = timed.into_iter().map(|(_, manager, time)| {
        managers.push(manager);
        time
    });
    let times = times.collect();
    Some((object, times))
}

impl Version {
    /// Whether another sight of the object differs in nothing but when its managers wrote, and differs there.
    fn is_but_later(&self, object: &Value) -> bool {
        let pair = told(&self.object).zip(told(object));
        pair.is_some_and(|((before, then), (after, now))| before == after && then != now)
    }
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
            ["rv", name] => object(name).and_then(|o| o.versions.last()?.numbers.last().cloned()),
            ["rv", name, n] => object(name).and_then(|o| {
                let n: usize = n.parse().unwrap();
                o.versions.get(n - 1)?.numbers.last().cloned()
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
                    self.learn_metadata(metadata, body);
                }
                map.values().for_each(|v| self.learn(v));
            }
            _ => {}
        }
    }

    fn learn_metadata(&mut self, metadata: &Value, object: &Value) {
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
        if version.is_empty() || versions.iter().any(|v| v.numbers.contains(&version)) {
            return;
        }
        let is_twin = self.names.group == TWIN.group;
        match versions.last_mut() {
            Some(last) if is_twin && last.is_but_later(object) => {
                last.numbers.push(version);
            }
            _ => versions.push(Version {
                numbers: vec![version],
                object: object.clone(),
            }),
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
        let find = |o: &Seen| {
            let mut versions = o.versions.iter();
            versions.position(|v| v.numbers.iter().any(|n| n == version))
        };
        let n = self.objects.iter().find_map(find)?;
        Some(format!("VERSION{}", n + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::crd::OURS;
    use super::*;
    use serde_json::json;

    fn shown(version: &str, label: &str, managers: [(&str, &str); 2]) -> Value {
        let managers = managers.map(|(name, time)| json!({"manager": name, "time": time}));
        json!({"spec": {}, "metadata": {
            "name": "a", "uid": "u", "resourceVersion": version, "labels": {"l": label}, "managedFields": managers,
        }})
    }

    #[test]
    fn twin_versions_that_differ_by_a_second_alone_count_as_one() {
        let [early, late] = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"];
        let seen = [
            shown("11", "x", [("one", early), ("two", early)]),
            shown("12", "x", [("two", early), ("one", late)]),
            shown("13", "y", [("two", early), ("one", late)]),
            // Nothing differs: a write that should not have been.
            shown("14", "y", [("two", early), ("one", late)]),
        ];
        for (names, ordinals) in [(TWIN, [1, 1, 2, 3]), (OURS, [1, 2, 3, 4])] {
            let mut side = Side::new(names, "ns");
            seen.iter().for_each(|object| side.learn(object));
            let found = ["11", "12", "13", "14"].map(|v| side.ordinal(v));
            assert_eq!(found, ordinals.map(|n| Some(format!("VERSION{n}"))));
        }
    }
}
