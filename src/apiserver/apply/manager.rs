//! What the write path calls: an object comes in with its `managedFields`, and goes out with new ones
//! (apimachinery/pkg/util/managedfields/internal: fieldmanager, managedfieldsupdater, stripmeta, skipnonapplied).

use super::conflict::Conflicts;
use super::items;
use super::last_applied::{self, KUBECTL};
use super::managers::{Entry, ManagerId, Managers, is_reset};
use super::path::Path;
use super::set::FieldSet;
use super::types::Type;
use super::update::Updater;
use super::value;
use serde_json::Value;
use std::sync::LazyLock;

/// Who owns what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Nobody's: what only we write, and what names the object.
static NOBODYS: LazyLock<FieldSet> = LazyLock::new(|| {
    let of_metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let top = ["apiVersion", "kind", "metadata"].map(|name| Path::of(&[name]));
    let inner = of_metadata.map(|name| Path::of(&["metadata", name]));
    FieldSet::of(top.into_iter().chain(inner))
});

/// Why an apply is refused.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else owns what it changes: take less, or force.
    #[error("{0}")]
    Conflicts(Conflicts),
    /// What is applied does not fit the schema: change it.
    #[error("{0}")]
    Config(String),
    /// The stored object's managedFields cannot be read: reset them.
    #[error("failed to decode managed fields: {0}")]
    Managed(String),
}

/// Keeps the managed fields of a kind's objects.
pub struct FieldManager<'a> {
    /// The kind's type.
    pub of: &'a Type,
    /// Its version, as objects name it.
    pub version: &'a str,
    /// Where the write goes; empty for the object itself.
    pub subresource: &'a str,
    /// What a write there cannot change.
    pub ignored: &'a FieldSet,
    /// Now, as managedFields say it.
    pub now: &'a str,
}

fn sent(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    set(&mut object, None);
    object
}

fn set(object: &mut Value, managers: Option<Value>) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        match managers {
            Some(all) => metadata.insert("managedFields".into(), all),
            None => metadata.remove("managedFields"),
        };
    }
}

impl FieldManager<'_> {
    fn updater(&self) -> Updater<'_> {
        Updater {
            of: self.of,
            version: self.version,
            ignored: self.ignored,
        }
    }

    /// What applying `config` makes of `live`, which is an empty map where nothing is yet.
    pub fn apply(
        &self,
        live: &Value,
        config: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, ApplyError> {
        let mut managers = Managers::decode(sent(live)).map_err(ApplyError::Managed)?;
        let live = without_managers(live);
        if managers.0.is_empty() {
            let nothing = Value::Object(serde_json::Map::new());
            self.track(&nothing, &live, &mut managers, BEFORE_FIRST_APPLY);
        }
        let wrong = items::check(self.of, config);
        if let [one] = wrong.as_slice() {
            return Err(ApplyError::Config(one.clone()));
        } else if !wrong.is_empty() {
            let lines = wrong.join("\n  ");
            return Err(ApplyError::Config(format!("errors:\n  {lines}")));
        }
        let id = ManagerId::applier(manager, self.subresource);
        let mut object = match self.put(&live, config, &mut managers, &id, force) {
            Err(conflicts) if manager == KUBECTL => {
                self.take_over(&live, conflicts)?;
                self.put(&live, config, &mut managers, &id, true)
            }
            other => other,
        }
        .map_err(ApplyError::Conflicts)?;
        if manager == KUBECTL {
            last_applied::refresh(&mut object, config);
        }
        set(&mut object, managers.encode());
        Ok(object)
    }

    /// Whether all conflicts are over what kubectl itself set by client-side apply.
    fn take_over(&self, live: &Value, conflicts: Conflicts) -> Result<(), ApplyError> {
        let Some(owned) = last_applied::owned(self.of, live, self.version) else {
            return Err(ApplyError::Conflicts(conflicts));
        };
        if conflicts.fields().difference(&owned).is_empty() {
            return Ok(());
        }
        let foreign = conflicts.0.into_iter();
        let foreign = foreign.filter(|c| !owned.has(&c.path.0)).collect();
        Err(ApplyError::Conflicts(Conflicts(foreign)))
    }

    fn put(
        &self,
        live: &Value,
        config: &Value,
        managers: &mut Managers,
        id: &ManagerId,
        force: bool,
    ) -> Result<Value, Conflicts> {
        let mut all = managers.clone();
        let new = self.updater().apply(live, config, &mut all, id, force)?;
        if let Some(entry) = all.0.get_mut(id) {
            entry.set = entry.set.difference(&NOBODYS);
            if !value::equal(live, &new) {
                entry.time = Some(self.now.to_owned());
            }
            if entry.set.is_empty() {
                all.0.remove(id);
            }
        }
        *managers = all;
        Ok(new)
    }

    /// `new` with the managedFields that follow from its being made out of `live` by a manager that does not apply.
    /// `asked` is what the request itself says of managedFields.
    pub fn update(&self, live: &Value, new: Value, asked: Option<&Value>, manager: &str) -> Value {
        let stored = || Managers::decode(sent(live)).unwrap_or_default();
        let mut managers = if !self.subresource.is_empty() {
            stored()
        } else if is_reset(asked) {
            Managers::default()
        } else {
            // Those who do not know of managedFields shall not lose them.
            let asked = Managers::decode(asked).unwrap_or_default();
            if asked.0.is_empty() { stored() } else { asked }
        };
        let mut new = without_managers(&new);
        let exists = live.pointer("/metadata/uid").is_some();
        if managers.0.is_empty() && exists {
            return new;
        }
        self.track(&without_managers(live), &new, &mut managers, manager);
        set(&mut new, managers.encode());
        new
    }

    fn track(&self, live: &Value, new: &Value, managers: &mut Managers, manager: &str) {
        let changed = self.updater().update(live, new, managers);
        let changed = changed.difference(&NOBODYS);
        if !changed.is_empty() {
            let id = ManagerId::updater(manager, self.version, self.subresource);
            let entry = managers.0.entry(id).or_insert_with(|| Entry {
                set: FieldSet::default(),
                version: self.version.to_owned(),
                time: None,
            });
            entry.set = entry.set.union(&changed);
            entry.time = Some(self.now.to_owned());
        }
        managers.cap();
    }
}
