//! Puts one object over another, and takes fields out of one (structured-merge-diff/typed/merge.go, remove.go).

use super::items::elements;
use super::path::Element;
use super::set::FieldSet;
use super::types::{ListType, MapType, Shape, Type};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// `over` put over `base`: nothing is removed; where both say something, `over` is right.
pub fn merge(of: &Type, base: &Value, over: &Value) -> Value {
    value(of, Some(base), Some(over)).unwrap_or_default()
}

fn value(of: &Type, lhs: Option<&Value>, rhs: Option<&Value>) -> Option<Value> {
    let shape = of.atom().shape(rhs.or(lhs));
    let leaf = || rhs.or(lhs).cloned();
    match shape {
        Shape::Map(map) if !map.atomic => {
            let (l, r) = (fields(lhs), fields(rhs));
            if l.is_empty() && r.is_empty() {
                return leaf();
            }
            merge_maps(map, l, r)
        }
        Shape::List(list) if !list.atomic => {
            let (l, r) = (items(lhs), items(rhs));
            if l.is_empty() && r.is_empty() {
                return leaf();
            }
            merge_lists(list, l, r)
        }
        Shape::Map(_) | Shape::List(_) | Shape::Scalar(_) | Shape::Nothing => leaf(),
    }
}

fn fields(value: Option<&Value>) -> Vec<(&String, &Value)> {
    let map = value.and_then(Value::as_object);
    map.into_iter().flatten().collect()
}

fn items(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map_or(&[], |all| all.as_slice())
}

fn merge_maps(
    of: &MapType,
    lhs: Vec<(&String, &Value)>,
    rhs: Vec<(&String, &Value)>,
) -> Option<Value> {
    let mut both: BTreeMap<&String, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
    for (name, value) in lhs {
        both.entry(name).or_default().0 = Some(value);
    }
    for (name, value) in rhs {
        both.entry(name).or_default().1 = Some(value);
    }
    let merged: Map<_, _> = both
        .into_iter()
        .filter_map(|(name, (l, r))| {
            let inner = of.of(name).unwrap_or(&Type::Deduced);
            Some((name.clone(), value(inner, l, r)?))
        })
        .collect();
    (!merged.is_empty()).then_some(Value::Object(merged))
}

/// Merges two lists item by item. Items of the right list come in its order; those of the left one stay where they
/// are between the ones that both have.
struct Lists<'a> {
    of: &'a ListType,
    lhs: Vec<(Element, &'a Value)>,
    rhs: Vec<(Element, &'a Value)>,
    in_left: BTreeMap<Element, &'a Value>,
    in_right: BTreeSet<Element>,
    /// Items that both have and that are not merged yet, in the right list's order, the next one last.
    shared: Vec<Element>,
    done: BTreeSet<Element>,
    out: Vec<Value>,
}

fn named<'a>(of: &ListType, all: &'a [Value]) -> Vec<(Element, &'a Value)> {
    elements(of, all).into_iter().zip(all).collect()
}

/// By name; what is there twice is not merged with anything.
fn by_name<'a>(all: &[(Element, &'a Value)]) -> BTreeMap<Element, &'a Value> {
    let mut map = BTreeMap::new();
    for (name, item) in all {
        map.entry(name.clone())
            .and_modify(|v| *v = &Value::Null)
            .or_insert(*item);
    }
    map
}

impl Lists<'_> {
    fn push(&mut self, l: Option<&Value>, r: Option<&Value>) {
        self.out.extend(value(&self.of.element, l, r));
    }

    fn push_right(&mut self, index: usize) {
        let (name, r) = (self.rhs[index].0.clone(), self.rhs[index].1);
        let l = self.in_left.get(&name).copied();
        self.push(l, Some(r));
        if self.shared.last() == Some(&name) {
            self.shared.pop();
        }
        self.done.insert(name);
    }

    fn run(&mut self) {
        let (mut l, mut r) = (0, 0);
        while l < self.lhs.len() || r < self.rhs.len() {
            if l < self.lhs.len() {
                let name = self.lhs[l].0.clone();
                let in_right = self.in_right.contains(&name);
                if r < self.rhs.len() {
                    if name == self.rhs[r].0 {
                        self.push_right(r);
                        (l, r) = (l + 1, r + 1);
                        continue;
                    }
                    if in_right && self.shared.last().is_some_and(|next| *next != name) {
                        // Both have it, but it comes later.
                        l += 1;
                        continue;
                    }
                }
                if !in_right {
                    let item = self.lhs[l].1;
                    self.push(Some(item), None);
                    l += 1;
                    continue;
                }
                if self.done.contains(&name) {
                    l += 1;
                }
            }
            if r < self.rhs.len() {
                self.push_right(r);
                r += 1;
            }
        }
    }
}

fn merge_lists(of: &ListType, lhs: &[Value], rhs: &[Value]) -> Option<Value> {
    let (lhs, rhs) = (named(of, lhs), named(of, rhs));
    let in_left = by_name(&lhs);
    let shared = rhs.iter().map(|(name, _)| name);
    let shared = shared.filter(|name| in_left.contains_key(*name));
    let shared = shared.rev().cloned().collect();
    let in_right = rhs.iter().map(|(name, _)| name.clone()).collect();
    let mut lists = Lists {
        of,
        lhs,
        rhs,
        in_left,
        in_right,
        shared,
        done: BTreeSet::new(),
        out: vec![],
    };
    lists.run();
    (!lists.out.is_empty()).then_some(Value::Array(lists.out))
}

/// An object without some of its fields and items. What is empty then is null.
pub fn remove(of: &Type, value: &Value, gone: &FieldSet) -> Value {
    match of.atom().shape(Some(value)) {
        Shape::Map(map) => {
            let Some(all) = value.as_object().filter(|_| !map.atomic) else {
                return Value::Null;
            };
            let mut kept = Map::new();
            for (name, value) in all {
                let inner = map.of(name).unwrap_or(&Type::Deduced);
                kept.extend(
                    keep(inner, &Element::field(name), value, gone).map(|v| (name.clone(), v)),
                );
            }
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Object(kept)
            }
        }
        Shape::List(list) => {
            let Some(all) = value.as_array().filter(|_| !list.atomic) else {
                return Value::Null;
            };
            let names = elements(list, all).into_iter().zip(all);
            let kept: Vec<_> = names
                .filter_map(|(name, item)| keep(&list.element, &name, item, gone))
                .collect();
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Array(kept)
            }
        }
        Shape::Scalar(_) | Shape::Nothing => value.clone(),
    }
}

fn keep(of: &Type, name: &Element, value: &Value, gone: &FieldSet) -> Option<Value> {
    if gone.has_member(name) {
        return None;
    }
    match gone.below(name) {
        Some(below) if !below.is_empty() => Some(remove(of, value, below)),
        _ => Some(value.clone()),
    }
}
