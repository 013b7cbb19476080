//! The two operations on an object and its managers: one applies what it wants, the others say what became of the
//! object (structured-merge-diff/merge/update.go).

use super::compare::{Comparison, compare, fields_of};
use super::conflict::{Conflict, Conflicts};
use super::managers::{Entry, ManagerId, Managers};
use super::merge::{merge, remove};
use super::reconcile::reconcile;
use super::set::FieldSet;
use super::types::Type;
use serde_json::Value;

/// What both operations need to know.
pub struct Updater<'a> {
    /// The object's type.
    pub of: &'a Type,
    /// The version that is written in. What was owned in others is forgotten: none but ours is served.
    pub version: &'a str,
    /// What a write here cannot change.
    pub ignored: &'a FieldSet,
}

impl Updater<'_> {
    /// Puts `config` over `live` for a manager; what it owned and no longer mentions goes, unless somebody else owns
    /// it. Fails where somebody else owns what it changes, unless forced.
    pub fn apply(
        &self,
        live: &Value,
        config: &Value,
        managers: &mut Managers,
        id: &ManagerId,
        force: bool,
    ) -> Result<Value, Conflicts> {
        self.settle(managers);
        let merged = merge(self.of, live, config);
        let last = managers.0.get(id).map(|e| e.set.clone());
        let last_time = managers.0.get(id).and_then(|e| e.time.clone());
        let entry = Entry {
            set: fields_of(self.of, config).recursive_difference(self.ignored),
            version: self.version.to_owned(),
            time: last_time,
        };
        managers.0.insert(id.clone(), entry);
        let new = self.prune(merged, managers, last);
        self.take(live, &new, managers, Some(id), force)?;
        Ok(new)
    }

    /// Says who owns what after an object was changed: whoever changed a field owns it, and nobody else. Returns what
    /// changed.
    pub fn update(&self, live: &Value, new: &Value, managers: &mut Managers) -> FieldSet {
        self.settle(managers);
        // Forced: there are no conflicts.
        let changes = self
            .take(live, new, managers, None, true)
            .unwrap_or_default();
        let changed = changes.modified.union(&changes.added);
        changed.recursive_difference(self.ignored)
    }

    /// Forgets other versions, and follows a schema that changed since.
    fn settle(&self, managers: &mut Managers) {
        managers.0.retain(|_, entry| entry.version == self.version);
        for entry in managers.0.values_mut() {
            entry.set = reconcile(self.of, &entry.set);
        }
    }

    /// Takes what changed away from everybody but `except`.
    fn take(
        &self,
        live: &Value,
        new: &Value,
        managers: &mut Managers,
        except: Option<&ManagerId>,
        force: bool,
    ) -> Result<Comparison, Conflicts> {
        let changes = compare(self.of, live, new).without(self.ignored);
        let changed = changes.modified.union(&changes.added);
        let others = || managers.0.iter().filter(|(id, _)| Some(*id) != except);
        let conflicts: Vec<_> = others()
            .flat_map(|(id, entry)| {
                let paths = entry.set.intersection(&changed).paths();
                paths.into_iter().map(|path| Conflict {
                    manager: id.clone(),
                    path,
                })
            })
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(Conflicts(conflicts));
        }
        let gone = changed.union(&changes.removed);
        for (id, entry) in &mut managers.0 {
            if Some(id) != except {
                entry.set = entry.set.difference(&gone);
            }
        }
        managers.0.retain(|_, entry| !entry.set.is_empty());
        Ok(changes)
    }

    /// Removes what the manager owned last time and nobody owns now.
    fn prune(&self, merged: Value, managers: &Managers, last: Option<FieldSet>) -> Value {
        let Some(last) = last.filter(|last| !last.is_empty()) else {
            return merged;
        };
        let named = |set: &FieldSet| set.with_named_parents(Some(self.of));
        let all = named(&fields_of(self.of, &merged));
        let last = named(&last);
        let pruned = remove(self.of, &merged, &last);
        // Back comes what somebody owns, ...
        let owned = managers.0.values();
        let owned = owned.fold(FieldSet::default(), |set, e| set.union(&e.set));
        let kept = named(&fields_of(self.of, &pruned)).union(&named(&owned));
        let pruned = remove(self.of, &merged, &all.difference(&kept));
        // ... and what the manager did not own.
        let kept = named(&fields_of(self.of, &pruned));
        remove(self.of, &merged, &all.difference(&kept).intersection(&last))
    }
}
