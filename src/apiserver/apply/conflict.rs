//! Fields that somebody else owns, in the words that kubectl expects
//! (apimachinery/pkg/util/managedfields/internal/conflict.go).

use super::managers::{ManagerId, Operation};
use super::path::Path;
use super::set::FieldSet;
use std::collections::BTreeMap;
use std::fmt;

/// A field and who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: ManagerId,
    /// The field.
    pub path: Path,
}

impl Conflict {
    /// In short: with whom.
    pub fn with(&self) -> String {
        format!("conflict with {}", print(&self.manager))
    }
}

fn print(id: &ManagerId) -> String {
    let mut text = format!("{:?}", id.manager);
    if !id.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", id.subresource));
    }
    if id.operation == Operation::Update {
        text.push_str(&format!(" using {}", id.version));
    }
    text
}

/// What keeps an apply from being done without force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts(pub Vec<Conflict>);

impl Conflicts {
    /// The fields.
    pub fn fields(&self) -> FieldSet {
        FieldSet::of(self.0.iter().map(|c| c.path.clone()))
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return write!(
                f,
                "Apply failed with 1 conflict: {}: {}",
                one.with(),
                one.path
            );
        }
        let mut by_manager: BTreeMap<&ManagerId, Vec<&Path>> = BTreeMap::new();
        for conflict in &self.0 {
            by_manager
                .entry(&conflict.manager)
                .or_default()
                .push(&conflict.path);
        }
        let mut lines = vec![];
        for (manager, paths) in by_manager {
            lines.push(format!("conflicts with {}:", print(manager)));
            lines.extend(paths.iter().map(|path| format!("- {path}")));
        }
        let count = self.0.len();
        write!(
            f,
            "Apply failed with {count} conflicts: {}",
            lines.join("\n")
        )
    }
}
