//! What differs between two objects of a type, and what an object says at all
//! (structured-merge-diff/typed/compare.go, tofieldset.go).

use super::items::elements;
use super::path::Element;
use super::set::FieldSet;
use super::types::{ListType, MapType, Shape, Type};
use super::value;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What became of the fields of one object in another. No field is in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// There before.
    pub removed: FieldSet,
    /// There before and after, not the same.
    pub modified: FieldSet,
    /// There after.
    pub added: FieldSet,
}

impl Comparison {
    /// Leaves fields out, with all below them.
    pub fn without(self, ignored: &FieldSet) -> Self {
        Self {
            removed: self.removed.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            added: self.added.recursive_difference(ignored),
        }
    }
}

/// Compares two objects of a type.
pub fn compare(of: &Type, before: &Value, after: &Value) -> Comparison {
    let mut walk = Walk::default();
    walk.value(of, Some(before), Some(after));
    walk.out
}

#[derive(Default)]
struct Walk {
    path: Vec<Element>,
    out: Comparison,
}

impl Walk {
    fn value(&mut self, of: &Type, lhs: Option<&Value>, rhs: Option<&Value>) {
        let atom = of.atom();
        let (left, right) = (atom.shape(lhs), atom.shape(rhs));
        let same = std::mem::discriminant(&left) == std::mem::discriminant(&right);
        let is_leaf = match (lhs, rhs) {
            (_, None) => self.shape(left, lhs, rhs),
            (None, _) => self.shape(right, lhs, rhs),
            _ if same => self.shape(right, lhs, rhs),
            _ => {
                self.shape(left, lhs, rhs);
                self.shape(right, lhs, rhs)
            }
        };
        if is_leaf {
            return;
        }
        match (lhs, rhs) {
            (None, _) => self.out.added.insert(&self.path),
            (_, None) => self.out.removed.insert(&self.path),
            _ => {}
        }
    }

    /// Whether it was compared as a whole.
    fn shape(&mut self, shape: Shape<'_>, lhs: Option<&Value>, rhs: Option<&Value>) -> bool {
        match shape {
            Shape::Map(of) => {
                let (l, r) = (fields(lhs), fields(rhs));
                if !of.atomic && (l.is_some() || r.is_some()) {
                    self.map(of, l, r);
                    return false;
                }
            }
            Shape::List(of) => {
                let (l, r) = (items(lhs), items(rhs));
                let is_whole = of.atomic || (l.is_empty() && r.is_empty());
                if !is_whole {
                    self.list(of, l, r);
                    return false;
                }
            }
            Shape::Scalar(_) | Shape::Nothing => {}
        }
        match (lhs, rhs) {
            (None, _) => self.out.added.insert(&self.path),
            (_, None) => self.out.removed.insert(&self.path),
            (Some(l), Some(r)) if !value::equal(l, r) => self.out.modified.insert(&self.path),
            _ => {}
        }
        true
    }

    fn below(&mut self, element: Element, of: &Type, lhs: Option<&Value>, rhs: Option<&Value>) {
        self.path.push(element);
        self.value(of, lhs, rhs);
        self.path.pop();
    }

    fn map(
        &mut self,
        of: &MapType,
        lhs: Option<&Map<String, Value>>,
        rhs: Option<&Map<String, Value>>,
    ) {
        let sides = [lhs, rhs].into_iter().flatten();
        let names: BTreeSet<&String> = sides.flat_map(Map::keys).collect();
        for name in names {
            let inner = of.of(name).unwrap_or(&Type::Deduced);
            let (l, r) = (
                lhs.and_then(|map| map.get(name)),
                rhs.and_then(|map| map.get(name)),
            );
            self.below(Element::field(name), inner, l, r);
        }
    }

    fn list(&mut self, of: &ListType, lhs: &[Value], rhs: &[Value]) {
        let mut all: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (element, item) in elements(of, lhs).into_iter().zip(lhs) {
            all.entry(element).or_default().0.push(item);
        }
        for (element, item) in elements(of, rhs).into_iter().zip(rhs) {
            all.entry(element).or_default().1.push(item);
        }
        for (element, (l, r)) in all {
            self.item(of, element, &l, &r);
        }
    }

    /// An item that is there twice, which only updates may leave behind, is compared as a whole.
    fn item(&mut self, of: &ListType, element: Element, l: &[&Value], r: &[&Value]) {
        let mut path = self.path.clone();
        path.push(element.clone());
        match (l.len() > 1, r.len() > 1) {
            (false, false) => {
                let (l, r) = (l.first().copied(), r.first().copied());
                self.below(element, &of.element, l, r);
            }
            (true, true) => {
                let same = l.len() == r.len() && l.iter().zip(r).all(|(l, r)| value::equal(l, r));
                if !same {
                    self.out.modified.insert(&path);
                }
            }
            (true, false) => {
                if let Some(item) = r.first() {
                    self.below(element, &of.element, None, Some(item));
                }
                self.out.removed.insert(&path);
            }
            (false, true) => {
                if let Some(item) = l.first() {
                    self.below(element, &of.element, Some(item), None);
                }
                self.out.added.insert(&path);
            }
        }
    }
}

/// The fields of a map that has some.
fn fields(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
}

fn items(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map_or(&[], |all| all.as_slice())
}

/// All fields and items that an object mentions.
pub fn fields_of(of: &Type, object: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(of, object, &mut vec![], &mut set);
    set
}

fn collect(of: &Type, value: &Value, path: &mut Vec<Element>, set: &mut FieldSet) {
    match of.atom().shape(Some(value)) {
        Shape::Scalar(_) => set.insert(path),
        Shape::Map(map) if map.atomic => set.insert(path),
        Shape::List(list) if list.atomic => set.insert(path),
        Shape::Map(map) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                path.push(Element::field(name));
                collect(map.of(name).unwrap_or(&Type::Deduced), value, path, set);
                let is_empty_map = value.as_object().is_some_and(Map::is_empty);
                if value.is_null() || is_empty_map || !map.fields.contains_key(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Shape::List(list) => {
            let items = items(Some(value));
            let names = elements(list, items);
            let mut times: BTreeMap<&Element, usize> = BTreeMap::new();
            for name in &names {
                *times.entry(name).or_default() += 1;
            }
            for (name, item) in names.iter().zip(items) {
                path.push(name.clone());
                if times.get(name) == Some(&1) {
                    collect(&list.element, item, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        Shape::Nothing => {}
    }
}
