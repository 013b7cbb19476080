//! Owners of fields whose schema changed since: what has become atomic is owned as a whole
//! (structured-merge-diff/typed/reconcile_schema.go).

use super::path::Element;
use super::set::FieldSet;
use super::types::{MapType, Shape, Type};

/// A set as the schema of today would have it.
pub fn reconcile(of: &Type, set: &FieldSet) -> FieldSet {
    let mut atoms = FieldSet::default();
    walk(of, Some(set), false, &mut vec![], &mut atoms);
    set.recursive_difference(&atoms).union(&atoms)
}

/// A map without declared fields and of any content follows no schema.
fn is_free(map: &MapType) -> bool {
    let any = |of: &Type| match of {
        Type::Deduced => true,
        Type::Opaque => false,
        Type::Known(atom) => atom.scalar == Some(super::types::Scalar::Any),
    };
    map.fields.is_empty() && map.other.as_ref().is_some_and(any)
}

fn walk(
    of: &Type,
    set: Option<&FieldSet>,
    is_whole: bool,
    path: &mut Vec<Element>,
    atoms: &mut FieldSet,
) {
    let shape = of.atom().shape(None);
    match shape {
        Shape::Map(map) if is_free(map) => return,
        Shape::Map(map) if map.atomic && !is_whole => {
            if set.is_some_and(|s| !s.is_empty()) {
                atoms.insert(path);
            }
            return;
        }
        Shape::List(list) if list.atomic && !is_whole => return atoms.insert(path),
        Shape::Map(_) | Shape::List(_) => {}
        Shape::Scalar(_) | Shape::Nothing => return,
    }
    let Some(set) = set else { return };
    for step in set.steps() {
        let inner = match (shape, step) {
            (Shape::Map(map), Element::Field(name)) => map.of(name),
            (Shape::Map(map), _) => map.other.as_ref(),
            (Shape::List(list), _) => Some(&list.element),
            (Shape::Scalar(_) | Shape::Nothing, _) => None,
        };
        let Some(inner) = inner else { continue };
        let below = set.below(step);
        path.push(step.clone());
        let is_whole = set.has_member(step) && below.is_none();
        walk(inner, below, is_whole, path, atoms);
        path.pop();
    }
}
