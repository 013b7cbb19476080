//! Sets of fields. A field that is a member says nothing about its children, and the other way round
//! (structured-merge-diff/fieldpath/set.go).

use super::path::{Element, Path};
use super::types::Type;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    members: BTreeSet<Element>,
    /// Members below these; never empty ones.
    children: BTreeMap<Element, FieldSet>,
}

impl FieldSet {
    /// Of paths.
    pub fn of(paths: impl IntoIterator<Item = Path>) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(&path.0);
        }
        set
    }

    /// Adds a field; the whole object, which has no path, is nobody's.
    pub fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Whether a field is a member.
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.below(first).is_some_and(|set| set.has(rest)),
        }
    }

    /// Whether a step from the root is a member.
    pub fn has_member(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    /// The members below a step.
    pub fn below(&self, element: &Element) -> Option<&FieldSet> {
        self.children.get(element)
    }

    /// Steps from the root that are members, or have some below.
    pub fn steps(&self) -> BTreeSet<&Element> {
        self.members.iter().chain(self.children.keys()).collect()
    }

    /// All members.
    pub fn paths(&self) -> Vec<Path> {
        let mut out = vec![];
        self.collect(&mut vec![], &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<Element>, out: &mut Vec<Path>) {
        for member in &self.members {
            let mut path = prefix.clone();
            path.push(member.clone());
            out.push(Path(path));
        }
        for (element, set) in &self.children {
            prefix.push(element.clone());
            set.collect(prefix, out);
            prefix.pop();
        }
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut children = self.children.clone();
        for (element, set) in &other.children {
            let merged = match children.get(element) {
                Some(own) => own.union(set),
                None => set.clone(),
            };
            children.insert(element.clone(), merged);
        }
        Self {
            members: self.members.union(&other.members).cloned().collect(),
            children,
        }
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let both = |(element, set): (&Element, &FieldSet)| {
            let set = set.intersection(other.children.get(element)?);
            (!set.is_empty()).then(|| (element.clone(), set))
        };
        Self {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: self.children.iter().filter_map(both).collect(),
        }
    }

    /// What is in this one only; a member of the other leaves its children alone.
    pub fn difference(&self, other: &Self) -> Self {
        self.without(other, false)
    }

    /// What is in this one only; a member of the other takes its children along.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.without(other, true)
    }

    fn without(&self, other: &Self, recursive: bool) -> Self {
        let kept = |(element, set): (&Element, &FieldSet)| {
            if recursive && other.members.contains(element) {
                return None;
            }
            let set = match other.children.get(element) {
                Some(other) => set.without(other, recursive),
                None => set.clone(),
            };
            (!set.is_empty()).then(|| (element.clone(), set))
        };
        Self {
            members: self.members.difference(&other.members).cloned().collect(),
            children: self.children.iter().filter_map(kept).collect(),
        }
    }

    /// The set with the declared fields on the way to its members: owning `spec.a.b` makes `spec` and `a` members
    /// where the schema names them, not where they are keys of a map.
    pub fn with_named_parents(&self, of: Option<&Type>) -> Self {
        let atom = of.map(Type::atom);
        let map = atom.and_then(|a| a.map.as_ref());
        let list = atom.and_then(|a| a.list.as_ref());
        let mut members = self.members.clone();
        let mut children = BTreeMap::new();
        for (element, set) in &self.children {
            let inner = match element {
                Element::Field(name) => {
                    if map.is_some_and(|m| m.fields.contains_key(name)) {
                        members.insert(element.clone());
                    }
                    map.and_then(|m| m.of(name))
                }
                Element::Key(_) => list.map(|l| &l.element),
                Element::Value(_) | Element::Index(_) => None,
            };
            children.insert(element.clone(), set.with_named_parents(inner));
        }
        Self { members, children }
    }

    /// As `fieldsV1`.
    pub fn to_json(&self) -> Value {
        Value::Object(self.encode(false))
    }

    fn encode(&self, is_member: bool) -> Map<String, Value> {
        let mut map = Map::new();
        let empty = || Value::Object(Map::new());
        if is_member {
            map.insert(".".into(), empty());
        }
        for member in &self.members {
            map.insert(member.encode(), empty());
        }
        for (element, set) in &self.children {
            let is_member = self.members.contains(element);
            map.insert(element.encode(), Value::Object(set.encode(is_member)));
        }
        map
    }

    /// Reads `fieldsV1`.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(map) => Self::decode(map, 0),
            _ => Err("fieldsV1 is not an object".into()),
        }
    }

    fn decode(map: &Map<String, Value>, depth: usize) -> Result<Self, String> {
        if depth > super::MAX_DEPTH {
            return Err("fieldsV1 is nested too deeply".into());
        }
        let mut set = Self::default();
        for (text, below) in map.iter().filter(|(text, _)| *text != ".") {
            let Some(element) = Element::decode(text)? else {
                continue;
            };
            let below = below
                .as_object()
                .ok_or_else(|| format!("fieldsV1 at {text:?} is not an object"))?;
            let children = Self::decode(below, depth + 1)?;
            // A step without children is a member itself; so is one that says so.
            if children.is_empty() || below.contains_key(".") {
                set.members.insert(element.clone());
            }
            if !children.is_empty() {
                set.children.insert(element, children);
            }
        }
        Ok(set)
    }
}
